"""What a run shows while it works: bars with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench.cli.screen import is_animated
from bench.inspection.inspection import Inspection
from bench.plan.plan import Job
from bench.records.record import Record
from bench.report.fits import fit_seed as fit_seed_of
from bench.text import one_line
from detectors.base import Progress as FitProgress

QUIET_SECONDS = 30.0  # between two plain lines about the same job


class ConsoleReporter:
    """A `runner.Reporter` on a console; use it in a `with` statement.

    Args:
        console: where to.
        cells: how many there will be.
        several: the detectors whose fits have to be told apart, since there are several.
    """

    def __init__(self, console: Console, cells: int, several: Collection[str] = ()) -> None:
        self.console, self._several = console, several
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=18),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not is_animated(console),
        )
        self._cells = self._bars.add_task("cells", total=cells)
        self._count, self._total = 0, cells
        self._fits: dict[Job, TaskID] = {}  # several where several processes work

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def looked(self, inspection: Inspection) -> None:
        """One line for each category whose pictures were read."""
        self.console.print(inspection.line, style="bold" if inspection.findings else "", markup=False, highlight=False)

    def fitting(self, detector: str, category: str, fit_seed: int) -> FitProgress:
        """Shows a fit; the bar appears with the first step, so a loaded checkpoint shows none."""
        job = Job(category, detector, fit_seed)
        plain = _PlainLines(self.console, f"fitting {detector} on {self._where(job)}")
        self._end_fit(job)

        def show(done: int, total: int, note: str = "") -> None:
            what = f"fit {detector} {self._where(job)}"
            if job not in self._fits:
                self._fits[job] = self._bars.add_task(what, total=total)
            self._bars.update(self._fits[job], completed=done, total=total, description=f"{what} {note}")
            plain.show(done, total, note)
            if done >= total:
                self._end_fit(job)

        return show

    def _where(self, job: Job) -> str:
        category = one_line(job.category, 60)
        return f"{category} fit {job.fit_seed}" if job.detector in self._several else category

    def _end_fit(self, job: Job) -> None:
        """Also of a fit that stopped before its last step."""
        task = self._fits.pop(job, None)
        if task is not None:
            self._bars.remove_task(task)

    @contextmanager
    def attacking(
        self, detector: str, category: str, fit_seed: int, attack: str, images: int
    ) -> Iterator[Callable[[float, str], None]]:
        """Shows the images of a cell."""
        job = Job(category, detector, fit_seed)
        what = f"{attack} on {detector} {self._where(job)}"
        self._end_fit(job)
        task = self._bars.add_task(what, total=images)
        plain, count = _PlainLines(self.console, what), 0.0

        def tick(done: float, note: str) -> None:
            nonlocal count
            count += done
            self._bars.update(task, completed=count)
            plain.show(count, images, note)

        try:
            yield tick
        finally:
            self._bars.remove_task(task)

    def done(self, record: Record, reused: bool) -> None:
        """One line for each cell that was computed."""
        self._count += 1
        job = Job(record.category, record.detector_name, fit_seed_of(record))
        self._end_fit(job)
        self._bars.update(self._cells, completed=self._count)
        what = one_line(f"{record.detector_name} {self._where(job)} {record.attack_name}", 120)
        head = f"[{self._count}/{self._total}] {what}"
        if not record.ok:
            self.console.print(f"{head} FAILED: {record.reason}", style="bold red", markup=False, highlight=False)
        elif reused:
            self.console.print(f"{head}: already there", style="dim", markup=False, highlight=False)
        elif record.clean and record.robust:
            self.console.print(
                f"{head}: clean {record.clean.auc:.1f}, robust {record.robust.auc:.1f} "
                f"({record.checkpoint.get('origin')} checkpoint, {record.seconds.get('total', 0):.0f} s)",
                markup=False,
                highlight=False,
            )


class _PlainLines:
    """For logs and pipes: a line at the start and every half minute."""

    def __init__(self, console: Console, what: str) -> None:
        self._console, self._what = console, what
        self._last = time.monotonic() - QUIET_SECONDS / 2
        self._stage, self._first, self._started = 0, 0.0, self._last

    def show(self, done: float, total: int, note: str) -> None:
        now = time.monotonic()
        if total != self._stage:  # a new stage of the job; it may go on from a snapshot, so not from 0
            self._stage, self._first, self._started = total, done, now
        if is_animated(self._console) or now - self._last < QUIET_SECONDS or done >= total:
            return
        self._last = now
        steps = done - self._first
        left = f", about {(now - self._started) / steps * (total - done):.0f} s left" if steps else ""
        self._console.print(f"{self._what}: {done:.0f}/{total}{left}. {note}", markup=False, highlight=False)
