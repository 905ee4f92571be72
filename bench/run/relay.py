"""From the processes that share a run to the one reporter of the parent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.cell.group import Reporter
from bench.plan.plan import Job
from detectors.base import Progress


class Relay:
    """Tells a reporter what a worker's told it, job by job (`bench.run.worker`)."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._fits: dict[Job, Progress] = {}
        self._attacks: dict[Job, tuple[Any, Callable[[float, str], None]]] = {}

    def pass_on(self, kind: str, job: Job, *rest: Any) -> None:
        """A message of the job."""
        if kind == "done":
            self._reporter.done(*rest)
        elif kind == "fitting":
            self._fits[job] = self._reporter.fitting(job.detector, job.category, job.fit_seed)
        elif kind == "fit":
            self._fits[job](*rest)
        elif kind == "attacking":
            self.forget_attack(job)  # of a cell that is begun again elsewhere
            showing = self._reporter.attacking(job.detector, job.category, job.fit_seed, *rest)
            self._attacks[job] = (showing, showing.__enter__())
        elif kind == "attack":
            self._attacks[job][1](*rest)
        elif kind == "attacked":
            self._attacks.pop(job)[0].__exit__(None, None, None)

    def forget(self, job: Job) -> None:
        """Nothing more comes of the job: its process has ended in the middle of it."""
        self._fits.pop(job, None)
        self.forget_attack(job)

    def forget_attack(self, job: Job) -> None:
        """The job attacks nothing any more, if it did."""
        if job in self._attacks:
            self.pass_on("attacked", job)
