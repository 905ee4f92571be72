"""A table of the paper beside one's own records: printed, measured, difference."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from bench.metrics.intervals import Estimate, average_interval
from bench.records.record import Record, Revisions, is_stale
from bench.records.schema import Figures
from bench.report.fits import fit_seed, over_fits
from bench.report.marks import MARKS, MEANING
from bench.report.paper.tables import (
    AVERAGE,
    PAPER_STEPS,
    PaperRow,
    Recipe,
    Threat,
    computed_average,
    implied_value,
    paper_rows,
    recipe_of,
    with_repeated_clean,
)
from bench.text import epsilon_text, norm_text
from detectors import registry

_PRINTED_TO = 0.05 + 1e-9  # tables are printed to one decimal


@dataclass(frozen=True)
class Row:
    """One cell or one average, in per cent.

    `paper_*` is None where unreadable, `measured_*` where not run; what was measured is the mean over `fits` fits. An
    average's `computed_*` is the mean of the printed rows, None where one of them is unreadable; `measured_*` of an
    average is None unless every category was run.
    """

    category: str
    detector: str
    norm: str
    epsilon: float
    paper_clean: float | None
    paper_robust: float | None
    measured_clean: Estimate | None
    measured_robust: Estimate | None
    also_robust: Estimate | None = None
    computed_clean: float | None = None
    computed_robust: float | None = None
    status: str = ""
    fits: int = 1

    @property
    def clean_difference(self) -> float | None:
        """Measured minus printed."""
        return _minus(self.measured_clean, self.paper_clean)

    @property
    def robust_difference(self) -> float | None:
        return _minus(self.measured_robust, self.paper_robust)

    @property
    def disagrees(self) -> bool:
        """Whether a printed average does not follow from the printed rows, beyond rounding."""
        pairs = ((self.paper_clean, self.computed_clean), (self.paper_robust, self.computed_robust))
        # The rows are rounded as well: their mean may be off by as much again.
        return any(p is not None and c is not None and abs(p - c) > 2 * _PRINTED_TO for p, c in pairs)


@dataclass(frozen=True)
class Reproduction:
    """A table's rows, the cells that are missing, and what a reader must know."""

    recipe: Recipe
    rows: tuple[Row, ...]
    missing: tuple[tuple[str, str, Threat], ...]
    notes: tuple[str, ...]

    def commands(self) -> list[str]:
        """What to type to run the missing cells of the detectors that are installed."""
        known = registry.names()
        return self.recipe.commands([cell for cell in self.missing if cell[1] in known])

    def absent(self) -> list[str]:
        """The detectors of missing cells that are not installed."""
        return sorted({detector for _, detector, _ in self.missing} - set(registry.names()))


def reproduce(
    table: str, records: Iterable[Record], *, recipe: Recipe | None = None, revisions: Revisions | None = None
) -> Reproduction:
    """The table beside what these records say; `recipe` replaces the table's own (another preset).

    Raises:
        UnknownNameError: there is no such table.
    """
    chosen = recipe or recipe_of(table)
    known = list(records)
    printed = paper_rows(chosen)
    filled = with_repeated_clean(printed)
    rows: list[Row] = []
    missing: list[tuple[str, str, Threat]] = []
    notes: list[str] = []
    for threat in chosen.threats:
        cells = [r for r in filled if r.norm == threat.norm and r.category != AVERAGE]
        measured = [_measured(cell, threat, chosen, known, revisions or Revisions()) for cell in cells]
        rows += measured
        missing += [(r.category, r.detector, threat) for r in measured if r.measured_robust is None]
        for average in (r for r in filled if r.norm == threat.norm and r.category == AVERAGE):
            row = _average(average, threat, [r for r in measured if r.detector == average.detector])
            rows.append(row)
            notes += _average_notes(row, [r for r in measured if r.detector == average.detector])
    notes += [
        f"{before.category}, {before.detector}, {norm_text(before.norm)}: the clean AUC is unreadable here and repeats "
        f"the other norm's {after.clean}."
        for before, after in zip(printed, filled, strict=True)
        if before.clean is None and after.clean is not None
    ]
    used = [mark for mark in MARKS if any(MARKS[mark] in row.status for row in rows)]
    notes += [f"{MARKS[mark]} {MEANING[mark]}." for mark in used]
    notes += [
        f"{row.category}, {row.detector}, {norm_text(row.norm)}: the mean over {row.fits} fits."
        for row in rows
        if row.fits > 1
    ]
    notes += [
        f"For {norm_text(t.norm)} the column 'scaled' has epsilon {epsilon_text(t.also, t.norm)}: 0.2 at 256 pixels "
        "scaled to this side, equal energy per pixel."
        for t in chosen.threats
        if t.also is not None
    ]
    return Reproduction(chosen, tuple(rows), tuple(missing), tuple(notes))


def sensitivity(table: str, records: Iterable[Record], *, recipe: Recipe | None = None) -> pd.DataFrame:
    """How the robust AUC moves with steps and step size, which the paper does not give: every cell of the table that
    was measured under more than one of them (same images, settings, seed and fit). Empty where there is none."""
    chosen = recipe or recipe_of(table)
    lines: dict[tuple[object, ...], dict[tuple[object, ...], Record]] = {}
    for record in sorted(records, key=lambda r: r.written):
        settings = record.attack.settings
        if record.robust is None or not any(_in_ball(record, chosen, t, t.epsilon) for t in chosen.threats):
            continue
        if record.category not in chosen.categories or record.detector_name not in chosen.detectors:
            continue
        cell = (
            record.category,
            record.detector_name,
            record.norm,
            str(record.detector.settings),
            record.seed,
            record.fingerprint,
            record.subset.sha256,
            fit_seed(record),
        )
        budget = tuple(settings.get(k) for k in ("steps", "step_size", "keep", "restarts"))
        lines.setdefault(cell, {})[budget] = record
    rows = [
        {
            "category": r.category,
            "detector": r.detector_name,
            "norm": r.norm,
            **{name: r.attack.settings.get(name) for name in ("steps", "step_size", "keep")},
            "protocol": r.protocol,
            "fit_seed": fit_seed(r),
            "robust_auc": f.auc,
            "low": f.low,
            "high": f.high,
        }
        for cell in lines.values()
        if len(cell) > 1
        for r in sorted(cell.values(), key=_budget)
        for f in [r.robust]
        if f is not None
    ]
    columns = [
        "category",
        "detector",
        "norm",
        "steps",
        "step_size",
        "keep",
        "protocol",
        "fit_seed",
        "robust_auc",
        "low",
        "high",
    ]
    return pd.DataFrame(rows, columns=columns)


def _measured(cell: PaperRow, threat: Threat, recipe: Recipe, records: Sequence[Record], revisions: Revisions) -> Row:
    def best(epsilon: float | None) -> list[Record]:
        fitting = [r for r in records if epsilon is not None and _fits(r, cell, recipe, threat, epsilon)]
        return _best_of_each_fit(fitting, revisions)

    shown, also = best(threat.epsilon), best(threat.also)
    marks = ""
    if shown:  # all of one worth
        marks += MARKS["failed"] if not shown[0].ok else ""
        marks += MARKS["partial"] if not shown[0].full_run else ""
        marks += MARKS["stale"] if is_stale(shown[0], revisions) else ""
    return Row(
        cell.category,
        cell.detector,
        cell.norm,
        threat.epsilon,
        cell.clean,
        cell.robust,
        _estimate([r.clean for r in shown]),
        _estimate([r.robust for r in shown]),
        _estimate([r.robust for r in also]),
        status=f" {marks}" if marks else "",
        fits=len(shown),
    )


def _best_of_each_fit(records: Sequence[Record], revisions: Revisions) -> list[Record]:
    """One record for each fit seed, over which the mean is taken: of those that are worth most, the newest."""
    most = max((_worth(r, revisions) for r in records), default=None)
    by_seed: dict[int, Record] = {}
    for record in sorted(records, key=lambda r: r.written):
        if _worth(record, revisions) == most:
            by_seed[fit_seed(record)] = record
    return [by_seed[seed] for seed in sorted(by_seed)]


def _average(printed: PaperRow, threat: Threat, rows: Sequence[Row]) -> Row:
    def over(estimates: Sequence[Estimate | None]) -> Estimate | None:
        present = [e for e in estimates if e is not None]
        return average_interval(present) if present and len(present) == len(estimates) else None

    return Row(
        AVERAGE,
        printed.detector,
        printed.norm,
        threat.epsilon,
        printed.clean,
        printed.robust,
        over([r.measured_clean for r in rows]),
        over([r.measured_robust for r in rows]),
        over([r.also_robust for r in rows]),
        computed_average(r.paper_clean for r in rows),
        computed_average(r.paper_robust for r in rows),
    )


def _average_notes(row: Row, rows: Sequence[Row]) -> list[str]:
    notes = []
    for which, printed, computed, values in (
        ("clean", row.paper_clean, row.computed_clean, [r.paper_clean for r in rows]),
        ("robust", row.paper_robust, row.computed_robust, [r.paper_robust for r in rows]),
    ):
        if printed is None:
            continue
        where = f"{row.detector}, {norm_text(row.norm)}, {which}"
        if computed is not None and abs(printed - computed) > 2 * _PRINTED_TO:
            notes.append(f"{where}: the paper prints the average {printed}, its rows average {computed:.1f}.")
        implied = implied_value(printed, values)
        if implied is not None:
            unreadable = next(r.category for r, value in zip(rows, values, strict=True) if value is None)
            notes.append(f"{where}: {unreadable} is unreadable; the printed average implies about {implied:.0f}.")
    return notes


def _fits(record: Record, cell: PaperRow, recipe: Recipe, threat: Threat, epsilon: float) -> bool:
    return (
        (record.category, record.detector_name) == (cell.category, cell.detector)
        and record.protocol == recipe.protocol
        and _in_ball(record, recipe, threat, epsilon)
    )


def _in_ball(record: Record, recipe: Recipe, threat: Threat, epsilon: float) -> bool:
    return (
        (record.dataset, record.preset, record.image_size) == (recipe.dataset, recipe.preset, recipe.image_size)
        and (record.attack_name, record.norm) == (threat.attack, threat.norm)
        # An epsilon typed as a decimal is meant as well as 2/255.
        and abs(record.epsilon - epsilon) <= 1e-6 * epsilon
    )


def _worth(record: Record, revisions: Revisions) -> tuple[bool, bool, bool, bool]:
    """Which of several fitting records are shown: current, successful, complete, at the protocol's 40 steps and step
    size 2.5 epsilon / steps."""
    settings = record.attack.settings
    steps, size = settings.get("steps"), settings.get("step_size")
    expected = 2.5 * record.epsilon / PAPER_STEPS
    usual = steps == PAPER_STEPS and isinstance(size, float) and abs(size - expected) <= 1e-6 * expected
    return (not is_stale(record, revisions), record.ok, record.full_run, usual)


def _budget(record: Record) -> tuple[float, float]:
    steps, size = record.attack.settings.get("steps"), record.attack.settings.get("step_size")
    return tuple(float(v) if isinstance(v, int | float) else 0.0 for v in (steps, size))  # type: ignore[return-value]


def _estimate(of_fits: Sequence[Figures | None]) -> Estimate | None:
    # The paper's protocol counts a tie as half, as scikit-learn does: the AUC, not the strict one.
    return over_fits([Estimate(f.auc, f.low, f.high) for f in of_fits if f is not None])


def _minus(measured: Estimate | None, printed: float | None) -> float | None:
    return None if measured is None or printed is None else measured.value - printed
