"""Attacks on the same images beside each other: who is clearly ahead, and how near each came to the best that is known.

A loss that is higher by a hair is no news: from another start, or along another function, an attack ends a little
elsewhere. It is clearly ahead where it raised the loss by more than a twentieth of what was gained before.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bench.cell.plain_noise import rose

Floats = NDArray[np.float64]
CLEARLY = 0.05  # of the gain so far


def is_clearly_ahead(clean: Tensor, known: Tensor, found: Tensor) -> Tensor:
    """Whether a loss is above the known one by more than rounding and than `CLEARLY` of its gain, (B,) bool.

    Args:
        clean, known, found: losses y * A(x) of the clean images, of the best attacked ones so far, and of others, (B,).
    """
    return rose(known, found) & (found - known > CLEARLY * (known - clean).clamp_min(0))


def optimality(clean: Floats, own: Floats, best: Floats) -> float | None:
    """How much of the best known gain an attack has found by itself: the mean over images of its gain as a share of the
    best one, in [0, 1] (local optimality; after Cinà et al. 2025, AttackBench, who compare distances so).

    Args:
        clean, own, best: losses of the clean images, of those that the attack made (NaN: it made none), and of the best
            that any attack made, (N,).

    Returns:
        None where there is no image that it attacked and that any attack gained on.
    """
    gained = best - clean
    with np.errstate(invalid="ignore"):
        counts = np.isfinite(own) & np.isfinite(gained) & (gained > 1e-6 * np.abs(clean))
    if not counts.any():
        return None
    shares = np.clip((own - clean)[counts] / gained[counts], 0, 1)
    return round(float(shares.mean()), 4)
