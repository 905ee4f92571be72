"""Several processes that share a run: each takes one detector on one category at a time.

Small networks gain little from a second thread, and independent cells all from a second process. The number of threads
that a cell gets depends on the whole plan, not on what is left of it, so that a run that goes on after a kill rounds as
an unbroken one.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from bench import costs
from bench.errors import BenchError, RecordError
from bench.plan import Outline, Plan
from bench.records import Record
from bench.runner import Category, Group, Reporter, deterministic
from detectors.base import Progress

log = logging.getLogger(__name__)
Job = tuple[str, str]  # category, detector
Found = list[tuple[Record, bool]]
POLL_SECONDS = 0.5


def count(plan: Plan, asked: int | None) -> int:
    """How many processes a plan gets.

    Args:
        plan: the whole plan.
        asked: by the user; None: as many as there are threads (`OMP_NUM_THREADS`, or the cores), and 1 on a GPU, which
            one process fills.
    """
    if asked is not None and asked < 1:
        raise BenchError(f"--workers must be at least 1; got {asked}.")
    on_cpu = plan.run.torch_device().type == "cpu"
    wanted = asked if asked is not None else torch.get_num_threads() if on_cpu else 1
    return max(1, min(wanted, len(plan.categories) * len(plan.detectors)))


class Crew:
    """Processes that wait for jobs. To be used in a `with`: leaving it ends them, whatever they are doing.

    They start when it is entered, since importing takes each of them seconds, in which others can get the jobs ready.
    """

    def __init__(self, plan: Plan, workers: int) -> None:
        context = multiprocessing.get_context("spawn")  # a forked copy of PyTorch's threads hangs
        self._plan, self._todo, self._said = plan, context.SimpleQueue(), context.Queue()
        shared = _Shared(
            Outline.of(plan), max(1, torch.get_num_threads() // workers), os.getpid(),
            logging.getLogger("bench").level,
        )
        arguments = (shared, self._todo, self._said)
        self._processes = [context.Process(target=_work, args=arguments, daemon=True) for _ in range(workers)]

    def __enter__(self) -> Crew:
        try:
            with _memory_kept():
                for process in self._processes:
                    process.start()
        except BaseException:  # an interrupt between two of them, too
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        started = [process for process in self._processes if process.pid is not None]
        for process in started:
            process.terminate()
        for process in started:
            process.join()

    def run(self, jobs: Sequence[Job], reporter: Reporter) -> list[Found]:
        """Do the jobs; once. Returns each one's records, in the order of the jobs.

        Raises:
            RecordError, DataError: as in one process.
            BenchError: a process was killed.
        """
        for number in costs.longest_first(self._plan, jobs):
            self._todo.put((number, *jobs[number]))
        for _ in self._processes:
            self._todo.put(None)
        return _collect(jobs, reporter, self._said, self._processes)


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


@dataclass(frozen=True)
class _Shared:
    """What every process is told."""

    outline: Outline
    threads: int
    parent: int
    log_level: int


def _collect(jobs: Sequence[Job], reporter: Reporter, said: Any, processes: Sequence[Any]) -> list[Found]:
    relay = _Relay(reporter)
    found: dict[int, Found] = {}
    gone_since: float | None = None
    while len(found) < len(jobs):
        try:
            kind, *rest = said.get(timeout=POLL_SECONDS)
        except queue.Empty:
            # Its last words may still be on their way when a process has ended.
            if any(process.exitcode not in (None, 0) for process in processes):
                gone_since = gone_since or time.monotonic()
                if time.monotonic() - gone_since > 2:
                    codes = {process.exitcode for process in processes} - {None, 0}
                    raise BenchError(
                        f"A worker process was killed (exit code {codes.pop()}), probably for want of memory; what was "
                        "finished is kept: run the same command again with --workers 1."
                    ) from None
            continue
        if kind == "end":
            number, records = rest
            found[number] = records
        elif kind == "error":
            raise rest[0]
        else:
            relay.pass_on(kind, *rest)
    return [found[number] for number in range(len(jobs))]


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
        job = rest[0]
        if kind == "fitting":
            self._fits[job] = self._reporter.fitting(job[1], job[0])
        elif kind == "fit":
            self._fits[job](*rest[1:])
        elif kind == "attacking":
            attack, images = rest[1:]
            showing = self._reporter.attacking(job[1], job[0], attack, images)
            self._attacks[job] = (showing, showing.__enter__())
        elif kind == "attack":
            self._attacks[job][1](*rest[1:])
        elif kind == "attacked":
            self._attacks.pop(job)[0].__exit__(None, None, None)


# -- in the worker ----------------------------------------------------------------------------------------------------


class _Speaker:
    """The reporter of a worker: everything goes to the parent."""

    def __init__(self, said: Any) -> None:
        self._said = said

    def fitting(self, detector: str, category: str) -> Progress:
        job = (category, detector)
        self._said.put(("fitting", job))

        def show(done: int, total: int, note: str = "") -> None:
            self._said.put(("fit", job, done, total, note))

        return show

    @contextmanager
    def attacking(self, detector: str, category: str, attack: str, images: int) -> Iterator[Callable[[int, str], None]]:
        job = (category, detector)
        self._said.put(("attacking", job, attack, images))
        try:
            yield lambda done, note: self._said.put(("attack", job, done, note))
        finally:
            self._said.put(("attacked", job))

    def done(self, record: Record, reused: bool) -> None:
        self._said.put(("done", record, reused))


def _work(shared: _Shared, todo: Any, said: Any) -> None:
    """The life of a worker."""
    threading.Thread(target=_end_with, args=(shared.parent,), daemon=True).start()
    logging.getLogger("bench").setLevel(shared.log_level)
    torch.set_num_threads(shared.threads)
    deterministic(shared.outline.run.torch_device())
    plan = shared.outline.plan()
    category = Category(plan, "")
    try:
        while (job := todo.get()) is not None:
            number, name, detector = job
            if category.name != name:
                category = Category(plan, name)
            said.put(("end", number, Group(category, detector).run(_Speaker(said))))
    except KeyboardInterrupt:
        pass  # Ctrl-C reaches the parent too, which has the words for it
    except BenchError as error:
        said.put(("error", error))
    except Exception as error:  # a bug; its own class may not survive the way between processes
        log.debug("In a worker:", exc_info=error)
        said.put(("error", RecordError(f"A worker process stopped: {type(error).__name__}: {error}; report it.")))


def _end_with(parent: int) -> None:
    """Nobody reads the results of a worker whose parent was killed, and the same command may be running again."""
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(1)
