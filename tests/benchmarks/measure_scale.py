"""What many cells cost beside their computing: a made-up detector that takes no time, and the machinery around it.

    python tests/benchmarks/measure_scale.py --cells 10000 --folder /tmp/scale [--executor local|slurm|ray]

Measured are the seconds of a cell (the same cells in one process without any machinery beside), the driver's peak
memory, the time to find that nothing is left to do, and that of `report`. `slurm` runs the script that
`python -m bench slurm` writes, element after element, with no Slurm around it; `ray` starts Ray on this machine. The
figures of docs/scale.md are of this program.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).parents[2]
RADII, SEEDS = 10, 50  # cells of a group, groups of a category
INSTANT = '''
"""A detector that learns a number from its seed, and scores an image by one product."""
import torch
from detectors import Detector, Settings

class Instant(Detector):
    name, title, paper = "instant", "Instant", "none"

    def __init__(self, settings, image_size):
        super().__init__(settings, image_size)
        self.register_buffer("direction", torch.ones(3))

    @classmethod
    def settings_for(cls, preset, image_size):
        return Settings()

    def _fit(self, normals, *, seed, progress, workdir):
        self.direction.copy_(torch.rand(3, generator=torch.Generator().manual_seed(seed)) + 0.5)

    def _score(self, x, noise):
        return -(x.mean(dim=(2, 3)) * self.direction).sum(dim=1)
'''


def prepared(folder: Path, cells: int) -> list[str]:
    """The pictures and the package, made once. Returns the words of the run."""
    site, pictures = folder / "site", folder / "pictures"
    information = site / "instant-1.0.dist-info"
    information.mkdir(parents=True, exist_ok=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: instant\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[radbench.detectors]\ninstant = instant:Instant\n")
    (site / "instant.py").write_text(INSTANT)
    numbers = np.random.default_rng(0)
    categories = [f"part-{number:02}" for number in range(max(1, cells // (RADII * SEEDS)))]
    for category in categories:
        for place, level, count in (("train/good", 120, 12), ("test/good", 120, 4), ("test/dark", 100, 4)):
            (pictures / category / place).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                grey = numbers.normal(level, 12, (16, 16, 1)).repeat(3, axis=2)
                image = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
                image.save(pictures / category / place / f"{number}.png")
    radii = ",".join(f"{number}/2550" for number in range(1, RADII + 1))
    seeds = ",".join(map(str, range(min(SEEDS, max(1, cells // RADII)))))
    options = ["--dataset", "folder", "--data-root", str(pictures), "--image-size", "16", "--detectors", "instant"]
    options += ["--steps", "1", "--epsilon", radii, "--fit-seeds", seeds, "--device", "cpu"]
    return [*options, "--cache", str(folder / "cache")]


def timed(folder: Path, name: str, words: list[str], **more: str) -> dict[str, float]:
    """Run a command. Returns its seconds, those of its processors, and its own peak memory (of it, or of a child)."""
    path = os.pathsep.join([str(REPOSITORY), str(folder / "site"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **more}
    started = time.monotonic()
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
        _, status, used = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{name} failed; see {folder / name}.log")
    found = {"seconds": seconds, "cpu_seconds": used.ru_utime + used.ru_stime, "peak_mib": used.ru_maxrss / 1024}
    sys.stdout.write(f"{name}: {json.dumps({k: round(v, 2) for k, v in found.items()})}\n")
    sys.stdout.flush()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/radbench-scale"))
    parser.add_argument("--executor", choices=("local", "slurm", "ray"), default="local")
    parser.add_argument("--shards", type=int, default=8, help="elements of the array (slurm)")
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    folder = asked.folder.absolute()
    options = prepared(folder, asked.cells)
    out = folder / f"out-{asked.executor}"
    bench, keep = [sys.executable, "-m", "bench"], ["--out", str(out)]
    if asked.executor == "slurm":
        written = ["--gres", "", "--array", str(asked.shards), "--workers", "1"]
        timed(folder, "slurm-write", [*bench, "slurm", *options, *keep, *written])
        (script,) = (out / "slurm").glob("array-*.sh")
        for number in range(1, asked.shards + 1):
            told = {"SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_JOB_ID": "1"}
            timed(folder, f"slurm-{number}", ["bash", str(script)], **told)
    else:
        how = ["--executor", "ray"] if asked.executor == "ray" else ["--workers", str(asked.workers)]
        # A shard of one is the whole plan, and draws nothing: what a cell costs without its picture.
        timed(folder, f"{asked.executor}-run", [*bench, "run", *options, *keep, *how, "--shard", "1/1"])
    found = sum(1 for _ in out.rglob("*--*--*.json"))
    sys.stdout.write(f"{found} records\n")
    timed(folder, f"{asked.executor}-resume", [*bench, "run", *options, *keep, "--workers", "1", "--shard", "1/1"])
    timed(folder, f"{asked.executor}-report", [*bench, "report", "--no-pictures", str(out)])


if __name__ == "__main__":
    main()
