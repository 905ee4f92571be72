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
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch

from bench import costs
from bench.config import RunConfig
from bench.errors import BenchError, RecordError
from bench.plan import Outline, Plan
from bench.records import Record, safe_name
from bench.runner import Category, Group, Reporter, deterministic
from detectors import registry as detector_registry
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
    return max(1, min(_wanted(plan.run, asked), len(plan.categories) * len(plan.detectors)))


def early(run: RunConfig, asked: int | None) -> AbstractContextManager[Crew | None]:
    """The processes that a run will need, to start before there is a plan of it: importing takes all of them seconds,
    and so does planning. None where the plan may show that an earlier run has left nothing to do."""
    wanted = _wanted(run, asked)
    if run.categories is not None and run.detectors != ("all",):
        wanted = min(wanted, len(run.categories) * len(run.detectors))
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


@dataclass(frozen=True)
class _Told:
    """What every process is told before its first job."""

    outline: Outline
    threads: int


class Crew:
    """Processes that wait for jobs. To be used in a `with`: leaving it ends them, whatever they are doing.

    They start when it is entered, since importing takes each of them seconds, in which others can get the jobs ready.
    """

    def __init__(self, workers: int) -> None:
        context = multiprocessing.get_context("spawn")  # a forked copy of PyTorch's threads hangs
        self._todo, self._said = context.SimpleQueue(), context.Queue()
        self._members, self._theirs = [], []
        level = logging.getLogger("bench").level
        for number in range(workers):
            ours, theirs = context.Pipe()
            arguments = (os.getpid(), level, number, self._todo, self._said, theirs)
            self._members.append(_Member(context.Process(target=_work, args=arguments, daemon=True), ours))
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
        _end(self._members)

    def run(self, plan: Plan, groups: Sequence[Group], reporter: Reporter, *, workers: int) -> list[Found]:
        """Do the groups of a plan; once. Returns each one's records, in the order of the groups.

        Args:
            plan: the whole plan.
            groups: what of it is to be done. Their pictures are copied to who needs them, and forgotten.
            reporter: told how far they are.
            workers: how many of the processes work; the others end.

        Raises:
            RecordError, DataError: as in one process.
            BenchError: a process was killed.
        """
        _end(self._members[workers:])
        del self._members[workers:]
        told = _Told(Outline.of(plan), max(1, torch.get_num_threads() // workers))
        for member in self._members:
            with suppress(OSError):  # one that was killed is missed below
                member.pipe.send(told)
        jobs = [(group.category.name, group.detector) for group in groups]
        for number in costs.longest_first(plan, jobs):
            self._todo.put((number, *jobs[number]))
        for _ in self._members:
            self._todo.put(None)
        pictures = _Pictures({group.category.name: group.category for group in groups}, self._members)
        return _collect(jobs, _Relay(reporter, pictures), self._said, [member.process for member in self._members])


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
    """Each category's pictures, decoded once: a process that comes to a category is sent them."""

    def __init__(self, categories: dict[str, Category], members: Sequence[_Member]) -> None:
        self._categories, self._members = categories, members
        self._lacking = dict.fromkeys(categories, len(members))

    def send(self, worker: int, name: str) -> None:
        """To one process, which waits for them."""
        with suppress(OSError):  # it was killed, which is noticed elsewhere
            self._members[worker].pipe.send_bytes(self._categories[name].packed())
        self._lacking[name] -= 1
        if not self._lacking[name]:
            self._categories[name].forget()


def _collect(jobs: Sequence[Job], relay: _Relay, said: Any, processes: Sequence[Any]) -> list[Found]:
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
    """Tells the parent's reporter what a worker's told it, job by job, and hands out pictures."""

    def __init__(self, reporter: Reporter, pictures: _Pictures) -> None:
        self._reporter, self._pictures = reporter, pictures
        self._fits: dict[Job, Progress] = {}
        self._attacks: dict[Job, tuple[Any, Callable[[int, str], None]]] = {}

    def pass_on(self, kind: str, *rest: Any) -> None:
        if kind == "done":
            self._reporter.done(*rest)
            return
        if kind == "pictures":
            self._pictures.send(*rest)
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


def _work(parent: int, log_level: int, number: int, todo: Any, said: Any, pipe: Any) -> None:
    """The life of a worker."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    logging.getLogger("bench").setLevel(log_level)
    with suppress(Exception):  # whatever a stranger's detector does when it is imported, the parent says it
        detector_registry.names()  # imports them all, before there is something to do
    try:
        told: _Told = pipe.recv()
        torch.set_num_threads(told.threads)
        deterministic(told.outline.run.torch_device())
        plan = told.outline.plan()
        category = Category(plan, "")
        while (job := todo.get()) is not None:
            at, name, detector = job
            if category.name != name:
                category = Category(plan, name)
                said.put(("pictures", number, name))
                category.unpack(pipe.recv_bytes())
            said.put(("end", at, Group(category, detector).run(_Speaker(said))))
    except (KeyboardInterrupt, EOFError):
        pass  # the parent has the words for an interrupt, or is gone
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
