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
    # Averaging is linear, so the difference may be shrunk in place of both images.
    difference = x - reconstruction
    total = torch.zeros((), dtype=x.dtype, device=x.device)
    for scale in range(scales):
        if scale > 0:
            difference = F.avg_pool2d(difference, 2)
        error = difference.square().sum(dim=1)
        # All behind the square is linear, in rows and in columns: on a CPU two matrix products are the fastest.
        rows, columns = (_spread(side, scale, filter_size, like=x) for side in x.shape[-2:])
        total = total + (error @ columns.T).mT @ rows.T
    return total.mT / (scales * x.shape[1])


def _spread(side: int, scale: int, filter_size: int, *, like: Tensor) -> Tensor:
    """(side, side / 2^scale): bilinear enlargement of an error map's columns, then the mean filter on them."""
    columns = torch.eye(side // 2**scale, dtype=like.dtype, device=like.device)[:, None]
    if scale > 0:
        columns = F.interpolate(columns, size=side, mode="linear", align_corners=False)
    return mean_filter(columns, filter_size)[:, 0].T


def mean_filter(lines: Tensor, size: int) -> Tensor:
    """The mean over `size` values around each one, (N, 1, L) to the same shape, with reflected borders."""
    if size == 1:
        return lines
    return F.avg_pool1d(F.pad(lines, (size // 2, size // 2), mode="reflect"), size, stride=1)


def image_score(error_map: Tensor, normal_map: Tensor) -> Tensor:
    """A(x): the largest absolute deviation from the mean map of the normal training images, (B, H, W) to (B,)."""
    return (error_map - normal_map).abs().flatten(1).amax(dim=1)
