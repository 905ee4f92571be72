"""The cells of one fit of a detector on one category: fit what is not fitted, attack what has no record yet.

A cell's record is written once and atomically, after everything that belongs to it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from attacks.base import Attack
from attacks.errors import AttackError
from bench import files
from bench.cell import fitting
from bench.cell.attack import Draws, Outcome
from bench.cell.attacking import Tick
from bench.cell.fitting import Fitted
from bench.cell.measure import Measured, measure
from bench.cell.memory import OUT_OF_MEMORY, is_out_of_memory
from bench.cell.pictures import Category
from bench.cell.record_of import ALLOW_LEAKS, contained, failed, judged
from bench.cell.sweep import Sweep
from bench.cell.unfinished import Unfinished
from bench.errors import BenchError, ContradictionError, RecordError
from bench.inspection.inspection import Inspection
from bench.plan import presets, protocols
from bench.plan.build import build
from bench.plan.cells import cell_of, stops_early
from bench.plan.checkpoints import stored_hash
from bench.plan.plan import Job, Plan
from bench.plan.split import TrainingData
from bench.records import kept_images
from bench.records.cell import Cell
from bench.records.paths import EXAMPLES_SUFFIX, companion, folder_of, record_path
from bench.records.record import Record
from bench.records.score_table import Scores
from bench.records.store import find, read, read_scores, write
from bench.text import one_line
from detectors.base import Detector, Progress
from detectors.checkpoint import write_atomically
from detectors.errors import DetectorError

log = logging.getLogger(__name__)
# Whatever a stranger's code may raise, but for Ctrl-C.
STRANGE = (Exception, SystemExit, GeneratorExit, BaseExceptionGroup)


def never() -> bool:
    """Whether a run is to end early: it is not."""
    return False


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
        """The category's, with this seed for the fit, and with paths that hold wherever a stranger's detector goes."""
        plan = self.category.plan.at(self.fit_seed)
        run = replace(plan.run, out=plan.run.out.absolute(), cache=plan.run.cache.absolute())
        return replace(plan, run=run)

    @property
    def _attacks(self) -> tuple[Attack, ...]:
        return self.plan.attacks_on(self.detector)

    @property
    def cells(self) -> int:
        """How many there are."""
        return len(self.category.plan.attacks_on(self.detector))

    @property
    def job(self) -> Job:
        return Job(self.category.name, self.detector, self.fit_seed)

    def known_records(self) -> list[Record] | None:
        """The records of all its cells, if they are all there and belong to a checkpoint that is.

        No picture is decoded for it: the records are those of the very bytes that are there, which were decoded then.
        """
        found = self._on_disk()
        there = [record for record in found if record is not None]
        if len(there) < len(found) or (not self.plan.run.allow_leaks and any(map(_has_leaks, there))):
            return None
        return there

    def left_behind(self, told: Sequence[Record], reporter: Reporter) -> list[tuple[Record, bool]]:
        """The records that are there beside those that were told of: of earlier runs, and of a process that was ended
        in the moment after it had written one."""
        keys = {record.key for record in told}
        found = [record for record in self._on_disk() if record is not None and record.key not in keys]
        for record in found:
            reporter.done(record, True)
        return [(record, True) for record in found]

    def _on_disk(self) -> list[Record | None]:
        """The record of each attack, as far as it is there and belongs to a checkpoint that is."""
        plan, run, category = self.plan, self.plan.run, self.category
        nothing: list[Record | None] = [None] * len(self._attacks)
        if not folder_of(run.out / "records", plan.dataset.name, category.name).is_dir():
            return nothing  # without building the detector
        try:
            detector = plan.built.get((self.detector, category.name))
            if detector is None:
                detector = build(self.detector, category.name, plan.image_size, run)
            tensors = stored_hash(detector, plan.dataset, category.name, run)
        except STRANGE:  # whatever it is, it is met again, and said, when the group is run
            return nothing
        if tensors is None:
            return nothing
        cells = (cell_of(plan, category.name, detector, attack, tensors, category.subset) for attack in self._attacks)
        return [_known(run.out / "records", cell, with_images=run.keep_images) for cell in cells]

    def run(self, reporter: Reporter, stop: Callable[[], bool] = never) -> list[tuple[Record, bool]]:
        """Fit, attack, judge. Returns a record for each attack, and whether it was there already; of the first ones
        alone where `stop` says so before the others.

        Raises:
            RecordError: the disk refuses, so nothing can go on.
            DataError: the category's pictures can no longer be read.
        """
        return list(self.each(reporter, stop))

    def each(self, reporter: Reporter, stop: Callable[[], bool] = never) -> Iterator[tuple[Record, bool]]:
        """As `run`, cell by cell."""
        category = self.category
        with _undisturbed():
            fitted = obtain(self.plan, category.name, category.training, self.detector, reporter)
            sweep = Sweep()
            for attack in self._attacks:
                if stop():
                    break
                record, was_there = _cell(self.plan, category, self.detector, fitted, attack, sweep, reporter)
                reporter.done(record, was_there)
                yield record, was_there

    def give_up(self, reason: str, reporter: Reporter, *, done: int) -> list[tuple[Record, bool]]:
        """The records of a group whose process has ended in the middle of it, after it had told of so many: what it has
        finished all the same, and failures with the reason. Raises RecordError where the disk refuses."""
        found: list[tuple[Record, bool]] = []
        for attack, known in list(zip(self._attacks, self._on_disk(), strict=True))[done:]:
            record = known or _failed_fit(self.plan, self.category, self.detector, attack, reason)
            reporter.done(record, False)
            found.append((record, False))
        return found


@contextmanager
def _undisturbed() -> Iterator[None]:
    """What a stranger's detector makes PyTorch's default dtype, or the current folder, ends with its cells: others
    would be built in it, or look for their files there."""
    dtype, folder = torch.get_default_dtype(), Path.cwd()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        os.chdir(folder)


def obtain(plan: Plan, category: str, training: TrainingData, name: str, reporter: Reporter) -> Fitted | str:
    """The fitted detector, or why it cannot be had. Raises RecordError where the disk refuses."""
    try:
        with files.guarded(plan.run.cache):
            detector = build(name, category, plan.image_size, plan.run)
            return fitting.obtain(
                detector,
                plan.dataset,
                category,
                training,
                plan.run,
                reporter.fitting(name, category, plan.run.fit_seed),
            )
    except STRANGE as error:
        return reason_of(error, f"fitting {name}")


def _cell(
    plan: Plan,
    category: Category,
    name: str,
    fitted: Fitted | str,
    attack: Attack,
    sweep: Sweep,
    reporter: Reporter,
) -> tuple[Record, bool]:
    """The cell's record, and whether it was there already; from now on the sweep's last."""
    folder = plan.run.out / "records"
    if isinstance(fitted, str):
        return _failed_fit(plan, category, name, attack, fitted), False
    cell = cell_of(plan, category.name, fitted.detector, attack, fitted.tensors_sha256, category.subset)
    if not cell.attack.warm_from:
        sweep.forget()
    known = _known(folder, cell, with_images=plan.run.keep_images)
    if known is not None:
        sweep.add(attack, known, None)
        return known, True
    if sweep.has_ended and (cell.early_stop or fitted.detector.is_stochastic):  # who wants all figures gets them
        assert sweep.last is not None
        record = contained(plan, cell, fitted.describe(), sweep.last, category.inspection)
        record = _with_images(record, _images_of(sweep), plan)
        record = _write(record, read_scores(sweep.last), folder)
        sweep.add(attack, record, None)
        return record, False
    unfinished = Unfinished.of_cell(plan.run.cache, cell.key, fitted.detector, attack)
    with reporter.attacking(name, category.name, plan.run.fit_seed, attack.name, len(category.test)) as tick:
        try:
            with files.guarded(plan.run.out):
                start = sweep.start(partial(_again, plan, category, fitted, tick)) if cell.attack.warm_from else None
                found = _measured(plan, category, fitted, attack, start, tick, unfinished)
                record = judged(plan, cell, fitted, found, category.inspection, sweep.last)
        except STRANGE as error:
            reason = reason_of(error, f"{attack.name} on {name}")
            record = _write(failed(plan, cell, fitted.describe(), reason, category.inspection), None, folder)
            sweep.add(attack, record, None)
            return record, False
    _write_examples(record, found.outcome, folder)
    record = _with_images(record, found.outcome.adversarial, plan)
    record = _write(record, found.scores, folder)
    if unfinished is not None:
        unfinished.clear()
    sweep.add(attack, record, found.outcome.adversarial)
    _clear(folder, _unfitted(plan, category, fitted.detector, attack))
    return record, False


def _measured(
    plan: Plan,
    category: Category,
    fitted: Fitted,
    attack: Attack,
    start: Tensor | None,
    tick: Tick,
    unfinished: Unfinished | None = None,
) -> Measured:
    return measure(
        fitted.detector,
        attack,
        category.test,
        category.training.held_out,
        Draws(protocols.get(plan.run.protocol).verdict_draws, plan.run.seed),
        trained_on=category.training.fit.ids,
        batch_size=plan.run.batch_size or presets.get(plan.run.preset).batch_size,
        device=plan.run.torch_device(),
        tick=tick,
        early_stop=stops_early(fitted.detector, attack, complete=plan.run.complete),
        start=start,
        unfinished=unfinished,
    )


def _again(plan: Plan, category: Category, fitted: Fitted, tick: Tick, attack: Attack, start: Tensor | None) -> Tensor:
    """The images of a ball whose record is there, found once more; the progress shown is that of the cell at hand."""
    return _measured(plan, category, fitted, attack, start, lambda done, note: tick(0, note)).outcome.adversarial


def _failed_fit(plan: Plan, category: Category, name: str, attack: Attack, reason: str) -> Record:
    detector = build(name, category.name, plan.image_size, plan.run)
    cell = _unfitted(plan, category, detector, attack)
    return _write(failed(plan, cell, {}, reason, category.inspection), None, plan.run.out / "records")


def reason_of(
    error: BaseException, what: str, *, then: str = "run again with --verbose to see where, and report it"
) -> str:
    """Why a cell failed, and what is to be done `then`. A bug in one detector must not cost the night's run, and
    neither may one that calls sys.exit(); a disk that refuses stops it."""
    if isinstance(error, RecordError):
        raise error
    log.debug("While %s:", what, exc_info=error)
    if isinstance(error, BenchError | DetectorError | AttackError):
        return one_line(error, 1000)
    if is_out_of_memory(error):
        return f"{what} {OUT_OF_MEMORY}."
    did = "called sys.exit" if isinstance(error, SystemExit) else f"raised {type(error).__name__}"
    return f"{what} {did} ({one_line(error, 200)}); this is an error in its code, not in your data: {then}."


def _known(folder: Path, cell: Cell, *, with_images: bool) -> Record | None:
    """The cell's record, unless it failed, or lacks the images that are to be kept."""
    found = find(folder, cell)
    if found is None or not found.ok or (with_images and not kept_images.are_there(found)):
        return None
    return found


def _has_leaks(record: Record) -> bool:
    return any(str(limit).startswith(ALLOW_LEAKS) for limit in record.limits)


def _unfitted(plan: Plan, category: Category, detector: Detector, attack: Attack) -> Cell:
    """The cell of a detector that could not be fitted: it has no checkpoint."""
    return cell_of(plan, category.name, detector, attack, "", category.subset)


def _clear(folder: Path, cell: Cell) -> None:
    """Take away the record of an earlier failed fit, now that the fit succeeded."""
    path = record_path(folder, cell)
    if path.is_file():
        path.unlink(missing_ok=True)


def _write(record: Record, scores: Scores | None, folder: Path) -> Record:
    path = write(record, scores, folder)
    try:
        return read(path)
    except ContradictionError:  # a machine that was given up for lost has written the same cell between the two files
        return read(write(record, scores, folder))


def _images_of(sweep: Sweep) -> Tensor | None:
    """Those of the last ball: at hand, or kept beside its record; None where they are neither."""
    if sweep.images is None and sweep.last is not None and kept_images.are_there(sweep.last):
        with suppress(RecordError):  # of another content by now
            return kept_images.read(sweep.last)
    return sweep.images


def _with_images(record: Record, adversarial: Tensor | None, plan: Plan) -> Record:
    """The record with the adversarial images beside it, where these are wanted: written before it, too."""
    if not plan.run.keep_images or adversarial is None:
        return record
    return kept_images.write(record, adversarial, plan.run.out / "records")


def _write_examples(record: Record, outcome: Outcome, folder: Path) -> None:
    """Pictures for the panel: before the record, so that whoever finds the record finds them."""
    from safetensors.torch import save

    if not outcome.examples:
        return
    with files.writing(folder):
        data = save({k: v.contiguous() for k, v in outcome.examples.items()}, {"notice": record.licence})
        path = record_path(folder, record.cell)
        write_atomically(companion(path, EXAMPLES_SUFFIX), data)
