"""The parts of OCR-GAN: frequency split, generator with channel selection, discriminator (Liang et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial, reduce
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors.parts.training import draw_

_TAPS = (1.0, 4.0, 6.0, 4.0, 1.0)  # binomial, sum 16 (Burt & Adelson 1983)
_SLOPE = 0.2  # of the leaky ReLU, as in DCGAN


def _halver(size: int, like: Tensor) -> Tensor:
    """What halves a column of `size` pixels, (size / 2, size): 5 taps at every second one, mirrored at the border."""
    places = (2 * torch.arange(size // 2)[:, None] + torch.arange(-2, 3)).abs()
    places = torch.minimum(places, 2 * (size - 1) - places).to(like.device)
    taps = like.new_tensor(_TAPS) / 16
    return like.new_zeros(size // 2, size).scatter_add_(1, places, taps.expand(size // 2, 5))


def _doubler(size: int, like: Tensor) -> Tensor:
    """What doubles it, (2 size, size): zeros between the pixels, then the same taps with twice the weight."""
    here = torch.eye(size, dtype=like.dtype, device=like.device)
    # Before the first pixel the mirrored one, after the last that pixel again: what mirroring at the double comes to.
    before = torch.cat([here[min(1, size - 1)][None], here[:-1]])
    after = torch.cat([here[1:], here[-1:]])
    return torch.stack([(before + 6 * here + after) / 8, (here + after) / 2], dim=1).flatten(0, 1)


def _smoothings(x: Tensor, bands: int) -> list[Tensor]:
    """What up^j(G_j) of `split` does to a column, (S, S), from j = 1 on: so no pass over thin images is needed."""
    halved = full = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    found = []
    for band in range(1, bands):
        halved = _halver(len(halved), x) @ halved
        full = halved
        for _ in range(band):
            full = _doubler(len(full), x) @ full
        found.append(full)
    return found


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
    levels = [x, *(smoothing @ x @ smoothing.T for smoothing in _smoothings(x, bands))]
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
        pooled = total(features).mean(dim=(2, 3))  # (B, C)
        if draws is None:
            logits = self.spread(self.squeeze(pooled))
        else:
            wide = self.branches * self.channels
            first, second = torch.split(draws, [(self.channels + 1) * self.hidden, (self.hidden + 1) * wide], dim=1)
            logits = _random_linear(_random_linear(pooled, first), second)
        weights = logits.view(-1, self.branches, self.channels).softmax(dim=1)
        return [f * weights[:, i, :, None, None] for i, f in enumerate(features)]


def total(parts: Sequence[Tensor]) -> Tensor:
    """The sum of at least one, of the same shape."""
    return reduce(torch.add, parts)


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
                # Each by itself: the gradient at a part of a joined map does not lie together in memory.
                pairs = zip(skips[level], features, strict=True)
                features = [torch.cat([part.relu() for part in pair], dim=1) for pair in pairs]
            else:
                features = [f.relu() for f in features]
            features = [branch[level](f) for branch, f in zip(self._branches(self.up), features, strict=True)]
        return features

    @staticmethod
    def _branches(modules: nn.ModuleList) -> list[nn.ModuleList]:
        return [branch for branch in modules if isinstance(branch, nn.ModuleList)]


def _drawn(selection: nn.Module) -> int:
    assert isinstance(selection, ChannelSelection)
    return selection.draws


def _halving(before: int, after: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False)


def _doubling(before: int, after: int, *, bias: bool) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=bias)


def _down(widths: Sequence[int], level: int) -> nn.Sequential:
    before = 3 if level == 0 else widths[level - 1]
    layers: list[nn.Module] = [] if level == 0 else [nn.LeakyReLU(_SLOPE)]
    layers.append(_halving(before, widths[level]))
    if 0 < level < len(widths) - 1:
        layers.append(nn.BatchNorm2d(widths[level]))
    return nn.Sequential(*layers)


def _up(widths: Sequence[int], level: int) -> nn.Sequential:
    """What follows the ReLU of a level on the way up."""
    before = widths[level] * (1 if level == len(widths) - 1 else 2)  # all but the innermost see a skip connection
    if level == 0:
        return nn.Sequential(_doubling(before, 3, bias=True), nn.Tanh())
    after = widths[level - 1]
    return nn.Sequential(_doubling(before, after, bias=False), nn.BatchNorm2d(after))


class Discriminator(nn.Module):
    """DCGAN's (Radford et al. 2016): convolutions of stride 2 down to 4 x 4, then a feature vector, then one logit."""

    def __init__(self, side: int, channels: int, features: int) -> None:
        """`side` of the images: a power of two, at least 8."""
        super().__init__()
        layers: list[nn.Module] = [_halving(3, channels), nn.LeakyReLU(_SLOPE)]
        width = channels
        for _ in range(round(math.log2(side)) - 3):
            layers += [_halving(width, 2 * width), nn.BatchNorm2d(2 * width)]
            layers.append(nn.LeakyReLU(_SLOPE))
            width *= 2
        self.features = nn.Sequential(*layers, nn.Conv2d(width, features, 4, bias=False), nn.Flatten())
        self.classify = nn.Linear(features, 1, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, S, S) to the logit of being real, (B,), and the features, (B, F)."""
        features = self.features(x)
        logits: Tensor = self.classify(features)[:, 0]
        return logits, features

    def of_batches(self, batches: Sequence[Tensor], times: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """What one pass after the other would find in training, in one: each batch is normalised by its own statistics.

        Args:
            batches: (B, 3, S, S) each.
            times: for each batch, how often its statistics join the running ones, as if there were so many passes.
        """
        x, count = torch.cat(list(batches)), len(batches[0])
        for layer in self.features:
            x = _normalised(layer, x, count, times) if isinstance(layer, nn.BatchNorm2d) else layer(x)
        logits = self.classify(x)[:, 0]
        return list(zip(torch.split(logits, count), torch.split(x, count), strict=True))


def _normalised(norm: nn.BatchNorm2d, x: Tensor, count: int, times: Sequence[int]) -> Tensor:
    """BatchNorm in training for each `count` images of x by themselves."""
    parts = []
    for part, often in zip(torch.split(x, count), times, strict=True):
        momentum = 1 - (1 - cast(float, norm.momentum)) ** often
        cast(Tensor, norm.num_batches_tracked).add_(often)
        parts.append(
            F.batch_norm(part, norm.running_mean, norm.running_var, norm.weight, norm.bias, True, momentum, norm.eps)
        )
    return torch.cat(parts)


def initialise_dcgan_(module: nn.Module, generator: torch.Generator) -> None:
    """Draw convolutions from N(0, 0.02) and BatchNorm's weights from N(1, 0.02), in place (Radford et al. 2016)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            draw_(layer.weight, partial(nn.init.normal_, mean=0.0, std=0.02, generator=generator))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            draw_(layer.weight, partial(nn.init.normal_, mean=1.0, std=0.02, generator=generator))
