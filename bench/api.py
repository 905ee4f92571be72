"""The benchmark from Python: `bench.fit`, `bench.evaluate`, `bench.test_images`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import attacks
from bench.cell import fitting
from bench.cell.attack import Draws
from bench.cell.measure import measure
from bench.data import registry as datasets
from bench.data.base import ImageSet
from bench.errors import BenchError
from bench.inspection import inspection
from bench.metrics.intervals import Estimate
from bench.plan import presets, protocols
from bench.plan.build import build
from bench.plan.cells import stops_early
from bench.plan.plan import settings_of
from bench.plan.request import Override, RunConfig
from bench.plan.split import training_data
from bench.records.schema import Figures
from bench.records.score_table import Scores
from bench.report.caveats import signs
from detectors.base import Detector, Progress


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an attack leaves of a detector on one category.

    Attributes:
        clean, robust: AUC in per cent with its 95 % interval.
        results, indicators, gate: everything that a record states.
        scores: of every image, clean and attacked, on every verdict draw.
        flags: what makes the robust AUC no claim, as sentences.
        remarks: what is odd about the pictures, as sentences.
    """

    clean: Estimate
    robust: Estimate
    results: dict[str, Any]
    indicators: dict[str, Any]
    gate: dict[str, Any]
    scores: Scores
    flags: list[str]
    remarks: list[str]

    def __str__(self) -> str:
        def text(name: str, e: Estimate) -> str:
            return f"{name} AUC {e.value:.1f} [{e.low:.1f}, {e.high:.1f}]"

        figures = f"{text('clean', self.clean)}, {text('robust', self.robust)}"
        return "\n".join([figures, *(f"No claim: {flag}." for flag in self.flags), *self.remarks])


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
    epsilon: float | str | None = None,
    protocol_name: str = "quick",
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 30,
    preset: str = "quick",
    complete: bool = False,
    allow_leaks: bool = False,
    **settings: Any,
) -> Evaluation:
    """Attack a fitted detector on a category's test images and judge it on fresh noise.

    Args:
        detector: fitted; the images take its `image_size`.
        dataset, category, data_root: where the test images come from.
        attack, epsilon, settings: the attack, its radius on [0, 1] (a number or "2/255") and its settings (steps,
            restarts, eot, ...).
        protocol_name: whose steps, subset and draws are the defaults.
        limit: at most so many test images per class.
        seed: of attack, selection and verdict noise.
        batch_size: images at a time; changes results by float rounding at most.
        preset: that it was fitted at, which says how many normals were kept from the fit for the threshold.
        complete: attack on where an image has lost all its pairs (`bench.cell.enough`).
        allow_leaks: go on where test pictures are training pictures.

    Raises:
        BenchError, DetectorError, AttackError: a name that is not there, data that cannot be read, scores that are not
            finite, a detector that is not fitted, or one that breaks the contract (`bench.cell.gate`).
    """
    if not isinstance(detector, Detector):
        raise BenchError(f"evaluate takes a fitted detector, such as bench.fit gives; got {detector!r}.")
    if not isinstance(complete, bool):
        raise BenchError(f"complete must be True or False; got {complete!r:.60}.")
    rules = protocols.get(protocol_name)
    root = None if data_root is None else Path(data_root)
    per_class = min((n for n in (rules.per_class, limit) if n is not None), default=None)
    source = datasets.get(dataset, root)
    test: ImageSet = source.test(category, detector.image_size, per_class=per_class)
    run = RunConfig(detectors=(), dataset=dataset, data_root=root, preset=preset, protocol=protocol_name)
    training = training_data(source, category, detector.image_size, run)
    seen = inspection.inspect(source, category, (training.fit, training.held_out), test)
    if not allow_leaks:
        seen.check()
    chosen = settings_of(attack, rules, settings)
    made = attacks.get(attack, image_size=detector.image_size, epsilon=epsilon, **chosen)
    found = measure(
        detector,
        made,
        test,
        training.held_out,
        Draws(rules.verdict_draws, seed),
        trained_on=training.fit.ids,
        batch_size=batch_size,
        device=next((t.device for t in detector.state_dict().values()), torch.device("cpu")),
        tick=lambda done, what: None,
        early_stop=stops_early(detector, made, complete=complete),
    )
    clean, robust = (_figures(found.results[which]) for which in ("clean", "robust"))
    flags = signs(
        found.indicators,
        found.gate,
        clean=clean,
        robust=robust,
        is_stochastic=detector.is_stochastic,
        keep=str(made.describe().get("keep")),
    )
    return Evaluation(
        _estimate(clean),
        _estimate(robust),
        found.results,
        found.indicators,
        found.gate,
        found.scores,
        flags,
        seen.remarks,
    )


def _figures(found: dict[str, Any]) -> Figures:
    return Figures(**{f.name: found[f.name] for f in fields(Figures) if f.name in found})


def _estimate(found: Figures) -> Estimate:
    return Estimate(found.auc, found.low, found.high)
