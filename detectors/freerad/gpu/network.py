"""The U-Net for training on a GPU: the passes over memory between its convolutions, joined into few.

PyTorch reads and writes a feature map some twenty times between two convolutions: statistics, normalisation, scale,
shift, SiLU, the bias of a convolution, a residual sum, and the gradient of each. Here these are a few kernels of our
own (`norm_kernels`), in channels-last memory. It is the function of `unet.UNet` up to rounding, on the same weights.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors.freerad.unet import AttentionBlock, ResidualBlock, UNet, attention

log = logging.getLogger(__name__)


def for_training(unet: UNet, device: torch.device) -> nn.Module:
    """What to train the U-Net's weights through: our kernels on a GPU where they work, else the U-Net itself."""
    launch = kernels() if device.type == "cuda" else None
    return unet if launch is None else FusedUNet(unet, launch)


@cache
def kernels() -> ModuleType | None:
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


class FusedUNet(UNet):
    """A U-Net's own modules, so with its weights under their names; what lies between their convolutions is ours."""

    def __init__(self, unet: UNet, launch: ModuleType) -> None:
        nn.Module.__init__(self)  # no modules of its own
        self.settings, self._launch = unet.settings, launch
        for name, module in unet.named_children():
            self.add_module(name, module)

    def forward(self, x: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """As `UNet.forward`, in float32, float16 or bfloat16."""
        # Triton takes the current device, wherever the tensors are.
        with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
            # Else cuDNN's convolutions transpose their input and their output.
            return super().forward(x.contiguous(memory_format=torch.channels_last), timesteps)

    def _run(self, stage: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
        for layer in stage.children():
            if isinstance(layer, ResidualBlock):
                h = self._residual(layer, h, embedding)
            elif isinstance(layer, AttentionBlock):
                h = self._attention(layer, h)
            else:
                h = layer(h, embedding)
        return h

    def _end(self, h: Tensor) -> Tensor:
        out: Tensor = self.conv_out(self._normed(self.norm_out, h)[0])
        return out

    def _residual(self, block: ResidualBlock, h: Tensor, embedding: Tensor) -> Tensor:
        inner, h = self._normed(block.norm_in, h)
        inner, bias_in = _without_bias(block.conv_in, inner)
        scale_shift = block.scale_shift(F.silu(embedding))
        inner, _ = self._normed(block.norm_out, inner, scale_shift=scale_shift, pre=bias_in)
        inner, bias_out = _without_bias(block.conv_out, block.dropout(inner))
        skipped, bias_skip = _without_bias(block.skip, h) if isinstance(block.skip, nn.Conv2d) else (h, None)
        return self._added(skipped, inner, bias_out, bias_skip)

    def _attention(self, block: AttentionBlock, h: Tensor) -> Tensor:
        inner, h = self._normed(block.norm, h, silu=False)
        attended = attention(*block.parts(block.qkv(inner)))
        projected, bias = _without_bias(block.project, attended.transpose(-1, -2).reshape(h.shape))
        return self._added(h, projected, bias)

    def _normed(
        self,
        norm: nn.GroupNorm,
        h: Tensor,
        *,
        scale_shift: Tensor | None = None,
        silu: bool = True,
        pre: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Group norm of h + pre, then * (1 + scale) + shift, then SiLU; and h, for what goes past the norm.

        Args:
            norm: with weight and bias.
            h: (B, C, H, W).
            scale_shift: scale and shift behind one another, (B, 2 C), or (1, 2 C) for all images.
            silu: whether SiLU follows.
            pre: bias of the convolution that made h, (C,), where it was not added.

        Returns:
            The result, and h itself: use it in place of h, so that both gradients meet in one pass.
        """
        fused: tuple[Tensor, Tensor] = self._launch.FusedNorm.apply(
            h, norm.weight, norm.bias, scale_shift, pre, norm.num_groups, norm.eps, silu
        )
        return fused

    def _added(self, a: Tensor, b: Tensor, first: Tensor | None, second: Tensor | None = None) -> Tensor:
        """a + b, (B, C, H, W), and up to two biases (C,) of convolutions that did not add theirs."""
        fused: Tensor = self._launch.FusedAdd.apply(a, b, first, second)
        return fused


def _without_bias(conv: nn.Conv2d, h: Tensor) -> tuple[Tensor, Tensor | None]:
    """The convolution and its bias, which is for somebody else to add."""
    return F.conv2d(h, conv.weight, None, conv.stride, conv.padding), conv.bias
