"""The record of a cell: what was found, on what, with what, and where it was made."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from bench.cell.fitting import Fitted
from bench.cell.measure import Measured
from bench.cell.sweep import indicators_in_a_larger, results_in_a_larger
from bench.inspection.inspection import Inspection
from bench.plan import request
from bench.plan.plan import Plan
from bench.records import environment
from bench.records.cell import Cell
from bench.records.record import Record

ALLOW_LEAKS = "--allow-leaks"  # begins a limit of a record that a run without the option must not take over


def judged(
    plan: Plan, cell: Cell, fitted: Fitted, found: Measured, seen: Inspection, smaller: Record | None = None
) -> Record:
    """The record of a cell that came to an end; `smaller`: that of the ball whose images it started from."""
    seconds = found.outcome.seconds
    rise = {}
    if smaller is not None and smaller.robust is not None:
        rise["auc_rise"] = round(found.results["robust"]["auc"] - smaller.robust.auc, 4)
    return replace(
        _empty(plan, cell, fitted.describe(), seen),
        status="ok",
        results=found.results,
        indicators=found.indicators | rise,
        gate=found.gate,
        seconds={
            "fit": fitted.fit_seconds,
            **seconds,
            "total": round(sum(seconds.values()), 2),
            "score": found.outcome.score_seconds,
        },
    )


def contained(plan: Plan, cell: Cell, checkpoint: dict[str, Any], smaller: Record, seen: Inspection) -> Record:
    """The record of a ball that was not attacked, since in a smaller one nothing was left: it is of that one's images,
    which lie in this ball, too, and belongs to the same scores."""
    return replace(
        _empty(plan, cell, checkpoint, seen),
        status="ok",
        results=results_in_a_larger(smaller),
        indicators=indicators_in_a_larger(smaller),
        gate=smaller.gate,
        seconds={"attack": 0.0, "verdict": 0.0, "indicators": 0.0, "total": 0.0},
    )


def failed(plan: Plan, cell: Cell, checkpoint: dict[str, Any], reason: str, seen: Inspection) -> Record:
    """The record of a cell that has no figures, and why."""
    return replace(_empty(plan, cell, checkpoint, seen), reason=reason)


def _empty(plan: Plan, cell: Cell, checkpoint: dict[str, Any], seen: Inspection) -> Record:
    device = plan.run.torch_device()
    limits = plan.limits_of(cell.detector.name, cell.category)
    limits += [f"{ALLOW_LEAKS}: {sentence}" for sentence in seen.refusals]  # else there would be nothing to judge
    return Record(
        key=cell.key,
        status="failed",
        cell=cell,
        full_run=not limits,
        limits=limits,
        remarks=seen.remarks,
        written=datetime.now(UTC).isoformat(timespec="seconds"),
        checkpoint=checkpoint,
        licence=plan.dataset.licence,
        environment=environment.describe(device),
        command=request.command_line(),
        peak_memory_mb=environment.peak_memory_mb(device),
    )
