"""Seconds of a score and of a score with its gradient, for a batch of 8 images (divide by 8 for one).

python -m tox -e benchmarks -- tests/benchmarks/test_benchmark_scores.py
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

import detectors
from detectors.base import Detector
from detectors.noise import NoiseSeed

BATCH = 8
SIDES = (64, 128, 256)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", detectors.names())
@pytest.mark.parametrize("with_gradient", [False, True], ids=["score", "gradient"])
def test_score(
    benchmark: BenchmarkFixture, fitted: Callable[[str, int], Detector], name: str, side: int, with_gradient: bool
) -> None:
    detector = fitted(name, side)
    x = torch.rand(BATCH, 3, side, side, generator=torch.Generator().manual_seed(1))
    noise = NoiseSeed(0).source("benchmark", [str(i) for i in range(BATCH)])

    def score() -> None:
        with torch.no_grad():
            detector.score(x, noise=noise)

    def gradient() -> None:
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(detector.score(leaf, noise=noise).sum(), leaf)

    benchmark.group = f"{'gradient' if with_gradient else 'score'} at {side} px, batch {BATCH}"
    benchmark.pedantic(gradient if with_gradient else score, rounds=5, iterations=1, warmup_rounds=1)
