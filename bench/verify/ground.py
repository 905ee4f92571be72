"""What levels 2 to 4 stand on: the record's cell, planned again on this machine from its record alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from attacks.base import Attack
from attacks.errors import AttackError
from bench.cell import group
from bench.cell.fitting import Fitted
from bench.cell.group import Reporter
from bench.cell.pictures import Category
from bench.cell.record_of import ALLOW_LEAKS
from bench.errors import BenchError, ContradictionError
from bench.plan import plan as planning
from bench.plan.of_record import Machine, differences, planned_cell, request_of
from bench.plan.plan import Plan
from bench.records.record import Record
from bench.run.determinism import deterministic
from bench.text import one_line
from bench.verify import brought
from bench.verify.finding import UnjudgedError
from bench.verify.stated import listed
from detectors.errors import DetectorError

BROUGHT = " on the checkpoint that came with it"  # said of whatever was found on it
CANNOT = (BenchError, DetectorError, AttackError)  # of a request: a name, a package, data that are not here


@dataclass(frozen=True, eq=False)
class Ground:
    """A record's cell on this machine.

    Attributes:
        record: the claim.
        plan: of that cell alone (of a sweep, with the smaller balls).
        reporter: told how far a fit and an attack are.
        is_brought: whether the checkpoint came with the claim: nobody here has fitted it.
    """

    record: Record
    plan: Plan
    reporter: Reporter
    is_brought: bool = False

    @cached_property
    def category(self) -> Category:
        """Its pictures, decoded and looked at. Raises BenchError where they cannot be read."""
        found = Category(self.plan, self.record.category)
        found.check()
        return found

    @cached_property
    def attack(self) -> Attack:
        """With its threat model settled."""
        made = self.plan.attacks_on(self.record.detector_name)
        return next(a for a in made if a.threat.at(self.plan.image_size).epsilon == self.record.epsilon)

    @cached_property
    def fitted(self) -> Fitted:
        """The detector from the very checkpoint that the record is of. Raises UnjudgedError where that is not here, and
        a fit ends with another one."""
        name, category = self.record.detector_name, self.record.category
        plan = self.plan.at(self.plan.fit_seeds(name)[0])
        found = group.obtain(plan, category, self.category.training, name, self.reporter)
        if isinstance(found, str):
            raise UnjudgedError(f"The detector cannot be had: {found}")
        stated = self.record.detector.checkpoint_sha256
        if found.tensors_sha256 != stated:
            raise UnjudgedError(
                f"The checkpoint here ({found.tensors_sha256[:12]}, {found.origin}) is not the record's "
                f"({one_line(stated, 12)}): verify the archive that brings that one, or name the cache where it lies "
                "(--cache)."
            )
        return found


def ground_of(record: Record, machine: Machine, reporter: Reporter, checkpoints: Path | None = None) -> Ground:
    """The record's cell, planned here.

    Args:
        record: the claim.
        machine: where data and caches are.
        reporter: told how far a fit and an attack are.
        checkpoints: those that came with the claim (`bench.verify.brought`), in a folder beside which there is room for
            a cache of their own.

    Raises:
        UnjudgedError: the data, the detector or the attack is not here, or the code has been revised since.
        ContradictionError: it says that it is a full run of its protocol, and its cell says that it is not.
    """
    source = None if machine.refit else brought.find(record, checkpoints)
    if source is not None and checkpoints is not None:
        machine = replace(machine, cache=checkpoints.parent / brought.CACHE)
    leaks = any(str(limit).startswith(ALLOW_LEAKS) for limit in record.limits)
    try:
        run = request_of(record.cell, machine, allow_leaks=leaks)
        plan = planning.make(run)
        others = differences(record.cell, planned_cell(plan, record.cell, record.detector.checkpoint_sha256))
    except CANNOT as error:
        raise UnjudgedError(str(error)) from None
    except Exception as error:  # the values are a stranger's, and of any type where an attack or a detector names them
        told = f"{type(error).__name__}: {one_line(error, 200)}"
        raise UnjudgedError(f"The cell cannot be planned from this record ({told}).") from None
    if others:
        commit = one_line(record.environment.get("commit") or "", 60)
        made_by = f" It was made by commit {commit}." if commit else ""
        raise UnjudgedError(f"The cell is another one here: {'; '.join(others)}.{made_by}")
    if record.full_run and (less := plan.limits_of(record.detector_name, record.category)):
        raise ContradictionError(f"It says that it is a full run of its protocol, and is not: {listed(less)}.")
    if source is not None:
        brought.lay(plan, record, source)
    deterministic(run.torch_device())
    return Ground(record, plan, reporter, is_brought=source is not None)
