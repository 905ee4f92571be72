"""Flows score by probabilities, exp(log p), which underflow where an image is anomalous: the gradient is then zero.

The logarithm of what they compute orders pixels and images in the same way and never underflows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from detectors.parts.likelihood import log_likelihood


def surprise(logs: Sequence[Tensor], size: int, *, align_corners: bool = False) -> Tensor:
    """-log of the mean over scales of interpolated probabilities: each scale's log p (B, 1, h, w) to (B, 1, S, S)."""
    total = log_likelihood([scale[:, 0] for scale in logs], size, align_corners=align_corners)
    return math.log(len(logs)) - total[:, None]


def gaussian_log(z: Tensor) -> Tensor:
    """What FastFlow, U-Flow and PatchFlow call log p: minus half the mean square over the channels, (B, 1, h, w)."""
    return -0.5 * z.square().mean(dim=1, keepdim=True)
