"""Images in cells of 2 x 2 pixels, in which convolutions around a halving or a doubling of the side are fast.

Thin convolutions of large maps are slow, and so are the gradients of strided ones. In cells, a map (B, C, 2 n, 2 n) is
(B, 4 C, n + 1, n + 1), a quarter of the places with four times the channels, and each of these is one plain 2 x 2
convolution of them, the same products or half of them:

- a 3 x 3 convolution that is then pooled by 2 (`to_places`: each of the four pixels' results becomes channels),
- the transpose of a 4 x 4 convolution of stride 2 (`of_transpose`),
- upsampling by 2 and then a 3 x 3 convolution (`of_upsampling`), since three neighbouring rows of the large map come
  from two of the small one.

Cells straddle: a ring of one pixel is around the map, so that the first cell holds the ring's corner and the first
pixel. Their channels are ordered as (row, column, C). Weights are rearranged differentiably.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# What a ring holds before a SiLU. So far down SiLU and both its derivatives are exactly zero, and the ring stays zero.
DEAD = -1e4


def packed(x: Tensor) -> Tensor:
    """With channels together in memory, in which these convolutions are fastest."""
    return x.contiguous(memory_format=torch.channels_last)


def cells_of(pixels: Tensor) -> Tensor:
    """(B, 4 C, n, n) of (B, C, 2 n, 2 n), both with channels together in memory; no ring is added."""
    images, channels, side, _ = pixels.shape
    rows = pixels.permute(0, 2, 3, 1).reshape(images, side // 2, 2, side // 2, 2 * channels)
    return torch.cat([rows[:, :, 0], rows[:, :, 1]], dim=3).permute(0, 3, 1, 2)  # faster than reordering the axes


def pixels_of(cells: Tensor) -> Tensor:
    """The way back from `cells_of`."""
    images, channels, side, _ = cells.shape
    rows = cells.permute(0, 2, 3, 1).reshape(images, side, side, 2, channels // 2).transpose(2, 3)
    return rows.reshape(images, 2 * side, 2 * side, channels // 4).permute(0, 3, 1, 2)


def straddled(pixels: Tensor) -> Tensor:
    """(B, C, 2 n, 2 n) in cells, (B, 4 C, n + 1, n + 1), with zeros in the ring: a convolution's padding."""
    return cells_of(F.pad(packed(pixels), (1, 1, 1, 1)))


def unstraddled(cells: Tensor) -> Tensor:
    """The way back from `straddled`, whatever is in the ring."""
    return pixels_of(cells)[..., 1:-1, 1:-1]


def kill_ring(cells: Tensor) -> None:
    """Put `DEAD` into the ring around the pixels of straddling cells, in place."""
    images, channels, side, _ = cells.shape
    places = cells.permute(0, 2, 3, 1).view(images, side, side, 2, 2, channels // 4)
    for part in (places[:, 0, :, 0], places[:, -1, :, 1], places[:, :, 0, :, 0], places[:, :, -1, :, 1]):
        part.fill_(DEAD)


def turned(weight: Tensor) -> Tensor:
    """The weights of a convolution's transpose, which is one with the kernel turned round, for its input's gradient."""
    return packed(weight.transpose(0, 1).flip(2, 3))


def to_places(weight: Tensor) -> Tensor:
    """A 3 x 3 convolution, (C', C, 3, 3), from straddling cells to what each pixel has, (4 C', 4 C, 2, 2)."""
    # (place; C'; a cell's row, column; C; kernel)
    return over_cells(weight).permute(0, 1, 6, 3, 5, 7, 2, 4).flatten(3, 5).flatten(0, 2)


def of_upsampling(weight: Tensor) -> Tensor:
    """Upsampling and a 3 x 3 convolution, (C', C, 3, 3), from pixels, padded by 1, to their cells, (4 C', C, 2, 2)."""
    above, below = over_cells(weight).unbind(3)
    left, right = (above + below).unbind(4)
    return (left + right).permute(0, 1, 4, 5, 2, 3).flatten(0, 2)  # the four pixels of a cell are one small pixel


def of_transpose(weight: Tensor) -> Tensor:
    """The transpose of a 4 x 4 convolution of stride 2 and padding 1, (C, C', 4, 4), likewise, (4 C', C, 2, 2)."""
    before, after = weight.shape[:2]
    kernel = weight.permute(2, 3, 1, 0).reshape(2, 2, 2, 2, after, before)  # by rows cell and place, then by columns
    # What a pixel adds to the cell after it is what that cell takes from the pixel before: the kernel is turned round.
    turned = kernel.flip(0, 2).permute(1, 3, 4, 0, 2, 5).reshape(4 * after, 2, 2, before)
    return turned.permute(0, 3, 1, 2)


def over_cells(weight: Tensor) -> Tensor:
    """What 3 x 3 kernels (C', C, 3, 3) at the four places of a cell see of the 2 x 2 cells around them.

    (2, 2, 2, 2, 2, 2, C', C): the place's row and column; by rows the cell and the place in it; the same by columns.
    """
    kernel = weight.permute(2, 3, 0, 1).contiguous()
    places = [F.pad(kernel, (0, 0, 0, 0, column, 1 - column, row, 1 - row)) for row in (0, 1) for column in (0, 1)]
    return torch.stack(places).reshape(2, 2, 2, 2, 2, 2, *weight.shape[:2])
