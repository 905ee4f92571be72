"""Triton kernels of `network`: a residual sum that adds the biases of its convolutions, and their gradient.

Imported only where Triton is installed, as `norm_kernels`.
"""

import triton
import triton.language as tl

from detectors.freerad.gpu.norm_kernels import only, tile


@triton.jit(do_not_specialize=["has_first", "has_second"])
def add(
    a, b, first, second, out, rows, channels, chunk, has_first, has_second, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """a + b + one bias for each channel from each of two convolutions."""
    part, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < channels
    bias = tl.load(first + column, mask=only(inside, has_first), other=0.0).to(tl.float32)
    bias += tl.load(second + column, mask=only(inside, has_second), other=0.0).to(tl.float32)
    for start in range(0, chunk, ROWS):
        offsets, mask, _valid = tile(part, block, start, chunk, rows, channels, ROWS, COLUMNS)
        found = tl.load(a + offsets, mask=mask, other=0.0).to(tl.float32) + bias[None, :]
        found += tl.load(b + offsets, mask=mask, other=0.0).to(tl.float32)
        tl.store(out + offsets, found.to(out.dtype.element_ty), mask=mask)


@triton.jit
def totals(x, partial, rows, channels, chunk, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The sum of each channel of a chunk, (chunks, C)."""
    part, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, chunk, ROWS):
        offsets, mask, _valid = tile(part, block, start, chunk, rows, channels, ROWS, COLUMNS)
        total += tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32)
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    tl.store(partial + part * channels + column, tl.sum(total, 0), mask=column < channels)
