"""Running a plan: fit what is not fitted, attack what has no record yet, leave records behind.

A cell's record is written once and atomically, after its scores. A run that was killed and is started again does only
what is missing, and ends with the same numbers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from attacks.base import Attack
from attacks.errors import AttackError
from bench import config, environment, fitting, intervals, metrics, presets, protocol, records
from bench.cell import Draws, Outcome, run_cell
from bench.data.base import ImageSet
from bench.errors import BenchError, CellError
from bench.fitting import Fitted, TrainingData
from bench.plan import Plan, cell_of, subset_of
from bench.records import Record
from bench.scores import Scores
from detectors.base import Progress
from detectors.errors import DetectorError

log = logging.getLogger(__name__)
CALIBRATION_FPR = 0.05


class Reporter(Protocol):
    """Shows how far a run is."""

    def fitting(self, detector: str, category: str) -> Progress: ...

    def attacking(self, detector: str, category: str, attack: str, images: int) -> Any: ...

    def done(self, record: Record, reused: bool) -> None: ...


@dataclass(eq=False)
class _Category:
    """A category's images, read when first needed: a run that finds all its records reads none."""

    plan: Plan
    name: str

    @cached_property
    def training(self) -> TrainingData:
        return fitting.training_data(self.plan.dataset, self.name, self.plan.image_size, self.plan.run)

    @cached_property
    def test(self) -> ImageSet:
        return self.plan.dataset.test(self.name, self.plan.image_size, per_class=self.plan.per_class)


@dataclass(frozen=True)
class RunResult:
    """What a run left behind.

    Attributes:
        records: of every cell of the plan, failed ones included.
        reused: how many of them were there already.
        seconds: of the whole run.
    """

    records: list[Record] = field(default_factory=list)
    reused: int = 0
    seconds: float = 0.0

    @property
    def failed(self) -> list[Record]:
        return [record for record in self.records if not record.ok]


def run_plan(plan: Plan, reporter: Reporter) -> RunResult:
    """Do every cell of the plan that has no record yet.

    A cell whose scores are not numbers, or a detector that cannot be fitted, fails with its reason; the rest goes on.

    Raises:
        BenchError: nothing can go on (a full disk, unreadable pictures).
    """
    started = time.monotonic()
    found: list[Record] = []
    reused = 0
    for category_name in plan.categories:
        category = _Category(plan, category_name)
        for detector_name in plan.detectors:
            fitted: Fitted | str = _obtain(plan, category, detector_name, reporter)
            for attack in plan.attacks:
                record, was_there = _cell(plan, category, detector_name, fitted, attack, reporter)
                found.append(record)
                reused += was_there
                reporter.done(record, was_there)
    return RunResult(found, reused, round(time.monotonic() - started, 1))


def _obtain(plan: Plan, category: _Category, name: str, reporter: Reporter) -> Fitted | str:
    """The fitted detector, or why it cannot be had."""
    detector = fitting.build(name, category.name, plan.image_size, plan.run)
    try:
        with _disk(plan.run.cache):
            return fitting.obtain(
                detector, plan.dataset, category.name, category.training, plan.run,
                reporter.fitting(name, category.name),
            )
    except (DetectorError, CellError) as error:
        return str(error)


def _cell(
    plan: Plan, category: _Category, name: str, fitted: Fitted | str, attack: Attack, reporter: Reporter
) -> tuple[Record, bool]:
    """The cell's record, and whether it was there already."""
    folder = plan.run.out / "records"
    subset = subset_of(category.test, plan.per_class)
    if isinstance(fitted, str):
        detector = fitting.build(name, category.name, plan.image_size, plan.run)
        cell = cell_of(plan, category.name, detector, attack, "", subset)
        return _write(_failed(plan, cell, {}, fitted), None, folder), False
    cell = cell_of(plan, category.name, fitted.detector, attack, fitted.tensors_sha256, subset)
    known = records.find(folder, cell)
    if known is not None and known.ok:
        return known, True
    with reporter.attacking(name, category.name, attack.name, len(category.test)) as tick:
        try:
            outcome = run_cell(
                fitted.detector, attack, category.test, category.training.held_out,
                Draws(protocol.get(plan.run.protocol).verdict_draws, plan.run.seed),
                batch_size=plan.run.batch_size or presets.get(plan.run.preset).batch_size,
                device=plan.run.torch_device(), tick=tick,
            )
        except (CellError, DetectorError, AttackError) as error:
            return _write(_failed(plan, cell, fitted.describe(), str(error)), None, folder), False
    record, scores = judged(plan, cell, fitted, category.test, outcome)
    record = _write(record, scores, folder)
    _write_examples(record, outcome)
    return record, False


def judged(plan: Plan, cell: dict[str, Any], fitted: Fitted, test: ImageSet, outcome: Outcome) -> tuple[Record, Scores]:
    """The record and the scores of a cell that came to an end."""
    labels = test.labels.numpy().astype(np.int64)
    scores = Scores(test.ids, labels, outcome.clean, outcome.robust)
    record = replace(
        _empty(plan, cell, fitted.describe()),
        status="ok",
        results=figures(outcome, labels, test),
        indicators={
            "zero_gradient_share": float(outcome.zero_gradients.mean()),
            "nonfinite_gradient_share": float(outcome.non_finite_gradients.mean()),
            "last_worse_than_best_share": float(outcome.last_worse.mean()),
            "reprojected_images": outcome.reprojected,
            "forward_passes_per_image": outcome.forwards,
            "gradients_per_image": outcome.gradients,
        },
        seconds={"fit": fitted.fit_seconds, **outcome.seconds, "total": round(sum(outcome.seconds.values()), 2)},
    )
    return record, scores


def figures(outcome: Outcome, labels: Any, test: ImageSet) -> dict[str, Any]:
    """What a record states about an outcome; labels int64 (N,)."""
    normal = labels == 1
    mixed_normals = np.where(normal, outcome.robust, outcome.clean)
    mixed_anomalies = np.where(normal, outcome.clean, outcome.robust)
    brightness = metrics.brightness_separability(test.pixels().mean(dim=(1, 2, 3)).numpy(), labels)
    found: dict[str, Any] = {
        "clean": intervals.summary(outcome.clean, labels),
        "robust": intervals.summary(outcome.robust, labels),
        "normals_only_auc": metrics.mean_single_draw_auc(mixed_normals, labels).mean,
        "anomalies_only_auc": metrics.mean_single_draw_auc(mixed_anomalies, labels).mean,
        "brightness": {"separability": brightness, "flagged": bool(brightness > 90)},
        "pixel": _pixel(outcome, test),
    }
    if outcome.calibration.shape[1] >= 10:
        threshold = metrics.threshold_on_normals(outcome.calibration, CALIBRATION_FPR)
        attacked = metrics.attack_success(outcome.clean, outcome.robust, labels, threshold)
        found |= {
            "threshold": threshold,
            "threshold_rule": f"{100 * CALIBRATION_FPR:.0f} % of {outcome.calibration.shape[1]} held-out training "
            "normals above it",
            "attack_success": attacked.success,
            "robust_accuracy": attacked.robust_accuracy,
        }
    return found


def _pixel(outcome: Outcome, test: ImageSet) -> dict[str, float] | None:
    if outcome.clean_maps is None or outcome.robust_maps is None or test.masks is None or not bool(test.masks.any()):
        return None
    masks = test.masks.numpy()
    return {
        "auroc": metrics.pixel_auroc(outcome.clean_maps, masks),
        "aupro": metrics.aupro(outcome.clean_maps, masks),
        "robust_auroc": metrics.pixel_auroc(outcome.robust_maps, masks),
        "robust_aupro": metrics.aupro(outcome.robust_maps, masks),
    }


def _empty(plan: Plan, cell: dict[str, Any], checkpoint: dict[str, Any]) -> Record:
    device = plan.run.torch_device()
    return Record(
        key=records.cell_key(cell),
        status="failed",
        cell=cell,
        full_run=not plan.limits,
        limits=plan.limits,
        written=datetime.now(UTC).isoformat(timespec="seconds"),
        checkpoint=checkpoint,
        licence=plan.dataset.licence,
        environment=environment.describe(device),
        command=config.command_line(),
        peak_memory_mb=environment.peak_memory_mb(device),
    )


def _failed(plan: Plan, cell: dict[str, Any], checkpoint: dict[str, Any], reason: str) -> Record:
    return replace(_empty(plan, cell, checkpoint), reason=reason)


def _write(record: Record, scores: Scores | None, folder: Path) -> Record:
    path = records.write(record, scores, folder)
    return records.read(path)


def _write_examples(record: Record, outcome: Outcome) -> None:
    from safetensors.torch import save

    from detectors.checkpoint import write_atomically

    if record.path is None or not outcome.examples:
        return
    with _disk(record.path.parent):
        data = save({k: v.contiguous() for k, v in outcome.examples.items()}, {"notice": record.licence})
        write_atomically(records.companion(record.path, records.EXAMPLES_SUFFIX), data)


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """A disk that refuses becomes a sentence."""
    try:
        yield
    except OSError as error:
        raise BenchError(
            f"{folder} cannot be written ({error.strerror or error}); free some space or choose another folder, then "
            "run the same command again, which continues."
        ) from None


def deterministic(device: torch.device) -> None:
    """Ask PyTorch for the same bits on the same machine."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = False
