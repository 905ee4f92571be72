"""Other attacks on the same images: without gradients, along other gradients, with more steps, from other detectors.

An attack along the right gradient, and long enough, is beaten clearly by none of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

import attacks
from attacks.base import Attack
from bench.cell.attacking import keys_of
from bench.cell.rivals import optimality
from bench.diagnosis.examined import Examined, Tell
from bench.report.signs import Sign
from detectors.base import Detector
from detectors.noise import NoiseSeed

AHEAD = 0.1  # of the images
LEAST = 0.8  # of the best known gain
QUERIES, SAMPLES, ITERATIONS, LONGER = 300, 20, 30, 3
EOT = 4  # draws of each gradient, where there is noise


def signs(examined: Examined, sources: Sequence[Detector], tell: Tell) -> Iterator[Sign]:
    """The signs; silent, as those of a record, where the attack left an AUC of 0.

    Args:
        examined: the attack.
        sources: simple detectors, fitted on the same normals, whose adversarial images are tried as they are.
        tell: told what is asked next.
    """
    has_something_left = examined.area(examined.kept) > 0
    best = torch.maximum(examined.clean, examined.kept).mean(dim=0)
    for flag, name, images in _found(examined, sources, tell):
        losses = examined.losses(images)
        share = float(examined.is_ahead(losses).double().mean())
        sentence = f"{name} found clearly more than the attack on {100 * share:.0f} % of the images"
        up = has_something_left and share > AHEAD
        yield Sign(flag, f"ahead: {name}", share, f"<= {AHEAD}", up, sentence)
        best = torch.maximum(best, losses.mean(dim=0))
    clean, kept = (values.mean(dim=0).numpy() for values in (examined.clean, examined.kept))
    reached = optimality(clean, kept, best.numpy())
    sentence = f"the attack found {100 * (reached or 0):.0f} % of what the best of all that was tried found"
    up = has_something_left and reached is not None and reached < LEAST
    yield Sign(25, "share of the best known gain", reached, f">= {LEAST}", up, sentence)


def _found(examined: Examined, sources: Sequence[Detector], tell: Tell) -> Iterator[tuple[int, str, Tensor]]:
    """The flag, the name and the images of each of the others."""
    detector, attack = examined.attacking.detector, examined.attack
    threat = attack.threat.at(examined.attacking.test.images.shape[-1])

    def made(name: str, **settings: Any) -> Attack:
        return attacks.get(f"{name}-{threat.norm}", epsilon=threat.epsilon, **settings)

    number = 100
    for name, other in (("noise", made("noise", samples=SAMPLES)), ("Square", made("square", queries=QUERIES))):
        tell(name)
        yield 23, name, examined.run(other, number := number + 1).images
    for source in sources:
        tell(f"transfer from {source.name}")
        yield 23, f"transfer from {source.name}", transferred(examined, source)
    for which in followed(detector):
        name = f"APGD along the {which}"
        tell(name)
        other = made("apgd", steps=ITERATIONS, differentiate=which, eot=EOT)
        yield 24, name, examined.run(other, number := number + 1).images
    longer = with_more_steps(attack)
    if longer is not None:
        tell(f"{LONGER} times the steps")
        yield 24, f"{LONGER} times the steps", examined.run(longer, number + 1).images


def followed(detector: Detector) -> list[str]:
    """What an attack can follow of a detector."""
    of_map = ["map", "mean-map"] if detector.has_map else []
    return ["score", *(["surrogate"] if detector.has_surrogate else []), *of_map]


def with_more_steps(attack: Attack) -> Attack | None:
    """The attack with `LONGER` times the steps; None of one that has none."""
    known = {field.name for field in fields(attack.settings)}
    names = known & {"steps", "stochastic_steps", "iterations"}
    more = {name: LONGER * value for name in sorted(names) if (value := getattr(attack.settings, name)) is not None}
    return type(attack)(attack.threat, replace(attack.settings, **more)) if more else None


def transferred(examined: Examined, source: Detector) -> Tensor:
    """What PGD makes of the images on another detector, (N, 3, S, S), on the CPU: inside the same ball."""
    attacking = examined.attacking
    threat = examined.attack.threat.at(attacking.test.images.shape[-1])
    attack = attacks.get(f"pgd-{threat.norm}", epsilon=threat.epsilon, steps=ITERATIONS)

    def work(part: list[int]) -> Tensor:
        x, y = attacking.test.pixels(part).to(attacking.device), attacking.test.labels[part].to(attacking.device)
        root, keys = NoiseSeed(attacking.draws.seed), keys_of(attacking.test, part)
        noise, selection = (root.source(f"diagnosis-{what}", keys) for what in ("transfer", "transfer-selection"))
        return attack.run(source, x, y, noise=noise, selection=selection).images.cpu()

    return torch.cat(list(attacking.in_batches(range(len(attacking.test)), work)))
