"""Where the groups of a run are done: the one door to other processes, and to other machines.

Behind it stand the processes of this machine (`bench.run.pool`) and a Ray cluster (`bench.run.ray_executor`). Slurm
stands behind it with whole runs: each element of its array is a run of its own, on processes of its machine, that does
a share of the plan's jobs (`bench.run.shards`), and what it leaves behind is records (`bench.run.slurm`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from bench.cell.group import Group, Reporter, never
from bench.errors import DataError
from bench.plan.plan import Job, Plan
from bench.records.record import Record
from bench.run import costs
from bench.run.relay import Relay

Found = list[tuple[Record, bool]]  # a job's records in the order of its attacks, and whether each was there already
Stop = Callable[[], bool]


class News(NamedTuple):
    """What is heard of a job.

    Attributes:
        job: which.
        what: any number of times what a `Reporter` is told ("fitting", "fit", "attacking", "attack", "attacked"), and
            "done" for each cell; then "ended", or "lost" where its process or its machine is gone.
        words: what comes with it: of "done" the record and whether it was there already; of "lost" why, as a sentence.
    """

    job: Job
    what: str
    words: tuple[Any, ...] = ()


class Executor(Protocol):
    """Does the groups of one plan, wherever it does them."""

    def check(
        self, plan: Plan, names: Sequence[str], reporter: Reporter, *, jobs: int, workers: int
    ) -> dict[str, DataError]:
        """Decode all pictures of some of a plan's categories, before anything is fitted; to be called once, before
        `work`.

        Args:
            plan: the whole plan.
            names: of the categories.
            reporter: told what was seen in each.
            jobs: how many there will be.
            workers: how many processes share the whole plan, and so the threads of a machine.

        Returns:
            What is wrong with those that cannot be read.
        """
        ...

    def work(self, plan: Plan, groups: Mapping[Job, Group], stop: Stop) -> Iterator[News]:
        """Submit jobs, in this order, and tell what is heard of each, its records among it.

        Once `stop` says so, nothing new is begun, and it ends as soon as each cell at hand has its record.

        Raises:
            RecordError, DataError: as `Group.run`.
            BenchError: there is nobody left to do them.
        """
        ...

    def end(self) -> None:
        """End whatever is still at work."""
        ...


def carry_out(
    executor: Executor, plan: Plan, groups: Mapping[Job, Group], reporter: Reporter, stop: Stop = never
) -> dict[Job, Found]:
    """Have jobs done in categories that were checked, what takes long first. Returns each one's records.

    A process that ends in the middle of a job, for whatever reason, leaves it the records of a failure, unless the run
    was told to end: a cluster may have told all of its processes, and the job is only unfinished.

    Raises:
        RecordError, DataError, BenchError: as `Executor.work`.
    """
    relay, jobs = Relay(reporter), list(groups)
    found: dict[Job, Found] = {job: [] for job in jobs}
    order = [jobs[number] for number in costs.longest_first(plan, jobs)]
    for job, what, words in executor.work(plan, {job: groups[job] for job in order}, stop):
        if what == "lost":
            relay.forget(job)
            if stop():
                continue
            found[job] += groups[job].give_up(words[0], reporter, done=len(found[job]))
            continue
        if what == "done":
            found[job].append((words[0], words[1]))
        relay.pass_on(what, job, *words)
    return found
