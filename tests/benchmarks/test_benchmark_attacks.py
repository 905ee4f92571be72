"""What the attacks add to the gradients and forward passes that they ask for, as ratios in one run.

    python -m tox -e benchmarks -- tests/benchmarks/test_benchmark_attacks.py -s

PGD beside a bare loop of gradient, step and projection; APGD beside PGD at equal gradients; Square's bookkeeping beside
its forward passes.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import pytest
import torch

import attacks
from attacks.threat import LInf
from detectors.base import Detector
from detectors.noise import NoiseSeed

SIDE, BATCH, STEPS, ROUNDS = 128, 8, 12, 5
# What each may be at most. PGD and APGD cost about half a millisecond for each image and step, which is seen beside a
# network of three (AE).
LIMITS = {"spade": (1.08, 1.08, 1.08), "ocr-gan": (1.15, 1.15, 1.15), "ae": (1.25, 1.25, 1.3)}
x = torch.rand(BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
y = torch.tensor([1.0, -1.0] * (BATCH // 2))
source = NoiseSeed(0).source("attack", [str(i) for i in range(BATCH)])


def _bare_loop(detector: Detector) -> None:
    ball, current = LInf(2 / 255), x
    projected = ball.around(x)
    with detector.trusting():
        for step in range(STEPS):
            leaf = current.detach().requires_grad_()
            losses = y * detector.score(leaf, noise=source.sub(step))
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
            current = projected(current + 0.001 * gradient.sign())
        with torch.no_grad():
            detector.score(current, noise=source)


def _forwards(detector: Detector, count: int) -> None:
    with torch.no_grad(), detector.trusting():
        for query in range(count):
            detector.score(x, noise=source.sub(query))


def _ratio(one: Callable[[], object], other: Callable[[], object]) -> float:
    """Of CPU seconds, taken in turn: the median over the pairs."""
    found = []
    for _ in range(ROUNDS):
        seconds = []
        for work in (one, other):
            started = time.process_time()
            work()
            seconds.append(time.process_time() - started)
        found.append(seconds[0] / seconds[1])
    return statistics.median(found)


def _attack(name: str, detector: Detector, **settings: int) -> Callable[[], object]:
    made = attacks.get(name, image_size=SIDE, **settings)
    return lambda: made.run(detector, x, y, noise=source)


@pytest.mark.parametrize("name", LIMITS)
def test_what_an_attack_adds(name: str, fitted: Callable[[str, int], Detector]) -> None:
    detector = fitted(name, SIDE)
    pgd, apgd = (_attack(attack, detector, steps=STEPS) for attack in ("pgd-linf", "apgd-linf"))
    square = _attack("square-linf", detector, queries=10 * STEPS)
    ratios = {
        "PGD / bare loop": _ratio(pgd, lambda: _bare_loop(detector)),
        "APGD / PGD": _ratio(apgd, pgd),
        "Square / its forward passes": _ratio(square, lambda: _forwards(detector, 10 * STEPS + 1)),
    }
    sys.stdout.write(f"\n{name}: " + ", ".join(f"{what} {ratio:.2f}" for what, ratio in ratios.items()) + "\n")
    for (what, ratio), limit in zip(ratios.items(), LIMITS[name], strict=True):
        assert ratio < limit, what
