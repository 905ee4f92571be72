"""The passes over memory between the U-Net's convolutions, joined into few on a GPU.

PyTorch reads and writes a feature map some twenty times between two convolutions: statistics, normalisation, scale,
shift, SiLU, the bias of a convolution, a residual sum, and the gradient of each. Where Triton can work these are a few
kernels of our own (`norm_kernels`), in channels-last memory. Everywhere else, and in float64, it is PyTorch's formula,
bit for bit what it was without this file.
"""

from __future__ import annotations

import logging
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

log = logging.getLogger(__name__)


def is_fused(h: Tensor) -> bool:
    """Whether our kernels compute on this feature map."""
    return h.is_cuda and h.dtype in (torch.float32, torch.bfloat16, torch.float16) and _launch() is not None


def normed(
    norm: nn.GroupNorm, h: Tensor, *, scale_shift: Tensor | None = None, silu: bool = True, pre: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Group norm of h + pre, then * (1 + scale) + shift, then SiLU; and h, for what goes past the norm.

    Args:
        norm: with weight and bias.
        h: (B, C, H, W).
        scale_shift: scale and shift behind one another, (B, 2 C), or (1, 2 C) for all images.
        silu: whether SiLU follows.
        pre: bias of the convolution that made h, (C,), where it was not added (`convolved`).

    Returns:
        The result, and h itself: use it in place of h, so that on a GPU both gradients meet in one pass.
    """
    if is_fused(h):
        launch = _launch()
        assert launch is not None
        with torch.cuda.device(h.device):  # Triton takes the current one, wherever the tensors are
            fused: tuple[Tensor, Tensor] = launch.FusedNorm.apply(
                h, norm.weight, norm.bias, scale_shift, pre, norm.num_groups, norm.eps, silu
            )
        return fused
    inner = h if pre is None else h + pre[:, None, None]
    # 16-bit steps keep the norms' few weights in float32.
    out = F.group_norm(inner, norm.num_groups, norm.weight.to(h.dtype), norm.bias.to(h.dtype), norm.eps)
    if scale_shift is not None:
        scale, shift = scale_shift[:, :, None, None].chunk(2, dim=1)
        out = out * (1 + scale) + shift
    return F.silu(out) if silu else out, h


def convolved(conv: nn.Conv2d, h: Tensor) -> tuple[Tensor, Tensor | None]:
    """The convolution; on a GPU without its bias, which is returned for `normed` or `added` to add."""
    if is_fused(h):
        return F.conv2d(h, conv.weight, None, conv.stride, conv.padding), conv.bias
    return conv(h), None


def added(a: Tensor, b: Tensor, first: Tensor | None = None, second: Tensor | None = None) -> Tensor:
    """a + b, (B, C, H, W), and up to two biases (C,) of convolutions that did not add theirs."""
    if is_fused(a):
        launch = _launch()
        assert launch is not None
        with torch.cuda.device(a.device):
            fused: Tensor = launch.FusedAdd.apply(a, b, first, second)
        return fused
    total = torch.add(a, b)
    for bias in (first, second):
        total = total if bias is None else total + bias[:, None, None]
    return total


@cache
def _launch() -> ModuleType | None:
    """The kernels, where they work: Triton compiles at run time, which takes a C compiler and a driver."""
    if find_spec("triton") is None:
        return None
    try:
        launch = import_module("detectors.freerad.gpu.launch")
        with torch.no_grad():
            a = torch.zeros(1, 32, 2, 2, device="cuda")
            launch.FusedAdd.apply(a, a, None, None)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever Triton, the compiler behind it and their caches may raise
        first = (str(error).splitlines() or [type(error).__name__])[0]
        log.warning("FreeRAD's own GPU kernels cannot be compiled (%s); PyTorch's are used, which are slower.", first)
        return None
    return launch
