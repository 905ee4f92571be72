"""The life of one of the processes that share a run: told what to do by the parent (`bench.run.pool`)."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch

from bench.cell.group import Group
from bench.cell.pictures import Category
from bench.errors import BenchError, DataError, RecordError
from bench.inspection.inspection import Inspection
from bench.plan.plan import Job, Outline, Plan
from bench.records import environment
from bench.records.record import Record
from bench.run.determinism import deterministic
from detectors import registry as detector_registry
from detectors.base import Progress

log = logging.getLogger(__name__)
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Told:
    """What a worker is told before its first job."""

    outline: Outline
    threads: int


@dataclass(frozen=True)
class Check:
    """A job: decode a category's pictures, and send them or what is wrong with them."""

    category: str


@dataclass(frozen=True)
class Run:
    """A job: do a group, the number-th of those that are to be done."""

    number: int
    category: str
    detector: str
    fit_seed: int


@dataclass(frozen=True)
class Channel:
    """A worker's ways to and from the parent.

    Attributes:
        worker: its number.
        todo: jobs, shared by all workers; None: there are no more.
        said: messages to the parent, shared by all workers: tuples that begin with their kind.
        pipe: its own: `Told` first, then categories' packed pictures, both ways.
    """

    worker: int
    todo: Any
    said: Any
    pipe: Any


def work(parent: int, log_level: int, channel: Channel) -> None:
    """The life of a worker: it ends after the last job, and with its parent."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    logging.getLogger("bench").setLevel(log_level)
    environment.commit()  # of the code that this process has loaded: the tree may change under a long run
    with suppress(Exception):  # whatever a stranger's detector does when it is imported, the parent says it
        detector_registry.names()  # imports them all, before there is something to do
    said = channel.said
    try:
        try:
            told: Told = channel.pipe.recv()
        except EOFError:  # the parent is gone
            return
        torch.set_num_threads(told.threads)
        deterministic(told.outline.run.torch_device())
        _do_jobs(told.outline.plan(), channel)
    except KeyboardInterrupt:
        pass  # the parent has the words for it
    except BenchError as error:
        said.put(("error", error))
    except Exception as error:  # a bug; its own class may not survive the way between processes
        log.debug("In a worker:", exc_info=error)
        said.put(("error", RecordError(f"A worker process stopped: {type(error).__name__}: {error}; report it.")))


def _do_jobs(plan: Plan, channel: Channel) -> None:
    category = Category(plan, "")
    while (job := channel.todo.get()) is not None:
        at_hand = category.name == job.category
        category = category if at_hand else Category(plan, job.category)
        if isinstance(job, Check):
            _check(category, channel)
            continue
        if not at_hand:
            channel.said.put(("pictures", channel.worker, job.category))
            try:
                category.unpack(channel.pipe.recv_bytes())
            except EOFError:  # the parent is gone
                return
        group = Group(category, job.detector, job.fit_seed)
        channel.said.put(("end", job.number, group.run(_Speaker(channel.said))))


def _check(category: Category, channel: Channel) -> None:
    try:
        category.check()
        _Speaker(channel.said).looked(category.inspection)
    except DataError as error:
        channel.said.put(("checked", channel.worker, category.name, error))
        return
    channel.said.put(("checked", channel.worker, category.name, None))
    channel.pipe.send_bytes(category.packed())


class _Speaker:
    """The reporter of a worker: everything goes to the parent."""

    def __init__(self, said: Any) -> None:
        self._said = said

    def looked(self, inspection: Inspection) -> None:
        self._said.put(("looked", inspection))

    def fitting(self, detector: str, category: str, fit_seed: int) -> Progress:
        job = Job(category, detector, fit_seed)
        self._said.put(("fitting", job))

        def show(done: int, total: int, note: str = "") -> None:
            self._said.put(("fit", job, done, total, note))

        return show

    @contextmanager
    def attacking(
        self, detector: str, category: str, fit_seed: int, attack: str, images: int
    ) -> Iterator[Callable[[int, str], None]]:
        job = Job(category, detector, fit_seed)
        self._said.put(("attacking", job, attack, images))
        try:
            yield lambda done, note: self._said.put(("attack", job, done, note))
        finally:
            self._said.put(("attacked", job))

    def done(self, record: Record, reused: bool) -> None:
        self._said.put(("done", record, reused))


def _end_with(parent: int) -> None:
    """Nobody reads the results of a worker whose parent was killed, and the same command may be running again."""
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(1)
