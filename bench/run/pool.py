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
import shutil
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from typing import Any

import torch

from bench import files
from bench.cell.group import Reporter
from bench.cell.pictures import SharedPictures
from bench.data import registry as datasets
from bench.errors import BenchError, DataError
from bench.plan.plan import Job, Outline, Plan
from bench.plan.request import RunConfig
from bench.records.paths import safe_name
from bench.records.record import Record
from bench.run import costs, worker
from bench.run.relay import Relay
from bench.run.shared_folder import shared_folder
from bench.run.worker import POLL_SECONDS, Told

Found = list[tuple[Record, bool]]
# Signals that compiled code sends to itself. Windows lacks some of them.
_NAMES = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL")
_CRASHES = frozenset(-getattr(signal, name) for name in _NAMES if hasattr(signal, name))


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
    if run.detectors != ("all",):
        with suppress(BenchError):  # planning will say it
            categories = run.categories or datasets.get(run.dataset, run.data_root, run.reading).categories()
            wanted = min(wanted, len(set(categories)) * len(set(run.detectors)) * len(run.fit_seeds or (0,)))
    has_records = (run.out / "records" / safe_name(run.dataset)).is_dir()
    return nullcontext() if wanted < 2 or has_records else Crew(wanted)


def _wanted(run: RunConfig, asked: int | None) -> int:
    if asked is not None and asked < 1:
        raise BenchError(f"--workers must be at least 1; got {asked}.")
    on_cpu = run.torch_device().type == "cpu"
    return asked if asked is not None else torch.get_num_threads() if on_cpu else 1


class Crew:
    """Processes that wait for jobs. To be used in a `with`: leaving it ends them, whatever they are doing.

    They start when it is entered, since importing takes each of them seconds, in which others can get the jobs ready.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None
        self._processes: list[multiprocessing.process.BaseProcess] = []
        self._shared: dict[str, SharedPictures] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Crew:
        try:
            self._start()
        except BaseException:  # an interrupt, too
            self.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a forked copy of PyTorch's threads hangs
        others = multiprocessing.active_children()
        with _memory_kept(), _interrupts_kept():
            try:
                self._said = context.Queue()
                words = (os.getpid(), logging.getLogger("bench").level, self._said)
                self._pool = ProcessPoolExecutor(self._workers, context, initializer=worker.begin, initargs=words)
                for _ in range(self._workers):  # each starts one, as long as none has nothing to do
                    self._pool.submit(os.getpid)
            except (OSError, ImportError) as error:  # no shared memory (/dev/shm), or too many processes or open files
                raise BenchError(
                    f"This system lets no processes share the work ({error}; they need a writable /dev/shm, and room "
                    "for processes and open files); run the same command again with --workers 1."
                ) from None
            finally:
                self._processes = [p for p in multiprocessing.active_children() if p not in others]

    def _stop(self) -> None:
        for process in self._processes:
            process.terminate()
        if self._pool is not None:
            # One that was ended in the middle of a message leaves half of it, and the executor waits for the rest as
            # long as somebody could write it: this process is the last one that could.
            results: Any = getattr(self._pool, "_result_queue", None)
            for process in self._processes:
                process.join(timeout=10)
            with suppress(OSError, AttributeError):
                results._writer.close()
            self._pool.shutdown()
        self._pool, self._processes = None, []

    def end(self) -> None:
        """End the processes, whatever they are doing, and take away what they share."""
        self._stop()
        self._stack.close()

    def check(self, plan: Plan, names: Sequence[str], reporter: Reporter, *, workers: int) -> dict[str, DataError]:
        """Decode all pictures of some of a plan's categories, each by one process; to be called once, before `run`.

        Args:
            plan: the whole plan.
            names: of the categories.
            reporter: told what was seen in each.
            workers: how many processes work from now on, at most as many as there are.

        Returns:
            What is wrong with those that cannot be read. The pictures of the others are kept.

        Raises:
            RecordError: the disk refuses.
            BenchError: a process was killed.
        """
        if workers < self._workers:  # a pool cannot shrink
            self._stop()
            self._workers = workers
            self._start()
        self._told = Told(Outline.of(plan), max(1, torch.get_num_threads() // workers))
        with files.writing(plan.run.cache):
            folder = self._stack.enter_context(shared_folder(plan.run.cache))
        problems: dict[str, DataError] = {}
        with self._losses_said() as pool:
            places = {name: folder / str(number) for number, name in enumerate(names)}
            found = {name: pool.submit(worker.check, self._told, name, place) for name, place in places.items()}
            for name, future in found.items():
                try:
                    self._shared[name] = future.result()
                    reporter.looked(self._shared[name].inspection)
                except DataError as error:
                    problems[name] = error
        return problems

    def run(self, plan: Plan, jobs: Sequence[Job], reporter: Reporter) -> list[Found]:
        """Do jobs in categories that were checked; once. Returns each one's records, in the order of the jobs.

        Raises:
            RecordError, DataError: as in one process.
            BenchError: a process was killed.
        """
        relay, failed = Relay(reporter), list[Future[None]]()
        found: dict[Job, Found] = {job: [] for job in jobs}
        left = Counter({name: len(plan.attacks) * n for name, n in Counter(job.category for job in jobs).items()})
        with self._losses_said() as pool:
            for job in (jobs[number] for number in costs.longest_first(plan, jobs)):
                future = pool.submit(worker.work, self._told, self._shared[job.category], job)
                future.add_done_callback(lambda future: failed.append(future) if future.exception() else None)
            while left.total():
                kind, job, *rest = self._message()
                if failed:
                    failed[0].result()
                if kind == "done":
                    record, was_there = rest
                    found[job].append((record, was_there))
                    left[job.category] -= 1
                    if not left[job.category]:  # a process that maps its pictures has them all the same
                        shutil.rmtree(self._shared[job.category].folder, ignore_errors=True)
                if kind:
                    relay.pass_on(kind, job, *rest)
        return [found[job] for job in jobs]

    def _message(self) -> tuple[Any, ...]:
        """What a process says: (kind, job, ...), or ("", None) where none says anything."""
        try:
            message: tuple[Any, ...] = self._said.get(timeout=POLL_SECONDS)
        except queue.Empty:
            return "", None
        return message

    @contextmanager
    def _losses_said(self) -> Iterator[ProcessPoolExecutor]:
        """The pool; that one of its processes was killed becomes a sentence."""
        assert self._pool is not None
        try:
            yield self._pool
        except BrokenProcessPool:
            self._pool.shutdown()  # it ends the others, and then all exit codes are known
            codes = [p.exitcode for p in self._processes if p.exitcode not in (None, 0, -signal.SIGTERM)]
            raise BenchError(_death(codes[0] if codes else -signal.SIGTERM)) from None


def _death(code: int) -> str:
    """What to tell the user of a worker that ended with this exit code; a negative one is that of a signal."""
    kept = "what was finished is kept: run the same command again with --workers 1"
    if code in _CRASHES:
        return (
            f"A worker process crashed ({signal.Signals(-code).name}), which is an error in compiled code: PyTorch, "
            f"another library or a driver, or a detector's own; {kept}, and if it crashes there, too, report it with "
            "the detector's name."
        )
    if code == -signal.SIGKILL:
        return f"A worker process was killed (exit code {code}), probably for want of memory; {kept}."
    return f"A worker process was ended from outside or by its own code (exit code {code}); {kept}."


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
