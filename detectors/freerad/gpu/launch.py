"""The Triton kernels as differentiable functions of tensors. Imported only where Triton is installed."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from detectors.freerad.gpu import add_kernels, norm_gradient_kernels, norm_kernels
from detectors.freerad.gpu.first_order import first_order

COLUMNS, TILE = 128, 2048  # channels of a tile, 256 bytes in 16 bits, and its values, 16 a thread
CHUNKS, SHORTEST = 512, 32  # most chunks of positions for an image, and the fewest positions in one
WHOLE = 16_384  # values of a group that one program can hold


class FusedNorm(torch.autograd.Function):
    """Group norm, scale and shift, SiLU; and x itself as a second result, for what goes past the norm.

    The gradient of the second result is added where the first one's is written: a sum of its own would read both and
    write one more feature map.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        scale_shift: Tensor | None,
        pre: Tensor | None,
        groups: int,
        eps: float,
        silu: bool,
    ) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W), weight, bias and pre (C,), scale_shift (B or 1, 2 C): see `network.FusedUNet`."""
        batch, channels, height, width = x.shape
        x = x.contiguous(memory_format=torch.channels_last)
        if scale_shift is not None:
            scale_shift = scale_shift.contiguous()
        y = torch.empty_like(x, memory_format=torch.channels_last)
        table = x.new_empty((batch, 5, channels), dtype=torch.float32)
        shape = _Shape(height * width, channels, channels // groups)
        stride = 2 * channels if scale_shift is not None and len(scale_shift) == batch else 0
        # What is absent is never read, but a pointer must be there; of x's type, as what is present usually is.
        known = (weight, bias, x if scale_shift is None else scale_shift, x if pre is None else pre)
        flags = (stride, eps, int(scale_shift is not None), int(pre is not None))
        each = (batch, groups)
        if shape.is_small:
            norm_kernels.small_forward[each](x, *known, table, y, *shape.numbers, *flags, int(silu), **shape.whole)
        else:
            partial = x.new_empty((batch * shape.chunks, 2, channels), dtype=torch.float32)
            chunked = (shape.positions, channels, shape.chunk, shape.chunks)
            norm_kernels.moments[shape.grid(batch)](x, partial, *chunked, **shape.tile)
            norm_kernels.join_moments[each](
                partial, *known, table, *shape.numbers, shape.chunk, shape.chunks, *flags, **shape.joined
            )
            norm_kernels.activate[shape.grid(batch)](x, table, y, *chunked, int(silu), **shape.tile)
        ctx.save_for_backward(x, table, weight, bias, scale_shift, pre)
        ctx.shape, ctx.groups, ctx.silu, ctx.stride = shape, groups, silu, stride
        ctx.set_materialize_grads(False)
        return y, x.view_as(x)

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor | None, past: Tensor | None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return past, None, None, None, None, None, None, None
        x, table, weight, bias, scale_shift, pre = ctx.saved_tensors
        shape, each = ctx.shape, (len(x), ctx.groups)
        dy = dy.contiguous(memory_format=torch.channels_last)
        extra = x if past is None else past.contiguous(memory_format=torch.channels_last)
        dx = torch.empty_like(x, memory_format=torch.channels_last)
        slopes = table.new_empty((len(x), 4, shape.channels))
        flags = (int(ctx.silu), int(past is not None))
        if shape.is_small:
            norm_gradient_kernels.small_backward[each](
                x, dy, extra, table, slopes, dx, *shape.numbers, *flags, **shape.whole
            )
        else:
            partial = table.new_empty((len(x) * shape.chunks, 2, shape.channels))
            chunked = (shape.positions, shape.channels, shape.chunk, shape.chunks)
            norm_gradient_kernels.sums[shape.grid(len(x))](x, dy, table, partial, *chunked, int(ctx.silu), **shape.tile)
            norm_gradient_kernels.join_sums[each](partial, table, slopes, *shape.numbers, shape.chunks, **shape.joined)
            norm_gradient_kernels.gradient[shape.grid(len(x))](
                x, dy, extra, table, slopes, dx, *chunked, *flags, **shape.tile
            )
        rest: tuple[Tensor | None, ...] = (None, None, None, None)
        if any(ctx.needs_input_grad[1:5]):
            rest = _parameter_gradients(shape, ctx.stride, table, slopes, weight, bias, scale_shift, pre)
        return dx, *rest, None, None, None


def _parameter_gradients(
    shape: _Shape,
    stride: int,
    table: Tensor,
    slopes: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale_shift: Tensor | None,
    pre: Tensor | None,
) -> tuple[Tensor | None, ...]:
    batch, channels = len(table), shape.channels
    scaled = table if scale_shift is None else scale_shift
    of_scale = scaled.new_empty((batch, 2 * channels)) if scale_shift is not None else table
    of_pre = table if pre is None else torch.empty_like(pre)
    of_weight, of_bias = torch.empty_like(weight), torch.empty_like(bias)
    norm_gradient_kernels.parameters[(math.ceil(channels / COLUMNS),)](
        table,
        slopes,
        weight,
        bias,
        scaled,
        of_weight,
        of_bias,
        of_scale,
        of_pre,
        batch,
        shape.positions,
        channels,
        stride,
        int(scale_shift is not None),
        int(pre is not None),
        COLUMNS=COLUMNS,
    )
    if scale_shift is not None and len(scale_shift) < batch:
        of_scale = of_scale.sum(dim=0, keepdim=True)
    return of_weight, of_bias, None if scale_shift is None else of_scale, None if pre is None else of_pre


class FusedAdd(torch.autograd.Function):
    """a + b + biases, feature maps (B, C, H, W) of one type and vectors (C,)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, first: Tensor | None, second: Tensor | None) -> Tensor:
        a, b = (part.contiguous(memory_format=torch.channels_last) for part in (a, b))
        out = torch.empty_like(a, memory_format=torch.channels_last)
        rows, channels, chunk, tile = _rows(a)
        add_kernels.add[(math.ceil(rows / chunk), math.ceil(channels / tile["COLUMNS"]))](
            a,
            b,
            a if first is None else first,
            a if second is None else second,
            out,
            rows,
            channels,
            chunk,
            int(first is not None),
            int(second is not None),
            **tile,
        )
        ctx.types = [None if bias is None else bias.dtype for bias in (first, second)]
        return out

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        dy = dy.contiguous(memory_format=torch.channels_last)
        if not any(ctx.needs_input_grad[2:]):
            return dy, dy, None, None
        rows, channels, chunk, tile = _rows(dy)
        partial = dy.new_empty((math.ceil(rows / chunk), channels), dtype=torch.float32)
        add_kernels.totals[(len(partial), math.ceil(channels / tile["COLUMNS"]))](
            dy, partial, rows, channels, chunk, **tile
        )
        total = partial.sum(dim=0)
        return dy, dy, *(None if kind is None else total.to(kind) for kind in ctx.types)


def _rows(x: Tensor) -> tuple[int, int, int, dict[str, int]]:
    """Positions of all images together, channels, positions in a chunk, and the tile."""
    batch, channels, height, width = x.shape
    rows, tile = batch * height * width, _tile(channels)
    return rows, channels, max(SHORTEST, tile["ROWS"], math.ceil(rows / (2 * CHUNKS))), tile


def _tile(channels: int) -> dict[str, int]:
    columns = min(COLUMNS, max(16, _power_of_2(channels)))
    return {"ROWS": TILE // columns, "COLUMNS": columns}


class _Shape:
    """How a feature map is cut. Never by the size of the batch: an image's bits must not depend on its neighbours."""

    def __init__(self, positions: int, channels: int, group: int) -> None:
        self.positions, self.channels = positions, channels
        self.numbers = (positions, channels, group)
        self.tile = _tile(channels)
        self.chunk = max(SHORTEST, self.tile["ROWS"], math.ceil(positions / CHUNKS))
        self.chunks = math.ceil(positions / self.chunk)
        # Few shapes of block: each is compiled anew.
        rows, columns = max(16, _power_of_2(positions)), max(16, _power_of_2(group))
        self.is_small = rows * columns <= WHOLE
        self.whole = {"ROWS": rows, "COLUMNS": columns, "num_warps": max(4, min(16, rows * columns // 1024))}
        self.joined = {"ROWS": CHUNKS, "COLUMNS": max(8, _power_of_2(group)), "num_warps": 8}

    def grid(self, batch: int) -> tuple[int, int]:
        return batch * self.chunks, math.ceil(self.channels / self.tile["COLUMNS"])


def _power_of_2(value: int) -> int:
    return 1 << (value - 1).bit_length()
