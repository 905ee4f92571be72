"""Levels 3 and 4: the record's cell is run again, with its seed, or with another one and perhaps a stronger attack.

It is run as `python -m bench run` would run it, from the same code, into a folder of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import detectors
from attacks.registry import get_class
from bench.errors import BenchError
from bench.plan import plan as planning
from bench.plan.of_record import stronger
from bench.plan.plan import Plan
from bench.records.record import Record
from bench.records.store import read_scores
from bench.report.caveats import counts_ties_as_lost, estimate
from bench.run import runner
from bench.text import attack_text, one_line
from bench.verify import beside
from bench.verify.agreement import agreement, is_same_machine, threads_of
from bench.verify.beside import POINTS
from bench.verify.finding import Finding, Outcome, UnjudgedError
from bench.verify.ground import BROUGHT, CANNOT, Ground
from bench.verify.stated import listed


@dataclass(frozen=True)
class Try:
    """How level 4 tries again.

    Attributes:
        seed: of all noise; None: the record's, plus 1.
        attack: its name; "": the record's.
        protocol: whose settings of the attack are taken; "": those of the record.
        settings: of the attack, instead of these.
    """

    seed: int | None = None
    attack: str = ""
    protocol: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def changes_the_attack(self) -> bool:
        return bool(self.attack or self.protocol or self.settings)


def same_seed(ground: Ground, out: Path) -> Finding:
    """Level 3: its scores, and what else it states of them (`bench.verify.beside`).

    Raises:
        UnjudgedError: the cell cannot be run; its fit ends elsewhere and says nothing; another machine's AUCs are
            close, and something beside them is not.
        ContradictionError: the scores are of other images or labels.
    """
    record = ground.record
    with threads_of(record):
        found = _run(ground, ground.plan, out)
        same = is_same_machine(record, ground.plan.run.torch_device())
    how = agreement(read_scores(record), read_scores(found))
    fit = _fit(record, found) or (BROUGHT if ground.is_brought else "")
    if how is None:  # another number of draws was needed
        assert record.robust is not None and found.robust is not None and record.clean is not None
        assert found.clean is not None
        points = max(abs(record.robust.auc - found.robust.auc), abs(record.clean.auc - found.clean.auc))
        told, is_close, same_bits = f"robust AUC {found.robust.auc:.2f} found", points <= POINTS, False
    else:
        told, is_close, same_bits = how.aucs, how.is_close, how.same_bits
    if same_bits:
        told = f"The cell was run again at the same seed and has the same bits{fit}"
        if lies := [*beside.others_than(record, found), *map(_not_said, beside.unstated(record, found))]:
            return Finding(3, Outcome.FAILS, f"{told}, but the record says otherwise: {listed(lies)}.")
        return Finding(3, Outcome.HOLDS, f"{told}.")
    is_same_fit = record.detector.checkpoint_sha256 == found.detector.checkpoint_sha256
    if not is_same_fit and not is_close:
        _doubt_the_fit(ground, f"The cell was run again{fit}: {told}")
    if is_close and same and is_same_fit:
        return Finding(
            3,
            Outcome.FAILS,
            f"The cell was run again by the same code on such a machine, and its scores have other bits: {told}. (A "
            "record that was made with --batch-size is verified with it.)",
        )
    close = "within" if is_close else "not within"
    said = f"The cell was run again at the same seed{fit}, {close} {POINTS} points: {told}"
    if not is_close:
        return Finding(3, Outcome.FAILS, f"{said}.")
    subset = record.subset
    apart = beside.far_apart(record.results, found.results, subset.normals, subset.anomalies)
    if doubts := [*apart, *map(_not_said, beside.unstated(record, found))]:
        raise UnjudgedError(f"{said}. But not all else agrees, and on another machine it may not: {listed(doubts)}.")
    return Finding(3, Outcome.HOLDS, f"{said}.")


def another_try(ground: Ground, wanted: Try, out: Path) -> Finding:
    """Level 4: is what is left inside the stored interval? Raises UnjudgedError where that cannot be run."""
    record = ground.record
    stated, ties_lost = estimate(record, "robust"), counts_ties_as_lost(record)
    assert stated is not None
    seed = record.seed + 1 if wanted.seed is None else wanted.seed
    name = wanted.attack or record.attack_name
    if seed == record.seed and not wanted.changes_the_attack:
        raise UnjudgedError(f"The seed {seed} is the claim's own, and the attack too: level 3 is that; name others.")
    try:
        norm = get_class(name).norm
        if norm != record.norm:
            raise BenchError(
                f"{name} has the threat model {norm}, and the claim is of {record.norm}: no other attack speaks of it."
            )
        run = replace(ground.plan.run, seed=seed)
        if wanted.changes_the_attack:
            run = stronger(run, record.epsilon, name, wanted.protocol, wanted.settings)
        plan = planning.make(run)
    except CANNOT as error:
        raise UnjudgedError(str(error)) from None
    found = _run(ground, plan, out)
    here = estimate(found, "robust", ties_lost=ties_lost)
    assert here is not None
    fit = _fit(record, found) or (BROUGHT if ground.is_brought else "")
    left, what = here.value, "strict robust AUC" if ties_lost else "robust AUC"
    told = (
        f"{attack_text(name, record.epsilon, record.norm)} with seed {seed}{fit} left a {what} of {left:.1f} "
        f"[{here.low:.1f}, {here.high:.1f}]"
    )
    interval = f"the stored interval [{stated.low:.1f}, {stated.high:.1f}] around {stated.value:.1f}"
    if stated.low <= left <= stated.high:
        return Finding(4, Outcome.HOLDS, f"{told}, inside {interval}.")
    if wanted.changes_the_attack and left > stated.high:
        return Finding(4, Outcome.HOLDS, f"{told}: it found less than the claim's own attack, above {interval}.")
    if record.detector.checkpoint_sha256 != found.detector.checkpoint_sha256:
        _doubt_the_fit(ground, f"{told}, outside {interval}")
    below = "below" if left < stated.low else "above"
    return Finding(4, Outcome.FAILS, f"{told}, {below} {interval}: that is what was found instead.")


def _run(ground: Ground, plan: Plan, out: Path) -> Record:
    """The record of the cell at the claim's radius, run now. Raises UnjudgedError."""
    if (out / "records").exists():  # they would be taken for what is made now
        raise UnjudgedError(f"There are records in {out} already; name another folder to make it again in (--out).")
    plan = replace(plan, run=replace(plan.run, out=out, keep_images=False))
    try:
        done = runner.run_plan(plan, ground.reporter)
    except CANNOT as error:
        raise UnjudgedError(str(error)) from None
    found = [r for r in done.records if r.epsilon == ground.record.epsilon]
    if not found:
        raise UnjudgedError("; ".join(done.problems) or "The run left no record of this cell.")
    if not found[0].ok:
        raise UnjudgedError(f"The cell fails here: {found[0].reason}")
    return found[0]


def _not_said(sentence: str) -> str:
    return f"it does not say that {sentence}"


def _fit(record: Record, found: Record) -> str:
    """What is to be said where the cell was run on another fit."""
    one, other = record.detector.checkpoint_sha256, found.detector.checkpoint_sha256
    return (
        "" if one == other else f" on another fit (checkpoint {one_line(other, 12)}, the record's {one_line(one, 12)})"
    )


def _doubt_the_fit(ground: Ground, told: str) -> None:
    """Raises UnjudgedError where another fit of the same seed may end elsewhere by itself."""
    if detectors.get(ground.record.detector_name).training_is_chaotic:
        raise UnjudgedError(
            f"{told}. Its training is chaotic in last bits, so that says little: verify the archive that brings the "
            "record's own checkpoint."
        )
