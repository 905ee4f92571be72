"""The images that an attack has done most to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.metrics.ranking import Floats
from bench.records.score_table import Scores
from bench.text import one_line

MOST = 8  # that are listed


@dataclass(frozen=True)
class Worst:
    """An image that the attack has done much to: the share of its pairs that are in the wrong order after it."""

    image: str
    kind: str
    clean: float
    robust: float
    lost_before: float
    lost: float


def worst(scores: Scores) -> list[Worst]:
    """The images that the attack has done most to: by how many more of their pairs are in the wrong order after it, the
    mean over draws. Scores that tie lose half a pair."""
    before, after = (
        np.mean([_lost(s, scores.labels) for s in values], axis=0) for values in (scores.clean, scores.robust)
    )
    order = np.lexsort((np.arange(len(after)), -(after - before)))[:MOST]
    clean, robust = scores.clean.mean(axis=0), scores.robust.mean(axis=0)
    return [
        Worst(
            one_line(scores.images[n], 120),
            one_line(scores.defects[n], 60) if scores.defects else ("normal" if scores.labels[n] == 1 else "anomalous"),
            float(clean[n]),
            float(robust[n]),
            float(100 * before[n]),
            float(100 * after[n]),
        )
        for n in order.tolist()
        if after[n] > before[n]
    ]


def _lost(values: Floats, labels: NDArray[np.int64]) -> Floats:
    """Of each image's pairs with the other class the share in the wrong order."""
    lost = np.zeros(len(values))
    for own in (1, -1):
        mine, other = labels == own, np.sort(values[labels == -own])
        below = np.searchsorted(other, values[mine], "left")
        ties = np.searchsorted(other, values[mine], "right") - below
        wrong = below if own == 1 else len(other) - below - ties  # a normal above anomalies, an anomaly below normals
        lost[mine] = (wrong + ties / 2) / max(len(other), 1)
    return lost
