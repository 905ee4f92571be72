"""Processes that each talk to this one through a pipe of their own: a death is an end of file, whenever it comes.

`concurrent.futures` has all of them write into one pipe. The rest of a long message whose writer was killed is then
waited for as long as any of the others could still write it; and its locks need /dev/shm, which some systems forbid.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any, Literal, NamedTuple

from bench.errors import BenchError

POLL_SECONDS = 0.5
KILLED = -9  # the exit code; Windows has no SIGKILL
_LAST_SECONDS = 10.0  # that a process gets to end when it is told to

Say = Callable[[Any], None]


class Task(NamedTuple):
    """What a process is to do: `function(say, *words)`, where whatever is given to `say` is told at once. Both, what is
    said, what comes back and what is raised must survive pickling."""

    function: Callable[..., Any]
    words: tuple[Any, ...]


class Heard(NamedTuple):
    """What is heard of a task.

    Attributes:
        task: its number.
        kind: "said", any number of times; then "done", "failed" or "lost".
        content: what was said, what the function returned, the Exception that it raised, or the exit code of a process
            that ended in the middle of it.
    """

    task: int
    kind: Literal["said", "done", "failed", "lost"]
    content: Any


@dataclass(frozen=True, eq=False)
class _Worker:
    process: BaseProcess
    pipe: Connection
    seat: int

    def end(self) -> int:
        """End it, whatever it is doing. Returns its exit code."""
        self.process.terminate()
        self.process.join(_LAST_SECONDS)
        self.process.kill()
        self.process.join()
        self.pipe.close()
        return self.process.exitcode or 0


class Processes:
    """So many processes, which wait for tasks. To be ended by `end`, whatever they are doing."""

    def __init__(
        self, count: int, begin: Callable[..., None], words: tuple[Any, ...], seats: Sequence[Any] = ()
    ) -> None:
        """Start them.

        Args:
            count: how many.
            begin: the first thing that each does, with `words`: to import what tasks need takes seconds, in which
                others can get the tasks ready.
            seats: what is dealt out to them in turn, one to each, as a last word: the devices that they work on. One
                that takes another's place takes its seat, too.

        Raises:
            BenchError: the system refuses.
        """
        self._begin = (begin, words)
        self._seats = seats
        self._spare = count  # of those that end with nothing to do so many are replaced
        self._workers: list[_Worker] = []
        self._busy: dict[_Worker, int] = {}
        try:
            for _ in range(count):
                self._start()
        except BaseException:  # an interrupt, too
            self.end()
            raise

    def __len__(self) -> int:
        return len(self._workers)

    def shrink(self, count: int) -> None:
        """End those beyond so many; none of them may be at work."""
        for worker in self._workers[count:]:
            worker.process.terminate()
        while len(self._workers) > count:
            self._workers.pop().end()

    def end(self) -> None:
        """End all of them."""
        self.shrink(0)

    @property
    def at_work(self) -> set[int]:
        """The numbers of the tasks that are begun and have not ended."""
        return set(self._busy.values())

    def work(self, tasks: Sequence[Task], stop: Callable[[], bool] = lambda: False) -> Iterator[Heard]:
        """Have tasks done, in about this order, and tell what is heard of them; none is begun once `stop` says so.

        A process that ends in the middle of a task costs that one alone, and another process takes its place; where it
        was killed, for want of memory perhaps, the others do the rest, as long as there are any.

        Raises:
            BenchError: the system starts no processes, or they don't live.
        """
        left, busy = deque(enumerate(tasks)), self._busy
        busy.clear()
        while left or busy:
            if stop():
                left.clear()
            for worker in [w for w in self._workers if w not in busy]:
                if left and self._hand_over(worker, left[0][1]):
                    busy[worker] = left.popleft()[0]
            for worker in self._listen(busy):
                try:
                    kind, content = worker.pipe.recv()
                except (EOFError, OSError):
                    kind, content = "lost", self._bury(worker)
                    if content != KILLED or not self._workers:
                        self._start()
                task = busy[worker] if kind == "said" else busy.pop(worker)
                yield Heard(task, kind, content)

    def _hand_over(self, worker: _Worker, task: Task) -> bool:
        """Whether the process is there to take it; one that ended while it had nothing to do is replaced."""
        try:
            worker.pipe.send(task)
        except OSError:
            code = self._bury(worker)
            if self._spare == 0:
                raise BenchError(
                    f"Worker processes end as soon as they start (exit code {code}); run the same command again with "
                    "--workers 1."
                ) from None
            self._spare -= 1
            self._start()
            return False
        return True

    @staticmethod
    def _listen(busy: dict[_Worker, int]) -> list[_Worker]:
        """Those who have said something or ended."""
        ready = wait([worker.pipe for worker in busy], POLL_SECONDS)
        if ready:
            return [worker for worker in busy if worker.pipe in ready]
        for worker in busy:  # what a dead one has started may hold its end of the pipe
            if not worker.process.is_alive() and not worker.pipe.poll():
                worker.pipe.close()
        return [worker for worker in busy if worker.pipe.closed]

    def _bury(self, worker: _Worker) -> int:
        self._workers.remove(worker)
        worker.process.join(_LAST_SECONDS)  # the pipe ends a moment before the process does
        return worker.end()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a forked copy of PyTorch's threads hangs
        theirs = None
        try:
            ours, theirs = context.Pipe()
            begin, words = self._begin
            seat = min({*range(len(self._workers) + 1)} - {worker.seat for worker in self._workers})
            if self._seats:
                words = (*words, self._seats[seat % len(self._seats)])
            process = context.Process(target=_serve, args=(theirs, begin, words))
            with _memory_kept(), _interrupts_kept():
                process.start()
                self._workers.append(_Worker(process, ours, seat))
        except OSError as error:
            raise BenchError(
                f"This system starts no more processes ({error.strerror or error}; each needs room among processes and "
                "open files); run the same command again with --workers 1."
            ) from error
        finally:
            if theirs is not None:
                theirs.close()  # the process's own is then the only one, and ends with it


def _serve(pipe: Connection, begin: Callable[..., None], words: tuple[Any, ...]) -> None:
    """What each of the processes does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # blocked until now; a library's thread may not keep that up
    begin(*words)
    # Posted by a thread: nobody computes later because the other side is drawing a picture just now.
    post: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_deliver, args=(post, pipe), daemon=True).start()

    def tell(kind: str, content: Any) -> None:
        post.put(ForkingPickler.dumps((kind, content)))  # here, where what cannot be pickled is the task's own error

    while True:
        try:
            task: Task = pipe.recv()
        except (EOFError, OSError):
            return  # there is nobody to work for
        try:
            tell("done", task.function(lambda content: tell("said", content), *task.words))
        except Exception as error:
            tell("failed", error)


def _deliver(post: queue.SimpleQueue[Any], pipe: Connection) -> None:
    with suppress(OSError):  # nobody listens any more
        while True:
            pipe.send_bytes(post.get())


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
