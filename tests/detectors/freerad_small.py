"""A FreeRAD that is small enough to be fitted, taken apart and differentiated within a test."""

from __future__ import annotations

from typing import Any

import torch
from detector_pictures import normal_pictures
from torch import Tensor, nn

from detectors import registry
from detectors.freerad import FreeRAD
from detectors.noise import Noise, NoiseSeed

SIDE = 16
SMALL = {
    "k": 20,
    "work_size": SIDE,
    "filter_size": 3,
    "map_images": 6,
    "map_draws": 2,
    "storage": "float32",
    "unet.channels": 8,
    "unet.multipliers": (1, 2),
    "unet.attention_sides": (8,),
    "unet.unshuffle": 1,
    "training.iterations": 4,
    "training.batch_size": 2,
    "training.warmup": 0,
    "training.learning_rate": 1e-2,
}


def small(*, side: int = SIDE, **overrides: Any) -> FreeRAD:
    """Unfitted; overrides with dots spelled as in the registry, passed as a dict: small(**{"unet.channels": 16})."""
    detector = registry.create("freerad", image_size=side, **{**SMALL, **overrides})
    assert isinstance(detector, FreeRAD)
    return detector


def lively(*, side: int = SIDE, seed: int = 5, **overrides: Any) -> FreeRAD:
    """Fitted, and then with random weights, so that nothing is zero or an identity by initialisation."""
    normals = normal_pictures(6, side, seed=1)
    detector = small(side=side, **{**overrides, "training.iterations": 1}).fit(normals, seed=0)
    shake(detector.unet, seed=seed)
    return detector.choose("k", detector.k, normals, seed=0)


def shake(module: nn.Module, *, seed: int, size: float = 0.1) -> None:
    """Add random numbers to all weights."""
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight += size * torch.randn(weight.shape, generator=draws)


def source(count: int, *, purpose: str = "test", seed: int = 7) -> Noise:
    return NoiseSeed(seed).source(purpose, [f"image-{i}" for i in range(count)])


def random_images(count: int, side: int, *, seed: int = 0) -> Tensor:
    """float64 on [-1, 1], (count, 3, side, side)."""
    draws = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, side, side, generator=draws, dtype=torch.float64) * 2 - 1


def normal_like(x: Tensor, *, seed: int) -> Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)


def alpha_bar_by_hand(timestep: int, steps: int = 1000) -> float:
    """The product of 1 - beta_s over s = 1..timestep, betas on a line from 1e-4 to 0.02 (Ho et al. 2020)."""
    product = 1.0
    for s in range(1, timestep + 1):
        product *= 1 - (1e-4 + (s - 1) * (0.02 - 1e-4) / (steps - 1))
    return product
