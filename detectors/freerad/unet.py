"""The U-Net of Nichol & Dhariwal (2021, "Improved Denoising Diffusion Probabilistic Models"), appendix A.

Residual blocks with scale-shift group norm conditioned on the timestep, self-attention at chosen feature-map sizes,
zero-initialised last convolutions, and twice the image's channels at the output: the predicted noise and v, the
interpolation of the learned variance.

`unshuffle` folds p x p pixels into channels before the network and unfolds them after it: the same image at a quarter
(p = 2) of the cost. 1 is the network of the paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors.parts.training import draw_

FLASH_WIDTH = 256  # of a head, above which PyTorch's flash attention does not work


@dataclass(frozen=True)
class UNetSettings:
    """Architecture of the U-Net. The defaults are the paper's, for 256 x 256 images (its appendix C.1).

    Attributes:
        channels: width of the first level.
        multipliers: width of each level as a multiple of `channels`; each level but the last halves the side.
        blocks: residual blocks per level on the way down (one more on the way up).
        attention_sides: feature-map sides, in positions, at which self-attention is used.
        heads: attention heads.
        unshuffle: side of the pixel squares that are folded into channels.
        dropout: dropout inside the residual blocks (training only).
    """

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    blocks: int = 2
    attention_sides: tuple[int, ...] = (16,)
    heads: int = 1
    unshuffle: int = 1
    dropout: float = 0.0

    def side_multiple(self) -> int:
        """The image side must be a multiple of this."""
        return int(self.unshuffle * 2 ** (len(self.multipliers) - 1))


def timestep_embedding(timesteps: Tensor, width: int) -> Tensor:
    """Sine and cosine features of the timesteps, (B,) to (B, width) (Vaswani et al. 2017)."""
    half = width // 2
    exponents = torch.arange(half, device=timesteps.device, dtype=timesteps.dtype) / half
    angles = timesteps[:, None] * torch.exp(-math.log(10000.0) * exponents)[None]
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(32, channels), channels)


def normed(norm: nn.GroupNorm, h: Tensor) -> Tensor:
    """The norm of (B, C, H, W); 16-bit training steps keep its few weights in float32."""
    return F.group_norm(h, norm.num_groups, norm.weight.to(h.dtype), norm.bias.to(h.dtype), norm.eps)


def _zeroed(module: nn.Conv2d) -> nn.Conv2d:
    """The convolution starts as zero, so that its block starts as the identity."""
    nn.init.zeros_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions; the timestep scales and shifts the normalised features between them."""

    def __init__(self, inputs: int, outputs: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm_in = _norm(inputs)
        self.conv_in = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.scale_shift = nn.Linear(embedding, 2 * outputs)
        self.norm_out = _norm(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = _zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """(B, inputs, H, W) and (B, embedding) to (B, outputs, H, W)."""
        inner = self.conv_in(F.silu(normed(self.norm_in, h)))
        scale, shift = self.scale_shift(F.silu(embedding))[:, :, None, None].chunk(2, dim=1)
        inner = normed(self.norm_out, inner) * (1 + scale) + shift
        inner = self.conv_out(self.dropout(F.silu(inner)))
        out: Tensor = self.skip(h) + inner
        return out


class AttentionBlock(nn.Module):
    """Self-attention over the positions of a feature map."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = _norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.project = _zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape; the embedding is not used."""
        query, key, value = self.parts(self.qkv(normed(self.norm, h)))
        attended = attention(query, key, value)
        out: Tensor = h + self.project(attended.transpose(-1, -2).reshape(h.shape))
        return out

    def parts(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """(B, 3 C, H, W) to query, key and value, each (B, heads, positions, C / heads)."""
        return qkv.reshape(len(qkv), 3, self.heads, -1, qkv[0, 0].numel()).transpose(-1, -2).unbind(1)


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of (B, heads, positions, width), each to the same shape."""
    width = query.shape[-1]
    if query.is_cuda and width > FLASH_WIDTH:
        # What PyTorch falls back to is non-deterministic, and the way back takes ten times as long as these products.
        weights: Tensor = (query @ key.transpose(-1, -2) * width**-0.5).softmax(dim=-1)
        return weights @ value
    return F.scaled_dot_product_attention(query, key, value)


class Downsample(nn.Conv2d):
    """Halves the side by a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2, padding=1)

    def forward(self, h: Tensor, embedding: Tensor | None = None) -> Tensor:
        """(B, C, H, W) to (B, C, H / 2, W / 2)."""
        halved: Tensor = super().forward(h)
        return halved


class Upsample(nn.Module):
    """Doubles the side by nearest neighbours and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, h: Tensor, embedding: Tensor | None = None) -> Tensor:
        """(B, C, H, W) to (B, C, 2 H, 2 W)."""
        convolved: Tensor = self.conv(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return convolved


class UNet(nn.Module):
    """Predicts, from a noisy image and its timestep, the noise in it and v of the learned variance."""

    def __init__(self, settings: UNetSettings, image_size: int) -> None:
        """Build for square images of `image_size` pixels, which must be a multiple of `settings.side_multiple()`."""
        super().__init__()
        self.settings = settings
        base, fold = settings.channels, settings.unshuffle
        embedding = 4 * base
        self.embed = nn.Sequential(nn.Linear(base, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.conv_in = nn.Conv2d(3 * fold**2, base, 3, padding=1)

        side, width = image_size // fold, base
        skips = [base]
        self.down = nn.ModuleList()
        for level, multiplier in enumerate(settings.multipliers):
            for _ in range(settings.blocks):
                self.down.append(self._stage(width, multiplier * base, embedding, side))
                width = multiplier * base
                skips.append(width)
            if level < len(settings.multipliers) - 1:
                self.down.append(nn.ModuleList([Downsample(width)]))
                side //= 2
                skips.append(width)

        self.middle = nn.ModuleList(
            [
                ResidualBlock(width, width, embedding, settings.dropout),
                AttentionBlock(width, settings.heads),
                ResidualBlock(width, width, embedding, settings.dropout),
            ]
        )

        self.up = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(settings.multipliers))):
            for block in range(settings.blocks + 1):
                stage = self._stage(width + skips.pop(), multiplier * base, embedding, side)
                width = multiplier * base
                if level > 0 and block == settings.blocks:
                    stage.append(Upsample(width))
                    side *= 2
                self.up.append(stage)

        self.norm_out = _norm(width)
        self.conv_out = _zeroed(nn.Conv2d(width, 6 * fold**2, 3, padding=1))

    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights: PyTorch's default distributions, and zeros where a block starts as the identity."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                bound = module.weight[0].numel() ** -0.5
                draw_(module.weight, partial(nn.init.kaiming_uniform_, a=math.sqrt(5), generator=generator))
                if module.bias is not None:
                    draw_(module.bias, partial(nn.init.uniform_, a=-bound, b=bound, generator=generator))
            elif isinstance(module, nn.GroupNorm):
                module.reset_parameters()  # constants; a second fit must not start from what the first one learned
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                _zeroed(module.conv_out)
            elif isinstance(module, AttentionBlock):
                _zeroed(module.project)
        _zeroed(self.conv_out)

    def _stage(self, inputs: int, outputs: int, embedding: int, side: int) -> nn.ModuleList:
        stage = nn.ModuleList([ResidualBlock(inputs, outputs, embedding, self.settings.dropout)])
        if side in self.settings.attention_sides:
            stage.append(AttentionBlock(outputs, self.settings.heads))
        return stage

    def forward(self, x: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Noise and v.

        Args:
            x: noisy images on [-1, 1], (B, 3, H, W).
            timesteps: 1..T, (B,), or (1,) where all images share one.

        Returns:
            The predicted noise (B, 3, H, W) and the raw output for the variance (B, 3, H, W).
        """
        fold = self.settings.unshuffle
        embedding = self.embedding_of(timesteps, x.dtype)
        h = self.conv_in(F.pixel_unshuffle(x, fold) if fold > 1 else x)
        skips = [h]
        for stage in self.down:
            h = self._run(stage, h, embedding)
            skips.append(h)
        h = self._run(self.middle, h, embedding)
        for stage in self.up:
            h = self._run(stage, torch.cat([h, skips.pop()], dim=1), embedding)
        out = self._end(h)
        if fold > 1:
            out = F.pixel_shuffle(out, fold)
        noise, raw_variance = out.chunk(2, dim=1)
        return noise, raw_variance

    def _run(self, stage: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
        for layer in stage.children():
            h = layer(h, embedding)
        return h

    def _end(self, h: Tensor) -> Tensor:
        out: Tensor = self.conv_out(F.silu(normed(self.norm_out, h)))
        return out

    def embedding_of(self, timesteps: Tensor, dtype: torch.dtype) -> Tensor:
        """(B,) to (B, 4 * channels), in the features' type, but made in 32 bits at least: 613 is no bfloat16."""
        exact = dtype if dtype in (torch.float32, torch.float64) else torch.float32
        features = timestep_embedding(timesteps.to(exact), self.settings.channels)
        embedding: Tensor = self.embed(features).to(dtype)
        return embedding
