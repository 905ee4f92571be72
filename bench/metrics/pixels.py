"""Figures of merit of anomaly maps, pixel by pixel and defect by defect, in per cent."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from bench.errors import CellError
from bench.metrics.ranking import Bools, Floats, auc, refuse_nan

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)


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


def _checked_maps(maps: ArrayLike, masks: ArrayLike) -> tuple[Floats, Bools]:
    values = np.asarray(maps, dtype=np.float64)
    defective = np.asarray(masks, dtype=bool)
    if values.ndim != 3 or values.shape != defective.shape:
        raise ValueError(f"Maps and masks must share the shape (N, H, W); got {values.shape} and {defective.shape}.")
    refuse_nan(values)
    if not defective.any() or defective.all():
        raise CellError("Pixel figures need masks with defective and with normal pixels; leave them out without masks.")
    return values, defective
