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
def _write_table(
    centre,
    spread,
    image,
    column,
    inside,
    weight,
    bias,
    scale_shift,
    pre,
    table,
    positions,
    channels,
    group,
    stride,
    eps,
    has_scale,
    has_pre,
):
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
    partial,
    weight,
    bias,
    scale_shift,
    pre,
    table,
    positions,
    channels,
    group,
    chunk,
    chunks,
    stride,
    eps,
    has_scale,
    has_pre,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
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
        centre,
        spread,
        image,
        column,
        inside,
        weight,
        bias,
        scale_shift,
        pre,
        table,
        positions,
        channels,
        group,
        stride,
        eps,
        has_scale,
        has_pre,
    )


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
    x,
    weight,
    bias,
    scale_shift,
    pre,
    table,
    y,
    positions,
    channels,
    group,
    stride,
    eps,
    has_scale,
    has_pre,
    silu,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Table and y of one group of one image that a program holds whole."""
    image, column, inside, offsets, mask = whole_group(positions, channels, group, ROWS, COLUMNS)
    values = tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32)
    centre = tl.sum(values, 0) / (positions * 1.0)
    away = tl.where(mask, values - centre[None, :], 0.0)
    mean, gain, offset = _write_table(
        centre,
        tl.sum(away * away, 0),
        image,
        column,
        inside,
        weight,
        bias,
        scale_shift,
        pre,
        table,
        positions,
        channels,
        group,
        stride,
        eps,
        has_scale,
        has_pre,
    )
    z = (values - mean[None, :]) * gain[None, :] + offset[None, :]
    tl.store(y + offsets, _bent(z, silu).to(y.dtype.element_ty), mask=mask)
