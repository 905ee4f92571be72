"""The benchmark from Python: `bench.fit`, `bench.evaluate`, `bench.test_images`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import attacks
from bench.cell import fitting, gate
from bench.cell.attack import Draws, run_cell
from bench.cell.results import figures
from bench.data import registry as datasets
from bench.data.base import ImageSet
from bench.metrics.intervals import Estimate
from bench.plan import presets, protocols
from bench.plan.build import build
from bench.plan.request import Override, RunConfig
from bench.plan.split import training_data
from bench.records.score_table import Scores
from detectors.base import Detector, Progress


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an attack leaves of a detector on one category.

    Attributes:
        clean, robust: AUC in per cent with its 95 % interval.
        results: everything that a record states.
        scores: of every image, clean and attacked, on every verdict draw.
    """

    clean: Estimate
    robust: Estimate
    results: dict[str, Any]
    scores: Scores

    def __str__(self) -> str:
        def text(name: str, e: Estimate) -> str:
            return f"{name} AUC {e.value:.1f} [{e.low:.1f}, {e.high:.1f}]"

        return f"{text('clean', self.clean)}, {text('robust', self.robust)}"


def fit(
    detector: str,
    dataset: str = "elpv",
    category: str = "mono",
    *,
    data_root: str | Path | None = None,
    preset: str = "quick",
    image_size: int | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
    **settings: Any,
) -> Detector:
    """A detector fitted on a category's normals, from a checkpoint where there is one.

    Args:
        detector: one of `detectors.names()`.
        dataset, category, data_root: whose normals.
        preset, image_size: settings and input resolution (None: the preset's).
        device, seed, progress: of the fit.
        settings: fields of the detector's settings instead of the preset's.

    Raises:
        BenchError, DetectorError: a name that is not there, data or weights that cannot be had.
    """
    root = None if data_root is None else Path(data_root)
    run = RunConfig(
        detectors=(detector,),
        dataset=dataset,
        data_root=root,
        preset=preset,
        image_size=image_size,
        device=device,
        fit_seed=seed,
        overrides=tuple(Override(detector, name, None, value) for name, value in settings.items()),
    )
    source = datasets.get(dataset, root)
    source.validate(category)
    side = image_size or presets.get(preset).side(dataset)
    data = training_data(source, category, side, run)
    return fitting.obtain(build(detector, category, side, run), source, category, data, run, progress).detector


def test_images(
    dataset: str = "elpv",
    category: str = "mono",
    *,
    data_root: str | Path | None = None,
    image_size: int = 128,
    per_class: int | None = 60,
) -> tuple[Tensor, Tensor]:
    """Test images, float (N, 3, S, S) in [0, 1], and labels (N,), +1 normal and -1 anomalous."""
    found = datasets.get(dataset, data_root).test(category, image_size, per_class=per_class)
    return found.pixels(), found.labels


def evaluate(
    detector: Detector,
    dataset: str = "elpv",
    category: str = "mono",
    *,
    data_root: str | Path | None = None,
    attack: str = "pgd-linf",
    epsilon: float | None = None,
    protocol_name: str = "quick",
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 30,
    **settings: Any,
) -> Evaluation:
    """Attack a fitted detector on a category's test images and judge it on fresh noise.

    Args:
        detector: fitted; the images take its `image_size`.
        dataset, category, data_root: where the test images come from.
        attack, epsilon, settings: the attack, its radius on [0, 1] and its settings (steps, restarts, eot, ...).
        protocol_name: whose steps, subset and draws are the defaults.
        limit: at most so many test images per class.
        seed: of attack, selection and verdict noise.
        batch_size: images at a time; changes results by float rounding at most.

    Raises:
        BenchError, DetectorError, AttackError: a name that is not there, data that cannot be read, scores that are not
            finite, a detector that is not fitted, or one that breaks the contract (`bench.cell.gate`).
    """
    rules = protocols.get(protocol_name)
    per_class = min((n for n in (rules.per_class, limit) if n is not None), default=None)
    test: ImageSet = datasets.get(dataset, data_root).test(category, detector.image_size, per_class=per_class)
    chosen = rules.settings(settings)
    made = attacks.get(attack, image_size=detector.image_size, epsilon=epsilon, **chosen)
    device = next((t.device for t in detector.state_dict().values()), torch.device("cpu"))
    passed = gate.check(detector, test, device, made.threat)
    outcome = run_cell(
        detector,
        made,
        test,
        test.subset([]),
        Draws(rules.verdict_draws, seed),
        batch_size=batch_size,
        device=device,
        tick=lambda done, what: None,
    )
    passed.confirm(detector.name)
    labels = test.labels.numpy().astype("int64")
    results = figures(outcome, labels, test)
    scores = Scores(test.ids, labels, outcome.clean, outcome.robust)
    return Evaluation(_estimate(results["clean"]), _estimate(results["robust"]), results, scores)


def _estimate(found: dict[str, float]) -> Estimate:
    return Estimate(found["auc"], found["low"], found["high"])
