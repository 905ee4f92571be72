"""Certifying a plan's detectors, one after the other in this process."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import groupby

from bench.cell.certify import Certifying, CertifyReporter
from bench.cell.pictures import Category
from bench.errors import DataError
from bench.plan.certify import CertifyConfig, check, parts
from bench.plan.plan import Plan
from bench.records.certificate import Certificate
from bench.text import one_line


@dataclass(frozen=True)
class CertifyResult:
    """What was certified, in how many seconds, and a sentence about whatever could not be."""

    certificates: list[Certificate] = field(default_factory=list)
    problems: tuple[str, ...] = ()
    seconds: float = 0.0


def certify_plan(plan: Plan, asked: CertifyConfig, reporter: CertifyReporter) -> CertifyResult:
    """Make every certificate that is not there yet. All pictures are decoded before anything is fitted.

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
    for name in plan.categories:
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
    for name, jobs in groupby(plan.jobs, key=lambda job: job.category):
        if name not in usable:
            continue
        for job in jobs:
            for of_fit, part in parts(plan, asked, job):
                made, odd = Certifying(usable[name], of_fit, job, part, reporter).run()
                found += made
                problems += odd
        usable[name].forget()
    return CertifyResult(found, tuple(problems), round(time.monotonic() - started, 1))
