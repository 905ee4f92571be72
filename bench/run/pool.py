"""Several processes that share a run: each takes one fit of a detector on one category at a time.

Small networks gain little from a second thread, and independent cells all from a second process. The number of threads
that a cell gets depends on the whole plan, not on what is left of it, so that a run that goes on after a kill rounds as
an unbroken one.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch

from bench.cell.group import Reporter
from bench.errors import BenchError, DataError
from bench.plan.plan import Job, Outline, Plan
from bench.plan.request import RunConfig
from bench.records.paths import safe_name
from bench.records.record import Record
from bench.run import costs
from bench.run.worker import POLL_SECONDS, Channel, Check, Run, Told, work
from detectors.base import Progress

Found = list[tuple[Record, bool]]


def count(plan: Plan, asked: int | None) -> int:
    """How many processes a plan gets.

    Args:
        plan: the whole plan.
        asked: by the user; None: as many as there are threads (`OMP_NUM_THREADS`, or the cores), and 1 on a GPU, which
            one process fills.
    """
    return max(1, min(_wanted(plan.run, asked), len(plan.jobs)))


def early(run: RunConfig, asked: int | None) -> AbstractContextManager[Crew | None]:
    """The processes that a run will need, to start before there is a plan of it: importing takes all of them seconds,
    and so does planning. None where the plan may show that an earlier run has left nothing to do."""
    wanted = _wanted(run, asked)
    if run.categories is not None and run.detectors != ("all",):
        wanted = min(wanted, len(set(run.categories)) * len(set(run.detectors)) * len(run.fit_seeds or (0,)))
    has_records = (run.out / "records" / safe_name(run.dataset)).is_dir()
    return nullcontext() if wanted < 2 or has_records else Crew(wanted)


def _wanted(run: RunConfig, asked: int | None) -> int:
    if asked is not None and asked < 1:
        raise BenchError(f"--workers must be at least 1; got {asked}.")
    on_cpu = run.torch_device().type == "cpu"
    return asked if asked is not None else torch.get_num_threads() if on_cpu else 1


@dataclass(frozen=True)
class _Member:
    """A process of a crew, and the pipe to it."""

    process: Any
    pipe: Any


class Crew:
    """Processes that wait for jobs. To be used in a `with`: leaving it ends them, whatever they are doing.

    They start when it is entered, since importing takes each of them seconds, in which others can get the jobs ready.
    """

    def __init__(self, workers: int) -> None:
        context = multiprocessing.get_context("spawn")  # a forked copy of PyTorch's threads hangs
        # Both with a thread that feeds the pipe: a worker may wait for pictures while this process hands out jobs.
        self._todo, self._said = context.Queue(), context.Queue()
        self._members, self._theirs = [], []
        level = logging.getLogger("bench").level
        for number in range(workers):
            ours, theirs = context.Pipe()
            arguments = (os.getpid(), level, Channel(number, self._todo, self._said, theirs))
            self._members.append(_Member(context.Process(target=work, args=arguments, daemon=True), ours))
            self._theirs.append(theirs)

    def __enter__(self) -> Crew:
        try:
            with _memory_kept(), _interrupts_kept():
                for member in self._members:
                    member.process.start()
        except BaseException:  # an interrupt between two of them, too
            self.__exit__()
            raise
        for theirs in self._theirs:  # so that a pipe to a process that has ended is broken
            theirs.close()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End the processes, where nothing is left for them."""
        self._todo.cancel_join_thread()  # jobs that nobody takes any more must not keep this process
        _end(self._members)

    def check(self, plan: Plan, names: Sequence[str], reporter: Reporter, *, workers: int) -> dict[str, DataError]:
        """Decode all pictures of some of a plan's categories, each by one process; to be called once, before `run`.

        Args:
            plan: the whole plan.
            names: of the categories.
            reporter: told what was seen in each.
            workers: how many of the processes work from now on; the others end.

        Returns:
            What is wrong with those that cannot be read. The pictures of the others are kept.

        Raises:
            BenchError: a process was killed.
        """
        _end(self._members[workers:])
        del self._members[workers:]
        told = Told(Outline.of(plan), max(1, torch.get_num_threads() // workers))
        for member in self._members:
            with _unless_killed():
                member.pipe.send(told)
        for name in names:
            self._todo.put(Check(name))
        self._pictures = _Pictures(self._members)
        problems: dict[str, DataError] = {}
        messages, checked = self._messages(), 0
        while checked < len(names):
            kind, *rest = next(messages)
            if kind == "looked":
                reporter.looked(*rest)
                continue
            checked += 1
            worker, name, problem = rest
            if problem is None:
                self._pictures.receive(worker, name)
            else:
                problems[name] = problem
        return problems

    def run(self, plan: Plan, jobs: Sequence[Job], reporter: Reporter) -> list[Found]:
        """Do jobs in categories that were checked; once. Returns each one's records, in the order of the jobs.

        Raises:
            RecordError, DataError: as in one process.
            BenchError: a process was killed.
        """
        for number in costs.longest_first(plan, jobs):
            self._todo.put(Run(number, *jobs[number]))
        for _ in self._members:
            self._todo.put(None)
        relay, found = _Relay(reporter), dict[int, Found]()
        left = Counter(job.category for job in jobs)
        messages = self._messages()
        while len(found) < len(jobs):
            kind, *rest = next(messages)
            if kind == "end":
                number, records = rest
                found[number] = records
                category = jobs[number].category
                left[category] -= 1
                if not left[category]:
                    self._pictures.forget(category)
            elif kind == "pictures":
                self._pictures.send(*rest)
            else:
                relay.pass_on(kind, *rest)
        return [found[number] for number in range(len(jobs))]

    def _messages(self) -> Iterator[tuple[Any, ...]]:
        """What the processes say; an error is raised, and so is that one of them was killed."""
        gone_since: float | None = None
        while True:
            try:
                message = self._said.get(timeout=POLL_SECONDS)
            except queue.Empty:
                # Its last words may still be on their way when a process has ended.
                codes = {member.process.exitcode for member in self._members}
                is_lost = bool(codes - {None, 0}) or None not in codes
                gone_since = gone_since or time.monotonic() if is_lost else None
                if gone_since is not None and time.monotonic() - gone_since > 2:
                    raise BenchError(
                        f"A worker process was killed (exit code {max(codes - {None}, key=abs)}), probably for want of "
                        "memory; what was finished is kept: run the same command again with --workers 1."
                    ) from None
                continue
            if message[0] == "error":
                raise message[1]
            yield message


def _unless_killed() -> AbstractContextManager[None]:
    """For a pipe to a process: that it was killed is noticed, and said, by `Crew._messages`."""
    return suppress(OSError, EOFError)


def _end(members: Sequence[_Member]) -> None:
    started = [member.process for member in members if member.process.pid is not None]
    for process in started:
        process.terminate()
    for process in started:
        process.join()


@contextmanager
def _interrupts_kept() -> Iterator[None]:
    """Processes that start herein never hear of Ctrl-C, which a terminal sends to all: this one has the words for it,
    and ends them. One that is pressed meanwhile arrives afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _memory_kept() -> Iterator[None]:
    """Processes that start herein keep the memory that they free, where the C library is glibc: it hands each large
    tensor's pages back and gets them anew, zeroed one by one, which takes a tenth of a convolution network's time."""
    names = [name for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_") if name not in os.environ]
    os.environ.update(dict.fromkeys(names, str(8 << 30)))
    try:
        yield
    finally:
        for name in names:
            del os.environ[name]


class _Pictures:
    """Each category's decoded pictures, packed: a process that comes to a category is sent them."""

    def __init__(self, members: Sequence[_Member]) -> None:
        self._members = members
        self._packed: dict[str, bytes] = {}

    def receive(self, worker: int, name: str) -> None:
        """From the process that decoded them."""
        with _unless_killed():
            self._packed[name] = self._members[worker].pipe.recv_bytes()

    def send(self, worker: int, name: str) -> None:
        """To a process that waits for them."""
        with _unless_killed():
            if name in self._packed:  # else the one that decoded them was killed
                self._members[worker].pipe.send_bytes(self._packed[name])

    def forget(self, name: str) -> None:
        """Give their memory back."""
        self._packed.pop(name, None)


class _Relay:
    """Tells the parent's reporter what a worker's told it, job by job."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._fits: dict[Job, Progress] = {}
        self._attacks: dict[Job, tuple[Any, Callable[[int, str], None]]] = {}

    def pass_on(self, kind: str, *rest: Any) -> None:
        if kind == "done":
            self._reporter.done(*rest)
            return
        job: Job = rest[0]
        if kind == "fitting":
            self._fits[job] = self._reporter.fitting(job.detector, job.category, job.fit_seed)
        elif kind == "fit":
            self._fits[job](*rest[1:])
        elif kind == "attacking":
            attack, images = rest[1:]
            showing = self._reporter.attacking(job.detector, job.category, job.fit_seed, attack, images)
            self._attacks[job] = (showing, showing.__enter__())
        elif kind == "attack":
            self._attacks[job][1](*rest[1:])
        elif kind == "attacked":
            self._attacks.pop(job)[0].__exit__(None, None, None)
