"""Running a plan: fit what is not fitted, attack what has no record yet, leave records behind.

A cell's record is written once and atomically, after everything that belongs to it. A run that was killed and is
started again does only what is missing, and ends with the same numbers.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from attacks.base import Attack
from attacks.errors import AttackError
from bench import disk, fitting, gate, presets, protocol, records
from bench.category import Category as Category
from bench.cell import Draws, Outcome, run_cell
from bench.errors import BenchError, DataError, RecordError
from bench.fitting import Fitted, TrainingData
from bench.inspection import Inspection
from bench.judging import ALLOW_LEAKS, failed, judged
from bench.judging import CALIBRATION_FPR as CALIBRATION_FPR
from bench.judging import figures as figures
from bench.markup import one_line
from bench.plan import Job, Plan, cell_of
from bench.records import Record
from bench.scores import Scores
from detectors.base import Detector, Progress
from detectors.checkpoint import write_atomically
from detectors.errors import DetectorError

if TYPE_CHECKING:
    from bench.workers import Crew

log = logging.getLogger(__name__)


class Reporter(Protocol):
    """Shows how far a run is."""

    def looked(self, inspection: Inspection) -> None: ...

    def fitting(self, detector: str, category: str, fit_seed: int) -> Progress: ...

    def attacking(self, detector: str, category: str, fit_seed: int, attack: str, images: int) -> Any: ...

    def done(self, record: Record, reused: bool) -> None: ...


@dataclass(frozen=True, eq=False)
class Group:
    """The cells of one fit of a detector on one category: one process does them all."""

    category: Category
    detector: str
    fit_seed: int

    @cached_property
    def plan(self) -> Plan:
        """The category's, with this seed for the fit."""
        return self.category.plan.at(self.fit_seed)

    @property
    def job(self) -> Job:
        return Job(self.category.name, self.detector, self.fit_seed)

    def known_records(self) -> list[Record] | None:
        """The records of all its cells, if they are all there and belong to a checkpoint that is.

        No picture is decoded for it: the records are those of the very bytes that are there, which were decoded then.
        """
        plan, run, category = self.plan, self.plan.run, self.category
        if not records.folder_of(run.out / "records", plan.dataset.name, category.name).is_dir():
            return None  # without building the detector
        try:
            detector = plan.built.get((self.detector, category.name))
            if detector is None:
                detector = fitting.build(self.detector, category.name, plan.image_size, run)
            tensors = fitting.stored_hash(detector, plan.dataset, category.name, run)
        except Exception:  # whatever it is, it is met again, and said, when the group is run
            return None
        if tensors is None:
            return None
        cells = (cell_of(plan, category.name, detector, attack, tensors, category.subset) for attack in plan.attacks)
        found = [_known(run.out / "records", cell) for cell in cells]
        there = [record for record in found if record is not None]
        if len(there) < len(found) or (not run.allow_leaks and any(map(_has_leaks, there))):
            return None
        return there

    def run(self, reporter: Reporter) -> list[tuple[Record, bool]]:
        """Fit, attack, judge. Returns a record for each attack, and whether it was there already.

        Raises:
            RecordError: the disk refuses, so nothing can go on.
            DataError: the category's pictures can no longer be read.
        """
        category = self.category
        fitted = obtain(self.plan, category.name, category.training, self.detector, reporter)
        done = []
        for attack in self.plan.attacks:
            record, was_there = _cell(self.plan, category, category.subset, self.detector, fitted, attack, reporter)
            reporter.done(record, was_there)
            done.append((record, was_there))
        return done


@dataclass(frozen=True)
class RunResult:
    """What a run left behind.

    Attributes:
        records: of every cell of the plan, failed ones included.
        reused: how many of them were there already.
        seconds: of the whole run.
        problems: why a category has no records, as sentences.
    """

    records: list[Record] = field(default_factory=list)
    reused: int = 0
    seconds: float = 0.0
    problems: tuple[str, ...] = ()

    @property
    def failed(self) -> list[Record]:
        return [record for record in self.records if not record.ok]


def run_plan(plan: Plan, reporter: Reporter, *, workers: int = 1, crew: Crew | None = None) -> RunResult:
    """Do every cell of the plan that has no record yet.

    Args:
        plan: what to do.
        reporter: told how far it is.
        workers: processes that share the work, detector by detector (see `bench.workers`); 1: all in this process.
        crew: at least so many processes, if they were started before.

    Nothing is fitted before all pictures of the categories with something to do have been decoded. A cell whose scores
    are not numbers, whose detector cannot be fitted or raises whatever it likes, fails with its reason, and the rest
    goes on. A category whose pictures cannot be read is left out.

    Raises:
        RecordError: the disk refuses, so nothing can go on.
        DataError: no category's pictures can be read.
    """
    started = time.monotonic()
    with ExitStack() as stack:
        if workers > 1 and crew is None and not _has_records(plan):
            crew = stack.enter_context(_crew(workers))  # they import their modules while this process reads pictures
        categories = {name: Category(plan, name) for name in plan.categories}
        groups = [Group(categories[job.category], job.detector, job.fit_seed) for job in plan.jobs]
        finished = _finished(groups, reporter)
        plan.built.clear()
        missing = [group for group in groups if group not in finished]
        # Also for a single one that a kill has left: a worker computes with fewer threads than this process.
        if workers > 1 and missing and crew is None:
            crew = stack.enter_context(_crew(workers))
        elif crew is not None and (workers == 1 or not missing):
            crew.end()  # it was started before that could be known
        problems = _problems(plan, missing, crew, workers, reporter)
        groups, missing = ([g for g in some if g.category not in problems] for some in (groups, missing))
        if problems and not groups:
            raise DataError(next(iter(problems.values())))
        reused = sum(len(finished[group]) for group in groups if group in finished)
        if workers > 1 and crew is not None and missing:
            shared = crew.run(plan, [group.job for group in missing], reporter)
            outcomes = list(zip(missing, shared, strict=True))
        else:
            outcomes = []
            for category, own in groupby(missing, key=lambda group: group.category):
                outcomes += [(group, group.run(reporter)) for group in own]
                category.forget()
    for group, found in outcomes:
        finished[group] = [record for record, _ in found]
        reused += sum(was_there for _, was_there in found)
    return RunResult(
        [record for group in groups for record in finished[group]], reused, round(time.monotonic() - started, 1),
        tuple(problems.values()),
    )


def _finished(groups: Sequence[Group], reporter: Reporter) -> dict[Group, list[Record]]:
    """The groups that an earlier run has left nothing to do, and their records."""
    finished = {}
    for group in groups:
        known = group.known_records()
        if known is not None:
            finished[group] = known
            for record in known:
                reporter.done(record, True)
    return finished


def _problems(
    plan: Plan, groups: Sequence[Group], crew: Crew | None, workers: int, reporter: Reporter
) -> dict[Category, str]:
    """Why a category's pictures cannot be used, of those that have something to do; the others' are decoded now.

    All before any fit: hours of it would be lost on a test picture that is damaged.
    """
    categories = list(dict.fromkeys(group.category for group in groups))
    if workers > 1 and crew is not None and categories:
        found = crew.check(plan, [category.name for category in categories], reporter, workers=workers)
        return {c: one_line(found[c.name], 1000) for c in categories if c.name in found}
    problems = {}
    for category in categories:
        try:
            category.check()
            reporter.looked(category.inspection)
        except DataError as error:
            problems[category] = one_line(error, 1000)
    return problems


def _has_records(plan: Plan) -> bool:
    """Whether an earlier run may have left something in every category."""
    folders = (records.folder_of(plan.run.out / "records", plan.dataset.name, name) for name in plan.categories)
    return all(folder.is_dir() for folder in folders)


def _crew(workers: int) -> Crew:
    from bench import workers as processes  # it imports this module

    return processes.Crew(workers)


def obtain(plan: Plan, category: str, training: TrainingData, name: str, reporter: Reporter) -> Fitted | str:
    """The fitted detector, or why it cannot be had. Raises RecordError where the disk refuses."""
    try:
        with disk.guarded(plan.run.cache):
            detector = fitting.build(name, category, plan.image_size, plan.run)
            return fitting.obtain(
                detector, plan.dataset, category, training, plan.run,
                reporter.fitting(name, category, plan.run.fit_seed),
            )  # fmt: skip
    except Exception as error:
        return _reason(error, f"fitting {name}")


def _cell(
    plan: Plan,
    category: Category,
    subset: dict[str, Any],
    name: str,
    fitted: Fitted | str,
    attack: Attack,
    reporter: Reporter,
) -> tuple[Record, bool]:
    """The cell's record, and whether it was there already."""
    folder = plan.run.out / "records"
    if isinstance(fitted, str):
        detector = fitting.build(name, category.name, plan.image_size, plan.run)
        cell = _unfitted(plan, category, detector, attack, subset)
        return _write(failed(plan, cell, {}, fitted, category.inspection), None, folder), False
    cell = cell_of(plan, category.name, fitted.detector, attack, fitted.tensors_sha256, subset)
    known = _known(folder, cell)
    if known is not None:
        return known, True
    with reporter.attacking(name, category.name, plan.run.fit_seed, attack.name, len(category.test)) as tick:
        try:
            with disk.guarded(plan.run.out):
                passed = gate.check(fitted.detector, category.test, plan.run.torch_device(), attack.threat)
                outcome = run_cell(
                    fitted.detector, attack, category.test, category.training.held_out,
                    Draws(protocol.get(plan.run.protocol).verdict_draws, plan.run.seed),
                    batch_size=plan.run.batch_size or presets.get(plan.run.preset).batch_size,
                    device=plan.run.torch_device(), tick=tick,
                )
                gate.confirm(passed, fitted.detector.name)
                record, scores = judged(
                    plan, cell, fitted, category.test, outcome, category.inspection, category.training.fit.ids,
                    passed,
                )
        except Exception as error:
            reason = _reason(error, f"{attack.name} on {name}")
            record = failed(plan, cell, fitted.describe(), reason, category.inspection)
            return _write(record, None, folder), False
    _write_examples(record, outcome, folder)
    record = _write(record, scores, folder)
    _clear(folder, _unfitted(plan, category, fitted.detector, attack, subset))
    return record, False


def _reason(error: Exception, what: str) -> str:
    """Why a cell failed. A bug in one detector must not cost the night's run; a disk that refuses stops it."""
    if isinstance(error, RecordError):
        raise error
    log.debug("While %s:", what, exc_info=error)
    if isinstance(error, BenchError | DetectorError | AttackError):
        return one_line(error, 1000)
    return (
        f"{what} raised {type(error).__name__} ({one_line(error, 200)}); this is an error in its code, not in your "
        "data: run again with --verbose to see where, and report it."
    )


def _known(folder: Path, cell: dict[str, Any]) -> Record | None:
    """The cell's record, unless it failed."""
    found = records.find(folder, cell)
    return found if found is not None and found.ok else None


def _has_leaks(record: Record) -> bool:
    return any(str(limit).startswith(ALLOW_LEAKS) for limit in record.limits)


def _unfitted(
    plan: Plan, category: Category, detector: Detector, attack: Attack, subset: dict[str, Any]
) -> dict[str, Any]:
    """The cell of a detector that could not be fitted: it has no checkpoint."""
    return cell_of(plan, category.name, detector, attack, "", subset)


def _clear(folder: Path, cell: dict[str, Any]) -> None:
    """Take away the record of an earlier failed fit, now that the fit succeeded."""
    path = records.record_path(folder, cell)
    if path.is_file():
        path.unlink(missing_ok=True)


def _write(record: Record, scores: Scores | None, folder: Path) -> Record:
    path = records.write(record, scores, folder)
    return records.read(path)


def _write_examples(record: Record, outcome: Outcome, folder: Path) -> None:
    """Pictures for the panel: before the record, so that whoever finds the record finds them."""
    from safetensors.torch import save

    if not outcome.examples:
        return
    with disk.guarded(folder):
        data = save({k: v.contiguous() for k, v in outcome.examples.items()}, {"notice": record.licence})
        path = records.record_path(folder, record.cell)
        write_atomically(records.companion(path, records.EXAMPLES_SUFFIX), data)


def deterministic(device: torch.device) -> None:
    """Ask PyTorch for the same bits on the same machine."""
    # cuBLAS reads it when it starts, and without it only warns that its sums may differ from run to run.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Else PyTorch writes NaN into all new memory, to show who reads it unwritten: a quarter of SPADE's time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a hidden property
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = False
