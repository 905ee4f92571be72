"""What a certificate adds to the forward passes that it asks for, as ratios in one run.

    python -m tox -e benchmarks -- tests/benchmarks/test_benchmark_certificates.py -s

Bounds at 20 radii beside a loop over thresholds on the same samples; samples beside plain forward passes.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import ndtr, ndtri

from bench.cell.samples import Pictures, SampleSet
from bench.metrics import ranking
from certificates.order_statistics import share_bounds
from certificates.rules import Floats, Percentile, worst
from detectors.base import Detector
from detectors.noise import NoiseSeed

SIGMA, RADII = 0.25, tuple(n / 40 for n in range(20))
IMAGES, SAMPLES = 60, 10_000
SIDE, BATCH, COUNT, ROUNDS = 128, 16, 10, 5
# Of a sample beside a forward pass, at most. The noise of an image of 128 pixels takes a quarter of a millisecond.
LIMITS = {"cfa": 1.05, "freerad": 1.05, "spade": 1.1}
labels = np.array([1] * (IMAGES // 2) + [-1] * (IMAGES // 2))


def _by_thresholds(samples: Floats, thresholds: Floats, alpha: float) -> Floats:
    """The certified AUC at each radius, threshold by threshold: of each image whether its median lies above (Cohen et
    al. 2019), by the share of its samples that do, and the area under the curve of what is flagged."""
    flagged = np.empty((len(thresholds), len(RADII), IMAGES), dtype=bool)
    for number, threshold in enumerate(thresholds):
        for image in range(IMAGES):
            hits = SAMPLES - int(np.searchsorted(samples[image], threshold, side="left"))
            low, high = share_bounds(hits, SAMPLES, alpha)
            share = high if labels[image] == 1 else low
            moved = np.array(RADII) / SIGMA * (1 if labels[image] == 1 else -1)
            flagged[number, :, image] = ndtr(ndtri(share) + moved) > 0.5
    fpr, tpr = (flagged[..., labels == label].mean(axis=2) for label in (1, -1))
    edge = np.zeros((1, len(RADII)))
    fpr, tpr = np.concatenate([edge, fpr, edge + 1]), np.concatenate([edge, tpr, edge + 1])
    return np.asarray(100 * (np.diff(fpr, axis=0) * (tpr[1:] + tpr[:-1]) / 2).sum(axis=0))


def test_bounds_beside_a_loop_over_thresholds() -> None:
    """All thresholds at which the count can change would be 600,000, so 300 are timed and scaled: what the loop takes
    for a threshold does not depend on it. On a grid of them it comes close to the same figures."""
    draws = np.random.default_rng(0)
    centres = draws.normal(size=IMAGES) + 2.0 * (labels == -1)
    samples = np.sort(centres[:, None] + SIGMA * draws.normal(size=(IMAGES, SAMPLES)), axis=1)
    alpha = 0.001 / (IMAGES * len(RADII))
    Percentile().bounds(samples, sigma=SIGMA, radii=RADII, alpha=alpha)  # SciPy's import
    started = time.perf_counter()
    bounds = Percentile().bounds(samples, sigma=SIGMA, radii=RADII, alpha=alpha)
    ours = ranking.auc(worst(bounds, labels), labels)
    fast = time.perf_counter() - started
    grid = np.quantile(samples, np.linspace(1, 0, 300))
    started = time.perf_counter()
    theirs = _by_thresholds(samples, grid, alpha)
    slow = time.perf_counter() - started
    assert ours == pytest.approx(theirs, abs=3.0)
    ratio = slow / fast
    sys.stdout.write(f"\n20 radii: {1e3 * fast:.1f} ms; a loop over 300 thresholds: {slow:.2f} s, {ratio:.0f} times\n")
    assert ratio >= 100


def _samples(detector: Detector, images: torch.Tensor, cache: Path) -> None:
    names = tuple(str(number) for number in range(len(images)))
    depends = {"detector": detector.name, "sigma": SIGMA, "seed": 0}
    SampleSet(cache, depends, len(images)).draw(
        detector,
        Pictures("test", names, lambda part: images[part]),
        COUNT,
        batch_size=BATCH,
        device=images.device,
        tick=lambda done, note: None,
    )


def _forwards(detector: Detector, images: torch.Tensor) -> None:
    noise = NoiseSeed(0).source("forward", [str(number) for number in range(len(images))])
    with torch.no_grad(), detector.trusting():
        for _ in range(COUNT):
            detector.score(images, noise=noise)


@pytest.mark.parametrize("name", LIMITS)
def test_samples_beside_plain_forward_passes(name: str, fitted: Callable[[str, int], Detector], tmp_path: Path) -> None:
    detector = fitted(name, SIDE)
    images = torch.rand(BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    ratios = []
    for turn in range(ROUNDS):
        seconds = []
        for work in (
            lambda turn=turn: _samples(detector, images, tmp_path / str(turn)),
            lambda: _forwards(detector, images),
        ):
            started = time.process_time()
            work()
            seconds.append(time.process_time() - started)
        ratios.append(seconds[0] / seconds[1])
    ratio = statistics.median(ratios)
    sys.stdout.write(f"\n{name}: a sample takes {ratio:.3f} of a forward pass at a batch of {BATCH}\n")
    assert ratio <= LIMITS[name]
