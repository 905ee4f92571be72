"""Frozen convolution networks made faster, with the outputs that they had (up to rounding).

Two changes, each checked in float64 on probe images and left out where the outputs move:

- BatchNorm is folded into the convolution before it.
- TensorFlow's "same" padding pads more after an image than before it, which costs PyTorch a copy of every feature map
  that is halved. On mirrored images with mirrored kernels it is ordinary padding (`_mirrored`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_TOLERANCE = 1e-9  # of float64 outputs that should be the same, as a share of the largest
PROBE_SIDE = 64
SMALL_SIDES = (32, 33)  # even, and odd, down to the last halving: "same" padding is another one at odd sides
Outputs = Callable[[nn.Module, Tensor], Sequence[Tensor]]


def simplified(network: nn.Module, outputs: Outputs) -> tuple[nn.Module, bool]:
    """The network with what can be spared away and channels-last weights, in float32.

    Args:
        network: in evaluation mode.
        outputs: what of a network's outputs counts, for images (B, 3, H, W).

    Returns:
        The network, and whether it takes mirrored images and gives mirrored maps (rows and columns reversed).

    Raises:
        AssertionError, RuntimeError: the network's own, where it cannot take images of PROBE_SIDE.
    """
    for module in network.modules():
        if getattr(module, "inplace", False):
            setattr(module, "inplace", False)  # noqa: B010 - an activation in place would overwrite the features of the layer before it
    chosen, is_mirrored = network.double(), False  # and back: exact
    with torch.no_grad(), _one_thread():
        probes = _probes(chosen, outputs)
        folded = fold_batch_norm(copy.deepcopy(chosen))
        if _gives(folded, outputs, probes, flips=False):
            chosen = folded
        if len(probes) == len(SMALL_SIDES) and _can_mirror(chosen):
            mirrored = _mirrored(copy.deepcopy(chosen))
            if _gives(mirrored, outputs, probes, flips=True):
                chosen, is_mirrored = mirrored, True
    return chosen.float().to(memory_format=torch.channels_last), is_mirrored


@contextmanager
def _one_thread() -> Iterator[None]:
    """Probes are too small for more threads; where other processes keep the cores busy, those wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _probes(network: nn.Module, outputs: Outputs) -> list[tuple[Tensor, Sequence[Tensor]]]:
    """Images and what the network makes of them, at the small sides that it can take, else at PROBE_SIDE."""
    draws = torch.Generator().manual_seed(0)
    found = []
    for side in SMALL_SIDES:
        probe = torch.rand(2, 3, side, side, generator=draws, dtype=torch.float64)
        try:
            found.append((probe, outputs(network, probe)))
        except (AssertionError, RuntimeError):  # branches that must meet want even sides, others a side of their own
            continue
    if not found:
        probe = torch.rand(2, 3, PROBE_SIDE, PROBE_SIDE, generator=draws, dtype=torch.float64)
        found.append((probe, outputs(network, probe)))
    return found


def _gives(
    network: nn.Module, outputs: Outputs, probes: Sequence[tuple[Tensor, Sequence[Tensor]]], *, flips: bool
) -> bool:
    """Whether the changed network makes of every probe what the unchanged one did."""
    try:
        return all(
            _same(mirror(outputs(network, probe.flip(2, 3) if flips else probe), flips), expected)
            for probe, expected in probes
        )
    except RuntimeError:  # maps that no longer fit each other
        return False


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
        before, name_before = None, ""
        for name, child in list(parent.named_children()):
            if isinstance(before, nn.Conv2d) and isinstance(child, nn.BatchNorm2d) and _fits(before, child):
                setattr(parent, name_before, fuse_conv_bn_eval(before, child))
                # timm's BatchNormAct2d carries the activation that follows.
                setattr(parent, name, getattr(child, "act", nn.Identity()))
            before, name_before = child, name
    return network


def _fits(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> bool:
    return convolution.out_channels == norm.num_features and norm.running_var is not None


def _can_mirror(network: nn.Module) -> bool:
    """Whether there is "same" padding, and all of it of the kinds that `_mirrored` knows."""
    padded = [module for module in network.modules() if isinstance(module, Conv2dSame)]
    return bool(padded) and all(
        k % 2 == 1 and stride in (1, 2) and dilation == 1
        for module in padded
        for k, stride, dilation in zip(module.kernel_size, module.stride, module.dilation, strict=True)
    )


def _mirrored(network: nn.Module) -> nn.Module:
    """In place: all kernels mirrored, and "same" padding made ordinary.

    With stride 2, an odd kernel k and an even side, "same" pads one less before the image than after it. Counted from
    the other end, its outputs lie where padding k // 2 on both sides has them. With an odd side, or stride 1, "same" is
    that padding, and both ends see the same.
    """
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d):
                child.weight = nn.Parameter(child.weight.detach().flip(2, 3))
            if isinstance(child, Conv2dSame):
                padding = tuple(k // 2 for k in child.kernel_size)
                plain = nn.Conv2d(
                    child.in_channels,
                    child.out_channels,
                    cast(Any, child.kernel_size),
                    cast(Any, child.stride),
                    cast(Any, padding),
                    cast(Any, child.dilation),
                    child.groups,
                    bias=child.bias is not None,
                    device="meta",
                )
                plain.weight, plain.bias = child.weight, child.bias
                setattr(parent, name, plain)
    return network
