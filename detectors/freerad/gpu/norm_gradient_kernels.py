"""Triton kernels of `network`: the gradient of the norm, whose forward pass and whose tables are in `norm_kernels`.

Imported only where Triton is installed.
"""

import triton
import triton.language as tl

from detectors.freerad.gpu.norm_kernels import only, tile, whole_group


@triton.jit
def _slope(z, silu):
    """The derivative of silu, sigmoid (1 + z (1 - sigmoid)), or 1."""
    sigmoid = 1.0 / (1.0 + tl.exp(-z))
    return tl.where(silu != 0, sigmoid * (1.0 + z * (1.0 - sigmoid)), 1.0)


@triton.jit
def _write_slopes(first, second, gain, inverse, image, column, inside, slopes, positions, channels, group):
    """From each channel's two sums to the group's u and v."""
    count = positions * group * 1.0
    u = tl.sum(gain * first, 0) / count
    v = tl.sum(gain * inverse * inverse * second, 0) / count
    to = slopes + image * 4 * channels + column
    tl.store(to, first, mask=inside)
    tl.store(to + channels, second, mask=inside)
    tl.store(to + 2 * channels, u + tl.zeros_like(gain), mask=inside)
    tl.store(to + 3 * channels, v + tl.zeros_like(gain), mask=inside)
    return u, v


@triton.jit(do_not_specialize=["silu"])
def sums(x, dy, table, partial, positions, channels, chunk, chunks, silu, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Sums of dz and dz (x - mean) of each channel of a chunk, (B chunks, 2, C)."""
    program, block = tl.program_id(0), tl.program_id(1)
    image, part = program // chunks, program % chunks
    base = image.to(tl.int64) * positions * channels
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    row = table + image * 5 * channels + column
    mean = tl.load(row, mask=column < channels, other=0.0)[None, :]
    gain = tl.load(row + channels, mask=column < channels, other=0.0)[None, :]
    offset = tl.load(row + 2 * channels, mask=column < channels, other=0.0)[None, :]
    first = tl.zeros((ROWS, COLUMNS), tl.float32)
    second = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, chunk, ROWS):
        offsets, mask, _valid = tile(part, block, start, chunk, positions, channels, ROWS, COLUMNS)
        centred = tl.load(x + base + offsets, mask=mask, other=0.0).to(tl.float32) - mean
        dz = tl.load(dy + base + offsets, mask=mask, other=0.0).to(tl.float32) * _slope(centred * gain + offset, silu)
        first += dz
        second += dz * centred  # where the mask is off dy and so dz are 0
    to = partial + program * 2 * channels + column
    tl.store(to, tl.sum(first, 0), mask=column < channels)
    tl.store(to + channels, tl.sum(second, 0), mask=column < channels)


@triton.jit
def join_sums(partial, table, slopes, positions, channels, group, chunks, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The slopes of one group of one image from the chunks' sums."""
    image, row, inner = tl.program_id(0), tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    column, inside = tl.program_id(1) * group + inner, inner < group
    mask = (row < chunks)[:, None] & inside[None, :]
    source = partial + (image * chunks + row)[:, None] * 2 * channels + column[None, :]
    first = tl.sum(tl.load(source, mask=mask, other=0.0), 0)
    second = tl.sum(tl.load(source + channels, mask=mask, other=0.0), 0)
    known = table + image * 5 * channels + column
    gain = tl.load(known + channels, mask=inside, other=0.0)
    inverse = tl.load(known + 3 * channels, mask=inside, other=0.0)
    _write_slopes(first, second, gain, inverse, image, column, inside, slopes, positions, channels, group)


@triton.jit(do_not_specialize=["silu", "has_extra"])
def gradient(
    x,
    dy,
    extra,
    table,
    slopes,
    dx,
    positions,
    channels,
    chunk,
    chunks,
    silu,
    has_extra,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """dx from x, dy and both tables, plus the gradient that reaches x past the norm."""
    image, part, block = tl.program_id(0) // chunks, tl.program_id(0) % chunks, tl.program_id(1)
    base = image.to(tl.int64) * positions * channels
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    row, slope = table + image * 5 * channels + column, slopes + image * 4 * channels + column
    mean = tl.load(row, mask=column < channels, other=0.0)[None, :]
    gain = tl.load(row + channels, mask=column < channels, other=0.0)[None, :]
    offset = tl.load(row + 2 * channels, mask=column < channels, other=0.0)[None, :]
    u = tl.load(slope + 2 * channels, mask=column < channels, other=0.0)[None, :]
    v = tl.load(slope + 3 * channels, mask=column < channels, other=0.0)[None, :]
    for start in range(0, chunk, ROWS):
        offsets, mask, _valid = tile(part, block, start, chunk, positions, channels, ROWS, COLUMNS)
        centred = tl.load(x + base + offsets, mask=mask, other=0.0).to(tl.float32) - mean
        dz = tl.load(dy + base + offsets, mask=mask, other=0.0).to(tl.float32) * _slope(centred * gain + offset, silu)
        past = tl.load(extra + base + offsets, mask=only(mask, has_extra), other=0.0).to(tl.float32)
        found = gain * dz - u - centred * v + past
        tl.store(dx + base + offsets, found.to(dx.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["silu", "has_extra"])
def small_backward(
    x,
    dy,
    extra,
    table,
    slopes,
    dx,
    positions,
    channels,
    group,
    silu,
    has_extra,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Slopes and dx of one group of one image that a program holds whole."""
    image, column, inside, offsets, mask = whole_group(positions, channels, group, ROWS, COLUMNS)
    known = table + image * 5 * channels + column
    gain = tl.load(known + channels, mask=inside, other=0.0)
    offset = tl.load(known + 2 * channels, mask=inside, other=0.0)
    inverse = tl.load(known + 3 * channels, mask=inside, other=0.0)
    mean = tl.load(known, mask=inside, other=0.0)
    centred = tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32) - mean[None, :]
    slope = _slope(centred * gain[None, :] + offset[None, :], silu)
    dz = tl.load(dy + offsets, mask=mask, other=0.0).to(tl.float32) * slope
    u, v = _write_slopes(
        tl.sum(dz, 0), tl.sum(dz * centred, 0), gain, inverse, image, column, inside, slopes, positions, channels, group
    )
    past = tl.load(extra + offsets, mask=only(mask, has_extra), other=0.0).to(tl.float32)
    tl.store(dx + offsets, (gain[None, :] * dz - u - centred * v + past).to(dx.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["images", "has_scale", "has_pre"])
def parameters(
    table,
    slopes,
    weight,
    bias,
    scale_shift,
    d_weight,
    d_bias,
    d_scale_shift,
    d_pre,
    images,
    positions,
    channels,
    stride,
    has_scale,
    has_pre,
    COLUMNS: tl.constexpr,
):
    """Gradients of what is not an image: of scale and shift (B, 2 C), and, summed over images, of vectors (C,)."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < channels
    scaled = only(inside, has_scale)
    w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    of_weight = tl.zeros((COLUMNS,), tl.float32)
    of_bias = tl.zeros((COLUMNS,), tl.float32)
    of_pre = tl.zeros((COLUMNS,), tl.float32)
    for image in range(images):
        known, slope = table + image * 5 * channels + column, slopes + image * 4 * channels + column
        gain = tl.load(known + channels, mask=inside, other=0.0)
        inverse = tl.load(known + 3 * channels, mask=inside, other=0.0)
        excess = tl.load(known + 4 * channels, mask=inside, other=0.0)
        first = tl.load(slope, mask=inside, other=0.0)
        normed = inverse * tl.load(slope + channels, mask=inside, other=0.0)  # the sum of dz times the normalised x
        u = tl.load(slope + 2 * channels, mask=inside, other=0.0)
        v = tl.load(slope + 3 * channels, mask=inside, other=0.0)
        scale = tl.load(scale_shift + image * stride + column, mask=scaled, other=0.0).to(tl.float32)
        to = d_scale_shift + image * 2 * channels + column
        tl.store(to, (w * normed + b * first).to(d_scale_shift.dtype.element_ty), mask=scaled)
        tl.store(to + channels, first.to(d_scale_shift.dtype.element_ty), mask=scaled)
        of_weight += (1.0 + scale) * normed
        of_bias += (1.0 + scale) * first
        of_pre += gain * first - positions * (u + v * excess)  # dx summed over positions
    tl.store(d_weight + column, of_weight.to(d_weight.dtype.element_ty), mask=inside)
    tl.store(d_bias + column, of_bias.to(d_bias.dtype.element_ty), mask=inside)
    tl.store(d_pre + column, of_pre.to(d_pre.dtype.element_ty), mask=only(inside, has_pre))
