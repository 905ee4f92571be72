"""Certifying a plan's detectors, one after the other in this process; several of them share a plan by shards."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from bench.cell.certify import Certifying, CertifyReporter
from bench.cell.group import never
from bench.cell.pictures import Category
from bench.errors import DataError
from bench.plan.certify import CertifyConfig, check, parts
from bench.plan.plan import Job, Plan
from bench.records.certificate import Certificate
from bench.run.executor import Stop
from bench.text import one_line


@dataclass(frozen=True)
class CertifyResult:
    """What was certified, in how many seconds, a sentence about whatever could not be, and how many fits are left where
    the run was to stop."""

    certificates: list[Certificate] = field(default_factory=list)
    problems: tuple[str, ...] = ()
    seconds: float = 0.0
    unfinished: int = 0


def certify_plan(
    plan: Plan,
    asked: CertifyConfig,
    reporter: CertifyReporter,
    *,
    jobs: Sequence[Job] | None = None,
    stop: Stop = never,
) -> CertifyResult:
    """Make every certificate that is not there yet. All pictures are decoded before anything is fitted.

    Args:
        plan: whose detectors and categories.
        asked: what is certified of each.
        reporter: told how far it is.
        jobs: the share of the plan's that is to be done (`bench.run.shards`), in its order; None: all.
        stop: says when to end early: the fit at hand is finished, and no other is begun.

    Raises:
        BenchError: there are too few samples or images for what is asked.
        RecordError: the disk refuses, so nothing can go on.
        DataError: no category's pictures can be read.
    """
    started = time.monotonic()
    check(plan, asked)
    plan.built.clear()
    problems: list[str] = []
    usable = {}
    share = plan.jobs if jobs is None else jobs
    for name in dict.fromkeys(job.category for job in share):
        category = Category(plan, name)
        try:
            category.check()
        except DataError as error:
            problems.append(one_line(error, 1000))
            continue
        reporter.looked(category.inspection)
        usable[name] = category
    if not usable:
        raise DataError(problems[0])
    found: list[Certificate] = []
    unfinished = 0
    for name, of_category in groupby(share, key=lambda job: job.category):
        if name not in usable:
            continue
        for job in of_category:
            if stop():
                unfinished += 1
                continue
            for of_fit, part in parts(plan, asked, job):
                made, odd = Certifying(usable[name], of_fit, job, part, reporter).run()
                found += made
                problems += odd
        usable[name].forget()
    return CertifyResult(found, tuple(problems), round(time.monotonic() - started, 1), unfinished)
