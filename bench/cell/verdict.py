"""The verdict: scores of clean and attacked images on noise that no attack has seen.

Both are scored on the same draws. A stochastic detector's AUC is the mean of single-draw AUCs; where these are spread
so widely that the mean over the protocol's number of draws would depend on which draws they were, more are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.data.base import ImageSet
from bench.errors import CellError
from bench.metrics import intervals, ranking
from detectors.base import Detector
from detectors.noise import NoiseSeed

Floats = NDArray[np.float64]
# More draws are taken while the standard error of the mean AUC is above this share of the half width of the AUC's
# interval over images: ten draws of one detector had a mean of 56.5, and 52.1 +- 1.0 on fresh noise.
NOISE_SHARE = 0.1
CALIBRATION_FPR = 0.05  # of held-out normals lie above the threshold
LEAST_HELD_OUT = 10  # fewer have no such quantile
MOST_DRAWS = 5  # times the protocol's number


@dataclass(frozen=True)
class Draws:
    """How a stochastic detector's verdict is taken, and the seed of all noise.

    Attributes:
        verdict: noise draws at least.
        seed: of attack, selection, indicator and verdict noise.
    """

    verdict: int
    seed: int

    def __post_init__(self) -> None:
        """Raises CellError for a seed that is no whole number: noise would be drawn from its text."""
        if not isinstance(self.seed, int) or isinstance(self.seed, bool):
            raise CellError(f"The seed must be a whole number; got {self.seed!r:.60}.")


@dataclass(frozen=True, eq=False)
class Judge:
    """Scores images on verdict draws, `batch_size` at a time."""

    detector: Detector
    draws: Draws
    batch_size: int
    device: torch.device

    def scores(self, ids: Sequence[str], images: Tensor, draws: range) -> Floats:
        """Scores of images (N, 3, S, S) in [0, 1] on some of the draws, (D, N)."""
        found = [np.empty((len(draws), 0))]
        for start in range(0, len(ids), self.batch_size):
            part = range(start, min(start + self.batch_size, len(ids)))
            source = NoiseSeed(self.draws.seed).source("verdict", [ids[i] for i in part])
            x = images[part].to(self.device)
            with torch.no_grad():
                scores = torch.stack([self.detector.score(x, noise=source.at(draw)) for draw in draws])
            found.append(scores.double().cpu().numpy())
        return np.concatenate(found, axis=1)

    def both(self, test: ImageSet, adversarial: Tensor) -> tuple[Floats, Floats]:
        """Clean and attacked scores, (D, N): one draw of a deterministic detector, else as many as are needed. Where
        the images are the same to the bit (a ball of radius 0), these are scored once, and both are the same array."""
        asked = self.draws.verdict if self.detector.is_stochastic else 1
        clean = test.pixels()
        if torch.equal(clean, adversarial):
            scores = self._until_settled(test, (clean,), asked)[0]
            return scores, scores
        found = self._until_settled(test, (clean, adversarial), asked)
        return found[0], found[1]

    def _until_settled(self, test: ImageSet, sets: Sequence[Tensor], asked: int) -> list[Floats]:
        found = [self.scores(test.ids, images, range(asked)) for images in sets]
        labels = test.labels.numpy().astype(np.int64)
        while self.detector.is_stochastic and len(found[0]) < MOST_DRAWS * asked and not is_settled(found, labels):
            more = range(len(found[0]), len(found[0]) + asked)
            found = [
                np.concatenate([known, self.scores(test.ids, images, more)])
                for known, images in zip(found, sets, strict=True)
            ]
        return found


def is_settled(found: Sequence[Floats], labels: NDArray[np.int64]) -> bool:
    """Whether the noise of each mean AUC over draws is small beside its interval over images.

    Args:
        found: scores (D, N) of clean and of attacked images.
        labels: +1 normal, -1 anomalous, (N,).
    """
    if len(set(labels.tolist())) < 2 or not all(np.isfinite(scores).all() for scores in found):
        return True  # there is no AUC, and whoever asks for one is told
    for scores in found:
        summary = intervals.summary(scores, labels)
        error = summary["sd"] / len(scores) ** 0.5
        if error > NOISE_SHARE * (summary["high"] - summary["low"]) / 2:
            return False
    return True


def threshold_of(calibration: Floats) -> float | None:
    """Above which an image is called anomalous, by the scores of held-out normals, (D, M); None where they are few."""
    if calibration.shape[1] < LEAST_HELD_OUT or not np.isfinite(calibration).all():
        return None
    return ranking.threshold_on_normals(calibration, CALIBRATION_FPR)
