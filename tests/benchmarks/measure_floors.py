"""What stands behind the AUC floors of the contract's rows: each row fitted over seeds and imitated processors.

    python tests/benchmarks/measure_floors.py [--row anomalib:draem --row purify:spade-map] [--seeds 8]
        [--processors here sse41]

Training is chaotic in the last bits, so one fit here says little of the same fit on another CPU. Another CPU's kernels
are had in a child process by environment variables. Prints CSV: each row's floor, the AUC of its untrained networks
(median over the seeds after one epoch at a learning rate of nothing; "-": it has none), and min, median and max over
the fits, by processor and over all. A floor should lie well below the lowest and well above the untrained.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "detectors"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # also where the package is not installed

import test_anomalib_family as family
import test_contract as contract
from torch import Tensor

from detectors.base import Detector
from detectors.contract import fits

# PyTorch's own kernels, oneDNN's convolutions and MKL's matrix products each choose by the CPU; threads split sums.
PROCESSORS = {
    "here": {"OMP_NUM_THREADS": "1"},
    "threads": {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"},
    "avx2": {"OMP_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2"},
    "sse41": {
        "OMP_NUM_THREADS": "1",
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_CBWR": "COMPATIBLE",
    },
}
UNTAUGHT = {"learning_rate": 1e-30, "epochs": 1, "iterations": 1}


@dataclass(frozen=True)
class Case:
    """A row of either table: how its detector is built (with overrides), on what it is fitted and judged."""

    floor: float | None
    build: Callable[..., Detector]
    train: Tensor
    normals: Tensor
    anomalies: Tensor


def cases() -> dict[str, Case]:
    found = {}
    for key, row in contract.BY_ID.items():
        train, normals, _ = contract._pictures(row.size, row.normals)
        found[key] = Case(row.floor, row.build, train, normals, row.defects(24, row.size, seed=4))
    for member, model in family.ROWS.items():
        build = partial(family.build, member)
        found[f"anomalib:{member}"] = Case(model.floor, build, family.TRAIN, family.NORMALS, family.ANOMALIES)
    return found


def untaught(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Overrides under which a fit measures its statistics and changes no weight; none where there is no rate."""
    found: dict[str, Any] = {}
    for field in fields(settings):
        if is_dataclass(value := getattr(settings, field.name)):
            found |= untaught(value, f"{prefix}{field.name}.")
        elif field.name in UNTAUGHT:
            found[prefix + field.name] = UNTAUGHT[field.name]
    return found


def auc(case: Case, seed: int, **overrides: Any) -> float:
    return fits.auc(case.build(**overrides).fit(case.train, seed=seed), case.normals, case.anomalies)


def aucs(case: Case, seeds: int, **overrides: Any) -> list[float]:
    return [auc(case, seed, **overrides) for seed in range(seeds)]


def measured(name: str, processor: str, seeds: int, *, untrained: bool) -> list[float]:
    """The AUC of each seed, fitted in a child process; of the untrained networks: none where nothing is trained."""
    words = [sys.executable, __file__, "--child", "--row", name, "--seeds", str(seeds)]
    done = subprocess.run(
        words + ["--untrained"] * untrained,
        env={**os.environ, **PROCESSORS[processor]},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{name} could not be fitted as on {processor}:\n{done.stderr}")
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Command line."""
    known = cases()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", action="append", choices=list(known), metavar="ROW", help="all by default")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--processors", nargs="+", choices=list(PROCESSORS), default=["here", "avx2", "sse41"])
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--untrained", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        case = known[given.row[0]]
        changes = untaught(case.build().settings) if given.untrained else {}
        print(json.dumps([] if given.untrained and not changes else aucs(case, given.seeds, **changes)))
        return
    print("row;floor;untrained;processor;min;median;max;aucs")
    for name in given.row or known:
        floor = "none" if known[name].floor is None else f"{known[name].floor:g}"
        untrained = measured(name, given.processors[0], given.seeds, untrained=True)
        level = f"{statistics.median(untrained):.1f}" if untrained else "-"
        gathered: list[float] = []
        for processor in given.processors:
            found = measured(name, processor, given.seeds, untrained=False)
            gathered += found
            line(f"{name};{floor};{level};{processor}", found)
        if len(given.processors) > 1:
            line(f"{name};{floor};{level};all", gathered)


def line(start: str, found: list[float]) -> None:
    three = ";".join(f"{part(found):.1f}" for part in (min, statistics.median, max))
    print(f"{start};{three};{' '.join(f'{value:.1f}' for value in found)}", flush=True)


if __name__ == "__main__":
    main()
