"""The layers of `frozen_unet`, each with the way back of its gradient to its input.

- Channels lie together in memory, in which oneDNN's convolutions take a fifth less time.
- All images share a timestep, so what scales and shifts the normalised features is folded into the norm's weights.
- Upsampling by nearest neighbours and then a 3 x 3 convolution is one 2 x 2 convolution of the small map, which yields
  the four large pixels around each place between four small ones (`detectors._cells`): half of the products.
- Convolutions of 1 x 1 are matrix products.

A map is (B, C, H, W), its channels together in memory; its rows are (B, H W, C). Each layer appends to the traces,
where there are any, what its `_pull` takes off again; a trace is never written to.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors._cells import of_upsampling, packed, straddled, unstraddled
from detectors.freerad.unet import AttentionBlock, ResidualBlock, Upsample

Traces = list[Any]


def _rows(x: Tensor) -> Tensor:
    """A map as rows, without a copy."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _all_rows(x: Tensor) -> Tensor:
    """A map as the rows of all images behind one another, (B H W, C), without a copy."""
    return _rows(x).flatten(0, 1)


def _map(rows: Tensor, like: Tensor) -> Tensor:
    """The way back from rows, of either kind, to a map with the sides of another one, without a copy."""
    return rows.view(len(like), *like.shape[2:], -1).permute(0, 3, 1, 2)


# -- convolutions -----------------------------------------------------------------------------------------------------


class Kernel(NamedTuple):
    """A convolution's parameters, the weight (O, C, k, k) with channels together in memory, too."""

    weight: Tensor
    bias: Tensor
    stride: int
    padding: int


Kernels = dict[nn.Module, Kernel]


def kernels_of(network: nn.Module) -> Kernels:
    """The kernel of every convolution in the network, and of every upsampling the one that includes it."""
    found: Kernels = {}
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            found[module] = Kernel(packed(module.weight), _bias(module), module.stride[0], int(module.padding[0]))
        elif isinstance(module, Upsample):
            weight = packed(of_upsampling(module.conv.weight))
            found[module] = Kernel(weight, _bias(module.conv).repeat(4), 1, 1)  # four pixels in a cell
    return found


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


def convolved(h: Tensor, kernel: Kernel) -> Tensor:
    """The convolution."""
    return packed(F.conv2d(h, kernel.weight, kernel.bias, kernel.stride, kernel.padding))


def convolved_pull(g: Tensor, kernel: Kernel, *, like: Tensor | None = None) -> Tensor:
    """The transpose of a convolution; `like` has the input's shape, by default that of one which keeps the side."""
    if like is None:
        shape = (len(g), kernel.weight.shape[1], *g.shape[2:])
        like = torch.empty(shape, dtype=g.dtype, device=g.device, memory_format=torch.channels_last)
    stride, padding = [kernel.stride] * 2, [kernel.padding] * 2
    found: Tensor = torch.ops.aten.convolution_backward(
        g, like, kernel.weight, None, stride, padding, [1, 1], False, [0, 0], 1, [True, False, False]
    )[0]
    return packed(found)


def downsampled(h: Tensor, kernel: Kernel, traces: Traces | None) -> Tensor:
    """Half the side."""
    if traces is not None:
        traces.append(h)
    return convolved(h, kernel)


def downsampled_pull(g: Tensor, kernel: Kernel, traces: Traces) -> Tensor:
    """The transpose of `downsampled`."""
    return convolved_pull(g, kernel, like=traces.pop())


def upsampled(h: Tensor, kernel: Kernel, traces: Traces | None) -> Tensor:
    """Twice the side."""
    if traces is not None:
        traces.append(h)
    return unstraddled(convolved(h, kernel))


def upsampled_pull(g: Tensor, kernel: Kernel, traces: Traces) -> Tensor:
    """The transpose of `upsampled`."""
    return convolved_pull(straddled(g), kernel, like=traces.pop())


# -- norms ------------------------------------------------------------------------------------------------------------


def _normed(h: Tensor, norm: nn.GroupNorm, scale_shift: Tensor | None, traces: Traces | None) -> Tensor:
    """Group norm, then * (1 + scale) + shift, for scale and shift behind one another, (1, 2 C)."""
    weight: Tensor = norm.weight
    bias: Tensor = norm.bias
    if scale_shift is not None:
        scale, shift = scale_shift[0].chunk(2)
        weight, bias = weight * (1 + scale), torch.addcmul(shift, bias, 1 + scale)
    images, channels, height, width = h.shape
    out, mean, rate = torch.native_group_norm(
        h, weight, bias, images, channels, height * width, norm.num_groups, norm.eps
    )
    if traces is not None:
        traces.append((h, weight, mean, rate))
    return packed(out)


def _normed_pull(g: Tensor, traces: Traces) -> Tensor:
    """With x^ the normalised features and the means over a group: dh = rate (w g - <w g> - x^ <w g x^>)."""
    h, weight, mean, rate = traces.pop()
    inputs, rows = _rows(h), _rows(g)
    images, positions, channels = inputs.shape
    average = rows.new_full((images, 1, positions), 1 / positions)
    # As matrix products the sums over the positions are fast in this order of memory.
    means = torch.cat([torch.bmm(average, rows), torch.bmm(average, rows * inputs)], dim=1) * weight
    of_g, of_product = means.view(images, 2, rate.shape[1], -1).mean(dim=3).unbind(dim=1)  # (B, groups) each
    slope = rate.square() * (of_product - mean * of_g)  # rate <w g x^>
    per_group = torch.stack([-rate * slope, rate * (mean * slope - of_g)], dim=1)
    along_input, constant = per_group.repeat_interleave(channels // rate.shape[1], dim=2).chunk(2, dim=1)
    along_g = (rate[:, :, None] * weight.view(rate.shape[1], -1)).view(images, 1, channels)
    return _map(torch.addcmul(constant, rows, along_g).addcmul_(inputs, along_input), h)


def silu_normed(h: Tensor, norm: nn.GroupNorm, scale_shift: Tensor | None, traces: Traces | None) -> Tensor:
    """Norm and SiLU, as it stands in front of a convolution."""
    normed = _normed(h, norm, scale_shift, traces)
    if traces is None:
        return F.silu(normed, inplace=True)
    traces.append(normed)
    return F.silu(normed)


def silu_normed_pull(g: Tensor, kernel: Kernel, traces: Traces) -> Tensor:
    """The way back through the convolution, the SiLU and the norm in front of it."""
    normed = traces.pop()
    inner = convolved_pull(g, kernel, like=normed)
    return _normed_pull(torch.ops.aten.silu_backward(inner, normed), traces)


# -- blocks -----------------------------------------------------------------------------------------------------------


def residual(block: ResidualBlock, h: Tensor, kernels: Kernels, embedding: Tensor, traces: Traces | None) -> Tensor:
    """The residual block, given SiLU of the timestep's embedding, (1, E)."""
    inner = convolved(silu_normed(h, block.norm_in, None, traces), kernels[block.conv_in])
    inner = silu_normed(inner, block.norm_out, block.scale_shift(embedding), traces)
    out = convolved(inner, kernels[block.conv_out])
    if isinstance(block.skip, nn.Identity):
        return out.add_(h)
    skip = kernels[block.skip]
    _all_rows(out).add_(skip.bias).addmm_(_all_rows(h), _matrix(skip).T)
    return out


def residual_pull(block: ResidualBlock, g: Tensor, kernels: Kernels, traces: Traces) -> Tensor:
    """The transpose of the residual block's derivative."""
    inner = silu_normed_pull(g, kernels[block.conv_out], traces)
    inner = silu_normed_pull(inner, kernels[block.conv_in], traces)
    if isinstance(block.skip, nn.Identity):
        return inner.add_(g)
    _all_rows(inner).addmm_(_all_rows(g), _matrix(kernels[block.skip]))
    return inner


def attention(block: AttentionBlock, h: Tensor, kernels: Kernels, traces: Traces | None) -> Tensor:
    """Self-attention over the positions."""
    kernel, projection = kernels[block.qkv], kernels[block.project]
    qkv = torch.addmm(kernel.bias, _all_rows(_normed(h, block.norm, None, traces)), _matrix(kernel).T)
    parts = qkv.view(len(h), -1, qkv.shape[1]).chunk(3, dim=2)
    query, key, value = (_by_head(part, block.heads) for part in parts)
    shares = (torch.bmm(query, key.mT) * query.shape[-1] ** -0.5).softmax(dim=-1)
    if traces is not None:
        traces.append((query, key, value, shares))
    attended = _by_position(torch.bmm(shares, value), block.heads).flatten(0, 1)
    return _map((_all_rows(h) + projection.bias).addmm_(attended, _matrix(projection).T), h)


def attention_pull(block: AttentionBlock, g: Tensor, kernels: Kernels, traces: Traces) -> Tensor:
    """The transpose of the attention block's derivative."""
    query, key, value, shares = traces.pop()
    attended = torch.mm(_all_rows(g), _matrix(kernels[block.project]))
    attended = _by_head(attended.view(_rows(g).shape), block.heads)
    pulled = torch.bmm(attended, value.mT)
    logits = shares * (pulled - (pulled * shares).sum(dim=-1, keepdim=True)) * query.shape[-1] ** -0.5
    parts = (torch.bmm(logits, key), torch.bmm(logits.mT, query), torch.bmm(shares.mT, attended))
    qkv = torch.cat([_by_position(part, block.heads) for part in parts], dim=2).flatten(0, 1)
    return _normed_pull(_map(torch.mm(qkv, _matrix(kernels[block.qkv])), g), traces).add_(g)


def _matrix(kernel: Kernel) -> Tensor:
    """What a 1 x 1 convolution multiplies with, (O, C)."""
    return kernel.weight[:, :, 0, 0]


def _by_head(rows: Tensor, heads: int) -> Tensor:
    """(B, P, heads width) to (B heads, P, width)."""
    images, positions, width = rows.shape
    return rows.reshape(images, positions, heads, width // heads).transpose(1, 2).flatten(0, 1)


def _by_position(rows: Tensor, heads: int) -> Tensor:
    """The way back from `_by_head`."""
    batch, positions, width = rows.shape
    return rows.reshape(batch // heads, heads, positions, width).transpose(1, 2).flatten(2)
