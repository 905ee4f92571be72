"""Differentiable geometry of images: what a detector that works at another size does inside."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def resize(x: Tensor, size: int) -> Tensor:
    """(B, C, H, W) to (B, C, size, size), bilinear, antialiased where it shrinks; the gradient reaches every pixel."""
    if x.shape[-2:] == (size, size):
        return x
    shrinks = min(x.shape[-2:]) > size
    return F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False, antialias=shrinks)


def centre_crop(x: Tensor, size: int) -> Tensor:
    """The middle (B, C, size, size) of (B, C, H, W); an image that is smaller stays as it is."""
    top, left = (max(0, (side - size) // 2) for side in x.shape[-2:])
    return x[..., top : top + size, left : left + size]
