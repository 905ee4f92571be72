"""Normalising flows out of affine coupling blocks, for feature vectors and for feature maps.

One block (Dinh et al. 2017, RealNVP; Kingma & Dhariwal 2018, Glow; Ardizzone et al. 2019 for the soft clamp): the
channels are split into x1 and x2, a subnet reads x1 (and a condition) and gives s and t,

    log_scale = clamp * tanh(0.1 s),   u = (x1, x2 * exp(log_scale) + 0.1 t),   y = R (gain * u + offset)

with a learned gain and offset per channel and a fixed orthogonal R that mixes the channels. |det R| = 1, so the
log-determinant at a position is sum(log_scale) + sum(log gain).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors.parts.training import initialise_

_GAIN_BETA = 0.5  # gain = 0.1 * softplus of the parameter, at a tenth of the optimiser's pace: steadier than exp
_GAIN_ONE = 2 * math.log(math.exp(5) - 1)  # the parameter at which the gain is 1
_PACE = 0.1  # what the subnet says counts a tenth, so that a new block is close to the identity


class VectorSubnet(nn.Module):
    """What a block reads vectors (..., inputs) with: two fully connected layers with a ReLU between."""

    reach = 0

    def __init__(self, inputs: int, outputs: int, hidden: int, conditions: int = 0) -> None:
        super().__init__()
        self.inputs = inputs
        self.first: nn.Linear = nn.Linear(inputs + conditions, hidden)
        self.last: nn.Linear = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """(..., inputs) and a condition (..., conditions) that broadcasts against it, to (..., outputs).

        The product with the condition is taken by itself: one that all images share is computed once for all of them.
        """
        of_x, of_condition = self.first.weight.tensor_split([self.inputs], dim=1)
        hidden = F.linear(x, of_x, self.first.bias)
        if condition is not None:
            hidden = hidden + F.linear(condition, of_condition)
        out: Tensor = self.last(hidden.relu())
        return out


class MapSubnet(nn.Module):
    """What a block reads maps (B, inputs, h, w) with: two convolutions that keep the size, with a ReLU between.

    Attributes:
        reach: how many positions away something may lie that a position's output depends on.
    """

    def __init__(self, inputs: int, outputs: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.reach = 2 * (kernel // 2)
        self.first: nn.Conv2d = nn.Conv2d(inputs, hidden, kernel, padding=kernel // 2)
        self.last: nn.Conv2d = nn.Conv2d(hidden, outputs, kernel, padding=kernel // 2)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """(B, inputs, h, w) to (B, outputs, h, w); there is no condition."""
        out: Tensor = self.last(self.first(x).relu())
        return out


class Coupling(nn.Module):
    """One block (module docstring): channels are the last dimension of vectors (..., C), the second of maps."""

    rotation: Tensor

    def __init__(self, channels: int, subnet: VectorSubnet | MapSubnet, *, clamp: float) -> None:
        """The subnet goes from channels - channels // 2 inputs to 2 * (channels // 2) outputs: s, then t."""
        super().__init__()
        self.sizes = [channels - channels // 2, channels // 2]
        self.clamp = clamp
        self.subnet = subnet
        self.axis = 1 if isinstance(subnet, MapSubnet) else -1
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

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The image y of x, and the log-determinant at each position: (...,) for vectors, (B, h, w) for maps."""
        kept, moved = torch.split(x, self.sizes, dim=self.axis)
        s, t = (_PACE * self.subnet(kept, condition)).chunk(2, dim=self.axis)
        log_scale = self.clamp * s.tanh()
        u = torch.cat([kept, moved * log_scale.exp() + t], dim=self.axis)
        gain = 0.1 * F.softplus(self.gain_parameter, beta=_GAIN_BETA)
        return self._mixed(u, gain), log_scale.sum(dim=self.axis) + gain.log().sum()

    def _mixed(self, u: Tensor, gain: Tensor) -> Tensor:
        """R (gain * u + offset), as one product."""
        matrix, bias = self.rotation * gain, self.rotation @ self.offset
        return F.linear(u, matrix, bias) if self.axis == -1 else F.conv2d(u, matrix[:, :, None, None], bias)


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
        total = torch.zeros((), dtype=x.dtype, device=x.device)
        for block in self._blocks():
            x, found = block(x, condition)
            total = total + found
        return x, total

    @property
    def reach(self) -> int:
        """How many positions away something may lie that an image's position depends on."""
        return sum(block.subnet.reach for block in self._blocks())

    def _blocks(self) -> Iterator[Coupling]:
        return (cast(Coupling, block) for block in self)


def vector_flow(channels: int, steps: int, subnet: Callable[[int, int], VectorSubnet], *, clamp: float) -> Flow:
    """An untrained flow of vectors of at least two channels; `subnet(inputs, outputs)` builds each block's."""
    inputs, outputs = channels - channels // 2, 2 * (channels // 2)
    return Flow(Coupling(channels, subnet(inputs, outputs), clamp=clamp) for _ in range(steps))


def map_flow(channels: int, steps: int, subnet: Callable[[int, int, int], MapSubnet], *, clamp: float) -> Flow:
    """An untrained flow of maps of at least two channels; `subnet(inputs, outputs, step)` builds each block's."""
    inputs, outputs = channels - channels // 2, 2 * (channels // 2)
    return Flow(Coupling(channels, subnet(inputs, outputs, step), clamp=clamp) for step in range(steps))


def orthogonal(size: int, generator: torch.Generator) -> Tensor:
    """A matrix drawn uniformly (Haar) from the orthogonal ones, (size, size), float32, rounded from float64."""
    normal = torch.randn(size, size, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(normal)
    uniform: Tensor = q * r.diagonal().sign()  # with these signs, not LAPACK's, it is uniform (Mezzadri 2007)
    return uniform.float()


def permutation(size: int, generator: torch.Generator) -> Tensor:
    """A random permutation as a matrix, (size, size)."""
    return torch.eye(size)[torch.randperm(size, generator=generator)]
