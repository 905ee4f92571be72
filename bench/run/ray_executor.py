"""The groups of a run as tasks of a Ray cluster. Scheduling, shares of GPUs, noticing a lost machine: that is Ray's.

Every cell's files come back to the driver's folder (`bench.run.ray_task` sends them), where an earlier run's records
are looked for, too; so a run goes on after a kill wherever the cluster then is.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.cell.group import Group, Reporter
from bench.cell.pictures import Category
from bench.errors import BenchError, DataError, RecordError
from bench.plan.plan import Job, Outline, Plan
from bench.records.parcel import Known, unpack
from bench.records.paths import folder_of
from bench.run import ray_task, worker
from bench.run.executor import News, Stop
from bench.text import one_line, plural

RETRIES = 3  # of a task whose process or machine is lost
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Share:
    """What each task gets of a machine: of a GPU a share, so that several use one, or none; `cpus` are its threads."""

    gpus: float = 0.0
    cpus: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.gpus <= 1:
            raise BenchError(f"--ray-gpus is a task's share of a GPU, 0 to 1; got {self.gpus:g}.")
        if self.cpus < 1:
            raise BenchError(f"--ray-cpus is 1 or more; got {self.cpus}.")

    @property
    def device(self) -> str:
        """What a task computes on: Ray shows it no other GPU than its own."""
        return "cuda" if self.gpus else "cpu"


@dataclass
class _Task:
    """A job in the cluster, handed in again where it is lost: by Ray's own retries finished cells would be computed
    once more, and one that its machine took along before it had come over would be a failure.

    Attributes:
        job: what is to be done.
        known: of its cells, which come in the same order, those that are here from before it was lost.
        lost: how often it was.
        cells: that are here.
    """

    job: Job
    known: int = 0
    lost: int = 0
    cells: int = field(init=False)

    def __post_init__(self) -> None:
        self.cells = self.known


class RayExecutor:
    """A Ray cluster as `bench.run.executor.Executor`: the one at hand (RAY_ADDRESS, or `ray start` on this machine), or
    else one that is started on this machine alone. To be used in a `with`."""

    def __init__(self, gpus: float | None = None, cpus: int = 1) -> None:
        """
        Args:
            gpus, cpus: as in `Share`; None: a whole GPU where the cluster has any.

        Raises:
            BenchError: they are out of their ranges, or Ray is not installed.
        """
        self._share, self._is_settled = Share(gpus or 0.0, cpus), gpus is not None
        self._ray = _ray()
        self._is_ours = False
        self._checked: dict[str, str] = {}

    def __enter__(self) -> RayExecutor:
        ray = self._ray
        if not ray.is_initialized():
            try:
                ray.init(logging_level=logging.WARNING)
            except Exception as error:  # whatever it is: versions, addresses, rights
                raise BenchError(f"There is no way to Ray ({one_line(error, 500)}); look with `ray status`.") from None
            self._is_ours = True
        if not self._is_settled and ray.cluster_resources().get("GPU", 0) > 0:
            self._share = replace(self._share, gpus=1.0)
        self._check_room()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Leave the cluster, with whatever is still at work there; one that was started here ends."""
        if self._is_ours and self._ray.is_initialized():
            self._ray.shutdown()

    def check(
        self, plan: Plan, names: Sequence[str], reporter: Reporter, *, jobs: int, workers: int
    ) -> dict[str, DataError]:
        """As `Executor.check`, in this process: each machine looks at its own before its first fit of a category."""
        problems = {}
        for name in names:
            category = Category(plan, name)
            try:
                category.check()
                reporter.looked(category.inspection)
                self._checked[name] = plan.dataset.fingerprint(name)
            except DataError as error:
                problems[name] = error
        return problems

    def work(self, plan: Plan, groups: Mapping[Job, Group], stop: Stop) -> Iterator[News]:
        """As `Executor.work`. A task that is lost more than `RETRIES` times is lost for good."""
        ray, records = self._ray, plan.run.out / "records"
        left, posts = deque(_Task(job) for job in groups), self._post_box()
        known = {name: Known(records, plan.dataset.name, name) for name in {job.category for job in groups}}
        streams: dict[Any, _Task] = {}
        rested: set[Any] = set()
        most, looked = self._most(), 0.0
        options = {"num_cpus": self._share.cpus, "num_gpus": self._share.gpus, "max_retries": 0}
        do = ray.remote(num_returns="streaming", **options)(ray_task.do)
        asked = ray.put(self._asked(plan))
        try:
            while left or streams:
                if stop():
                    left.clear()
                    if set(streams) <= rested:
                        return
                while left and len(streams) < most:
                    task = left.popleft()
                    job, own = task.job, known[task.job.category]
                    there = own.files(job.detector, job.fit_seed, with_images=plan.run.keep_images)
                    streams[do.remote(asked, job, there, posts)] = task
                ready, _ = ray.wait(list(streams), num_returns=1, timeout=POLL_SECONDS)
                arrived = [(stream, self._next(stream, streams[stream], plan)) for stream in ready]
                has_ended = any(news.what not in ("done", "known") for _, news in arrived)
                if has_ended or time.monotonic() - looked > ray_task.TELL_SECONDS:  # a question to another process
                    at_work = {task.job for task in streams.values()}
                    for job, words in _posted(posts):
                        if job in at_work:
                            yield News(job, words[0], words[1:])
                    most, looked = self._most(), time.monotonic()
                for stream, news in arrived:
                    if news.what == "known":
                        continue
                    if news.what == "again":
                        task = streams.pop(stream)
                        known[task.job.category] = Known(records, plan.dataset.name, task.job.category)
                        left.append(_Task(task.job, task.cells, task.lost + 1))
                        continue
                    yield news
                    if news.what != "done":
                        del streams[stream]
                    elif stop():
                        rested.add(stream)
        finally:
            for stream in streams:
                with suppress(Exception):  # who has ended meanwhile
                    ray.cancel(stream)

    def _next(self, stream: Any, task: _Task, plan: Plan) -> News:
        """What comes next of a task; "known" of a cell that is here, "again" where it was lost and may be done anew."""
        errors, job = self._ray.exceptions, task.job
        try:
            reference = next(stream)
            if task.known:
                task.known -= 1
                return News(job, "known")
            cell = self._ray.get(reference)
        except StopIteration:
            return News(job, "ended")
        except errors.RayTaskError as error:
            if isinstance(error.cause, BenchError):
                raise error.cause from None
            raise RecordError(f"A Ray task stopped: {one_line(error.cause, 500)}; report it.") from None
        except errors.RayError as error:
            if task.lost < RETRIES:
                return News(job, "again")
            what = f"Its Ray task was lost for good ({type(error).__name__})"
            return News(job, "lost", (f"{what}; what was finished is kept: run the same command again.",))
        records = plan.run.out / "records"
        record = unpack(cell.parcel, records)
        task.cells += 1
        for name in cell.void:
            if Path(name).name == name:
                (folder_of(records, plan.dataset.name, job.category) / name).unlink(missing_ok=True)
        return News(job, "done", (record, cell.was_there))

    def _asked(self, plan: Plan) -> ray_task.Asked:
        outline = Outline.of(plan)
        run = replace(plan.run, device=self._share.device, out=Path("out"), cache=plan.run.cache.absolute())
        if run.data_root is not None:
            run = replace(run, data_root=run.data_root.absolute())
        told = worker.Told(replace(outline, run=run), self._share.cpus)
        return ray_task.Asked(told, dict(self._checked), tuple(sys.argv), logging.getLogger("bench").level)

    def _check_room(self) -> None:
        """Ray would wait for a machine that is large enough for ever."""
        found = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        share = self._share
        if not any(r.get("CPU", 0) >= share.cpus and r.get("GPU", 0) >= share.gpus for r in found):
            raise BenchError(
                f"No machine of this Ray cluster ({plural(len(found), 'machine')}) has {plural(share.cpus, 'CPU')} and "
                f"{share.gpus:g} GPUs for a task; ask for less with --ray-cpus and --ray-gpus, or add one."
            )

    def _most(self) -> int:
        """How many tasks wait in the cluster at a time: enough for all of it, and few enough to look at each."""
        return max(16, 2 * int(self._ray.cluster_resources().get("CPU", 1)) // self._share.cpus)

    def _post_box(self) -> Any:
        """Where tasks say how far they are: on this machine, which is there as long as the run is."""
        from ray.util.queue import Queue
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(self._ray.get_runtime_context().get_node_id(), soft=False)
        return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})


def _posted(posts: Any) -> list[tuple[Job, tuple[Any, ...]]]:
    batches = posts.get_nowait_batch(posts.qsize())
    return [(Job(*job), words) for job, several in batches for words in several]


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise BenchError("--executor ray needs Ray: python -m pip install -e .[ray]") from None
    return ray
