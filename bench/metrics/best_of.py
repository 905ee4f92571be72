"""Best of N: what is left of a stochastic detector whose answers an attacker may ask for again.

A defender who draws fresh noise at each submission lets an attacker submit each image up to N times and keep the worst
answer: the largest score of a normal image, the smallest of an anomaly. A mean over draws hides that.
"""

from __future__ import annotations

from math import comb
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bench.metrics import ranking
from bench.metrics.intervals import score_interval
from bench.metrics.ranking import Floats

RESUBMISSIONS = 10


def best_of(scores: ArrayLike, labels: ArrayLike, resubmissions: int = RESUBMISSIONS) -> dict[str, Any] | None:
    """The AUC where each image takes its worst of N draws, expected over which N of the D draws these are.

    Each image chooses its own N draws, as resubmissions are independent of each other. Of D draws, sorted by rising
    score, the k-th is the largest of N with the probability C(k - 1, N - 1) / C(D, N), and the k-th from above the
    smallest. So the expectation is a sum over pairs of draws with these weights, exactly; with D = N it is the AUC of
    each image's extreme score.

    Args:
        scores: (D, N) over draws and images.
        labels: +1 normal, -1 anomalous, (N,).
        resubmissions: N.

    Returns:
        resubmissions; auc with its interval low..high, and strict_auc with strict_low..strict_high (a tie is lost), in
        per cent (`intervals.score_interval`, with placements by the same weights in DeLong's variance). None where
        there are fewer than N draws.

    Raises:
        CellError: NaN scores, or a class without images.
    """
    values = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    ranking.auc(values, labels)  # for its checks
    draws = len(values)
    if draws < resubmissions:
        return None
    anomalous = np.asarray(labels) == -1
    weights = np.array([comb(k, resubmissions - 1) for k in range(draws)]) / comb(draws, resubmissions)
    ordered = np.sort(values, axis=0)
    normals, anomalies = ordered[:, ~anomalous], ordered[::-1, anomalous]  # each with its worst draw last
    above, ties = _beaten(normals, anomalies, weights)
    above_normals, ties_normals = _beaten(-anomalies, -normals, weights)
    counts = int((~anomalous).sum()), int(anomalous.sum())
    variance = sum(
        float(placements.var(ddof=1)) / len(placements)
        for placements in (above + ties / 2, above_normals + ties_normals / 2)
        if len(placements) > 1
    )
    fair, strict = (
        score_interval(float(np.clip(100 * placements.mean(), 0, 100)), *counts, variance=variance)
        for placements in (above + ties / 2, above)
    )
    return {
        "resubmissions": resubmissions,
        "auc": fair.value,
        "low": fair.low,
        "high": fair.high,
        "strict_auc": strict.value,
        "strict_low": strict.low,
        "strict_high": strict.high,
    }


def _beaten(own: Floats, others: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Of each image of a class, (D, n), the expected shares of the other class, (D, m), whose score is above its own,
    and equal to it, (n,) each; draws in the order of their weights (D,)."""
    spread = np.repeat(weights / others.shape[1], others.shape[1])
    order = np.argsort(others, axis=None, kind="stable")
    pooled, up_to = others.ravel()[order], np.concatenate([[0.0], np.cumsum(spread[order])])
    at_most, below = (up_to[np.searchsorted(pooled, own, side=side)] for side in ("right", "left"))
    above, ties = up_to[-1] - at_most, at_most - below
    return weights @ above, weights @ ties
