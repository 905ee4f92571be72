"""The autoencoder of PLS in the form in which it is fast: its slow half in cells, and the way back written by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors import _cells
from detectors._first_order import first_order

if TYPE_CHECKING:
    from detectors.pls.network import PrincipalLatentSpace


@dataclass(frozen=True)
class FoldedAutoencoder:
    """The autoencoder with its slow half in cells of 2 x 2 pixels (see `_cells`); the same function up to rounding.

    The image's own convolution gives what each pixel of a cell has, and pooling that is a product with a small matrix.
    The convolutions behind upsampling see the small map. Images are maps here: on [-1, 1] and in cells, (B, 12,
    S / 2 + 1, S / 2 + 1), so that an attack need not leave them; without any pooling (B, 3, S, S).

    Attributes:
        down, up: weight and bias of each level's convolution, from the image's level on.
        poolings: how many levels pool and upsample.
        pool: averages over the four pixels of a cell, (4 C, C), at the image's level.
        inside: 1 for each pixel, 0 in the ring around them; a map.
        side: of the images.
        principal: the latent space.
    """

    down: list[tuple[Tensor, Tensor]]
    up: list[tuple[Tensor, Tensor]]
    poolings: int
    pool: Tensor
    inside: Tensor
    side: int
    principal: PrincipalLatentSpace

    @classmethod
    def of(
        cls, down: list[nn.Conv2d], up: list[nn.Conv2d], poolings: int, side: int, principal: PrincipalLatentSpace
    ) -> FoldedAutoencoder:
        """Fold the 3 x 3 convolutions of all levels, the first `poolings` of which pool and upsample."""
        narrowing, widening = _parameters(down), _parameters(up)
        widening[:poolings] = [(_cells.of_upsampling(weight), bias.repeat(4)) for weight, bias in widening[:poolings]]
        inside = down[0].weight.new_ones(1, 3, side, side)
        if poolings:
            weight, bias = narrowing[0]
            narrowing[0] = _cells.to_places(weight), bias.repeat(4)
            inside = _cells.straddled(inside)
        pool = torch.eye(down[0].out_channels).to(inside).repeat(4, 1) / 4
        return cls(_packed(narrowing), _packed(widening), poolings, pool, inside, side, principal)

    def detached(self) -> Self:
        """The same with weights that get no gradient."""
        down, up = ([(weight.detach(), bias.detach()) for weight, bias in half] for half in (self.down, self.up))
        return replace(self, down=down, up=up)

    def maps_of(self, images: Tensor) -> Tensor:
        """Images on [0, 1] as maps."""
        return self.laid_out(2 * images - 1)

    def laid_out(self, images: Tensor) -> Tensor:
        """Numbers for each pixel, (B, 3, S, S), where maps have that pixel."""
        return _cells.straddled(images) if self.poolings else _cells.packed(images)

    def images_of(self, maps: Tensor) -> Tensor:
        """The images (B, 3, S, S), on about [0, 1], that the maps are."""
        return ((_cells.unstraddled(maps) if self.poolings else maps) + 1) / 2

    def rebuilt(self, maps: Tensor) -> Tensor:
        """`rebuild` of `latent`; in less time where no weight gets a gradient."""
        if any(tensor.requires_grad for layer in (*self.down, *self.up) for tensor in layer):
            return self.rebuild(self.latent(maps))
        found: Tensor = _Rebuilt.apply(maps, self)
        return found

    def difference(self, maps: Tensor, rebuilt: Tensor) -> Tensor:
        """Maps less their reconstruction; 0 in the ring, which is no part of them."""
        return (maps - rebuilt) * self.inside

    def squares(self, images: int) -> float:
        """What to divide the sum of the squares of so many images' `difference` by, for the mean on their own scale."""
        return 4 * 3 * float(self.side**2) * images

    @cached_property
    def turned(self) -> tuple[list[Tensor], list[Tensor]]:
        """The weights of `down` and `up` for the way back."""
        down, up = ([_cells.turned(weight) for weight, _ in half] for half in (self.down, self.up))
        return down, up

    def padding(self, level: int) -> int:
        """Of a level's convolution on the way down: cells have their ring."""
        return 0 if level == 0 and self.poolings > 0 else 1

    def pooled(self, x: Tensor, level: int) -> Tensor:
        """The level's pooling, where there is one; at the image's own it is the mean over the four pixels of a cell."""
        if level == 0 and self.poolings > 0:
            return (x.permute(0, 2, 3, 1) @ self.pool).permute(0, 3, 1, 2)
        return F.avg_pool2d(x, 2) if level < self.poolings else x

    def latent(self, maps: Tensor) -> Tensor:
        """Maps to the encoder's (B, v, h, w) in (0, 1), not yet projected."""
        x = maps
        for level, (weight, bias) in enumerate(self.down):
            x = F.conv2d(x, weight, bias, padding=self.padding(level))
            x = self.pooled(torch.sigmoid(x) if level == len(self.down) - 1 else F.silu(x), level)
        return x

    def rebuild(self, latent: Tensor) -> Tensor:
        """What the decoder makes of the latent maps, projected: maps, with anything in the ring of their cells."""
        x: Tensor = self.principal(latent)
        for level in reversed(range(len(self.up))):
            x = F.conv2d(x, *self.up[level], padding=1)
            if level > 0:
                x = F.silu(_cells.unstraddled(x) if level < self.poolings else x)
        return x


class _Rebuilt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, folded: FoldedAutoencoder) -> Tensor:
        ctx.there = there = FoldedPass(folded)
        return there.rebuild(maps)

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.there.pull(gradient), None


class FoldedPass:
    """A pass with the weights of now and, by hand, the way back: fewer passes over memory than autograd's."""

    def __init__(self, folded: FoldedAutoencoder) -> None:
        self._folded = folded
        self._down: list[Tensor] = []  # what is in front of each SiLU, and behind the sigmoid
        self._up: list[Tensor] = []

    @torch.no_grad()
    def rebuild(self, maps: Tensor) -> Tensor:
        """Once: the reconstruction of maps, with anything in the ring of their cells."""
        return self._decode(self._folded.principal(self._encode(maps)))

    def _encode(self, x: Tensor) -> Tensor:
        folded = self._folded
        for level, (weight, bias) in enumerate(folded.down):
            x = F.conv2d(x, weight, bias, padding=folded.padding(level))
            is_last = level == len(folded.down) - 1
            x = x.sigmoid_() if is_last else x
            self._down.append(x)
            x = folded.pooled(x if is_last else F.silu(x), level)
        return x

    def _decode(self, x: Tensor) -> Tensor:
        folded, has_ring = self._folded, False
        for level in reversed(range(len(folded.up))):
            x = F.conv2d(x, *folded.up[level], padding=0 if has_ring else 1)
            if level > 0:
                has_ring = level < folded.poolings
                if has_ring:
                    _cells.kill_ring(x)
                self._up.append(x)
                x = F.silu(x)
                x = _cells.pixels_of(x) if has_ring else x
        return x

    def pull(self, gradient: Tensor) -> Tensor:
        """The gradient at the maps, from that at their reconstruction."""
        folded = self._folded
        x = _cells.packed(gradient)
        for level in range(len(folded.up)):
            had_ring = level + 1 < min(folded.poolings, len(folded.up))  # what this level's convolution read
            weight = folded.turned[1][level]
            x = F.conv2d(x, weight, padding=weight.shape[-1] - (1 if had_ring else 2))
            if level + 1 < len(folded.up):
                x = _times_slope(_cells.cells_of(x) if had_ring else x, self._up[-1 - level])
        x = folded.principal.pull(x)
        for level in reversed(range(len(folded.down))):
            x, at = _unpooled(folded, x, level), self._down[level]
            x = torch.ops.aten.sigmoid_backward(x, at) if level == len(folded.down) - 1 else _times_slope(x, at)
            weight = folded.turned[0][level]
            x = F.conv2d(x, weight, padding=weight.shape[-1] - 1 - folded.padding(level))
        return x


def _unpooled(folded: FoldedAutoencoder, x: Tensor, level: int) -> Tensor:
    """The transpose of the level's pooling."""
    if level == 0 and folded.poolings > 0:
        return (x.permute(0, 2, 3, 1) @ folded.pool.T).permute(0, 3, 1, 2)
    return F.interpolate(x / 4, scale_factor=2) if level < folded.poolings else x


def _times_slope(x: Tensor, front: Tensor) -> Tensor:
    """x SiLU'(front) in one pass, in place."""
    found: Tensor = torch.ops.aten.silu_backward.grad_input(x, front, grad_input=x)
    return found


def _parameters(layers: list[nn.Conv2d]) -> list[tuple[Tensor, Tensor]]:
    return [(layer.weight, cast(Tensor, layer.bias)) for layer in layers]


def _packed(layers: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    return [(_cells.packed(weight), bias) for weight, bias in layers]
