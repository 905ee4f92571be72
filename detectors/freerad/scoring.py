"""FreeRAD's anomaly score from an image and its reconstruction (Algorithm 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def multiscale_error(x: Tensor, reconstruction: Tensor, scales: int, filter_size: int) -> Tensor:
    """Err_ms: squared errors at the scales 1, 1/2, 1/4, ..., averaged and smoothed.

    Args:
        x, reconstruction: (B, 3, H, W).
        scales: how many scales, each half of the one before (the paper: 4).
        filter_size: side s of the normalised mean filter, odd, in pixels; its border is reflected.

    Returns:
        The error map, (B, H, W).
    """
    side = x.shape[-2:]
    total = torch.zeros_like(x[:, :1])
    for scale in range(scales):
        # Averaging is linear, so the difference may be shrunk in place of both images.
        difference = x - reconstruction
        if scale > 0:
            difference = F.avg_pool2d(difference, 2**scale)
        error = difference.square().mean(dim=1, keepdim=True)
        if scale > 0:
            error = F.interpolate(error, size=side, mode="bilinear", align_corners=False)
        total = total + error
    return mean_filter(total / scales, filter_size)[:, 0]


def mean_filter(maps: Tensor, size: int) -> Tensor:
    """The mean over s x s pixels around each one, (B, 1, H, W) to the same shape, with reflected borders."""
    if size == 1:
        return maps
    pad = size // 2
    return F.avg_pool2d(F.pad(maps, (pad, pad, pad, pad), mode="reflect"), size, stride=1)


def image_score(error_map: Tensor, normal_map: Tensor) -> Tensor:
    """A(x): the largest absolute deviation from the mean map of the normal training images, (B, H, W) to (B,)."""
    return (error_map - normal_map).abs().flatten(1).amax(dim=1)
