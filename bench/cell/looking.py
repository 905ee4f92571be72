"""Looking at attacked images: whether plain noise would have done more, their maps, pictures for the panel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks import merging
from attacks.base import Attack
from attacks.result import AttackResult
from attacks.threat_others import Transformations
from bench.cell import plain_noise
from bench.cell.attacking import Attacking, keys_of
from bench.cell.verdict import Draws
from bench.data.base import ImageSet
from detectors.base import Detector
from detectors.noise import NoiseSeed

EXAMPLES_PER_CLASS = 1


@dataclass(frozen=True, eq=False)
class Looks:
    """What is seen of all N attacked images.

    Attributes:
        rose: whether the attack raised its loss by more than rounding, bool (N,); None where there was no attack, or
            where it chose among transformations: of an image that each of them helps, the clean one is the worst.
        noise_won: whether plain noise of the ball's size did more than the attack, bool (N,); None where there was no
            attack, or no ball.
        maps: clean and attacked anomaly maps under the first verdict draw, each (N, S, S), or None.
        examples: tensors for the picture panel.
    """

    rose: NDArray[np.bool_] | None
    noise_won: NDArray[np.bool_] | None
    maps: tuple[NDArray[np.float32], NDArray[np.float32]] | None
    examples: dict[str, Tensor]


def look_at(attacking: Attacking, attack: Attack, found: AttackResult) -> Looks:
    """Look at every image that an attack has made of the test set, (N, 3, S, S) in its order."""
    test, detector, draws = attacking.test, attacking.detector, attacking.draws
    everything = range(len(test))

    def risen(part: list[int]) -> Tensor:
        result = merging.picked(found, part, attacking.device)
        kept = result.best_loss
        if result.gain is not None:  # not a number of an image that was found without steps
            kept = torch.where(result.gain.isnan(), kept, result.clean_loss + result.gain)
        return plain_noise.rose(result.clean_loss, kept).cpu()

    def beaten(part: list[int]) -> Tensor:
        x, y = test.pixels(part).to(attacking.device), test.labels[part].to(attacking.device)
        noise, images = NoiseSeed(draws.seed).source("plain-noise", keys_of(test, part)), found.images[part].to(x)
        return plain_noise.noise_won(detector, attack.threat.at(x.shape[-1]), x, y, images, noise).cpu()

    def maps(part: list[int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        keys, pictures = keys_of(test, part), (test.pixels(part), found.images[part])
        before, after = (_maps(detector, x.to(attacking.device), keys, draws) for x in pictures)
        return before, after

    rose = won = both = None
    if attacking.moves(attack) and found.transformation is None:
        rose = torch.cat(list(attacking.in_batches(everything, risen))).numpy()
    if attacking.moves(attack) and attack.threat.at(test.images.shape[-1]).is_ball:
        won = torch.cat(list(attacking.in_batches(everything, beaten))).numpy()
    if detector.has_map and test.masks is not None:
        both = tuple(np.concatenate(m) for m in zip(*attacking.in_batches(everything, maps), strict=True))
    chosen = example_places(test)
    return Looks(rose, won, both, _examples(attacking, found.images, chosen) if chosen else {})  # type: ignore[arg-type]


def transformations(attack: Attack, found: AttackResult, had_enough: NDArray[np.bool_] | None) -> dict[str, Any] | None:
    """What an attack that transforms images did to those that it attacked to the end, for a record; None of another
    attack, or where there are none."""
    threat = attack.threat.at(found.images.shape[-1])
    if found.transformation is None or not isinstance(threat, Transformations):
        return None
    ended = np.ones(len(found.images), dtype=bool) if had_enough is None else ~had_enough
    return threat.told(found.transformation[torch.as_tensor(ended)]) if ended.any() else None


def example_places(test: ImageSet) -> list[int]:
    """The first normal and the first anomaly by name: not picked by how they look."""
    found: list[int] = []
    for label in (1, -1):
        found += [i for i in range(len(test)) if int(test.labels[i]) == label][:EXAMPLES_PER_CLASS]
    return sorted(found)


def _maps(detector: Detector, x: Tensor, keys: list[str], draws: Draws) -> NDArray[np.float32]:
    with torch.no_grad():
        maps = detector.anomaly_map(x, noise=NoiseSeed(draws.seed).source("verdict", keys).at(0))
    return np.asarray(maps.float().cpu().numpy())


def _examples(attacking: Attacking, adversarial: Tensor, chosen: Sequence[int]) -> dict[str, Tensor]:
    """Pictures of a few images for the panel, small enough to keep beside a record."""
    test, detector, places = attacking.test, attacking.detector, list(chosen)
    source = NoiseSeed(attacking.draws.seed).source("verdict", keys_of(test, places)).at(0)
    before, after = test.pixels(places).to(attacking.device), adversarial[places].to(attacking.device)
    found = {
        "image": _bytes(before),
        "adversarial": _bytes(after),
        "labels": test.labels[places].to(torch.int8),
        # 8 bits cannot hold a perturbation of less than a grey level, so it is kept on its own.
        "perturbation": (after - before).half().cpu(),
    }
    with torch.no_grad():
        if detector.has_map:
            found["map"] = detector.anomaly_map(before, noise=source).half().cpu()
            found["adversarial_map"] = detector.anomaly_map(after, noise=source).half().cpu()
        if detector.has_reconstruction:
            found["reconstruction"] = _bytes(detector.reconstruct(before, noise=source))
            found["adversarial_reconstruction"] = _bytes(detector.reconstruct(after, noise=source))
        found["score"] = detector.score(before, noise=source).cpu()
        found["adversarial_score"] = detector.score(after, noise=source).cpu()
    return found


def _bytes(images: Tensor) -> Tensor:
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
