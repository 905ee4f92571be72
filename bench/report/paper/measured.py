"""A table of the paper beside one's own records: printed, measured, difference, and whether what it claims holds."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

from bench.metrics.intervals import Estimate, average_interval
from bench.records.record import Record, Revisions, is_stale
from bench.records.schema import Figures
from bench.report.fits import over_fits
from bench.report.marks import MARKS, MEANING
from bench.report.paper.arms import PRINTED_TO, Arm, Row
from bench.report.paper.claims import Claim, Finding
from bench.report.paper.matching import best_of_each_fit, chosen_by_itself, fits, is_partial, seconds_a_pass
from bench.report.paper.printed import AVERAGE, PaperRow, computed_average, implied_value, with_repeated_clean
from bench.report.paper.recipe import Recipe, Wanted, wanted
from bench.report.paper.tables import recipe_of
from bench.text import epsilon_text, norm_text, plural
from detectors import registry


@dataclass(frozen=True)
class Reproduction:
    """A table's rows, what holds of it, the cells that are missing, and what a reader must know."""

    recipe: Recipe
    rows: tuple[Row, ...]
    findings: tuple[tuple[Claim, Finding], ...]
    missing: tuple[tuple[str, Arm], ...]
    notes: tuple[str, ...]

    def runs(self, planned: Collection[Hashable] = ()) -> list[Wanted]:
        """What measures the missing cells of the detectors that are installed; not those whose `place` is among
        `planned`, which another table asks for as well."""
        known = registry.names()
        cells = [cell for cell in self.missing if cell[1].detector in known and self.place(*cell) not in planned]
        return wanted(self.recipe, cells)

    def place(self, category: str, arm: Arm) -> Hashable:
        """What tells a cell from those of other tables."""
        recipe, threat = self.recipe, replace(arm.threat, title="")
        where = (recipe.dataset, recipe.preset, recipe.image_size, recipe.protocol_of(threat))
        return (*where, category, arm.detector, arm.settings, threat)

    def absent(self) -> list[str]:
        """The detectors of missing cells that are not installed."""
        return sorted({arm.detector for _, arm in self.missing} - set(registry.names()))


def reproduce(
    table: str, records: Iterable[Record], *, recipe: Recipe | None = None, revisions: Revisions | None = None
) -> Reproduction:
    """The table beside what these records say; `recipe` replaces the table's own (another preset, other data).

    Raises:
        UnknownNameError: there is no such table.
    """
    chosen = recipe or recipe_of(table)
    known, current = list(records), revisions or Revisions()
    printed = chosen.printed()
    filled = with_repeated_clean(printed)
    of_paper = {(r.category, r.detector, r.norm): r for r in filled}
    rows: list[Row] = []
    notes: list[str] = list(chosen.notes)
    for threat in chosen.threats:
        arms = [arm for arm in chosen.arms if arm.threat == threat]
        measured = [
            _measured(category, arm, of_paper.get((category, arm.detector, threat.norm)), chosen, known, current)
            for category in chosen.categories
            for arm in arms
        ]
        rows += measured
        for arm in arms if chosen.averages else ():
            own = [row for row in measured if row.arm == arm]
            average = _average(arm, of_paper.get((AVERAGE, arm.detector, threat.norm)), own)
            if average is not None:
                rows.append(average)
                notes += _average_notes(average, own)
    missing = [(r.category, r.arm) for r in rows if r.category != AVERAGE and _is_missing(r, chosen)]
    notes += _of_rows(rows) + (_of_draws(rows) if "change" in chosen.shows else [])
    notes += [
        f"{before.category}, {before.detector}, {norm_text(before.norm)}: the clean AUC is unreadable here and repeats "
        f"the other norm's {after.clean}."
        for before, after in zip(printed, filled, strict=True)
        if before.clean is None and after.clean is not None
    ]
    notes += [
        f"For {norm_text(t.norm)} the column 'scaled' has epsilon {epsilon_text(t.also, t.norm)}: 0.2 at 256 pixels "
        "scaled to this side, equal energy per pixel."
        for t in chosen.threats
        if t.also is not None
    ]
    notes += _elsewhere(chosen, known) if missing else []
    findings = tuple((claim, claim.judge(rows)) for claim in chosen.claims)
    return Reproduction(chosen, tuple(rows), findings, tuple(missing), tuple(dict.fromkeys(notes)))


def _is_missing(row: Row, recipe: Recipe) -> bool:
    found = {
        "clean": row.measured_clean,
        "robust": row.measured_robust,
        "k": row.chosen,
        "seconds": row.seconds,
    }
    return any(found[column] is None for column in recipe.shows if column in found)


def _elsewhere(recipe: Recipe, records: Sequence[Record]) -> list[str]:
    """Records of the same detectors and categories that were made otherwise: named, for they are not mixed in."""
    own = {(recipe.preset, recipe.protocol_of(threat), recipe.image_size) for threat in recipe.threats}
    found: dict[tuple[str, str, int], int] = {}
    for record in records:
        where = (record.preset, record.protocol, record.image_size)
        is_ours = record.dataset == recipe.dataset and record.category in recipe.categories
        if is_ours and record.detector_name in recipe.detectors and where not in own:
            found[where] = found.get(where, 0) + 1
    return [
        f"{plural(count, 'record')} of these detectors and categories {'is' if count == 1 else 'are'} of preset "
        f"{preset}, protocol {protocol}, {size} pixels, and not shown here: --preset {preset} --protocol {protocol} "
        f"--image-size {size} shows them."
        for (preset, protocol, size), count in sorted(found.items())
    ]


def _of_draws(rows: Sequence[Row]) -> list[str]:
    """What a verdict of one noise draw would add, of the first arm."""
    return [
        f"{row.category}: a verdict of a single noise draw would move the robust AUC by {row.spread:.1f} points "
        "(standard deviation); ours is the mean over its draws."
        for row in rows[:1]
        if row.spread is not None
    ]


def _of_rows(rows: Sequence[Row]) -> list[str]:
    used = [mark for mark in MARKS if any(MARKS[mark] in row.status for row in rows)]
    found = [f"{MARKS[mark]} {MEANING[mark]}." for mark in used]
    return found + [
        f"{row.category}, {row.arm}, {norm_text(row.norm)}: the mean over {row.fits} fits."
        for row in rows
        if row.fits > 1
    ]


def _measured(
    category: str, arm: Arm, printed: PaperRow | None, recipe: Recipe, records: Sequence[Record], revisions: Revisions
) -> Row:
    def best(epsilon: float | None) -> list[Record]:
        fitting = [r for r in records if epsilon is not None and fits(r, category, arm, recipe, epsilon)]
        return best_of_each_fit(fitting, revisions, arm, recipe)

    shown, also = best(arm.threat.epsilon), best(arm.threat.also)
    marks = ""
    if shown:  # all of one worth
        marks += MARKS["failed"] if not shown[0].ok else ""
        marks += MARKS["partial"] if is_partial(shown[0], arm, recipe) else ""
        marks += MARKS["stale"] if is_stale(shown[0], revisions) else ""
    seconds = [s for s in map(seconds_a_pass, shown) if s is not None]
    spreads = [f.sd for r in shown if (f := r.robust) is not None and r.detector.is_stochastic]
    return Row(
        category,
        arm,
        printed.clean if printed else None,
        printed.robust if printed else None,
        _estimate([r.clean for r in shown]),
        _estimate([r.robust for r in shown]),
        _estimate([r.robust for r in also]),
        chosen=next((c for c in map(chosen_by_itself, shown) if c is not None), None),
        seconds=sum(seconds) / len(seconds) if seconds else None,
        spread=max(spreads, default=None),
        status=f" {marks}" if marks else "",
        fits=len(shown),
    )


def _average(arm: Arm, printed: PaperRow | None, rows: Sequence[Row]) -> Row | None:
    """None where there is one category alone and nothing is printed."""

    def over(estimates: Sequence[Estimate | None]) -> Estimate | None:
        present = [e for e in estimates if e is not None]
        return average_interval(present) if present and len(present) == len(estimates) else None

    if printed is None and len(rows) < 2:
        return None
    return Row(
        AVERAGE,
        arm,
        printed.clean if printed else None,
        printed.robust if printed else None,
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
        if computed is not None and abs(printed - computed) > 2 * PRINTED_TO:
            notes.append(f"{where}: the paper prints the average {printed}, its rows average {computed:.1f}.")
        implied = implied_value(printed, values)
        if implied is not None:
            unreadable = next(r.category for r, value in zip(rows, values, strict=True) if value is None)
            notes.append(f"{where}: {unreadable} is unreadable; the printed average implies about {implied:.0f}.")
    return notes


def _estimate(of_fits: Sequence[Figures | None]) -> Estimate | None:
    # The paper's protocol counts a tie as half, as scikit-learn does: the AUC, not the strict one.
    return over_fits([Estimate(f.auc, f.low, f.high) for f in of_fits if f is not None])
