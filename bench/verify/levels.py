"""All levels of one claim, one after the other, until one does not hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.cell.group import Reporter
from bench.errors import CellError, ContradictionError, RecordError
from bench.plan.of_record import Machine
from bench.records.record import Record
from bench.verify import again, rescored
from bench.verify.again import Try
from bench.verify.finding import Finding, Outcome, UnjudgedError
from bench.verify.ground import Ground, ground_of
from bench.verify.stated import Claim


@dataclass(frozen=True)
class Verification:
    """What is asked.

    Attributes:
        level: up to which.
        machine: where data and caches are.
        out: where the cells that are made again go, a folder of each record; with records that are there already
            nothing would be made again.
        wanted: how level 4 tries.
        checkpoints: those that came with the claims, or None.
    """

    level: int
    machine: Machine
    out: Path
    wanted: Try = field(default_factory=Try)
    checkpoints: Path | None = None


def findings(claim: Claim, asked: Verification, reporter: Reporter) -> Iterator[Finding]:
    """What each level says of a claim, as soon as it is known."""
    yield claim.finding
    if claim.finding.outcome is not Outcome.HOLDS or asked.level == 1:
        return
    record = claim.what
    if not isinstance(record, Record):
        yield _unjudged(asked, "A certificate is judged by its bounds alone; run certify again to make it anew.")
        return
    if record.robust is None:
        yield _unjudged(asked, "It claims no figures.")
        return
    try:
        adversarial = rescored.images_of(record)
    except ContradictionError as error:
        yield Finding(2, Outcome.FAILS, str(error))
        return
    except UnjudgedError as error:
        adversarial = None
        yield Finding(2, Outcome.UNJUDGED, str(error))
        if asked.level == 2:
            return
    try:
        ground = ground_of(record, asked.machine, reporter, asked.checkpoints)
    except ContradictionError as error:
        yield Finding(2, Outcome.FAILS, str(error))  # without anything being run
        return
    except UnjudgedError as error:
        yield _unjudged(asked, str(error))
        return
    if adversarial is not None:
        found = _of_level(2, lambda: rescored.rescored(ground, adversarial))
        yield found
        if found.outcome is Outcome.FAILS:
            return
    for level in range(3, asked.level + 1):
        found = _made(ground, level, asked)
        yield found
        if found.outcome is Outcome.FAILS:
            return


def _made(ground: Ground, level: int, asked: Verification) -> Finding:
    out = asked.out / f"{ground.record.key[:12]}-level-{level}"
    if level == 3:
        return _of_level(level, lambda: again.same_seed(ground, out))
    return _of_level(level, lambda: again.another_try(ground, asked.wanted, out))


def _of_level(level: int, judge: Callable[[], Finding]) -> Finding:
    try:
        return judge()
    except ContradictionError as error:
        return Finding(level, Outcome.FAILS, str(error))
    except (UnjudgedError, RecordError, CellError) as error:  # a file that is gone by now, a score that is none
        return Finding(level, Outcome.UNJUDGED, str(error))


def _unjudged(asked: Verification, sentence: str) -> Finding:
    """Nothing beyond level 1 can be judged."""
    return Finding(asked.level, Outcome.UNJUDGED, sentence)
