"""How FreeRAD's `quick` settings were compared: on training normals alone (results/README.md has what came out).

Each network is fitted on the normals that the suite fits on, for about the same CPU time, and judged on the held-out
training normals beside three differently painted copies of each. Test images are never read.

    OMP_NUM_THREADS=1 python tests/benchmarks/compare_freerad_settings.py networks mono
    OMP_NUM_THREADS=1 python tests/benchmarks/compare_freerad_settings.py shipped mono poly
"""

from __future__ import annotations

import sys
from dataclasses import replace

import torch
from torch import Tensor

from bench.cell import choose_setting
from bench.cell.painted_defects import paint
from bench.data import registry as datasets
from bench.plan.request import RunConfig
from bench.plan.split import training_data
from detectors.freerad.detector import FreeRAD
from detectors.freerad.settings import FreeRADSettings, quick_settings
from detectors.freerad.unet import UNetSettings
from detectors.loading import load

PAINTINGS = 3
FILTERS, TIMESTEPS = (3, 5, 7), (25, 50, 75, 100, 150)
CHOSEN = UNetSettings(channels=32, multipliers=(1, 2, 4), blocks=1, attention_sides=(8,), unshuffle=2)
WIDER = replace(CHOSEN, channels=64, multipliers=(1, 2, 2))
COARSER = replace(CHOSEN, channels=64, multipliers=(1, 2), blocks=2, attention_sides=(), unshuffle=4)
# Network, learning rate, and the iterations that take six minutes of one core.
NETWORKS = {
    "32 (1, 2, 4), 1e-3": (CHOSEN, 1e-3, 1500),
    "32 (1, 2, 4), 2e-3": (CHOSEN, 2e-3, 1500),
    "64 (1, 2, 2), 1e-3": (WIDER, 1e-3, 650),
    "64 (1, 2) x 2, unshuffle 4, 1e-3": (COARSER, 1e-3, 1870),
}


class Judge:
    """Clean AUC of any (filter, k), and AUC under PGD-10 of the best."""

    def __init__(self, category: str) -> None:
        run = RunConfig(detectors=("freerad",))
        data = training_data(datasets.get("elpv"), category, 128, run)
        self.category, self.normals = category, data.fit.pixels()
        kept, ids = data.held_out.pixels(), list(data.held_out.ids)
        self.images = torch.cat([kept, *(paint(kept, ids, seed=seed) for seed in range(PAINTINGS))])
        self.labels = torch.cat([torch.ones(len(kept)), -torch.ones(PAINTINGS * len(kept))])
        self.ids = ids + [f"{name} {seed}" for seed in range(PAINTINGS) for name in ids]
        self.attacked = slice(0, 2 * len(kept))

    def set(self, detector: FreeRAD, filter_size: int, k: int) -> None:
        settings: FreeRADSettings = detector.settings
        detector.settings = replace(settings, filter_size=filter_size)
        detector.choose("k", k, self.normals, seed=0)

    def clean(self, detector: FreeRAD) -> float:
        return choose_setting._auc(detector, self.images, self.labels, self.ids, 0)

    def robust(self, detector: FreeRAD) -> float:
        images, labels, ids = self.images[self.attacked], self.labels[self.attacked], self.ids[self.attacked]
        attacked: Tensor = choose_setting._attacked(detector, images, labels, ids, 0)
        return choose_setting._auc(detector, attacked, labels, ids, 0)

    def report(self, name: str, detector: FreeRAD, timesteps: tuple[int, ...], attacks: int) -> None:
        found = []
        for filter_size in FILTERS:
            for k in timesteps:
                self.set(detector, filter_size, k)
                found.append((self.clean(detector), filter_size, k))
        for clean, filter_size, k in sorted(found, reverse=True)[:attacks]:
            self.set(detector, filter_size, k)
            robust = self.robust(detector)
            row = f"{self.category},{name!r},{filter_size},{k},{clean:.1f},{robust:.1f}\n"
            sys.stdout.write(row)
            sys.stdout.flush()


def main(what: str, *categories: str) -> None:
    sys.stdout.write("category,network,filter,k,clean AUC,PGD-10 AUC\n")
    for category in categories:
        judge = Judge(category)
        if what == "shipped":
            shipped = load(f"freerad-elpv-{category}-quick")
            assert isinstance(shipped, FreeRAD)
            judge.report("shipped", shipped, (25, 50), attacks=6)
            continue
        for name, (unet, rate, iterations) in NETWORKS.items():
            quick = quick_settings(128)
            training = replace(quick.training, learning_rate=rate, iterations=iterations)
            detector = FreeRAD(replace(quick, k=50, unet=unet, training=training), 128)
            detector.fit(judge.normals, seed=0)
            judge.report(name, detector, TIMESTEPS, attacks=4)


if __name__ == "__main__":
    main(*sys.argv[1:])
