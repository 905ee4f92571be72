"""How PGD's budget on a stochastic detector is spent best: more draws for each gradient, momentum, or both.

FreeRAD's shipped networks under PGD in l-inf at 2/255, on held-out training normals beside two painted copies of each;
test images are never read. Steps of one size, last iterate or better, as before version 4 of the quick protocol.

    OMP_NUM_THREADS=1 python tests/benchmarks/compare_eot_momentum.py mono poly
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

import attacks
from bench.cell.painted_defects import paint
from bench.data import registry as datasets
from bench.metrics.ranking import mean_single_draw_auc
from bench.plan.request import RunConfig
from bench.plan.split import training_data
from detectors.base import Detector
from detectors.loading import load
from detectors.noise import NoiseSeed

PAINTINGS, BATCH, DRAWS = 2, 16, 20
BUDGETS = (  # steps, EOT draws, momentum
    (20, 1, 0.0),
    (20, 1, 0.5),
    (20, 1, 0.75),
    (20, 1, 0.9),
    (20, 2, 0.0),
    (20, 2, 0.75),
    (20, 2, 0.9),
    (20, 3, 0.0),
    (20, 3, 0.75),
    (40, 1, 0.75),
    (40, 2, 0.75),
)


def _pictures(category: str) -> tuple[Tensor, Tensor, list[str]]:
    data = training_data(datasets.get("elpv"), category, 128, RunConfig(detectors=("freerad",)))
    kept, names = data.held_out.pixels(), list(data.held_out.ids)
    images = torch.cat([kept, *(paint(kept, names, seed=seed) for seed in range(PAINTINGS))])
    labels = torch.cat([torch.ones(len(kept)), -torch.ones(PAINTINGS * len(kept))])
    return images, labels, names + [f"{name} {seed}" for seed in range(PAINTINGS) for name in names]


def _auc(detector: Detector, images: Tensor, labels: Tensor, ids: list[str]) -> float:
    with torch.no_grad():
        scores = [
            torch.cat(
                [
                    detector.score(
                        images[i : i + BATCH], noise=NoiseSeed(0).source("verdict", ids[i : i + BATCH]).at(draw)
                    )
                    for i in range(0, len(images), BATCH)
                ]
            )
            for draw in range(DRAWS)
        ]
    return mean_single_draw_auc(torch.stack(scores).numpy(), labels.numpy()).mean


def main(*categories: str) -> None:
    sys.stdout.write("category,steps,draws,momentum,gradients,AUC\n")
    for category in categories:
        images, labels, ids = _pictures(category)
        detector = load(f"freerad-elpv-{category}-quick")
        sys.stdout.write(f"{category},0,0,0,0,{_auc(detector, images, labels, ids):.2f}\n")
        for steps, eot, momentum in BUDGETS:
            attack = attacks.get("pgd-linf", image_size=128, steps=steps, eot=eot, momentum=momentum)
            found = []
            for i in range(0, len(images), BATCH):
                part = slice(i, i + BATCH)
                noise, selection = (NoiseSeed(0).source(purpose, ids[part]) for purpose in ("attack", "selection"))
                found.append(attack.run(detector, images[part], labels[part], noise=noise, selection=selection).images)
            auc = _auc(detector, torch.cat(found), labels, ids)
            sys.stdout.write(f"{category},{steps},{eot},{momentum},{steps * eot},{auc:.2f}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
