"""The parts of OCR-GAN: frequency split, generator with channel selection, discriminator (Liang et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors._training import draw_

_TAPS = (1.0, 4.0, 6.0, 4.0, 1.0)  # binomial, sum 16 (Burt & Adelson 1983)
_SLOPE = 0.2  # of the leaky ReLU, as in DCGAN


def _smooth_half(x: Tensor) -> Tensor:
    """(B, C, 2S, 2S) to (B, C, S, S): 5-tap smoothing, every second pixel; mirrored at the border."""
    planes = F.pad(x.flatten(0, 1)[:, None], (2, 2, 2, 2), mode="reflect")
    kernel = x.new_tensor(_TAPS) / 16
    rows = F.conv2d(planes, kernel.view(1, 1, 5, 1), stride=(2, 1))
    halved = F.conv2d(rows, kernel.view(1, 1, 1, 5), stride=(1, 2))
    return halved.reshape(*x.shape[:2], *halved.shape[-2:])


def _smooth_double(x: Tensor) -> Tensor:
    """(B, C, S, S) to (B, C, 2S, 2S): zeros between the pixels, then the same taps with twice the weight."""
    for axis in (-2, -1):
        size = x.shape[axis]
        # Before the first pixel the mirrored one, after the last that pixel again: what mirroring at 2S comes to.
        before = torch.cat([x.narrow(axis, min(1, size - 1), 1), x.narrow(axis, 0, size - 1)], dim=axis)
        after = torch.cat([x.narrow(axis, 1, size - 1), x.narrow(axis, size - 1, 1)], dim=axis)
        even, odd = (before + 6 * x + after) / 8, (x + after) / 2
        x = torch.stack([even, odd], dim=x.ndim + axis + 1).flatten(x.ndim + axis, x.ndim + axis + 1)
    return x


def split(x: Tensor, bands: int, *, saturating: bool) -> list[Tensor]:
    """Frequency decoupling: the image as `bands` images of its own size, highest frequencies first.

    With G_0 = x, G_j the j-th level of the Gaussian pyramid and up^j back to the image's size, band j is
    up^j(G_j) - up^(j+1)(G_(j+1)), and the last band is the last level itself: signed bands add up to the image.

    Args:
        x: (B, C, S, S), S a multiple of 2^(bands - 1) and larger than 2^bands.
        bands: 2 in the paper's experiments.
        saturating: cut each difference off at zero, as the official code's 8-bit subtraction does. Two bands then add
            up to max(x, up(G_1)): detail that is darker than its surroundings is in no band.
    """
    levels, pyramid = [x], x
    for band in range(1, bands):
        pyramid = _smooth_half(pyramid)
        full = pyramid
        for _ in range(band):
            full = _smooth_double(full)
        levels.append(full)
    details = [fine - coarse for fine, coarse in pairwise(levels)]
    return [detail.relu() if saturating else detail for detail in details] + [levels[-1]]


class ChannelSelection(nn.Module):
    """Weights each channel of each branch by a softmax over the branches, from what all branches see together.

    The features are added and pooled to (B, C), squeezed to max(C / 2, 32) numbers and spread to one weight per branch
    and channel; there is no activation between the two linear layers.

    Attributes:
        draws: how many random numbers an image needs; 0 where the layers are trained.
    """

    def __init__(self, channels: int, branches: int, *, trained: bool) -> None:
        super().__init__()
        self.channels, self.branches, self.hidden = channels, branches, max(channels // 2, 32)
        self.trained = trained
        if trained:
            self.squeeze = nn.Linear(channels, self.hidden)
            self.spread = nn.Linear(self.hidden, branches * channels)
        self.draws = 0 if trained else (channels + 1) * self.hidden + (self.hidden + 1) * branches * channels

    def forward(self, features: Sequence[Tensor], draws: Tensor | None) -> list[Tensor]:
        """Features (B, C, S, S) of each branch to the same, weighted; `draws` (B, self.draws) uniform in [0, 1)."""
        pooled = torch.stack(list(features)).sum(dim=0).mean(dim=(2, 3))  # (B, C)
        if draws is None:
            logits = self.spread(self.squeeze(pooled))
        else:
            wide = self.branches * self.channels
            first, second = torch.split(draws, [(self.channels + 1) * self.hidden, (self.hidden + 1) * wide], dim=1)
            logits = _random_linear(_random_linear(pooled, first), second)
        weights = logits.view(-1, self.branches, self.channels).softmax(dim=1)
        return [f * weights[:, i, :, None, None] for i, f in enumerate(features)]


def _random_linear(x: Tensor, draws: Tensor) -> Tensor:
    """(B, C) to (B, D) through each image's own untrained layer, from (B, (C + 1) D) numbers uniform in [0, 1).

    Weights and biases are uniform in +-1 / sqrt(C): what a new torch.nn.Linear draws.
    """
    fan_in = x.shape[1]
    values = (2 * draws - 1) / math.sqrt(fan_in)
    values = values.reshape(len(x), fan_in + 1, -1)
    return torch.baddbmm(values[:, -1:], x[:, None], values[:, :-1])[:, 0]


class Generator(nn.Module):
    """One U-Net per band; after each halving the branches exchange what they see by channel selection.

    Each branch: 4 x 4 convolutions of stride 2 with leaky ReLU down to S / 2^levels, and back, with skip connections;
    BatchNorm but for the first, the innermost and the last convolution (Isola et al. 2017); tanh.

    Attributes:
        draws: how many random numbers an image needs; 0 where the selection is trained.
    """

    def __init__(self, bands: int, channels: int, levels: int, *, trained_selection: bool) -> None:
        super().__init__()
        widths = [channels * min(8, 2**level) for level in range(levels)]
        self.down = nn.ModuleList(nn.ModuleList(_down(widths, i) for i in range(levels)) for _ in range(bands))
        self.up = nn.ModuleList(nn.ModuleList(_up(widths, i) for i in range(levels)) for _ in range(bands))
        self.select = nn.ModuleList(ChannelSelection(width, bands, trained=trained_selection) for width in widths)
        self._draws = [0 if trained_selection else _drawn(module) for module in self.select]
        self.draws = sum(self._draws)

    def forward(self, bands: Sequence[Tensor], draws: Tensor | None = None) -> list[Tensor]:
        """Bands (B, 3, S, S), on [-1, 1], to their reconstructions in (-1, 1).

        Args:
            bands: as many as there are branches.
            draws: (B, self.draws) uniform in [0, 1) for a random selection, None for a trained one.
        """
        parts = [None] * len(self.select) if draws is None else torch.split(draws, self._draws, dim=1)
        features, skips = list(bands), []
        for level, select in enumerate(self.select):
            features = [branch[level](f) for branch, f in zip(self._branches(self.down), features, strict=True)]
            features = select(features, parts[level])
            skips.append(features)
        for level in reversed(range(len(skips))):
            if level < len(skips) - 1:
                features = [torch.cat(pair, dim=1) for pair in zip(skips[level], features, strict=True)]
            features = [branch[level](f) for branch, f in zip(self._branches(self.up), features, strict=True)]
        return features

    @staticmethod
    def _branches(modules: nn.ModuleList) -> list[nn.ModuleList]:
        return [branch for branch in modules if isinstance(branch, nn.ModuleList)]


def _drawn(selection: nn.Module) -> int:
    assert isinstance(selection, ChannelSelection)
    return selection.draws


def _down(widths: Sequence[int], level: int) -> nn.Sequential:
    before = 3 if level == 0 else widths[level - 1]
    layers: list[nn.Module] = [] if level == 0 else [nn.LeakyReLU(_SLOPE)]
    layers.append(nn.Conv2d(before, widths[level], 4, stride=2, padding=1, bias=False))
    if 0 < level < len(widths) - 1:
        layers.append(nn.BatchNorm2d(widths[level]))
    return nn.Sequential(*layers)


def _up(widths: Sequence[int], level: int) -> nn.Sequential:
    before = widths[level] * (1 if level == len(widths) - 1 else 2)  # all but the innermost see a skip connection
    if level == 0:
        return nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(before, 3, 4, stride=2, padding=1), nn.Tanh())
    after = widths[level - 1]
    convolution = nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False)
    return nn.Sequential(nn.ReLU(), convolution, nn.BatchNorm2d(after))


class Discriminator(nn.Module):
    """DCGAN's (Radford et al. 2016): convolutions of stride 2 down to 4 x 4, then a feature vector, then one logit."""

    def __init__(self, side: int, channels: int, features: int) -> None:
        """`side` of the images: a power of two, at least 8."""
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 4, stride=2, padding=1, bias=False), nn.LeakyReLU(_SLOPE)]
        width = channels
        for _ in range(round(math.log2(side)) - 3):
            layers += [nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(2 * width)]
            layers.append(nn.LeakyReLU(_SLOPE))
            width *= 2
        self.features = nn.Sequential(*layers, nn.Conv2d(width, features, 4, bias=False), nn.Flatten())
        self.classify = nn.Linear(features, 1, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, S, S) to the logit of being real, (B,), and the features, (B, F)."""
        features = self.features(x)
        logits: Tensor = self.classify(features)[:, 0]
        return logits, features


def initialise_dcgan_(module: nn.Module, generator: torch.Generator) -> None:
    """Draw convolutions from N(0, 0.02) and BatchNorm's weights from N(1, 0.02), in place (Radford et al. 2016)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            draw_(layer.weight, partial(nn.init.normal_, mean=0.0, std=0.02, generator=generator))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            draw_(layer.weight, partial(nn.init.normal_, mean=1.0, std=0.02, generator=generator))
