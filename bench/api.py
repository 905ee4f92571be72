"""The benchmark from Python: `bench.fit`, `bench.evaluate`, `bench.transfer`, `bench.test_images`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import attacks
from attacks.ascent import check_map
from bench.cell import fitting
from bench.cell.attack import Draws
from bench.cell.measure import measure
from bench.cell.transfer import Ground, matrix
from bench.data import registry as datasets
from bench.data.base import ImageSet
from bench.errors import BenchError
from bench.inspection import inspection
from bench.inspection.inspection import Inspection
from bench.metrics.intervals import Estimate
from bench.plan import presets, protocols
from bench.plan.build import build
from bench.plan.cells import stops_early
from bench.plan.plan import settings_of
from bench.plan.request import Override, RunConfig
from bench.plan.split import TrainingData, training_data
from bench.records.schema import Figures
from bench.records.score_table import Scores
from bench.records.transfer import TransferMatrix
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
    run = RunConfig(detectors=(), dataset=dataset, data_root=root, preset=preset, protocol=protocol_name, limit=limit)
    test, training, seen = _pictures(run, category, detector.image_size, allow_leaks=allow_leaks)
    chosen = settings_of(attack, rules, settings)
    made = attacks.get(attack, image_size=detector.image_size, epsilon=epsilon, **chosen)
    check_map(attack, str(settings.get("differentiate")), detector)
    found = measure(
        detector,
        made,
        test,
        training.held_out,
        Draws(rules.verdict_draws, seed),
        trained_on=training.fit.ids,
        batch_size=batch_size,
        device=_device_of(detector),
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


def transfer(
    detectors: Sequence[Detector] | Mapping[str, Detector],
    dataset: str = "elpv",
    category: str = "mono",
    *,
    sources: Sequence[str] | None = None,
    data_root: str | Path | None = None,
    attack: str = "pgd-linf",
    epsilon: float | str | None = None,
    protocol_name: str = "quick",
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 30,
    preset: str = "quick",
    allow_leaks: bool = False,
    **settings: Any,
) -> TransferMatrix:
    """Make adversarial images on fitted detectors and judge them on all of these, on fresh noise.

    Args:
        detectors: fitted, of one image size and on one device; by name, or with their own names.
        sources: the names of those on which images are made (rows); by default all. With one name it is asked whether
            another detector's images do more to a detector than its own.
        dataset, category, data_root, attack, epsilon, settings, protocol_name, limit, seed, batch_size, preset,
        allow_leaks: as of `evaluate`. Every image is attacked to the end.

    Returns:
        AUCs by (source, target), the white box where the two are one; why a detector has none (`reasons`), and a
        sentence for each whose gradient may be masked (`flags()`).

    Raises:
        BenchError, DetectorError, AttackError: as of `evaluate`, or detectors that cannot be compared.
    """
    named = dict(detectors) if isinstance(detectors, Mapping) else {d.name: d for d in detectors}
    sizes, devices = {d.image_size for d in named.values()}, {_device_of(d) for d in named.values()}
    if len(named) < len(detectors) or len(sizes) != 1 or len(devices) != 1:
        raise BenchError(
            "transfer compares one detector or more, of different names (or given by name), of one image size and on "
            f"one device; got {len(detectors)} with the names {', '.join(named) or 'none'}."
        )
    unknown = [name for name in sources or () if name not in named]
    if unknown:
        raise BenchError(f"The sources are names of the detectors ({', '.join(named)}); got {unknown[0]!r}.")
    (size,), (device,) = sizes, devices
    rules = protocols.get(protocol_name)
    root = None if data_root is None else Path(data_root)
    run = RunConfig(detectors=(), dataset=dataset, data_root=root, preset=preset, protocol=protocol_name, limit=limit)
    test, _, _ = _pictures(run, category, size, allow_leaks=allow_leaks)
    made = attacks.get(attack, image_size=size, epsilon=epsilon, **settings_of(attack, rules, settings))
    ground = Ground(test, Draws(rules.verdict_draws, seed), batch_size, device)
    try:
        return matrix(ground, named, dict.fromkeys(named, made), sources=sources)
    finally:
        for detector in named.values():
            detector.to(device)  # they make room for one another


def _pictures(
    run: RunConfig, category: str, image_size: int, *, allow_leaks: bool
) -> tuple[ImageSet, TrainingData, Inspection]:
    """Test images, training images, and what is odd about them. Raises BenchError; for leaks, unless allowed."""
    per_class = min((n for n in (protocols.get(run.protocol).per_class, run.limit) if n is not None), default=None)
    source = datasets.get(run.dataset, run.data_root)
    test = source.test(category, image_size, per_class=per_class)
    training = training_data(source, category, image_size, dataclasses.replace(run, limit=None))
    seen = inspection.inspect(source, category, (training.fit, training.held_out), test)
    if not allow_leaks:
        seen.check()
    return test, training, seen


def _device_of(detector: Detector) -> torch.device:
    return next((t.device for t in detector.state_dict().values()), torch.device("cpu"))


def _figures(found: dict[str, Any]) -> Figures:
    return Figures(**{f.name: found[f.name] for f in fields(Figures) if f.name in found})


def _estimate(found: Figures) -> Estimate:
    return Estimate(found.auc, found.low, found.high)
