"""What one of the processes that share a run does: jobs that the parent hands it (`bench.run.pool`)."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bench import files
from bench.cell.group import Group
from bench.cell.memory import OUT_OF_MEMORY, is_out_of_memory
from bench.cell.pictures import Category, SharedPictures
from bench.errors import BenchError, DataError, RecordError
from bench.inspection.inspection import Inspection
from bench.plan.plan import Job, Outline, Plan
from bench.records import environment
from bench.records.record import Record
from bench.run.determinism import deterministic
from bench.run.processes import POLL_SECONDS, Say
from bench.text import VisibleFormatter
from detectors import registry as detector_registry
from detectors.base import Progress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Told:
    """What every job comes with."""

    outline: Outline
    threads: int


@dataclass
class _Desk:
    """What this process has at hand from one job to the next."""

    told: Told | None = None
    plan: Plan | None = None
    category: Category | None = None
    device: str = ""  # of several that share the run; "": the request's


_desk = _Desk()


def begin(parent: int, log_level: int, device: str = "") -> None:
    """The first thing that a process does: import everything, before there is something to do.

    Args:
        parent: its process's number.
        log_level: of `bench`.
        device: that it works on, of several that share the run; "": the request's.
    """
    _desk.device = device
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    get_ready(log_level)


def get_ready(log_level: int) -> None:
    """Import everything, and log as the parent does."""
    stream = logging.StreamHandler()
    stream.setFormatter(VisibleFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[stream])
    logging.getLogger("bench").setLevel(log_level)
    environment.commit()  # of the code that this process has loaded: the tree may change under a long run
    logging.getLogger("detectors").setLevel(logging.ERROR)  # what it warns of, the parent says
    with suppress(Exception, SystemExit):  # whatever a stranger's detector does when it is imported
        detector_registry.names()


def check(say: Say, told: Told, name: str, folder: Path) -> SharedPictures:
    """A task: decode a category's pictures and leave them in a folder for all. Raises DataError as `Category.check`."""
    with only_sentences():
        category = category_of(told, name)
        category.check()
        with files.writing(folder):
            return category.share(folder)


def work(say: Say, told: Told, shared: SharedPictures, job: Job) -> None:
    """A task: do a job's group. Its records are among what is said: (kind, ...). Raises as `Group.run`."""
    with only_sentences():
        category = category_of(told, job.category)
        if not category.is_decoded:
            category.take_over(shared)
        Group(category, job.detector, job.fit_seed).run(Speaker(say))


def category_of(told: Told, name: str) -> Category:
    """The one at hand, or a new one of which nothing is decoded."""
    if _desk.plan is None or told != _desk.told:
        torch.set_num_threads(told.threads)
        outline = told.outline
        if _desk.device:
            outline = replace(outline, run=replace(outline.run, device=_desk.device))
        device = outline.run.torch_device()
        deterministic(device)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # what says "cuda" alone, in others' code, means this one
        _desk.told, _desk.plan, _desk.category = told, outline.plan(), None
    if _desk.category is None or _desk.category.name != name:
        _desk.category = Category(_desk.plan, name)
    return _desk.category


@contextmanager
def only_sentences() -> Iterator[None]:
    """An error's own class, a bug's or a stranger's, may not survive the way between processes."""
    try:
        yield
    except (Exception, SystemExit) as error:
        for kind in (DataError, RecordError, BenchError):
            if isinstance(error, kind):
                raise kind(str(error)) from None
        log.debug("In a worker:", exc_info=error)
        if is_out_of_memory(error):
            raise RecordError(f"A worker process {OUT_OF_MEMORY}.") from None
        what = f"{type(error).__name__}: {error}"
        raise RecordError(f"A worker process stopped: {what}; report it.") from None


@dataclass(frozen=True)
class Speaker:
    """The reporter of a job: everything goes to the parent."""

    say: Say

    def looked(self, inspection: Inspection) -> None:
        """The parent knows it from `check`."""

    def fitting(self, detector: str, category: str, fit_seed: int) -> Progress:
        self.say(("fitting",))
        return lambda done, total, note="": self.say(("fit", done, total, note))

    @contextmanager
    def attacking(
        self, detector: str, category: str, fit_seed: int, attack: str, images: int
    ) -> Iterator[Callable[[float, str], None]]:
        self.say(("attacking", attack, images))
        try:
            yield lambda done, note: self.say(("attack", done, note))
        finally:
            self.say(("attacked",))

    def done(self, record: Record, reused: bool) -> None:
        self.say(("done", record, reused))


def _end_with(parent: int) -> None:
    """Nobody reads the results of a worker whose parent was killed, and the same command may be running again."""
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(1)
