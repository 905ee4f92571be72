"""Exact certificates, free of charge: a score that cannot move fast needs no samples.

Where |A(x) - A(x')| <= L |x - x'| in a norm, a ball of radius r moves the score by L r at most. A detector declares L
(`Detector.lipschitz`), and the contract checks it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from certificates.rules import Bounds


def exact_bounds(scores: ArrayLike, constant: float, radii: Sequence[float]) -> Bounds:
    """Bounds of clean scores (M,) within each of R radii, (R, M)."""
    values = np.asarray(scores, dtype=np.float64)[None]
    moved = constant * np.asarray(radii, dtype=np.float64)[:, None]
    return Bounds(values - moved, values + moved)
