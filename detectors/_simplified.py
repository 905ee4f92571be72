"""Frozen convolution networks made faster, with the outputs that they had (up to rounding).

Three changes, each checked on probe images and left out where the outputs move:

- BatchNorm is folded into the convolution before it.
- TensorFlow's "same" padding pads more after an image than before it, which costs PyTorch a copy of every feature map
  that is halved. On mirrored images with mirrored kernels it is ordinary padding (`_mirror`).
- Where a convolution is clipped (ReLU6), oneDNN clips while it convolves, and the pass over memory is saved.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_TOLERANCE = 1e-9  # of float64 outputs that should be the same, as a share of the largest
Outputs = Callable[[nn.Module, Tensor], Sequence[Tensor]]


def simplified(network: nn.Module, outputs: Outputs, probes: Sequence[Tensor]) -> tuple[nn.Module, bool]:
    """The network with what can be spared away and channels-last weights, in float32.

    Args:
        network: in evaluation mode.
        outputs: what of a network's outputs counts, for images (B, 3, H, W).
        probes: float64 images of the sides that matter.

    Returns:
        The network, and whether it takes mirrored images and gives mirrored maps (rows and columns reversed).
    """
    for module in network.modules():
        if getattr(module, "inplace", False):
            setattr(module, "inplace", False)  # noqa: B010 - an activation in place would overwrite the features of the layer before it
    chosen, mirrored = network.double(), False  # and back: exact
    with torch.no_grad():
        expected = [outputs(chosen, probe) for probe in probes]
        # All at once, since probing takes a second; one by one only where that moves the outputs.
        for changes in (_CHANGES, *((change,) for change in _CHANGES)):
            changed, flips = copy.deepcopy(chosen), mirrored or _mirror in changes
            for change in changes:
                changed = change(changed)
            if all(
                _same(mirror(outputs(changed, probe.flip(2, 3) if flips else probe), flips), wanted)
                for probe, wanted in zip(probes, expected, strict=True)
            ):
                chosen, mirrored = changed, flips
                if changes == _CHANGES:
                    break
    return chosen.float().to(memory_format=torch.channels_last), mirrored


def mirror(maps: Sequence[Tensor], wanted: bool) -> list[Tensor]:
    """Each (B, C, h, w) with rows and columns reversed, if wanted; what is no map stays."""
    return [found.flip(2, 3) if wanted and found.ndim == 4 else found for found in maps]


def _same(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    return all(
        a.shape == b.shape and float((a - b).abs().max()) <= _TOLERANCE * (1.0 + float(b.abs().max()))
        for a, b in zip(found, expected, strict=True)
    )


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """In place: each BatchNorm that directly follows a convolution becomes part of its weights and bias."""
    for parent in list(network.modules()):
        before: nn.Module | None = None
        for name, child in list(parent.named_children()):
            if isinstance(before, nn.Conv2d) and isinstance(child, nn.BatchNorm2d) and _fits(before, child):
                _fold(before, child)
                # timm's BatchNormAct2d carries the activation that follows.
                setattr(parent, name, getattr(child, "act", nn.Identity()))
            before = child
    return network


def _fits(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> bool:
    return convolution.out_channels == norm.num_features and norm.running_var is not None


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight
    bias = -norm.running_mean * scale + (norm.bias if norm.affine else 0.0)
    if convolution.bias is not None:
        bias = bias + convolution.bias * scale
    convolution.weight = nn.Parameter(convolution.weight.detach() * scale.detach().view(-1, 1, 1, 1))
    convolution.bias = nn.Parameter(bias.detach())


def _mirror(network: nn.Module) -> nn.Module:
    """In place: all kernels mirrored, and "same" padding made ordinary where it is odd kernels' with stride 2 or 1.

    With stride 2, an odd kernel k and an even side, "same" pads (k - 1) // 2 before and one more after: output i sees
    2 i - (k - 3) // 2 ... Counted from the other end these are the positions that padding k // 2 on both sides gives;
    with an odd side "same" is symmetric, and both ends see the same.
    """
    if any(isinstance(module, Conv2dSame) for module in network.modules()):
        for parent in list(network.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Conv2d):
                    child.weight = nn.Parameter(child.weight.detach().flip(2, 3))
                if isinstance(child, Conv2dSame):
                    plain = nn.Conv2d(
                        child.in_channels, child.out_channels, cast(Any, child.kernel_size), cast(Any, child.stride),
                        cast(Any, tuple(k // 2 for k in child.kernel_size)), cast(Any, child.dilation), child.groups,
                        bias=child.bias is not None, device="meta",
                    )  # fmt: skip
                    plain.weight, plain.bias = child.weight, child.bias
                    setattr(parent, name, plain)
    return network


def _clip(network: nn.Module) -> nn.Module:
    """In place: each plain convolution that a ReLU6 directly follows clips its own output."""
    for parent in list(network.modules()):
        before: nn.Module | None = None
        before_name = ""
        for name, child in list(parent.named_children()):
            # No subclass: it may compute something else (Conv2dSame pads otherwise).
            is_plain = isinstance(before, nn.Conv2d) and type(before) is nn.Conv2d and before.padding_mode == "zeros"
            if is_plain and isinstance(child, nn.ReLU6):
                setattr(parent, before_name, ClippedConv2d(cast(nn.Conv2d, before)))
                setattr(parent, name, nn.Identity())
            before, before_name = child, name
    return network


class ClippedConv2d(nn.Conv2d):
    """A frozen convolution whose outputs are clipped to [0, 6]; differentiable in its input alone."""

    def __init__(self, plain: nn.Conv2d) -> None:
        super().__init__(
            plain.in_channels, plain.out_channels, cast(Any, plain.kernel_size), cast(Any, plain.stride),
            cast(Any, plain.padding), cast(Any, plain.dilation), plain.groups, plain.bias is not None, device="meta",
        )  # fmt: skip
        self.weight, self.bias = plain.weight, plain.bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, D, h, w)."""
        fuses = (
            x.device.type == "cpu" and x.dtype == torch.float32 and not self.weight.requires_grad
            and torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        )  # fmt: skip
        if not fuses:
            return F.relu6(super().forward(x))
        clipped: Tensor = _Clipped.apply(
            x, self.weight, self.bias, list(self.stride), list(cast(Any, self.padding)), list(self.dilation),
            self.groups,
        )  # fmt: skip
        return clipped


class _Clipped(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int],
        dilation: list[int], groups: int,
    ) -> Tensor:
        y: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, weight, bias, padding, stride, dilation, groups, "hardtanh", [0.0, 6.0], ""
        )
        ctx.save_for_backward(x, weight, y)
        ctx.how = stride, padding, dilation, groups
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.how
        # Of the clipped output as of the unclipped one: both lie strictly between the bounds at the same places.
        inside = torch.ops.aten.hardtanh_backward(gradient, y, 0.0, 6.0)
        by_input, _, _ = torch.ops.aten.convolution_backward(
            inside, x, weight, None, stride, padding, dilation, False, [0, 0], groups, [True, False, False]
        )
        return by_input, None, None, None, None, None, None


_CHANGES = (fold_batch_norm, _clip, _mirror)
