"""The bins of a score histogram, whoever draws it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.metrics.ranking import Floats

LARGEST_DRAWN = 1e300  # beyond it the axes' own arithmetic overflows


def drawn(values: Floats) -> NDArray[np.bool_]:
    """Which values an axis can show; also false of NaN."""
    return np.asarray(np.abs(values) <= LARGEST_DRAWN)


def bins(values: Floats, count: int = 30) -> tuple[Floats, bool]:
    """Bin edges over all scores; logarithmic where positive scores span more than three decades."""
    if values.size == 0:
        return np.linspace(0.0, 1.0, count + 1), False
    low, high = float(values.min()), float(values.max())
    if low > 0 and high / low > 1e3:
        return np.geomspace(low, high, count + 1), True
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-30):  # one constant score
        margin = max(abs(low), 1.0) * 0.5
        low, high = low - margin, high + margin
    return np.linspace(low, high, count + 1), False
