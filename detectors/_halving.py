"""The 4 x 4 convolution of stride 2 and padding 1, its transpose, and the convolution that closes a network, on a CPU.

PyTorch is slow at both ends. Of large thin maps, what goes against the stride (the input's gradient, the transpose)
takes up to seven times what goes along it; here it goes through cells of 2 x 2 pixels (see `_cells`). Of small maps
each call costs more than its products; here it is one product of all patches with the weights, which need no
rearranging, lying with channels together. The gradients are written by hand: autograd's would go the slow way.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors import _cells
from detectors._first_order import first_order

_LARGEST_BY_PATCHES = 4  # side of the larger map; a patch is sixteen pixels, four times what the map holds


class Halving(nn.Conv2d):
    """A 4 x 4 convolution of stride 2 and padding 1, without a bias."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(before, after, 4, stride=2, padding=1, bias=False)
        self.weight = nn.Parameter(_cells.packed(self.weight.detach()))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, 2 n, 2 n) to (B, C', n, n)."""
        x = _cells.packed(x)
        if not _is_ours(x) or x.shape[-1] % 2:
            return super().forward(x)
        by = _HalvedByPatches if x.shape[-1] <= _LARGEST_BY_PATCHES else _Halved
        halved: Tensor = by.apply(x, self.weight)
        return halved


class Doubling(nn.ConvTranspose2d):
    """The transpose of a 4 x 4 convolution of stride 2 and padding 1."""

    def __init__(self, before: int, after: int, *, bias: bool) -> None:
        super().__init__(before, after, 4, stride=2, padding=1, bias=bias)
        self.weight = nn.Parameter(_cells.packed(self.weight.detach()))

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, C, n, n) to (B, C', 2 n, 2 n)."""
        x = _cells.packed(x)
        if not _is_ours(x) or output_size is not None:
            return super().forward(x, output_size)
        by = _DoubledByPatches if 2 * x.shape[-1] <= _LARGEST_BY_PATCHES else _Doubled
        doubled: Tensor = by.apply(x, self.weight, self.bias)
        return doubled


class Closing(nn.Conv2d):
    """A convolution, without a bias, whose kernel is as large as its maps: one product."""

    def __init__(self, before: int, after: int, side: int) -> None:
        super().__init__(before, after, side, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, side, side) to (B, C', 1, 1)."""
        closed: Tensor = _Closed.apply(x.flatten(1), self.weight.flatten(1))
        return closed[:, :, None, None]


def _is_ours(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.shape[-1] == x.shape[-2]


# -- large maps -------------------------------------------------------------------------------------------------------


class _Halved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, stride=2, padding=1)

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        for_input, for_weight = ctx.needs_input_grad
        return (
            _doubled(gradient, weight, None) if for_input else None,
            _gradients(gradient, x, weight, transposed=False, wanted=(False, True, False))[1] if for_weight else None,
        )


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _doubled(x, weight, bias)

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return _gradients(gradient, x, weight, transposed=True, wanted=ctx.needs_input_grad)


def _doubled(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(B, C, n, n) to (B, C', 2 n, 2 n) by weights (C, C', 4, 4)."""
    bias = None if bias is None else bias.repeat(4)
    cells = F.conv2d(_cells.packed(x), _cells.of_transpose(weight), bias, padding=1)
    return _cells.packed(_cells.unstraddled(cells))


def _gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, *, transposed: bool, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Of input, weight and bias, each where it is wanted, as PyTorch has them."""
    found: tuple[Tensor | None, ...] = torch.ops.aten.convolution_backward(
        _cells.packed(gradient), x, weight, [gradient.shape[1]], [2, 2], [1, 1], [1, 1], transposed, [0, 0], 1,
        list(wanted),
    )
    return found


# -- small maps -------------------------------------------------------------------------------------------------------


class _HalvedByPatches(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        patches = _patches(x)
        ctx.save_for_backward(patches if ctx.needs_input_grad[1] else None, weight)
        return _map_of(_product(patches, _rows_of(weight).T, len(x)), len(x))

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        patches, weight = ctx.saved_tensors
        rows = _rows_of(gradient, 3)
        for_input, for_weight = ctx.needs_input_grad
        return (
            _overlaid(_product(rows, _rows_of(weight), len(gradient)), len(gradient)) if for_input else None,
            _kernel_of(rows.T @ patches) if for_weight else None,
        )


class _DoubledByPatches(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        doubled = _overlaid(_product(_rows_of(x, 3), _rows_of(weight), len(x)), len(x))
        return doubled if bias is None else doubled + bias[:, None, None]

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        for_input, for_weight, for_bias = ctx.needs_input_grad
        patches = _patches(gradient)
        return (
            _map_of(_product(patches, _rows_of(weight).T, len(x)), len(x)) if for_input else None,
            _kernel_of(_rows_of(x, 3).T @ patches) if for_weight else None,
            gradient.sum(dim=(0, 2, 3)) if for_bias else None,
        )


class _Closed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight.T, len(x))

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        for_input, for_weight = ctx.needs_input_grad
        return _product(gradient, weight, len(x)) if for_input else None, gradient.T @ x if for_weight else None


def _product(rows: Tensor, matrix: Tensor, images: int) -> Tensor:
    """(B n, K) times (K, N), image by image: all rows at once would round otherwise in small batches."""
    products = torch.bmm(rows.reshape(images, -1, rows.shape[1]), matrix.expand(images, -1, -1))
    return products.flatten(0, 1)


def _rows_of(x: Tensor, until: int = 1) -> Tensor:
    """(B, C, n, n) as rows with channels innermost: of each pixel, (B n n, C), or with `until` 1 whole, (B, n n C)."""
    last = x.permute(0, 2, 3, 1)
    return last.reshape(-1, x.shape[1]) if until == 3 else last.reshape(len(x), -1)


def _map_of(rows: Tensor, images: int) -> Tensor:
    """The way back from rows of pixels."""
    side = round((len(rows) // images) ** 0.5)
    return rows.view(images, side, side, -1).permute(0, 3, 1, 2)


def _kernel_of(rows: Tensor) -> Tensor:
    """The way back from the rows of weights."""
    return rows.view(len(rows), 4, 4, -1).permute(0, 3, 1, 2)


def _patches(x: Tensor) -> Tensor:
    """The 4 x 4 pixels that each place of the half size sees, (B, C, 2 n, 2 n) to (B n n, 16 C)."""
    padded = F.pad(_cells.packed(x), (1, 1, 1, 1)).permute(0, 2, 3, 1)
    return padded.unfold(1, 4, 2).unfold(2, 4, 2).permute(0, 1, 2, 4, 5, 3).reshape(-1, 16 * x.shape[1])


def _overlaid(patches: Tensor, images: int) -> Tensor:
    """The transpose of `_patches`: each put where it came from, and added up where they overlap."""
    side, channels = round((len(patches) // images) ** 0.5), patches.shape[1] // 16
    parts = patches.view(images, side, side, 2, 2, 2, 2, channels)  # by rows the cell and the place in it; by columns
    cells = patches.new_zeros(images, side + 1, 2, side + 1, 2, channels)
    for row in (0, 1):
        for column in (0, 1):
            part = parts[:, :, :, row, :, column].transpose(2, 3)
            cells[:, row : row + side, :, column : column + side] += part
    whole = cells.view(images, 2 * side + 2, 2 * side + 2, channels)[:, 1:-1, 1:-1]
    return whole.contiguous().permute(0, 3, 1, 2)
