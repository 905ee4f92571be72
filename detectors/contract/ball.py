"""What the contract has to know of a threat model, and the changes inside its ball that need no gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from detectors.noise import Noise

BLOCKS = (1, 2, 8)  # pixels a side: what a score's features see of noise depends on its grain
ROUNDING = 16  # units in the last place of a loss
FAR = 8 / 255  # l-inf, several times the radius that is common: whoever clips his input does it here


class Ball(Protocol):
    """A norm ball around each image, cut to [0, 1]; every `attacks.threat.ThreatModel` is one. Images (B, 3, H, W)."""

    @property
    def epsilon(self) -> float:
        """The radius on [0, 1]."""

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """x_adv brought into the ball around x, then into [0, 1]."""

    def steepest_step(self, gradient: Tensor, step_size: float) -> Tensor:
        """The step of length `step_size` that a linear objective gains most by; zero for no gradient."""


@dataclass(frozen=True)
class LInfBall:
    """No pixel changes by more than epsilon: where nobody says in which ball a detector will be attacked."""

    epsilon: float = 2 / 255

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Each pixel into [x - epsilon, x + epsilon], then into [0, 1]."""
        return torch.clamp(x_adv, (x - self.epsilon).clamp(0, 1), (x + self.epsilon).clamp(0, 1))

    def steepest_step(self, gradient: Tensor, step_size: float) -> Tensor:
        """step_size * sign(gradient)."""
        return step_size * gradient.sign()


def block_noise(x: Tensor, ball: Ball, block: int, noise: Noise, *, size: float | None = None) -> Tensor:
    """Random changes of full length, the same within each block of pixels and drawn per channel, (B, 3, H, W).

    In the l-inf ball signs, in the l2 ball Gaussian directions: the steepest step along Gaussian numbers is both.

    Args:
        x: images, (B, 3, H, W).
        ball: whose norm measures the length.
        block: side of the blocks in pixels.
        noise: where they come from; the same source gives the same changes.
        size: the length; None: the ball's radius.
    """
    whole = noise.blocks(x.shape[1:], block, stream=f"plain-noise-{block}", like=x)
    return ball.steepest_step(whole, ball.epsilon if size is None else size)


def rose(before: Tensor, after: Tensor) -> Tensor:
    """Whether each loss is above the one before by more than rounding, (B,) bool; a NaN never is."""
    return after - before > ROUNDING * torch.finfo(before.dtype).eps * before.abs()


def far_corners(pictures: Tensor, epsilon: float = FAR, *, seed: int = 5) -> Tensor:
    """Corners of the l-inf ball, cut to [0, 1]; a few pixels are driven into these bounds, too. (B, 3, H, W)."""
    draws = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, pictures.shape, generator=draws) * 2 - 1
    driven = torch.rand(pictures.shape, generator=draws).to(pictures.device)
    edge = (pictures + epsilon * signs.to(pictures.device)).clamp(0, 1)
    return torch.where(driven < 0.03, 0.0, torch.where(driven > 0.97, 1.0, edge)).to(pictures.dtype)
