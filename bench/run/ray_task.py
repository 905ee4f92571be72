"""A task of a Ray cluster: a fit with its attacks on one of its machines, its cells sent to the driver one by one.

A machine needs RADBench, the data set under the same path, and a folder for checkpoints, its own or one that all share.
It computes into a folder of its own, beside the records that came along with the task.

A task yields always the same cells in the same order: if its machine is lost it is handed in again, with what has come
back already, which it yields once more.
"""

from __future__ import annotations

import atexit
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from bench.cell.group import Group
from bench.errors import BenchError, DataError
from bench.plan.plan import Job
from bench.records.parcel import Parcel, pack
from bench.records.paths import folder_of
from bench.run import worker

TELL_SECONDS = 1.0  # between two messages of one task about how far it is
_OFTEN = ("fit", "attack")  # what is told at every step


@dataclass(frozen=True)
class Asked:
    """What every task comes with.

    Attributes:
        told: the plan, and the threads.
        fingerprints: of the categories, as the driver sees them.
        command: the driver's words, for records.
        log_level: of `bench`.
    """

    told: worker.Told
    fingerprints: Mapping[str, str]
    command: tuple[str, ...]
    log_level: int


@dataclass(frozen=True)
class Cell:
    """A cell's files, whether they were there already, and which files of the driver's it has made void."""

    parcel: Parcel
    was_there: bool
    void: tuple[str, ...]


def do(asked: Asked, job: Job, there: Mapping[str, bytes], posts: Any) -> Iterator[Cell]:
    """A task: a job's group on one of the cluster's machines.

    Args:
        asked: of all tasks.
        job: to be done.
        there: files of the driver's that are of this detector and category.
        posts: where to say how far it is.
    """
    job = Job(*job)
    try:
        with worker.only_sentences():
            yield from _cells(asked, job, there, posts)
    except BenchError as error:
        raise type(error)(f"On the machine {platform.node()}: {error}") from None


def _cells(asked: Asked, job: Job, there: Mapping[str, bytes], posts: Any) -> Iterator[Cell]:
    out = _ready(asked.log_level)
    sys.argv[:] = asked.command  # what records say of how they were made
    outline = asked.told.outline
    told = replace(asked.told, outline=replace(outline, run=replace(outline.run, out=out)))
    category = worker.category_of(told, job.category)
    dataset = category.plan.dataset
    if not category.is_decoded:
        if dataset.fingerprint(job.category) != asked.fingerprints[job.category]:
            raise DataError(f"The pictures of {job.category} are not those of the machine that gives out the work.")
        category.check()
    folder = folder_of(out / "records", dataset.name, job.category)
    shutil.rmtree(out, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, data in there.items():
        (folder / name).write_bytes(data)
    left, post = set(there), _Post(posts, job)
    try:
        for record, was_there in Group(category, job.detector, job.fit_seed).each(worker.Speaker(post.say)):
            void = {name for name in left if not (folder / name).exists()}
            left -= void
            yield Cell(pack(record), was_there, tuple(sorted(void)))
    finally:
        shutil.rmtree(out, ignore_errors=True)


@cache
def _ready(log_level: int) -> Path:
    """Once in each process: import everything. Returns the folder of its own that it computes into."""
    worker.get_ready(log_level)
    folder = Path(tempfile.mkdtemp(prefix="radbench-ray-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@dataclass
class _Post:
    """Says how far a task is, at most once a second: what comes at every step waits for the next time."""

    posts: Any
    job: Job
    waiting: list[tuple[Any, ...]] = field(default_factory=list)
    last: float = 0.0

    def say(self, words: tuple[Any, ...]) -> None:
        """As `bench.run.processes.Say`."""
        if words[0] == "done":
            return  # it comes back with its files
        if words[0] == "fit" and self.waiting and self.waiting[-1][0] == "fit":
            self.waiting.pop()
        self.waiting.append(words)
        if words[0] in _OFTEN and time.monotonic() - self.last < TELL_SECONDS:
            return
        with suppress(Exception):  # nobody listens any more, and the cell is what matters
            self.posts.put_nowait((tuple(self.job), self.waiting))
        self.waiting, self.last = [], time.monotonic()
