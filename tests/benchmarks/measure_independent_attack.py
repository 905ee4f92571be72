"""What an attack that shares no code with ours leaves of each detector: the check on every "upper bound" in results/.

    OMP_NUM_THREADS=1 python tests/benchmarks/measure_independent_attack.py freerad ae --categories mono poly

It is written from the papers and knows of a detector its score and its anomaly map alone: no line of `attacks` is used.
Momentum 0.9 (Dong et al. 2018), steps that fall as a cosine from epsilon / 2 to epsilon / 50, 800 gradients for each
image. Of a stochastic detector they are averaged over draws that rise from 2 to 14 in 100 steps, and the log-sum-exp
of the map, at its standard deviation on clean test normals, is followed where there is a map; the last iterate counts.
Of a deterministic one each image keeps the worst of four runs of 200 steps: from the clean image and from a random
point, along the score and along the log-sum-exp (or the declared surrogate, where there is no map). The verdict is on
fresh noise, the same for clean and attacked images. One line for each detector: clean and robust AUC.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

import bench
from detectors.base import Detector
from detectors.noise import NoiseSeed

Loss = Callable[[Tensor, Tensor, list[str], int], Tensor]  # (x, y, ids, draw) to (B,)
EPSILON, BATCH, VERDICT_DRAWS = 2 / 255, 60, 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detectors", nargs="+")
    parser.add_argument("--categories", nargs="+", default=["mono", "poly"])
    parser.add_argument("--dataset", default="elpv")
    parser.add_argument("--data-root")
    parser.add_argument("--per-class", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fit-seed", type=int, default=0)
    asked = parser.parse_args()
    sys.stdout.write("detector,category,images,gradients,clean AUC,robust AUC,seconds\n")
    for category in asked.categories:
        x, y = bench.test_images(asked.dataset, category, data_root=asked.data_root, per_class=asked.per_class)
        for name in asked.detectors:
            detector = bench.fit(name, asked.dataset, category, data_root=asked.data_root, seed=asked.fit_seed)
            started = time.monotonic()
            parts = [slice(start, start + BATCH) for start in range(0, len(x), BATCH)]
            found = torch.cat([attacked(detector, x[p], y[p], f"{p.start}", asked.seed) for p in parts])
            clean, robust = (auc(detector, images, y, asked.seed) for images in (x, found))
            seconds = time.monotonic() - started
            sys.stdout.write(f"{name},{category},{len(x)},800,{clean:.1f},{robust:.1f},{seconds:.0f}\n")
            sys.stdout.flush()


def attacked(detector: Detector, x: Tensor, y: Tensor, batch: str, seed: int) -> Tensor:
    """The adversarial images, inside the ball and [0, 1]."""
    ids = [f"{batch}-{i}" for i in range(len(x))]
    score, smooth = losses(detector, x[y == 1], seed)
    if detector.is_stochastic:
        draws = [round(2 + 12 * step / 99) for step in range(100)]
        return descend(smooth, x, x, y, ids, draws)
    best, worst = x, score(x, y, ids, 0).detach()
    for loss in (score, smooth):
        for start in (x, inside(x + EPSILON * (2 * torch.rand(x.shape, generator=generator(seed)) - 1), x)):
            found = descend(loss, start, x, y, ids, [1] * 200, keep=score)
            value = score(found, y, ids, 0).detach()
            best = torch.where((value > worst)[:, None, None, None], found, best)
            worst = torch.maximum(worst, value)
    return best


def losses(detector: Detector, normals: Tensor, seed: int) -> tuple[Loss, Loss]:
    """y times the score, and y times a smooth stand-in for its maximum over pixels."""
    source = NoiseSeed(seed + 1000)

    def score(x: Tensor, y: Tensor, ids: list[str], draw: int) -> Tensor:
        return y * detector.score(x, noise=source.source("independent", ids).at(draw))

    def surrogate(x: Tensor, y: Tensor, ids: list[str], draw: int) -> Tensor:
        return y * detector.surrogate_score(x, noise=source.source("independent", ids).at(draw))

    if not detector.has_map:
        return score, surrogate
    with torch.no_grad():
        scale = float(detector.anomaly_map(normals).std())

    def smooth(x: Tensor, y: Tensor, ids: list[str], draw: int) -> Tensor:
        found = detector.anomaly_map(x, noise=source.source("independent", ids).at(draw))
        return y * scale * torch.logsumexp(found.flatten(1) / scale, dim=1)

    return score, smooth


def descend(
    loss: Loss, start: Tensor, x: Tensor, y: Tensor, ids: list[str], draws: list[int], *, keep: Loss | None = None
) -> Tensor:
    """Momentum steps along the sign; the last iterate, or the one that is best by `keep`."""
    found, direction, used = start, torch.zeros_like(x), 0
    best, worst = start, torch.full((len(x),), -torch.inf)
    for step, count in enumerate(draws):
        total = torch.zeros_like(x)
        for _ in range(count):
            leaf = found.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(leaf, y, ids, used).sum(), leaf)
            total += gradient.nan_to_num()
            used += 1
        size = total.abs().mean(dim=(1, 2, 3), keepdim=True)
        direction = 0.9 * direction + total / size.clamp_min(1e-30)
        wave = (1 + math.cos(math.pi * step / (len(draws) - 1))) / 2
        length = EPSILON * (1 / 50 + (1 / 2 - 1 / 50) * wave)
        found = inside(found + length * direction.sign(), x)
        if keep is not None:
            with torch.no_grad():
                value = keep(found, y, ids, 0)
            best = torch.where((value > worst)[:, None, None, None], found, best)
            worst = torch.maximum(worst, value)
    return found if keep is None else best


def inside(found: Tensor, x: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(found, x - EPSILON), x + EPSILON).clamp(0, 1)


def auc(detector: Detector, images: Tensor, y: Tensor, seed: int) -> float:
    """The mean of single-draw AUCs on noise that the attack has not seen."""
    source = NoiseSeed(seed + 2000).source("independent-verdict", [str(i) for i in range(len(images))])
    values = []
    for draw in range(VERDICT_DRAWS if detector.is_stochastic else 1):
        with torch.no_grad():
            parts = [slice(start, start + BATCH) for start in range(0, len(images), BATCH)]
            scores = torch.cat([detector.score(images[p], noise=source.pick(p).at(draw)) for p in parts])
        values.append(100 * roc_auc_score((y == -1).numpy(), scores.numpy()))
    return sum(values) / len(values)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


if __name__ == "__main__":
    main()
