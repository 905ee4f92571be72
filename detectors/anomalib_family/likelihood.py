"""Flows score by probabilities, exp(log p), which underflow where an image is anomalous: the gradient is then zero.

The logarithm of what they compute orders pixels and images in the same way and never underflows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def log_interpolate(logs: Tensor, size: int, *, align_corners: bool = False) -> Tensor:
    """log(interpolate(exp(logs))), bilinear, (B, 1, h, w) to (B, 1, size, size), without leaving the log domain."""
    for dim in (2, 3):
        low, high, weight = _corners(logs.shape[dim], size, align_corners, logs)
        shape = [1, 1, 1, 1]
        shape[dim] = size
        weight = weight.view(shape)
        logs = torch.logaddexp(
            logs.index_select(dim, low) + (1 - weight).log(), logs.index_select(dim, high) + weight.log()
        )
    return logs


def _corners(side: int, size: int, align_corners: bool, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each output: the two inputs between which it lies, and the weight of the second (as in torch)."""
    place = torch.arange(size, device=like.device, dtype=torch.float64)
    place = place * (side - 1) / max(1, size - 1) if align_corners else ((place + 0.5) * side / size - 0.5)
    place = place.clamp(0, side - 1)
    low = place.floor().long()
    return low, (low + 1).clamp_max(side - 1), (place - low).to(like.dtype)


def surprise(logs: Sequence[Tensor], size: int, *, align_corners: bool = False) -> Tensor:
    """-log of the mean over scales of interpolated probabilities: each scale's log p (B, 1, h, w) to (B, 1, S, S)."""
    scales = torch.stack([log_interpolate(scale, size, align_corners=align_corners) for scale in logs])
    return math.log(len(logs)) - scales.logsumexp(dim=0)


def gaussian_log(z: Tensor) -> Tensor:
    """What FastFlow, U-Flow and PatchFlow call log p: minus half the mean square over the channels, (B, 1, h, w)."""
    return -0.5 * z.square().mean(dim=1, keepdim=True)
