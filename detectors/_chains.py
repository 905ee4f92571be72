"""Convolutions one directly after the other as one operation with a gradient by hand, for frozen networks on a CPU.

Each may clip its output to [0, 6] (ReLU6), inside oneDNN. On the way back a gradient is clipped where it lies, which
autograd cannot do, and convolutions of 1 x 1 are matrix products. (Fewer images at a time, so that wide maps stay in
the caches, gain nothing: measured from 2 to 16 MB.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors._first_order import first_order


class Chain(nn.Module):
    """(B, C, H, W) through several plain convolutions, each clipped to [0, 6] or not.

    oneDNN clips a NaN to a bound; `Backbone.forward` puts it back.
    """

    def __init__(self, convolutions: Sequence[nn.Conv2d], clips: Sequence[bool]) -> None:
        """Takes over the convolutions, whose padding is given in numbers and filled with zeros."""
        super().__init__()
        self.convolutions = nn.ModuleList(convolutions)
        self.clips = tuple(clips)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, D, h, w)."""
        is_frozen = not any(parameter.requires_grad for parameter in self.parameters())
        fuses = (
            x.device.type == "cpu" and x.dtype == torch.float32 and x.ndim == 4 and is_frozen
            and torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        )  # fmt: skip
        if fuses:
            linked: Tensor = _Linked.apply(x, self)
            return linked
        for convolution, clips in self.links():
            x = convolution(x)
            x = F.relu6(x) if clips else x
        return x

    def links(self) -> list[tuple[nn.Conv2d, bool]]:
        """Each convolution, and whether it clips."""
        return [(cast(nn.Conv2d, c), clips) for c, clips in zip(self.convolutions, self.clips, strict=True)]


class _Linked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, chain: Chain) -> Tensor:
        ctx.links, maps = chain.links(), [x]
        for convolution, clips in ctx.links:
            maps.append(_convolved(maps[-1], convolution, clips))
        y = maps.pop()
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(*maps, y if chain.clips[-1] else None)
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        *maps, y = ctx.saved_tensors
        g = gradient if y is None else torch.ops.aten.hardtanh_backward(gradient, y, 0.0, 6.0)
        for number in reversed(range(len(maps))):
            g = _transposed(g, maps[number], ctx.links[number][0])
            if number > 0 and ctx.links[number - 1][1]:
                # In place: it is ours. Of the clipped output as of the unclipped one: both lie strictly between the
                # bounds at the same places.
                torch.ops.aten.hardtanh_backward.grad_input(g, maps[number], 0.0, 6.0, grad_input=g)
        return g, None


def _convolved(x: Tensor, convolution: nn.Conv2d, clips: bool) -> Tensor:
    how = ("hardtanh", [0.0, 6.0]) if clips else ("none", [])
    found: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x, convolution.weight, convolution.bias, list(cast(Any, convolution.padding)), list(convolution.stride),
        list(convolution.dilation), convolution.groups, *how, "",
    )  # fmt: skip
    return found


def _transposed(g: Tensor, x: Tensor, convolution: nn.Conv2d) -> Tensor:
    """The transpose of the convolution of x."""
    is_plain_product = set(convolution.kernel_size) == set(convolution.stride) == {1} and convolution.groups == 1
    if is_plain_product and not any(cast(Any, convolution.padding)):
        # PyTorch has two ways for these, by the number of images, and both are slower than the matrix product.
        rows = torch.mm(g.permute(0, 2, 3, 1).reshape(-1, g.shape[1]), convolution.weight[:, :, 0, 0])
        return rows.view(len(g), *x.shape[2:], -1).permute(0, 3, 1, 2)
    found: Tensor = torch.ops.aten.convolution_backward(
        g, x, convolution.weight, None, list(convolution.stride), list(cast(Any, convolution.padding)),
        list(convolution.dilation), False, [0, 0], convolution.groups, [True, False, False],
    )[0]  # fmt: skip
    return found
