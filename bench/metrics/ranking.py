"""Figures of merit from scores alone. Labels are +1 (normal) and -1 (anomalous); every figure is in per cent.

Scores have the shape (N,) or (D, N), D draws of a stochastic detector's noise; functions that work on draws treat the
last axis as images and return the leading shape. Infinite scores are allowed (a certified bound may be infinite): all
figures depend on ranks only. NaN is refused: a detector that answers NaN has no rank and must not get a figure.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.errors import CellError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def rank(values: Floats, method: Literal["average", "min", "max"] = "average") -> Floats:
    """Ranks along the last axis, from 1; equals get their average, least or greatest."""
    from scipy.stats import rankdata  # not at the top: a second of importing, for every process that only plans or fits

    return np.asarray(rankdata(values, method=method, axis=-1))


def auc(scores: ArrayLike, labels: ArrayLike) -> Floats:
    """Area under the ROC curve, anomalous as the positive class, a tie counting half; (..., N) to (...).

    Equals scikit-learn's `roc_auc_score` where that is defined, and ranks infinities, which it refuses.

    Raises:
        CellError: NaN scores, or a class without images.
    """
    values, anomalous = _checked(scores, labels)
    ranks = rank(values)
    return _share_of_pairs(ranks[..., anomalous].sum(axis=-1), anomalous, own_ranks=_triangle(int(anomalous.sum())))


def strict_auc(scores: ArrayLike, labels: ArrayLike) -> Floats:
    """`auc` with a tied normal-anomalous pair counted as lost: collapsing to a constant does not earn 50; (..., N) to
    (...). Raises CellError as `auc` does."""
    values, anomalous = _checked(scores, labels)
    # The lowest rank among equals counts what is strictly below; the same among anomalies alone is taken off again.
    below = rank(values, method="min")[..., anomalous].sum(axis=-1)
    own = rank(values[..., anomalous], method="min").sum(axis=-1)
    return _share_of_pairs(below, anomalous, own_ranks=own)


class DrawAverage(NamedTuple):
    """A figure's mean over draws, and its standard deviation over draws (0 with a single draw)."""

    mean: float
    sd: float


def mean_single_draw_auc(scores: ArrayLike, labels: ArrayLike) -> DrawAverage:
    """The mean of single-draw AUCs, scores (D, N), and their spread.

    The AUC of scores averaged over draws would belong to another, better detector (docs/verdict.md).
    """
    return _over_draws(auc(np.atleast_2d(np.asarray(scores)), labels))


def average_precision(scores: ArrayLike, labels: ArrayLike) -> Floats:
    """Area under the precision-recall curve (AUPR) as average precision, the sum of (R_n - R_(n-1)) P_n over distinct
    thresholds; (..., N) to (...)."""
    values, anomalous = _checked(scores, labels)
    positives = int(anomalous.sum())
    # What is flagged when the threshold sits at an anomaly's own score; ties are flagged together.
    flagged = rank(-values, method="max")[..., anomalous]
    hits = rank(-values[..., anomalous], method="max")
    return np.asarray(100.0 * (hits / flagged).sum(axis=-1) / positives)


def fpr_at_95_tpr(scores: ArrayLike, labels: ArrayLike) -> Floats:
    """Share of normals flagged at the highest threshold that still flags 95 % of the anomalies; (..., N) to (...)."""
    values, anomalous = _checked(scores, labels)
    positives = int(anomalous.sum())
    needed = -(-95 * positives // 100)  # the ceiling, in integers
    threshold = np.sort(values[..., anomalous], axis=-1)[..., positives - needed]
    return np.asarray(100.0 * (values[..., ~anomalous] >= threshold[..., None]).mean(axis=-1))


def threshold_on_normals(normal_scores: ArrayLike, fpr: float = 0.05) -> float:
    """The lowest score such that at most the share `fpr` of these normals lies above it (an image is called anomalous
    when its score is GREATER). Draws are pooled. The normals must not be the test images it is then used on.

    Raises:
        CellError: no scores, or NaN among them.
        ValueError: `fpr` outside [0, 1).
    """
    if not 0.0 <= fpr < 1.0:
        raise ValueError(f"The false positive rate must lie in [0, 1); got {fpr}.")
    values = np.sort(np.asarray(normal_scores, dtype=np.float64), axis=None)
    refuse_nan(values)
    if values.size == 0:
        raise CellError("A threshold needs the scores of at least one normal image; add normal images.")
    allowed = int(np.floor(fpr * values.size + 1e-9))  # 0.29 * 100 is 28.999...
    return float(values[values.size - 1 - allowed])


class AttackOutcome(NamedTuple):
    """At a fixed threshold, in per cent: `success`, the share of the correctly classified clean images that the attack
    flips (None where no clean image was classified correctly), and the accuracy under attack."""

    success: float | None
    robust_accuracy: float


def attack_success(clean: ArrayLike, robust: ArrayLike, labels: ArrayLike, threshold: float) -> AttackOutcome:
    """Attack success and robust accuracy; scores (N,) or (D, N), draws pooled. Raises CellError as `auc` does."""
    clean_values, anomalous = _checked(clean, labels, both_classes=False)
    robust_values, _ = _checked(robust, labels, both_classes=False)
    if clean_values.shape != robust_values.shape:
        raise ValueError(f"Clean scores {clean_values.shape} and robust scores {robust_values.shape} must match.")
    right_clean = (clean_values > threshold) == anomalous
    right_robust = (robust_values > threshold) == anomalous
    flipped = int((right_clean & ~right_robust).sum())
    success = 100.0 * flipped / int(right_clean.sum()) if right_clean.any() else None
    return AttackOutcome(success, float(100.0 * right_robust.mean()))


def separability(values: ArrayLike, labels: ArrayLike) -> float:
    """max(AUC, 100 - AUC) of something about the images (N,) that is no defect: mean brightness, place among the files.
    Above 90 the category is nearly solved, or inverted, by that alone."""
    value = float(auc(values, labels))
    return max(value, 100.0 - value)


def _over_draws(values: Floats) -> DrawAverage:
    flat = np.ravel(values)
    return DrawAverage(float(flat.mean()), float(flat.std(ddof=1)) if flat.size > 1 else 0.0)


def _triangle(count: int) -> float:
    return count * (count + 1) / 2


def _share_of_pairs(rank_sum: Floats, anomalous: Bools, own_ranks: Floats | float) -> Floats:
    pairs = int(anomalous.sum()) * int((~anomalous).sum())
    return np.asarray(100.0 * (rank_sum - own_ranks) / pairs)


def _checked(scores: ArrayLike, labels: ArrayLike, *, both_classes: bool = True) -> tuple[Floats, Bools]:
    values = np.asarray(scores, dtype=np.float64)
    signs = np.asarray(labels)
    if signs.ndim != 1 or values.ndim == 0 or values.shape[-1] != len(signs):
        raise ValueError(f"Scores (..., N) need labels (N,); got {values.shape} and {signs.shape}.")
    if not np.isin(signs, (-1, 1)).all():
        raise ValueError("Labels must be +1 (normal) or -1 (anomalous).")
    anomalous = np.asarray(signs == -1)
    if both_classes and (anomalous.all() or not anomalous.any()):
        missing = "normal" if anomalous.all() else "anomalous"
        raise CellError(f"An AUC compares normal with anomalous images and there is no {missing} one; add some.")
    refuse_nan(values)
    return values, anomalous


def refuse_nan(values: Floats) -> None:
    bad = int(np.isnan(values).sum())
    if bad:
        raise CellError(
            f"{bad} of {values.size} scores are NaN and have no rank; look for a division by zero or an overflow in "
            "the detector."
        )
