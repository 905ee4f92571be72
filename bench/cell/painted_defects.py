"""Painted defects: anomalies made from normal images, for choosing a detector's settings without looking at test data.

Three kinds in turn: a patch of the image pasted elsewhere and a thin scar of it (CutPaste, Li et al. 2021), and a blob
of Perlin-like noise through which another normal image shows (after DRAEM, Zavrtanik et al. 2021). They are faint on
purpose: with bold ones every setting reaches an AUC of 99 and nothing can be chosen (measured on ELPV).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from detectors.noise import generator


def paint(images: Tensor, ids: Sequence[str], *, seed: int) -> Tensor:
    """A painted copy of each image.

    Args:
        images: normal images, float (N, 3, S, S) in [0, 1], N > 1.
        ids: one id per image; where and how an image is painted depends on (seed, id), the kind on its place in the
            batch, and a blob shows the image after it.
        seed: of the painting.

    Returns:
        (N, 3, S, S) in [0, 1].
    """
    painted = images.clone()
    for i, image_id in enumerate(ids):
        source = generator(seed, "paint", image_id)
        if i % 3 == 2:
            painted[i] = _perlin_blob(images[i], images[(i + 1) % len(images)], source)
        else:
            painted[i] = _cut_paste(images[i], source, scar=i % 3 == 1)
    return painted


def _uniform(low: float, high: float, source: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=source))


def _cut_paste(image: Tensor, source: torch.Generator, *, scar: bool) -> Tensor:
    """A piece of the image, its brightness changed, at another place. A scar is thin and rotated."""
    side = image.shape[-1]
    if scar:
        length, width = _uniform(0.1, 0.3, source) * side, max(1.5, _uniform(0.01, 0.03, source) * side)
        angle = _uniform(0, math.pi, source)
    else:
        area, aspect = _uniform(0.005, 0.04, source) * side**2, math.exp(_uniform(-1.2, 1.2, source))
        length, width, angle = math.sqrt(area * aspect), math.sqrt(area / aspect), 0.0
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    row, column = _uniform(0.15, 0.85, source) * side, _uniform(0.15, 0.85, source) * side
    along = (rows - row) * math.cos(angle) + (columns - column) * math.sin(angle)
    across = -(rows - row) * math.sin(angle) + (columns - column) * math.cos(angle)
    mask = ((along.abs() <= length / 2) & (across.abs() <= width / 2)).to(image.device)
    shift = [int(_uniform(0.2, 0.8, source) * side), int(_uniform(0.2, 0.8, source) * side)]
    pasted = image.roll(shift, dims=(-2, -1)) * _uniform(0.8, 1.2, source)
    return torch.where(mask, pasted.clamp(0, 1), image)


def _perlin_blob(image: Tensor, other: Tensor, source: torch.Generator) -> Tensor:
    """Where smooth noise is highest, another image, moved and darkened or lightened, shows through."""
    side = image.shape[-1]
    field = torch.zeros(1, 1, side, side)
    for cells, weight in ((4, 1.0), (8, 0.5), (16, 0.25)):
        grid = torch.randn(1, 1, cells, cells, generator=source)
        field += weight * F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    share = _uniform(0.005, 0.04, source)
    mask = (field[0] > field.quantile(1 - share)).to(image.device)
    texture = other.roll(side // 3, dims=-1) * _uniform(0.6, 1.4, source)
    opacity = _uniform(0.2, 0.7, source)
    return torch.where(mask, ((1 - opacity) * image + opacity * texture).clamp(0, 1), image)
