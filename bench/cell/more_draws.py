"""Whether another attack on noise finds more: on a few images, with four times the draws or along another gradient.

A defence that consists of noise looks strong to an attack that averages little of it, and no other sign shows it: the
loss levels off, gradients are neither zero nor wrong. So what four times the draws find beyond the attack's own images
is a figure of each record of a stochastic detector. And an attack that follows something in the score's place, a smooth
maximum of its map, is made once more along the score's own gradient: a stand-in may lead elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attacks.base import Attack
from bench.data.base import ANOMALOUS, NORMAL, ImageSet
from detectors.base import Detector
from detectors.noise import Noise, NoiseSeed

FACTOR = 4
PER_CLASS = 3
COMPARISON_DRAWS = 16


@dataclass(frozen=True)
class FoundMore:
    """What another attack found on a few images.

    Attributes:
        factor: how many times the draws it had.
        images: how many.
        gain: by how much they raised y * A(x) beyond the attack's own images, as a share of what the attack had gained
            over the clean images; means over images and common draws that no attack has seen. None where the attack
            had gained nothing: of that, nothing is a share.
        standard_errors: the same difference in its standard errors, over draws.
    """

    factor: int
    images: int
    gain: float | None
    standard_errors: float

    @property
    def speaks(self) -> bool:
        """Whether the difference is more than noise, and not negligible."""
        return self.standard_errors > 2 and (self.gain is None or self.gain > 0.05)

    def describe(self) -> dict[str, Any]:
        """For the record."""
        return {
            "factor": self.factor,
            "images": self.images,
            "gain_share": None if self.gain is None else round(self.gain, 4),
            "standard_errors": round(self.standard_errors, 2),
            "speaks": self.speaks,
        }


def few(test: ImageSet) -> list[int]:
    """`PER_CLASS` images of each class, evenly spaced among those of their label: not picked by how they look."""
    found: list[int] = []
    for label in (NORMAL, ANOMALOUS):
        of_label = [i for i in range(len(test)) if int(test.labels[i]) == label]
        count = min(PER_CLASS, len(of_label))
        found += [of_label[(2 * place + 1) * len(of_label) // (2 * count)] for place in range(count)]
    return sorted(found)


def more_draws(
    detector: Detector,
    attack: Attack,
    test: ImageSet,
    adversarial: Tensor,
    seed: int,
    device: torch.device,
    *,
    batch_size: int = 2 * PER_CLASS,
    start: Tensor | None = None,
) -> FoundMore | None:
    """Attack a few images with `FACTOR` times the draws.

    Args:
        detector: fitted, on the device.
        attack: as it was made.
        test: the images that were attacked; adversarial: what came out, (N, 3, S, S), anywhere.
        seed: of the noise: its sources are neither the attack's nor the verdict's.
        batch_size: images at a time, where memory is short.
        start: what the attack started from, (N, 3, S, S) anywhere, or None; this one does, too.

    Returns:
        None where the detector is deterministic or the attack averages no noise.
    """
    stronger = attack.with_draws(FACTOR) if detector.is_stochastic else None
    if stronger is None:
        return None
    return _found(detector, stronger, FACTOR, "more-draws", test, adversarial, seed, device, batch_size, start)


def own_gradient(
    detector: Detector,
    attack: Attack,
    test: ImageSet,
    adversarial: Tensor,
    seed: int,
    device: torch.device,
    *,
    batch_size: int = 2 * PER_CLASS,
    start: Tensor | None = None,
) -> FoundMore | None:
    """Attack a few images along the score's own gradient, with as many draws; as `more_draws`.

    Returns:
        None where the attack follows that one anyway.
    """
    other = attack.along_the_score(detector)
    if other is None:
        return None
    return _found(detector, other, 1, "own-gradient", test, adversarial, seed, device, batch_size, start)


def _found(
    detector: Detector,
    other: Attack,
    factor: int,
    purpose: str,
    test: ImageSet,
    adversarial: Tensor,
    seed: int,
    device: torch.device,
    batch_size: int,
    start: Tensor | None,
) -> FoundMore | None:
    chosen = few(test)
    if not chosen:
        return None
    other = other.settled(detector)
    root, parts = NoiseSeed(seed), []
    for place in range(0, len(chosen), batch_size):
        part = chosen[place : place + batch_size]
        ids = [test.ids[i] for i in part]
        x, y = test.pixels(part).to(device), test.labels[part].to(device)
        noise, selection = root.source(purpose, ids), root.source(f"{purpose}-selection", ids)
        first = None if start is None else start[part].to(device)
        more = other.run(detector, x, y, noise=noise, selection=selection, start=first)
        source = root.source(f"{purpose}-verdict", ids)
        images_of = (x, adversarial[part].to(device), more.images)
        parts.append(torch.stack([_losses(detector, images, y, source) for images in images_of]))
    clean, found, beyond = torch.cat(parts, dim=2)
    ahead = (beyond - found).mean(dim=1)  # (D,): the mean over images on each draw
    gained = float((found - clean).mean())
    error = float(ahead.std()) / COMPARISON_DRAWS**0.5
    mean = float(ahead.mean())
    # A difference that is the same on all draws has no error: it is as sure as can be.
    errors = mean / max(error, 1e-6 * abs(mean)) if mean else 0.0
    return FoundMore(factor, len(chosen), mean / gained if gained > 0 else None, errors)


def _losses(detector: Detector, images: Tensor, y: Tensor, noise: Noise) -> Tensor:
    """y * A(x) on common draws, float64 (D, B)."""
    with torch.no_grad():
        found = [y * detector.score(images, noise=noise.at(draw)) for draw in range(COMPARISON_DRAWS)]
    return torch.stack(found).double()
