"""How much a clean AUC moves with the seed of the fit, which no interval of a record covers.

    python tests/benchmarks/compare_fit_seeds.py --detector fastflow --detector anomalib:fastflow \
        --detector cflow,standardise=false --category mvtec:screw:PATH_TO_MVTEC --seeds 5

Prints one CSV row per detector and category: the AUC of each seed on the suite's test images (at most 60 of each
class), their mean and their standard deviation. For saying whether a difference between two detectors is one; never for
choosing settings or seeds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

import torch
from sklearn.metrics import roc_auc_score

from bench.data import registry as datasets
from bench.plan.request import Override, RunConfig
from bench.plan.split import training_data
from bench.run.determinism import deterministic
from detectors import registry
from detectors.noise import NoiseSeed

SIDE = 128


def aucs(detector: str, category: str, seeds: int) -> list[float]:
    """Clean AUCs in per cent; of a stochastic detector under one noise draw."""
    name, *changes = detector.split(",")
    dataset, short, *root = category.split(":", 2)
    source = datasets.get(dataset, Path(root[0]) if root else None)
    run = RunConfig(detectors=(name,), dataset=dataset, data_root=Path(root[0]) if root else None)
    normals = training_data(source, short, SIDE, run).fit.pixels()
    test = source.test(short, SIDE, per_class=60)
    images, anomalous = test.pixels(), (test.labels == -1).numpy()
    settings = {override.setting: override.value for override in (Override.parse(f"x.{c}") for c in changes)}
    found = []
    for seed in range(seeds):
        fitted = registry.create(name, image_size=SIDE, **settings).fit(normals, seed=seed)
        noise = NoiseSeed(seed).source("fit-seeds", test.ids)
        with torch.no_grad():
            parts = [
                fitted.score(images[start : start + 20], noise=noise.pick(slice(start, start + 20)))
                for start in range(0, len(images), 20)
            ]
        found.append(100 * float(roc_auc_score(anomalous, torch.cat(parts).numpy())))
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", action="append", required=True, help="NAME, or NAME,SETTING=VALUE,...")
    parser.add_argument("--category", action="append", help="dataset:category[:folder]; elpv:mono by default")
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    deterministic(torch.device("cpu"))
    sys.stdout.write("detector;category;aucs;mean;deviation\n")
    for category in given.category or ["elpv:mono"]:
        for detector in given.detector:
            found = aucs(detector, category, given.seeds)
            spread = statistics.stdev(found) if len(found) > 1 else 0.0
            listed = " ".join(f"{auc:.1f}" for auc in found)
            sys.stdout.write(f"{detector};{category};{listed};{statistics.mean(found):.1f};{spread:.1f}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
