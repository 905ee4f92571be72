"""Upsampling and the convolution behind it as one convolution of the small map.

Upsampling by 2 and then a 3 x 3 convolution is a 2 x 2 convolution of the small map, since three neighbouring rows of
the large map come from two of the small one: less than half of the products. Each place between four small pixels
yields the 2 x 2 large pixels around it, a cell; a map in cells is (B, 4 C, n, n), its channels ordered as (row, column,
C).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def from_pixels_to_cells(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Upsampling and a 3 x 3 convolution, (C', C, 3, 3), as a 2 x 2 convolution to cells, (4 C', C, 2, 2)."""
    above, below = over_cells(weight).unbind(3)
    left, right = (above + below).unbind(4)
    folded = (left + right).permute(0, 1, 4, 5, 2, 3)  # the four pixels of a cell are one small pixel
    return folded.flatten(0, 2), bias.repeat(4)


def over_cells(weight: Tensor) -> Tensor:
    """What 3 x 3 kernels (C', C, 3, 3) at the four places of a cell see of the 2 x 2 cells around them.

    (2, 2, 2, 2, 2, 2, C', C): the place's row and column; by rows the cell and the place in it; the same by columns.
    """
    kernel = weight.permute(2, 3, 0, 1).contiguous()
    places = [F.pad(kernel, (0, 0, 0, 0, column, 1 - column, row, 1 - row)) for row in (0, 1) for column in (0, 1)]
    return torch.stack(places).reshape(2, 2, 2, 2, 2, 2, *weight.shape[:2])


def pixels_of(cells: Tensor) -> Tensor:
    """(B, 4 C, n, n) to (B, C, 2 n, 2 n), both with channels together in memory."""
    images, channels, side, _ = cells.shape
    rows = cells.permute(0, 2, 3, 1).reshape(images, side, side, 2, channels // 2).transpose(2, 3)
    return rows.reshape(images, 2 * side, 2 * side, channels // 4).permute(0, 3, 1, 2)


def cells_of(pixels: Tensor) -> Tensor:
    """The way back from `pixels_of`."""
    images, channels, side, _ = pixels.shape
    rows = pixels.permute(0, 2, 3, 1).reshape(images, side // 2, 2, side // 2, 2 * channels).transpose(2, 3)
    return rows.reshape(images, side // 2, side // 2, 4 * channels).permute(0, 3, 1, 2)
