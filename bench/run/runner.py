"""Running a plan: fit what is not fitted, attack what has no record yet, leave records behind.

A cell's record is written once and atomically, after everything that belongs to it. A run that was killed and is
started again does only what is missing, and ends with the same numbers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby

from bench.cell.group import Group, Reporter, never
from bench.cell.pictures import Category
from bench.errors import DataError
from bench.plan.plan import Job, Plan
from bench.records.paths import folder_of
from bench.records.record import Record
from bench.run import pool
from bench.run.executor import Executor, Stop, carry_out
from bench.text import one_line
from detectors import registry as detector_registry


@dataclass(frozen=True)
class RunResult:
    """What a run left behind.

    Attributes:
        records: of every cell of the plan, failed ones included.
        reused: how many of them were there already.
        seconds: of the whole run.
        problems: why a category has no records, as sentences.
        unfinished: cells that have no record, since the run was to stop.
    """

    records: list[Record] = field(default_factory=list)
    reused: int = 0
    seconds: float = 0.0
    problems: tuple[str, ...] = ()
    unfinished: int = 0

    @property
    def failed(self) -> list[Record]:
        return [record for record in self.records if not record.ok]


def run_plan(
    plan: Plan,
    reporter: Reporter,
    *,
    workers: int = 1,
    crew: pool.Crew | None = None,
    jobs: Sequence[Job] | None = None,
    executor: Executor | None = None,
    stop: Stop = never,
    devices: Sequence[str] = (),
) -> RunResult:
    """Do every cell of the plan that has no record yet.

    Args:
        plan: what to do.
        reporter: told how far it is.
        workers: processes that share the work, detector by detector (see `bench.run.pool`); 1: all in this process,
            unless another author's package brings one of the detectors: what ends Python, or closes the output, must
            cost its own row alone.
        crew: at least so many processes, if they were started before.
        jobs: the share of the plan's that is to be done (`bench.run.shards`); None: all.
        executor: who does them, instead of this process or processes of this machine.
        devices: of this machine that share the work, where there are several; the plan's is the first of them.
        stop: says when the run is to end early: each cell at hand is finished, and nothing new is begun.

    Nothing is fitted before all pictures of the categories with something to do have been decoded. A cell whose scores
    are not numbers, whose detector cannot be fitted or raises whatever it likes, fails with its reason, and the rest
    goes on. A category whose pictures cannot be read is left out.

    Raises:
        RecordError: the disk refuses, so nothing can go on.
        DataError: no category's pictures can be read.
    """
    started = time.monotonic()
    apart = executor is not None or workers > 1 or any(map(detector_registry.is_installed, plan.detectors))
    share = plan.jobs if jobs is None else jobs
    with ExitStack() as stack:
        if apart and crew is None and executor is None and not _has_records(plan):
            # They import their modules while this process looks for what is missing.
            crew = stack.enter_context(pool.Crew(max(1, min(workers, len(share))), devices))
        categories = {name: Category(plan, name) for name in plan.categories}
        groups = [Group(categories[job.category], job.detector, job.fit_seed) for job in share]
        finished = _finished(groups, reporter)
        plan.built.clear()
        missing = [group for group in groups if group not in finished]
        # Also for a single one that a kill has left: a worker computes with fewer threads than this process.
        if apart and missing and crew is None and executor is None:
            crew = stack.enter_context(pool.Crew(min(workers, len(missing)), devices))
        elif crew is not None and not (apart and missing):
            crew.end()  # it was started before that could be known
        others = executor or crew if apart else None
        problems = _problems(plan, missing, others, workers, reporter)
        groups, missing = ([g for g in some if g.category not in problems] for some in (groups, missing))
        if problems and not groups:
            raise DataError(next(iter(problems.values())))
        reused = sum(len(finished[group]) for group in groups if group in finished)
        if others is not None and missing:
            shared = carry_out(others, plan, {group.job: group for group in missing}, reporter, stop)
            outcomes = [(group, shared[group.job]) for group in missing]
        else:
            outcomes = []
            for category, own in groupby(missing, key=lambda group: group.category):
                outcomes += [(group, [] if stop() else group.run(reporter, stop)) for group in own]
                category.forget()
    if stop():
        outcomes = [(group, [*found, *group.left_behind([r for r, _ in found], reporter)]) for group, found in outcomes]
    for group, found in outcomes:
        finished[group] = [record for record, _ in found]
        reused += sum(was_there for _, was_there in found)
    records = [record for group in groups for record in finished[group]]
    return RunResult(
        records,
        reused,
        round(time.monotonic() - started, 1),
        tuple(problems.values()),
        sum(group.cells for group in groups) - len(records),
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
    plan: Plan, groups: Sequence[Group], executor: Executor | None, workers: int, reporter: Reporter
) -> dict[Category, str]:
    """Why a category's pictures cannot be used, of those that have something to do; the others' are decoded now.

    All before any fit: hours of it would be lost on a test picture that is damaged.
    """
    categories = list(dict.fromkeys(group.category for group in groups))
    if executor is not None and categories:
        names = [category.name for category in categories]
        found = executor.check(plan, names, reporter, jobs=len(groups), workers=workers)
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
    folders = (folder_of(plan.run.out / "records", plan.dataset.name, name) for name in plan.categories)
    return all(folder.is_dir() for folder in folders)
