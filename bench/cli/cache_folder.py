"""The folder of checkpoints, before a command begins: one that is read-only will do where nothing has to be fitted."""

from __future__ import annotations

from bench import files
from bench.errors import DiskError
from bench.plan import checkpoints
from bench.plan.plan import Job, Plan


def check(plan: Plan) -> None:
    """Raises DiskError where the folder cannot be written to and some fit is not there yet: now, and not after the
    hours that the cells before it take."""
    try:
        files.check_writable(plan.run.cache)
    except DiskError:
        if any(origin(plan, job) == "to be fitted" for job in plan.jobs):
            raise


def origin(plan: Plan, job: Job) -> str:
    """What the fit of a job would find: "shipped", "cached" or "to be fitted". The plan has its detectors."""
    detector = plan.built[job.detector, job.category]
    return checkpoints.origin(detector, plan.dataset, job.category, plan.at(job.fit_seed).run)
