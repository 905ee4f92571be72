"""Normalising flows out of affine coupling blocks, for feature vectors and for feature maps.

One block (Dinh et al. 2017, RealNVP; Kingma & Dhariwal 2018, Glow; Ardizzone et al. 2019 for the soft clamp): the
channels are split into x1 and x2, a subnet reads x1 (and a condition) and gives s and t,

    log_scale = clamp * tanh(0.1 s),   u = (x1, x2 * exp(log_scale) + 0.1 t),   y = R (gain * u + offset)

with a learned gain and offset per channel and a fixed orthogonal R that mixes the channels. |det R| = 1, so the
log-determinant at a position is sum(log_scale) + sum(log gain).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors._coupling_blocks import MapBlock, VectorBlock
from detectors.parts.training import initialise_

_GAIN_BETA = 0.5  # gain = 0.1 * softplus of the parameter, at a tenth of the optimiser's pace: steadier than exp
_GAIN_ONE = 2 * math.log(math.exp(5) - 1)  # the parameter at which the gain is 1
_PACE = 0.1  # what the subnet says counts a tenth, so that a new block is close to the identity


class Subnet(nn.Module, ABC):
    """What a coupling block reads x1 with: two layers with a ReLU between; the last gives s, then t.

    Only the inverse calls `forward`: a block's own direction computes the same from the layers (`_coupling_blocks`).

    Attributes:
        reach: how many positions away something may lie that a position's output depends on.
    """

    reach: int = 0
    first: nn.Module
    last: nn.Module

    @abstractmethod
    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """x1 and the condition to s and t, one after the other where the channels are."""


class VectorSubnet(Subnet):
    """Fully connected, for the columns of (inputs, ...) and conditions (conditions, ...) that broadcast against them.

    The first layer's product with the condition is taken by itself: where the condition is the same for all images of
    a batch, it is computed once for all of them.
    """

    def __init__(self, inputs: int, outputs: int, hidden: int, conditions: int = 0) -> None:
        super().__init__()
        self.inputs = inputs
        self.first: nn.Linear = nn.Linear(inputs + conditions, hidden)
        self.last: nn.Linear = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """(inputs, ...) to (outputs, ...)."""
        hidden = _of_columns(self.first.weight[:, : self.inputs], x) + self.beside(condition, x.ndim)
        return _of_columns(self.last.weight, F.relu(hidden), self.last.bias)

    def beside(self, condition: Tensor | None, dimensions: int) -> Tensor:
        """What the hidden layer is given beside its product with x, (hidden, ...)."""
        if condition is None:
            return self.first.bias.view(-1, *[1] * (dimensions - 1))
        return _of_columns(self.first.weight[:, self.inputs :], condition, self.first.bias)


class MapSubnet(Subnet):
    """Two convolutions that keep the size, for maps (B, inputs, h, w)."""

    def __init__(self, inputs: int, outputs: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.reach = 2 * (kernel // 2)
        self.first: nn.Conv2d = nn.Conv2d(inputs, hidden, kernel, padding=kernel // 2)
        self.last: nn.Conv2d = nn.Conv2d(hidden, outputs, kernel, padding=kernel // 2)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """(B, inputs, h, w) to (B, outputs, h, w)."""
        out: Tensor = self.last(F.relu(self.first(x)))
        return out


class Coupling(nn.Module, ABC):
    """One block (module docstring): channels are the first dimension of vectors, the second of maps (B, C, h, w)."""

    rotation: Tensor

    def __init__(self, channels: int, subnet: Subnet, *, clamp: float, axis: int) -> None:
        """The subnet goes from channels - channels // 2 inputs to 2 * (channels // 2) outputs."""
        super().__init__()
        self.sizes = (channels - channels // 2, channels // 2)
        self.clamp, self.axis = clamp, axis
        self.subnet = subnet
        self.gain_parameter = nn.Parameter(torch.full((channels,), _GAIN_ONE))
        self.offset = nn.Parameter(torch.zeros(channels))
        self.register_buffer("rotation", torch.eye(channels))

    def initialise(self, generator: torch.Generator, *, soft: bool) -> None:
        """Draw the subnet's weights and the rotation anew; unit gain, no offset."""
        initialise_(self.subnet, generator)
        with torch.no_grad():
            self.gain_parameter.fill_(_GAIN_ONE)
            self.offset.zero_()
            self.rotation.copy_((orthogonal if soft else permutation)(len(self.offset), generator))

    @property
    def gain(self) -> Tensor:
        """(C,), positive."""
        return 0.1 * F.softplus(self.gain_parameter, beta=_GAIN_BETA)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The image y of x, and the log-determinant at each position: (...,) for vectors, (B, h, w) for maps."""
        gain = self.gain
        y, log_scale = self._image(x, condition, gain)
        return y, log_scale + gain.log().sum()

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> Tensor:
        """The x whose image is y."""
        gain, offset = (v.view(-1, *[1] * (y.ndim - 1 - self.axis)) for v in (self.gain, self.offset))
        u = (self._matrix(y, self.rotation.T, None) - offset) / gain
        kept, moved = u.split(self.sizes, dim=self.axis)  # type: ignore[no-untyped-call]
        log_scale, shift = self._affine(kept, condition)
        return torch.cat([kept, (moved - shift) * (-log_scale).exp()], dim=self.axis)

    @abstractmethod
    def _image(self, x: Tensor, condition: Tensor | None, gain: Tensor) -> tuple[Tensor, Tensor]:
        """y, and the sum of the log-scales at each position."""

    @abstractmethod
    def _matrix(self, x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
        """The matrix (C, C) times the channels at each position, plus the bias (C,)."""

    def _affine(self, kept: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        s, t = (_PACE * self.subnet(kept, condition)).chunk(2, dim=self.axis)
        return self.clamp * s.tanh(), t


class VectorCoupling(Coupling):
    """On the columns of (C, ...)."""

    subnet: VectorSubnet

    def __init__(self, channels: int, subnet: VectorSubnet, *, clamp: float) -> None:
        super().__init__(channels, subnet, clamp=clamp, axis=0)

    def _image(self, x: Tensor, condition: Tensor | None, gain: Tensor) -> tuple[Tensor, Tensor]:
        subnet = self.subnet
        found: tuple[Tensor, Tensor] = VectorBlock.apply(
            x, subnet.first.weight[:, : subnet.inputs], subnet.beside(condition, x.ndim), subnet.last.weight,
            subnet.last.bias, self.rotation, gain, self.offset, self.clamp, _PACE,
        )  # fmt: skip
        return found

    def _matrix(self, x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
        return _of_columns(matrix, x, bias)


class MapCoupling(Coupling):
    """On the channels of (B, C, h, w)."""

    subnet: MapSubnet

    def __init__(self, channels: int, subnet: MapSubnet, *, clamp: float) -> None:
        super().__init__(channels, subnet, clamp=clamp, axis=1)

    def _image(self, x: Tensor, condition: Tensor | None, gain: Tensor) -> tuple[Tensor, Tensor]:
        first, last = self.subnet.first, self.subnet.last
        found: tuple[Tensor, Tensor] = MapBlock.apply(
            x, first.weight, first.bias, last.weight, last.bias, self.rotation, gain, self.offset, self.clamp, _PACE
        )
        return found

    def _matrix(self, x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, matrix[:, :, None, None], bias)


class Flow(nn.ModuleList):
    """Coupling blocks one after the other: features to a standard normal distribution."""

    def initialise(self, generator: torch.Generator, *, soft: bool) -> None:
        """Draw all weights and rotations anew.

        Args:
            generator: where the numbers come from.
            soft: rotations are uniform over the orthogonal matrices; otherwise they are permutations.
        """
        for block in self._blocks():
            block.initialise(generator, soft=soft)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z, shaped like x, and the log-determinant at each position."""
        total: Tensor | None = None
        for block in self._blocks():
            x, found = block(x, condition)
            total = found if total is None else total + found
        assert total is not None
        return x, total

    @property
    def reach(self) -> int:
        """How many positions away something may lie that an image's position depends on."""
        return sum(block.subnet.reach for block in self._blocks())

    def inverse(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """The x whose image is z."""
        for block in reversed(list(self._blocks())):
            z = block.inverse(z, condition)
        return z

    def _blocks(self) -> Iterator[Coupling]:
        return (cast(Coupling, block) for block in self)


def vector_flow(channels: int, steps: int, subnet: Callable[[int, int], VectorSubnet], *, clamp: float) -> Flow:
    """An untrained flow of vectors of at least two channels; `subnet(inputs, outputs)` builds each block's."""
    inputs, outputs = channels - channels // 2, 2 * (channels // 2)
    return Flow(VectorCoupling(channels, subnet(inputs, outputs), clamp=clamp) for _ in range(steps))


def map_flow(channels: int, steps: int, subnet: Callable[[int, int, int], MapSubnet], *, clamp: float) -> Flow:
    """An untrained flow of maps of at least two channels; `subnet(inputs, outputs, step)` builds each block's."""
    inputs, outputs = channels - channels // 2, 2 * (channels // 2)
    return Flow(MapCoupling(channels, subnet(inputs, outputs, step), clamp=clamp) for step in range(steps))


def _of_columns(matrix: Tensor, columns: Tensor, bias: Tensor | None = None) -> Tensor:
    """matrix (D, C) times the columns of (C, ...), plus the bias (D,): (D, ...)."""
    flat = columns.reshape(columns.shape[0], -1)
    found = matrix @ flat if bias is None else torch.addmm(bias[:, None], matrix, flat)
    return found.view(-1, *columns.shape[1:])


def orthogonal(size: int, generator: torch.Generator) -> Tensor:
    """A matrix drawn uniformly (Haar) from the orthogonal ones, (size, size), float32, rounded from float64."""
    normal = torch.randn(size, size, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(normal)
    uniform: Tensor = q * r.diagonal().sign()  # with these signs, not LAPACK's, it is uniform (Mezzadri 2007)
    return uniform.float()


def permutation(size: int, generator: torch.Generator) -> Tensor:
    """A random permutation as a matrix, (size, size)."""
    return torch.eye(size)[torch.randperm(size, generator=generator)]
