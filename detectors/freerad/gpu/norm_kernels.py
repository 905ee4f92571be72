"""Triton kernels of `network`, on (B, H, W, C) memory: float32 sums, no atomics, so the same bits each time.

Two tables in float32 stand between the passes over memory, so that those know neither groups nor timesteps:

    table (B, 5, C): mean (less the bias that was not added), gain, offset, 1 / standard deviation, channel mean - mean;
                     z = (x - mean) * gain + offset, y = z or z sigmoid(z)
    slopes (B, 4, C): sum of dz, sum of dz (x - mean), and u and v of dx = gain dz - u - (x - mean) v

A large feature map is cut into chunks of positions, whose partial sums a small kernel joins; a small one is held whole
by one program for each group. Flags are numbers that Triton must not specialise on: every variant is compiled anew.
Only what Triton has had for years is used here. The module can be imported where Triton is installed, nowhere else.
"""

import triton
import triton.language as tl


@triton.jit
def tile(part, block, start, chunk, rows, channels, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Offsets and mask of one tile of a chunk, positions times channels, and which of its positions exist."""
    row = start + tl.arange(0, ROWS)
    valid = (row < chunk) & (part * chunk + row < rows)
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    offsets = (part * chunk + row)[:, None] * channels + column[None, :]
    return offsets, valid[:, None] & (column < channels)[None, :], valid


@triton.jit
def only(mask, flag):
    """The mask, or none of it where the flag is 0."""
    return mask.to(tl.int32) * flag != 0


@triton.jit
def _bent(z, silu):
    return tl.where(silu != 0, z / (1.0 + tl.exp(-z)), z)


@triton.jit
def _slope(z, silu):
    """The derivative of silu, sigmoid (1 + z (1 - sigmoid)), or 1."""
    sigmoid = 1.0 / (1.0 + tl.exp(-z))
    return tl.where(silu != 0, sigmoid * (1.0 + z * (1.0 - sigmoid)), 1.0)


@triton.jit
def _write_table(
    centre, spread, image, column, inside, weight, bias, scale_shift, pre, table, positions, channels, group, stride,
    eps, has_scale, has_pre,
):  # fmt: skip
    """From the mean and the summed squared deviations of each channel of a group (Chan et al. 1979) to its table."""
    unadded = tl.load(pre + column, mask=only(inside, has_pre), other=0.0).to(tl.float32)
    centre = tl.where(inside, centre + unadded, 0.0)
    mean = tl.sum(centre, 0) / (group * 1.0)
    excess = tl.where(inside, centre - mean, 0.0)
    count = positions * 1.0
    variance = tl.sum(tl.where(inside, spread, 0.0) + count * excess * excess, 0) / (count * group)
    inverse = 1.0 / tl.sqrt(variance + eps)
    here = scale_shift + image * stride + column
    scale = tl.load(here, mask=only(inside, has_scale), other=0.0).to(tl.float32)
    shift = tl.load(here + channels, mask=only(inside, has_scale), other=0.0).to(tl.float32)
    gain = inverse * tl.load(weight + column, mask=inside, other=0.0).to(tl.float32) * (1.0 + scale)
    offset = tl.load(bias + column, mask=inside, other=0.0).to(tl.float32) * (1.0 + scale) + shift
    to = table + image * 5 * channels + column
    tl.store(to, mean - unadded, mask=inside)
    tl.store(to + channels, gain, mask=inside)
    tl.store(to + 2 * channels, offset, mask=inside)
    tl.store(to + 3 * channels, inverse + tl.zeros_like(gain), mask=inside)
    tl.store(to + 4 * channels, excess, mask=inside)
    return mean - unadded, gain, offset


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


@triton.jit
def moments(x, partial, positions, channels, chunk, chunks, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Mean and summed squared deviations of each channel of a chunk, (B chunks, 2, C): Welford per row, then Chan."""
    program, block = tl.program_id(0), tl.program_id(1)
    image, part = program // chunks, program % chunks
    x += image.to(tl.int64) * positions * channels
    mean = tl.zeros((ROWS, COLUMNS), tl.float32)
    square = tl.zeros((ROWS, COLUMNS), tl.float32)
    count = tl.zeros((ROWS,), tl.float32)
    for start in range(0, chunk, ROWS):
        offsets, mask, valid = tile(part, block, start, chunk, positions, channels, ROWS, COLUMNS)
        values = tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32)
        count += tl.where(valid, 1.0, 0.0)
        delta = tl.where(mask, values - mean, 0.0)
        mean += delta * (1.0 / tl.maximum(count, 1.0))[:, None]
        square += delta * (values - mean)
    joined = tl.sum(mean * count[:, None], 0) / tl.sum(count, 0)
    away = mean - joined[None, :]
    spread = tl.sum(square + count[:, None] * away * away, 0)
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    to = partial + program * 2 * channels + column
    tl.store(to, joined, mask=column < channels)
    tl.store(to + channels, spread, mask=column < channels)


@triton.jit(do_not_specialize=["has_scale", "has_pre"])
def join_moments(
    partial, weight, bias, scale_shift, pre, table, positions, channels, group, chunk, chunks, stride, eps, has_scale,
    has_pre, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The table of one group of one image from the chunks' moments."""
    image, row, inner = tl.program_id(0), tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    column, inside = tl.program_id(1) * group + inner, inner < group
    mask = (row < chunks)[:, None] & inside[None, :]
    source = partial + (image * chunks + row)[:, None] * 2 * channels + column[None, :]
    means = tl.load(source, mask=mask, other=0.0)
    squares = tl.load(source + channels, mask=mask, other=0.0)
    count = tl.where(row < chunks, tl.minimum(positions - row * chunk, chunk) * 1.0, 0.0)
    centre = tl.sum(means * count[:, None], 0) / (positions * 1.0)
    away = means - centre[None, :]
    spread = tl.sum(squares + count[:, None] * away * away, 0)
    _write_table(
        centre, spread, image, column, inside, weight, bias, scale_shift, pre, table, positions, channels, group,
        stride, eps, has_scale, has_pre,
    )  # fmt: skip


@triton.jit(do_not_specialize=["silu"])
def activate(x, table, y, positions, channels, chunk, chunks, silu, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """y from x and the table."""
    image, part, block = tl.program_id(0) // chunks, tl.program_id(0) % chunks, tl.program_id(1)
    base = image.to(tl.int64) * positions * channels
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    row = table + image * 5 * channels + column
    mean = tl.load(row, mask=column < channels, other=0.0)[None, :]
    gain = tl.load(row + channels, mask=column < channels, other=0.0)[None, :]
    offset = tl.load(row + 2 * channels, mask=column < channels, other=0.0)[None, :]
    for start in range(0, chunk, ROWS):
        offsets, mask, _valid = tile(part, block, start, chunk, positions, channels, ROWS, COLUMNS)
        z = (tl.load(x + base + offsets, mask=mask, other=0.0).to(tl.float32) - mean) * gain + offset
        tl.store(y + base + offsets, _bent(z, silu).to(y.dtype.element_ty), mask=mask)


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
def join_sums(
    partial, table, slopes, positions, channels, group, chunks, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
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
    x, dy, extra, table, slopes, dx, positions, channels, chunk, chunks, silu, has_extra, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
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


@triton.jit
def whole_group(positions, channels, group, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """One group of one image: image, channels and which of them there are, offsets of the values and their mask."""
    image, row, inner = tl.program_id(0), tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    column, inside = tl.program_id(1) * group + inner, inner < group
    mask = (row < positions)[:, None] & inside[None, :]
    offsets = image.to(tl.int64) * positions * channels + row[:, None] * channels + column[None, :]
    return image, column, inside, offsets, mask


@triton.jit(do_not_specialize=["has_scale", "has_pre", "silu"])
def small_forward(
    x, weight, bias, scale_shift, pre, table, y, positions, channels, group, stride, eps, has_scale, has_pre, silu,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Table and y of one group of one image that a program holds whole."""
    image, column, inside, offsets, mask = whole_group(positions, channels, group, ROWS, COLUMNS)
    values = tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32)
    centre = tl.sum(values, 0) / (positions * 1.0)
    away = tl.where(mask, values - centre[None, :], 0.0)
    mean, gain, offset = _write_table(
        centre, tl.sum(away * away, 0), image, column, inside, weight, bias, scale_shift, pre, table, positions,
        channels, group, stride, eps, has_scale, has_pre,
    )  # fmt: skip
    z = (values - mean[None, :]) * gain[None, :] + offset[None, :]
    tl.store(y + offsets, _bent(z, silu).to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["silu", "has_extra"])
def small_backward(
    x, dy, extra, table, slopes, dx, positions, channels, group, silu, has_extra, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
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
    table, slopes, weight, bias, scale_shift, d_weight, d_bias, d_scale_shift, d_pre, images, positions, channels,
    stride, has_scale, has_pre, COLUMNS: tl.constexpr,
):  # fmt: skip
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
