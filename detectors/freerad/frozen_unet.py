"""The U-Net with fixed weights, for one timestep of all images, its gradient to the image written out by hand.

The same function as `UNet.forward` up to rounding. On a CPU the passes over memory between the convolutions cost almost
as much as these, so there are fewer of them, and the convolutions are cheaper (`_frozen_layers`).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors._cells import packed
from detectors._first_order import first_order
from detectors.freerad import _frozen_layers as layers
from detectors.freerad._frozen_layers import Kernels, Traces
from detectors.freerad.unet import AttentionBlock, Downsample, ResidualBlock, UNet


class FrozenUNet:
    """A U-Net with its weights of now, which get no gradient."""

    def __init__(self, unet: UNet) -> None:
        self._unet = unet
        with torch.no_grad():
            self._kernels = layers.kernels_of(unet)
        self._fold = unet.settings.unshuffle

    def __call__(self, x: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """As `UNet.forward`, (B, 3, H, W) to two of that shape, where all images share the timestep, (1,).

        Raises:
            RuntimeError: a second derivative is asked for.
        """
        if torch.is_grad_enabled() and x.requires_grad:
            out: Tensor = _Prediction.apply(x, timestep, self)
        else:
            with torch.no_grad():
                out = self.run(x, timestep, None)
        noise, raw_variance = out.chunk(2, dim=1)
        return noise, raw_variance

    def run(self, x: Tensor, timestep: Tensor, traces: Traces | None) -> Tensor:
        """Noise and raw variance behind one another, (B, 6, H, W); leaves what `pull` needs in the traces."""
        unet, kernels = self._unet, self._kernels
        embedding = F.silu(unet.embedding_of(timestep, x.dtype))
        h = layers.convolved(packed(F.pixel_unshuffle(x, self._fold)), kernels[unet.conv_in])
        skips = [h]
        for stage in unet.down:
            h = _run(stage, h, kernels, embedding, traces)
            skips.append(h)
        h = _run(unet.middle, h, kernels, embedding, traces)
        for stage in unet.up:
            if traces is not None:
                traces.append(h.shape[1])
            h = _run(stage, torch.cat([h, skips.pop()], dim=1), kernels, embedding, traces)
        h = layers.silu_normed(h, unet.norm_out, None, traces)
        return F.pixel_shuffle(layers.convolved(h, kernels[unet.conv_out]).contiguous(), self._fold)

    def pull(self, gradient: Tensor, traces: Traces) -> Tensor:
        """The gradient over x, given the one over what `run` returned, (B, 6, H, W); uses up the traces."""
        unet, kernels = self._unet, self._kernels
        g = layers.silu_normed_pull(packed(F.pixel_unshuffle(gradient, self._fold)), kernels[unet.conv_out], traces)
        skips: list[Tensor] = []
        for stage in reversed(unet.up):
            g = _pull(stage, g, kernels, traces)
            width = traces.pop()
            skips.append(g[:, width:])
            g = packed(g[:, :width])
        g = _pull(unet.middle, g, kernels, traces)
        for stage in reversed(unet.down):
            g = _pull(stage, g + skips.pop(), kernels, traces)
        g = layers.convolved_pull(g + skips.pop(), kernels[unet.conv_in])
        return F.pixel_shuffle(g.contiguous(), self._fold)


class _Prediction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, timestep: Tensor, network: FrozenUNet) -> Tensor:
        ctx.network, ctx.traces = network, []
        return network.run(x, timestep, ctx.traces)

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        # A copy of the list: a graph that is kept may be walked again.
        return ctx.network.pull(gradient, list(ctx.traces)), None, None


def _run(stage: nn.Module, h: Tensor, kernels: Kernels, embedding: Tensor, traces: Traces | None) -> Tensor:
    for layer in stage.children():
        if isinstance(layer, ResidualBlock):
            h = layers.residual(layer, h, kernels, embedding, traces)
        elif isinstance(layer, AttentionBlock):
            h = layers.attention(layer, h, kernels, traces)
        elif isinstance(layer, Downsample):
            h = layers.downsampled(h, kernels[layer], traces)
        else:
            h = layers.upsampled(h, kernels[layer], traces)
    return h


def _pull(stage: nn.Module, g: Tensor, kernels: Kernels, traces: Traces) -> Tensor:
    for layer in reversed(list(stage.children())):
        if isinstance(layer, ResidualBlock):
            g = layers.residual_pull(layer, g, kernels, traces)
        elif isinstance(layer, AttentionBlock):
            g = layers.attention_pull(layer, g, kernels, traces)
        elif isinstance(layer, Downsample):
            g = layers.downsampled_pull(g, kernels[layer], traces)
        else:
            g = layers.upsampled_pull(g, kernels[layer], traces)
    return g
