"""A gradient step of SPADE and of CFA against the same method written with torch.cdist, as a ratio in one run.

At quick settings, where the frozen network takes most of the time, and for CFA on a map as fine as the paper's, too.

    python -m tox -e benchmarks -- tests/benchmarks/test_benchmark_neighbours.py -s
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

import detectors
from detectors.base import Detector

BATCH = 8
SIDE = 128
Score = Callable[[Tensor], Tensor]


def _spade(detector: Any, x: Tensor) -> Tensor:
    distances = torch.cdist(detector.backbone(x)[0], detector.bank)
    return distances.topk(detector.settings.neighbours, dim=1, largest=False).values.mean(dim=1)


def _cfa(detector: Any, x: Tensor) -> Tensor:
    distances = torch.cdist(detector.descriptor(detector._patches(x)), detector.bank)
    nearest = distances.topk(detector.settings.neighbours, dim=2, largest=False).values
    coarse = nearest[..., 0] * F.softmin(nearest, dim=2)[..., 0]
    maps = detector.spread @ coarse.view(len(x), detector.side, detector.side) @ detector.spread.T
    return maps.amax(dim=(1, 2))


def _fine_cfa() -> Detector:
    layers = ("blocks.1", "blocks.2", "blocks.4")  # strides 4 to 16, 1024 positions
    detector = detectors.create("cfa", image_size=SIDE, layers=layers, epochs=1)
    return detector.fit(torch.rand(12, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)), seed=0)


@pytest.mark.parametrize("name", ["spade", "cfa", "fine cfa"])
def test_gradient_step_is_no_slower_than_with_cdist(
    name: str, benchmark: BenchmarkFixture, fitted: Callable[[str, int], Detector]
) -> None:
    detector = _fine_cfa() if name == "fine cfa" else fitted(name, SIDE)
    images = torch.rand(BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    plain: Callable[[Detector, Tensor], Tensor] = _spade if name == "spade" else _cfa

    def step(score: Score) -> Tensor:
        leaf = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(score(leaf).sum(), leaf)
        return gradient

    def ours() -> None:
        step(detector.score)

    with_cdist: list[float] = []

    def theirs() -> None:  # in turn with ours: whatever else the machine does slows down both
        started = time.perf_counter()
        step(lambda x: plain(detector, x))
        with_cdist.append(time.perf_counter() - started)

    torch.testing.assert_close(detector.score(images), plain(detector, images), rtol=1e-3, atol=1e-3)
    theirs(), with_cdist.clear()
    benchmark.pedantic(ours, setup=theirs, rounds=7, iterations=1, warmup_rounds=1)
    mine, plainly = benchmark.stats.stats.min, min(with_cdist)
    benchmark.extra_info.update(seconds_with_cdist=plainly, ratio=plainly / mine)
    sys.stdout.write(
        f"\n{name}: {1e3 * mine / BATCH:.1f} ms per image, with torch.cdist {1e3 * plainly / BATCH:.1f} ms: "
        f"{plainly / mine:.2f} times as long\n"
    )
    assert plainly / mine > 0.9
