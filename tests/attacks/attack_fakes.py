"""Tiny detectors whose best attack is known, for the tests of the attacks."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from torch import Tensor

from attacks import L2, LInf
from detectors.base import Detector, Progress, Settings
from detectors.noise import Noise, NoiseSeed

SIDE = 8


class Fake(Detector):
    name = "fake"
    title = "Fake"
    paper = "none"

    def __init__(self, image_size: int = SIDE) -> None:
        super().__init__(Settings(), image_size)
        self._freeze()

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> Settings:
        return Settings()

    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        pass


class Linear(Fake):
    """A(x) = <w, x>: the best attack has a closed form."""

    def __init__(self, seed: int = 0, image_size: int = SIDE) -> None:
        super().__init__(image_size)
        weight = torch.randn(3, image_size, image_size, generator=torch.Generator().manual_seed(seed))
        self.weight = torch.nn.Parameter(weight)
        self._freeze()

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        return (self.weight * x).flatten(1).sum(1)


class Wavy(Linear):
    """A nonlinear score with many local optima: <w, sin(25 x)>."""

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        return (self.weight * torch.sin(25 * x)).flatten(1).sum(1)


class NoisyWavy(Wavy):
    """Wavy on a noisy image; it remembers the noise sources that it was given and what it drew."""

    is_stochastic = True

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.seen: list[tuple[bool, Noise, Tensor]] = []  # (under gradient, source, what image 0 drew)

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        z = noise.normal(x.shape[1:], stream="fake", like=x)
        self.seen.append((x.requires_grad, noise, z[0, 0, 0, 0]))
        return super()._score(x + 0.1 * z, noise)


class PureNoise(Fake):
    """A score that tells nothing about the image: whoever finds a gain has selected lucky noise."""

    is_stochastic = True

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        return noise.normal((), stream="fake", like=x) + 0 * x.flatten(1).sum(1)


class Flat(Fake):
    """A score with a graph and no gradient, as one that saturates has."""

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        return 0 * x.flatten(1).sum(1) + 1


class Detached(Linear):
    """A score whose graph was cut."""

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        return super()._score(x.detach(), noise)


class Saturated(Linear):
    """A step function of <w, x>, no use to follow; the surrogate is <w, x> itself."""

    has_surrogate = True

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        return torch.sigmoid(1e6 * (super()._score(x, noise) - 1e3))

    def _surrogate_score(self, x: Tensor, noise: Noise) -> Tensor:
        return super()._score(x, noise)


class NaNWhereDark(Linear):
    """The gradient is NaN at the first pixel of images whose last pixel is dark, as of a square root at zero."""

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        dark = (x[:, 2, -1, -1] < 0.5).nonzero()[:, 0]
        return super()._score(x, noise).index_add(0, dark, (x[dark, 0, 0, 0] * 0).sqrt())


class NaNGradient(Linear):
    """Its score is fine and no entry of its gradient is a number."""

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        total = x.flatten(1).sum(1)
        return super()._score(x, noise) + (total - total.detach()).sqrt()


class Tent(Fake):
    """A(x) = -|mean(x) - 0.5|: a step too long jumps over the top and back."""

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        return -(x.flatten(1).mean(1) - 0.5).abs()


def images(
    count: int, *, seed: int = 0, low: float = 0.0, high: float = 1.0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Random images (count, 3, SIDE, SIDE) in [low, high]."""
    x = torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    return (low + (high - low) * x).to(dtype)


def saturated_images(count: int, *, seed: int = 0) -> Tensor:
    """Random images with many pixels exactly 0 or 1, as photographs on white have."""
    return images(count, seed=seed, low=-0.3, high=1.3).clamp(0, 1)


def labels(count: int) -> Tensor:
    """+1, -1, +1, ..."""
    return 1 - 2 * (torch.arange(count) % 2)


def source(count: int, *, purpose: str = "attack", seed: int = 0) -> Noise:
    return NoiseSeed(seed).source(purpose, [f"image-{i}" for i in range(count)])


def optimum_of_linear(detector: Linear, x: Tensor, y: Tensor, threat: L2 | LInf) -> Tensor:
    """The highest loss y * A(z) of any z in the ball and in [0, 1], (B,) float64: in l-inf every pixel as far as both
    allow; in l2 z(t) = clip(x + t g) with t > 0 so that |z(t) - x| = epsilon, which fulfils the KKT conditions."""
    found = []
    for image, sign in zip(x.double().numpy(), y.tolist(), strict=True):
        gradient = sign * detector.weight.detach().double().numpy()
        z = _l2_optimum(image, gradient, threat.epsilon) if isinstance(threat, L2) else None
        best = np.clip(image + threat.epsilon * np.sign(gradient), 0, 1) if z is None else z
        found.append((gradient * best).sum())
    return torch.tensor(found)


def _l2_optimum(x: NDArray[np.float64], gradient: NDArray[np.float64], epsilon: float) -> NDArray[np.float64]:
    def z(t: float) -> NDArray[np.float64]:
        return np.clip(x + t * gradient, 0, 1)

    def excess(t: float) -> float:
        return float(np.linalg.norm(z(t) - x)) - epsilon

    return z(brentq(excess, 0, 1e6)) if excess(1e6) > 0 else z(1e6)
