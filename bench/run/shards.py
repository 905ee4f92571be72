"""A share of a plan's jobs, for one of several runs on one folder.

Nothing is claimed: who does a job follows from the plan and from the table of costs that comes with the code, and from
nothing that is on a disk. So two shards never do the same job, whatever clocks and locks of a shared folder say, and a
shard that is started again, or another number of shards, finds by its key what is there already.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Sequence
from dataclasses import dataclass

from bench.errors import BenchError
from bench.plan.plan import Job, Plan
from bench.run.costs import expected_seconds, longest_first
from bench.text import one_line, plural

MOST = 1_000_000  # Slurm's arrays end far below


@dataclass(frozen=True)
class Shard:
    """One of `count` shares; `number` counts from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """`--shard 3/8`. Raises BenchError where it has another form."""
        found = re.fullmatch(r"([0-9]{1,7})/([0-9]{1,7})", text.strip())
        if found is None:
            raise BenchError(f"--shard takes NUMBER/COUNT, such as 3/8; got {one_line(text, 40)!r}.")
        number, count = int(found[1]), int(found[2])
        if not 1 <= number <= count <= MOST:
            raise BenchError(f"--shard counts from 1/{count} to {count}/{count}; got {one_line(text, 40)}.")
        return cls(number, count)

    def jobs(self, plan: Plan) -> list[Job]:
        """Its jobs, in the plan's order.

        Raises:
            BenchError: there are more shards than jobs.
        """
        return shares(plan, self.count)[self.number - 1]

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def shares(plan: Plan, count: int) -> list[list[Job]]:
    """A plan's jobs in so many shares that take about alike: what takes long first, each to the share that has the
    least so far. Where all take alike, that is one after the other.

    Raises:
        BenchError: some would get nothing.
    """
    jobs = plan.jobs
    if count > len(jobs):
        fits = plural(len(jobs), "fit")
        raise BenchError(f"{count} shards don't fit: the plan has {fits}, which are not divided; use {len(jobs)}.")
    seconds = _seconds(plan, jobs)
    found: list[list[int]] = [[] for _ in range(count)]
    loads = [(0.0, 0, number) for number in range(count)]  # a heap: seconds, jobs, which
    for place in longest_first(plan, jobs):
        load, held, number = loads[0]
        found[number].append(place)
        heapq.heapreplace(loads, (load + seconds[place], held + 1, number))
    return [[jobs[place] for place in sorted(places)] for places in found]


def _seconds(plan: Plan, jobs: Sequence[Job]) -> list[float]:
    """What each is expected to take; one of which nothing is known as long as the longest."""
    known = expected_seconds(plan, {job.detector for job in jobs})
    longest = max((s for s in known.values() if s is not None), default=1.0)
    found = {name: longest if seconds is None else seconds for name, seconds in known.items()}
    return [found[job.detector] for job in jobs]
