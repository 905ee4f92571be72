"""Several processes that share a run: each takes one fit of a detector on one category at a time.

Small networks gain little from a second thread, and independent cells all from a second process. The number of threads
that a cell gets depends on the whole plan, not on what is left of it, so that a run that goes on after a kill rounds as
an unbroken one.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress

import joblib
import torch

from bench import files
from bench.cell.group import Group, Reporter
from bench.cell.pictures import SharedPictures
from bench.data import registry as datasets
from bench.errors import BenchError, DataError
from bench.plan.plan import Job, Outline, Plan
from bench.plan.request import RunConfig
from bench.records.paths import safe_name
from bench.run import worker
from bench.run.executor import News, Stop
from bench.run.processes import KILLED, Processes, Task
from bench.run.shared_folder import shared_folder

MOST = 16  # processes that start unasked: each holds some 600 MB before it has done anything

# Signals that compiled code sends to itself. Windows lacks some of them.
_NAMES = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL")
_CRASHES = frozenset(-getattr(signal, name) for name in _NAMES if hasattr(signal, name))


def count(plan: Plan, asked: int | None, devices: Sequence[str] = ()) -> int:
    """How many processes share a plan.

    Args:
        plan: the whole plan.
        asked: by the user, of which no more than there are fits start; None: on a CPU as many as there are threads
            (`OMP_NUM_THREADS`, or the cores), cores that this process may use, and `MOST`; 1 on a GPU, which one
            process fills.
        devices: that share the plan: one process on each, where the user says nothing.
    """
    return max(1, min(_wanted(plan.run, asked, devices), len(plan.jobs)))


def early(run: RunConfig, asked: int | None, devices: Sequence[str] = ()) -> AbstractContextManager[Crew | None]:
    """The processes that a run will need, to start before there is a plan of it: importing takes all of them seconds,
    and so does planning. None where the plan may show that an earlier run has left nothing to do."""
    wanted = _wanted(run, asked, devices)
    if run.detectors != ("all",):
        with suppress(BenchError):  # planning will say it
            categories = run.categories or datasets.get(run.dataset, run.data_root, run.reading).categories()
            wanted = min(wanted, len(set(categories)) * len(set(run.detectors)) * len(run.fit_seeds or (0,)))
    has_records = (run.out / "records" / safe_name(run.dataset)).is_dir()
    return nullcontext() if wanted < 2 or has_records else Crew(wanted, devices)


def _wanted(run: RunConfig, asked: int | None, devices: Sequence[str]) -> int:
    if asked is not None and asked < max(1, len(devices)):
        of_devices = f", since --device names {len(devices)}" if len(devices) > 1 else ""
        raise BenchError(f"--workers must be at least {max(1, len(devices))}{of_devices}; got {asked}.")
    if asked is not None:
        return asked
    if len(devices) > 1:
        return len(devices)
    return min(_threads(), MOST) if run.torch_device().type == "cpu" else 1


def _threads() -> int:
    """PyTorch's, but no more than the cores that this process may use: what a container or an affinity leaves it."""
    return min(torch.get_num_threads(), int(joblib.cpu_count()))


class Crew:
    """Processes that wait for jobs. To be used in a `with`: leaving it ends them, whatever they are doing.

    They start when it is entered, since importing takes each of them seconds, in which others can get the jobs ready.
    """

    def __init__(self, workers: int, devices: Sequence[str] = ()) -> None:
        """
        Args:
            workers: how many processes.
            devices: that they work on in turn, where there are several.
        """
        self._workers = workers
        self._devices = tuple(devices) if len(devices) > 1 else ()
        self._processes: Processes | None = None
        self._shared: dict[str, SharedPictures] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Crew:
        words = (os.getpid(), logging.getLogger("bench").level)
        self._processes = Processes(self._workers, worker.begin, words, self._devices)
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End the processes, whatever they are doing, and take away what they share."""
        if self._processes is not None:
            self._processes.end()
        self._stack.close()

    def check(
        self, plan: Plan, names: Sequence[str], reporter: Reporter, *, jobs: int, workers: int
    ) -> dict[str, DataError]:
        """Decode all pictures of some of a plan's categories, each by one process; to be called once, before `run`.

        Args:
            plan: the whole plan.
            names: of the categories.
            reporter: told what was seen in each.
            jobs: how many there will be: more processes than that are ended.
            workers: how many processes share the whole plan, and so the threads (`count`).

        Returns:
            What is wrong with those that cannot be read. The pictures of the others are kept.

        Raises:
            RecordError: the disk refuses.
            BenchError: a process was killed.
        """
        self._team.shrink(max(1, min(jobs, workers)))
        self._told = worker.Told(Outline.of(plan), max(1, _threads() // workers))
        with files.writing(plan.run.cache):
            folder = self._stack.enter_context(shared_folder(plan.run.cache))
        problems: dict[str, DataError] = {}
        tasks = [Task(worker.check, (self._told, name, folder / str(number))) for number, name in enumerate(names)]
        for number, kind, content in self._team.work(tasks):
            name = names[number]
            if kind == "done":
                self._shared[name] = content
                reporter.looked(content.inspection)
            elif kind == "lost":
                raise BenchError(f"The process that read the pictures of {name} {_how_it_ended(content)}.")
            elif isinstance(content, DataError):
                problems[name] = content
            else:
                raise content
        # Whichever was read first: what is said of them comes in the plan's order.
        return {name: problems[name] for name in names if name in problems}

    def work(self, plan: Plan, groups: Mapping[Job, Group], stop: Stop) -> Iterator[News]:
        """Do jobs in categories that were checked; once. As `bench.run.executor.Executor.work`."""
        jobs = list(groups)
        left = Counter(job.category for job in jobs)
        tasks = [Task(worker.work, (self._told, self._shared[job.category], job)) for job in jobs]
        rested: set[int] = set()  # of those that have come to the end of a cell since they were to stop
        for number, kind, content in self._team.work(tasks, stop):
            job = jobs[number]
            if kind == "failed":
                raise content
            if kind == "said":
                what, *rest = content
                yield News(job, what, tuple(rest))
                if what == "done" and stop():
                    rested.add(number)
            else:
                if kind == "lost":
                    groups[job].category.take_over(self._shared[job.category])
                    yield News(job, "lost", (f"Its process {_how_it_ended(content)}.",))
                else:
                    yield News(job, "ended")
                left[job.category] -= 1
                if not left[job.category]:  # a process that maps its pictures has them all the same
                    shutil.rmtree(self._shared[job.category].folder, ignore_errors=True)
            if stop() and self._team.at_work <= rested:
                return  # who is in the middle of another cell is ended with the crew

    @property
    def _team(self) -> Processes:
        assert self._processes is not None, "a crew is used in a `with`"
        return self._processes


def _how_it_ended(code: int) -> str:
    """What is to be said of a process that was not meant to end, and what to do; a negative code is that of a
    signal."""
    kept = "what was finished is kept: run the same command again"
    if code >= 0:
        return (
            f"ended itself in the middle of its work (exit code {code}); code that is run by others raises an error "
            "instead: look for os._exit() in the detector or in what it calls"
        )
    if code in _CRASHES:
        return (
            f"crashed ({signal.Signals(-code).name}), which is an error in compiled code: PyTorch, another library or "
            f"a driver, or the detector's own; {kept} with --workers 1, and if it crashes there, too, leave the "
            "detector out and report it"
        )
    if code == KILLED:
        return f"was killed (exit code {code}), probably for want of memory; {kept} with --workers 1"
    return f"was ended from outside (exit code {code}); {kept}"
