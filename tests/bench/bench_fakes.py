"""Small worlds for tests of the runner and the command line: data sets, the zoo's detectors, a reporter."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from zoo import Broken as Broken
from zoo import BrokenFit as BrokenFit
from zoo import Fake as Fake
from zoo import FakeSettings as FakeSettings
from zoo import Linear as Linear
from zoo import Noisy as Noisy
from zoo import NotANumber as NotANumber
from zoo import PureNoise as PureNoise
from zoo import fitted as fitted
from zoo import linear_weights as linear_weights

import attacks
from attacks.pgd import PGDSettings
from bench.cell.attack import Draws, Outcome, run_cell
from bench.data.base import ANOMALOUS, NORMAL, ImageSet
from bench.inspection.inspection import Inspection
from bench.plan import plan as planning
from bench.plan.request import RunConfig
from bench.records.record import Record
from bench.run import runner
from detectors.base import Detector, Progress

SIDE = 32
ATTACK_SETTINGS = {f.name for f in fields(PGDSettings)}


def write_folder(
    root: Path, categories: Sequence[str] = ("bolt",), *, train: int = 12, test: int = 6, side: int = SIDE
) -> Path:
    """A data set in MVTec layout: noisy grey squares; defects are darker blots that brightness does not fully give
    away, since pictures differ in brightness, too."""
    numbers = np.random.default_rng(0)
    for category in categories:
        for folder, count in (("train/good", train), ("test/good", test), ("test/blot", test)):
            place = root / category / folder
            place.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                grey = numbers.normal(128 + numbers.normal(0, 12), 8, (side, side, 1)).repeat(3, axis=2)
                if folder == "test/blot":
                    row, column = numbers.integers(0, side * 2 // 3, 2)
                    grey[row : row + side // 3, column : column + side // 3] -= 40
                Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(place / f"{i:03}.png")
    return root


def image_set(normals: int, anomalies: int, *, side: int = 16, seed: int = 0) -> ImageSet:
    """Random images in memory."""
    count = normals + anomalies
    source = torch.Generator().manual_seed(seed)
    labels = torch.tensor([NORMAL] * normals + [ANOMALOUS] * anomalies, dtype=torch.int8)
    return ImageSet(
        ids=tuple(f"test/{i:03}.png" for i in range(count)),
        images=torch.randint(0, 256, (count, 3, side, side), generator=source, dtype=torch.uint8),
        labels=labels,
        defects=tuple("good" if i < normals else "blot" for i in range(count)),
        masks=None,
    )


def outcome_of(
    detector: Detector,
    *,
    attack: str = "pgd-linf",
    normals: int = 6,
    anomalies: int = 6,
    batch_size: int = 5,
    seed: int = 0,
    verdict: int = 10,
    epsilon: float | None = None,
    steps: int = 10,
) -> Outcome:
    images = image_set(normals, anomalies, side=detector.image_size)
    made = attacks.get(attack, image_size=detector.image_size, epsilon=epsilon, steps=steps)
    return run_cell(
        detector,
        made,
        images,
        images.subset(range(normals)),
        Draws(verdict, seed),
        batch_size=batch_size,
        device=torch.device("cpu"),
        tick=lambda done, what: None,
    )


def on(root: Path, *more: object, names: str = "fake") -> tuple[object, ...]:
    """The words of a run on a folder data set; an option that is among `more` stands for the one that is usual here."""
    usual: dict[str, object] = {
        "--detectors": names,
        "--dataset": "folder",
        "--data-root": root,
        "--image-size": SIDE,
    }
    return ("run", *(word for name, value in usual.items() if name not in more for word in (name, value)), *more)


class Quiet:
    """A reporter that shows nothing and remembers what was done."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, str, int]] = []
        self.cells: list[tuple[str, str, bool]] = []
        self.seen: list[Inspection] = []

    def looked(self, inspection: Inspection) -> None:
        self.seen.append(inspection)

    def fitting(self, detector: str, category: str, fit_seed: int) -> Progress:
        def show(done: int, total: int, note: str = "") -> None:
            self.steps.append((detector, category, done))

        return show

    @contextmanager
    def attacking(
        self, detector: str, category: str, fit_seed: int, attack: str, images: int
    ) -> Iterator[Callable[[int, str], None]]:
        yield lambda done, what: None

    def done(self, record: Record, reused: bool) -> None:
        self.cells.append((record.detector_name, record.category, reused))


def config(root: Path, data: Path, *detectors: str, **changes: Any) -> RunConfig:
    """A run on a folder data set with few steps; results and checkpoints below `root`."""
    chosen: dict[str, Any] = {
        "dataset": "folder",
        "data_root": data,
        "image_size": SIDE,
        "steps": 3,
        "device": "cpu",
        "out": root / "out",
        "cache": root / "cache",
    }
    return asked_for(detectors=detectors, **(chosen | changes))


def asked_for(**options: Any) -> RunConfig:
    """A run by the names of the command line's options: those that are an attack's settings go where they belong, and
    None is not asked for."""
    settings = {name: options.pop(name) for name in ATTACK_SETTINGS & options.keys()}
    return RunConfig(**options, attack_settings={name: v for name, v in settings.items() if v is not None})


def run(run_config: RunConfig, reporter: Quiet | None = None) -> runner.RunResult:
    """Without terminal, leaderboards and plots."""
    return runner.run_plan(planning.make(run_config), reporter or Quiet())


def score_files(out: Path) -> dict[str, bytes]:
    """The per-image scores below a results folder, by cell."""
    return {path.name: path.read_bytes() for path in sorted(out.glob("records/*/*/*.scores.csv"))}


def documents(out: Path) -> dict[str, dict[str, Any]]:
    """The records below a results folder, by cell, without what may differ from run to run."""
    found = {}
    for path in sorted(out.glob("records/*/*/*.json")):
        record = json.loads(path.read_text())
        for changing in ("seconds", "written", "command", "peak_memory_mb", "environment", "content_sha256"):
            del record[changing]
        record["checkpoint"] = {"key": record["checkpoint"].get("key")}
        found[path.name] = record
    return found
