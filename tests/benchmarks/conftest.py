"""Fitted detectors for the benchmarks: fitting is cheap here, since speed does not depend on what was learned."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch

import detectors
from detectors.base import Detector

CHEAP = {
    "freerad": {"k": 100, "training.iterations": 1, "map_images": 1, "map_draws": 1},
    "ae": {"epochs": 1},
    "apae": {"epochs": 1},
    "rae": {"epochs": 1},
    "cflow": {"epochs": 1},
    "fastflow": {"epochs": 1},
    "pls": {"epochs": 1},
    "ocr-gan": {"epochs": 1},
    "cfa": {"epochs": 1},
}


@cache
def _fitted(name: str, side: int) -> Detector:
    cheap = CHEAP.get(name, {})
    detector = detectors.create(name, preset="quick", image_size=side, **cheap)
    normals = torch.rand(12, 3, side, side, generator=torch.Generator().manual_seed(0))
    return detector.fit(normals, seed=0)


@pytest.fixture(scope="session")
def fitted() -> Callable[[str, int], Detector]:
    """A function: detector name and image side to a detector at its quick settings."""
    return _fitted
