"""Small worlds for tests of the runner and the command line: data sets, detectors that do one thing, a reporter."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import attacks
from attacks.pgd import PGDSettings
from bench.cell.attack import Draws, Outcome, run_cell
from bench.data.base import ANOMALOUS, NORMAL, ImageSet
from bench.inspection.inspection import Inspection
from bench.plan import plan as planning
from bench.plan.request import RunConfig
from bench.records.record import Record
from bench.run import runner
from detectors.base import Detector, Progress, Settings
from detectors.noise import Noise

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


@dataclass(frozen=True)
class FakeSettings(Settings):
    """One number that a fit depends on and a score does not."""

    knob: int = 1


class Fake(Detector):
    """score = what `value` says of the image; fitted without learning anything. Counts its fits and scores."""

    name = "fake"
    title = "Fake"
    paper = "none"
    fits: ClassVar[int] = 0
    scores: ClassVar[int] = 0

    def __init__(self, settings: FakeSettings, image_size: int) -> None:
        super().__init__(settings, image_size)
        self.register_buffer("level", torch.zeros(()))
        self.level: Tensor

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> FakeSettings:
        return FakeSettings()

    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        type(self).fits += 1
        self.level.copy_(normals.mean())

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        type(self).scores += len(x)
        return self.value(x, noise)

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return x.mean(dim=(1, 2, 3)) - self.level


def linear_weights(side: int) -> Tensor:
    """The weights of `Linear`, (3, side, side), of both signs and none near zero."""
    rows = torch.arange(3 * side * side, dtype=torch.float32)
    return (torch.sin(rows * 1.7) + 0.5 * torch.sign(torch.sin(rows * 1.7))).reshape(3, side, side)


class Linear(Fake):
    """score = <w, x>, whose worst case in a ball is known."""

    name = "linear"
    title = "Linear"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return (linear_weights(x.shape[-1]).to(x) * x).sum(dim=(1, 2, 3))


class PureNoise(Fake):
    """score = noise, whatever the image; remembers the sources that it was given."""

    name = "pure-noise"
    title = "Pure noise"
    is_stochastic = True
    sources: ClassVar[list[Noise]] = []

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        self.sources.append(noise)
        return noise.normal((), stream="score", like=x) + 0 * x.sum(dim=(1, 2, 3))


class Noisy(Fake):
    """score = mean brightness and a little noise."""

    name = "noisy"
    title = "Noisy"
    is_stochastic = True

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return x.mean(dim=(1, 2, 3)) + 0.02 * noise.normal((), stream="score", like=x)


class NotANumber(Fake):
    """score = NaN for one image of each batch."""

    name = "not-a-number"
    title = "NaN"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return x.mean(dim=(1, 2, 3)).log() * torch.tensor([float("nan")] + [1.0] * (len(x) - 1)).to(x)


class Broken(Fake):
    """A bug in the score."""

    name = "broken"
    title = "Broken"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        raise ZeroDivisionError("a bug\nof two lines")


class BrokenFit(Fake):
    """A bug in the fit."""

    name = "broken-fit"
    title = "Broken fit"

    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        raise IndexError("a bug in the fit")


def fitted(cls: type[Fake], side: int = 16) -> Detector:
    return cls(FakeSettings(), side).fit(torch.rand(4, 3, side, side), seed=0)


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
    """The words of a run on a folder data set."""
    return ("run", "--detectors", names, "--dataset", "folder", "--data-root", root, "--image-size", SIDE, *more)


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
