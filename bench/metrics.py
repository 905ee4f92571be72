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

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)


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

    The AUC of scores averaged over draws would belong to another, better detector (DESIGN.md).
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
    _refuse_nan(values)
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


def pixel_auroc(maps: ArrayLike, masks: ArrayLike) -> float:
    """AUC over all pixels, maps (N, H, W), masks bool (N, H, W), True where defective. Raises CellError."""
    values, defective = _checked_maps(maps, masks)
    return float(auc(values.ravel(), np.where(defective.ravel(), -1, 1)))


def aupro(maps: ArrayLike, masks: ArrayLike, *, fpr_limit: float = 0.3) -> float:
    """Per-region overlap integrated over the false positive rate up to `fpr_limit`, divided by `fpr_limit`.

    Every connected defect (8 neighbours) weighs the same whatever its size (Bergmann et al. 2021). Exact: every
    distinct score is a threshold, straight lines between.

    Raises:
        CellError: NaN in a map, no defective or no normal pixel.
    """
    from scipy import ndimage  # not at the top: see `rank`

    values, defective = _checked_maps(maps, masks)
    gain = np.zeros(values.shape)  # what flagging this pixel adds to the mean overlap
    regions = 0
    for index in range(len(values)):
        components, count = ndimage.label(defective[index], structure=_EIGHT_NEIGHBOURS)
        sizes = np.bincount(components.ravel(), minlength=count + 1)
        gain[index] = np.where(defective[index], 1.0 / np.maximum(sizes[components], 1), 0.0)
        regions += count
    order = np.argsort(-values, axis=None, kind="stable")
    ranked = values.ravel()[order]
    last_of_ties = np.append(ranked[1:] != ranked[:-1], True)
    overlap = (np.cumsum(gain.ravel()[order]) / regions)[last_of_ties]
    normal = ~defective.ravel()[order]
    fpr = (np.cumsum(normal) / normal.sum())[last_of_ties]
    fpr, overlap = np.concatenate([[0.0], fpr]), np.concatenate([[0.0], overlap])
    inside = fpr <= fpr_limit
    x = np.append(fpr[inside], fpr_limit)
    y = np.append(overlap[inside], np.interp(fpr_limit, fpr, overlap))
    return float(100.0 * np.trapezoid(y, x) / fpr_limit)


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
    _refuse_nan(values)
    return values, anomalous


def _refuse_nan(values: Floats) -> None:
    bad = int(np.isnan(values).sum())
    if bad:
        raise CellError(
            f"{bad} of {values.size} scores are NaN and have no rank; look for a division by zero or an overflow in "
            "the detector."
        )


def _checked_maps(maps: ArrayLike, masks: ArrayLike) -> tuple[Floats, Bools]:
    values = np.asarray(maps, dtype=np.float64)
    defective = np.asarray(masks, dtype=bool)
    if values.ndim != 3 or values.shape != defective.shape:
        raise ValueError(f"Maps and masks must share the shape (N, H, W); got {values.shape} and {defective.shape}.")
    _refuse_nan(values)
    if not defective.any() or defective.all():
        raise CellError("Pixel figures need masks with defective and with normal pixels; leave them out without masks.")
    return values, defective
