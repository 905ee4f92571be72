"""How near a detector's threshold is to each test image, and the files that say so: a CSV of images, a JSON of figures.

No record of a run: it ranks nobody, and no leaderboard reads it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.text import escape_csv

FORMAT = 1
COLUMNS = ("detector", "image", "label", "score", "threshold", "wrong", "distance", "witness_score")
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Distances:
    """Of one detector on the N test images of a category.

    Attributes:
        detector: its name.
        threshold: above which it calls an image anomalous.
        images, labels: their ids, and +1 normal or -1 anomalous, (N,).
        scores: of the clean images, (N,); of a stochastic detector means over draws, as `threshold` is of such means.
        wrong: which are decided wrongly as they are, bool (N,).
        distances: in the norm on the [0, 1] scale, (N,): 0 of these, infinity where no flip was found.
        witness_scores: of the images at these distances, judged anew: of a stochastic detector on draws that the search
            has not seen, (N,).
        facts: how it was found, ready for JSON.
    """

    detector: str
    threshold: float
    images: tuple[str, ...]
    labels: NDArray[np.int64]
    scores: Floats
    wrong: NDArray[np.bool_]
    distances: Floats
    witness_scores: Floats
    facts: Mapping[str, Any] = field(default_factory=dict)

    def median(self, label: int | None = None) -> float | None:
        """Of a class, or of all; infinity where most have none, None where the class has no image."""
        chosen = self.distances[self._of(label)]
        # The lower one of two in the middle would be too near, and a mean with infinity says nothing.
        return float(np.quantile(chosen, 0.5, method="higher")) if len(chosen) else None

    @property
    def wrong_share(self) -> float:
        """Of the images, in per cent: those that are decided wrongly as they are."""
        return float(100 * self.wrong.mean())

    @property
    def missing_share(self) -> float:
        """Of the images, in per cent: those without a flip."""
        return float(100 * np.isinf(self.distances).mean())

    @property
    def held_share(self) -> float | None:
        """Of the flips that were found, in per cent: those that hold when the witness is judged anew; None of none."""
        found = np.isfinite(self.distances) & ~self.wrong
        above = self.witness_scores > self.threshold
        holds = np.where(self.labels > 0, above, ~above)
        return float(100 * holds[found].mean()) if found.any() else None

    def describe(self) -> dict[str, Any]:
        """For JSON; a median that is infinite is null there, and `not_found_share` above 50."""
        medians = {name: self.median(label) for name, label in (("normal", 1), ("anomalous", -1), ("all", None))}
        return {
            "threshold": self.threshold,
            "median_distance": {k: v if v is not None and np.isfinite(v) else None for k, v in medians.items()},
            "wrong_share": self.wrong_share,
            "not_found_share": self.missing_share,
            "held_share": self.held_share,
            **self.facts,
        }

    def _of(self, label: int | None) -> NDArray[np.bool_]:
        return np.ones(len(self.labels), dtype=bool) if label is None else self.labels == label


def render(found: Sequence[Distances]) -> str:
    """The CSV's text: a line for each detector and image; what is infinite reads "inf"."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in found:
        for index, image in enumerate(one.images):
            numbers = (one.scores[index], one.threshold, one.distances[index], one.witness_scores[index])
            score, threshold, distance, witness = (repr(float(number)) for number in numbers)
            names, label = map(escape_csv, (one.detector, image)), int(one.labels[index])
            writer.writerow((*names, label, score, threshold, int(one.wrong[index]), distance, witness))
    return stream.getvalue()


def document(found: Sequence[Distances], reasons: Mapping[str, str]) -> dict[str, Any]:
    """What of them is written as JSON: each detector's figures, and why others have none."""
    detectors = {one.detector: one.describe() for one in found}
    return {"format": FORMAT, "kind": "distance", "detectors": detectors, "failed": dict(reasons)}
