"""A table of the paper beside one's own records: printed, measured, difference, and whether what it claims holds."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

from bench.metrics.intervals import Estimate, average_interval
from bench.records.record import Record, Revisions, is_stale
from bench.records.schema import Figures
from bench.report.budget import seconds_a_score
from bench.report.fits import counted, over_fits
from bench.report.marks import MARKS, MEANING
from bench.report.paper.arms import PRINTED_TO, Arm, Row
from bench.report.paper.claims import Claim, Finding
from bench.report.paper.matching import (
    best_of_each_fit,
    chosen_by_itself,
    fits,
    is_partial,
    machine,
    of_common_fits,
    of_one_machine,
)
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
        if threat.eot == 1 and recipe.protocol == "paper":  # which takes one draw anyway
            threat = replace(threat, eot=None)
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
    of_cells = {category: _of_category(category, chosen, known, current) for category in chosen.categories}
    for threat in chosen.threats:
        arms = [arm for arm in chosen.arms if arm.threat == threat]
        measured = [
            _measured(
                category,
                arm,
                of_paper.get((category, arm.detector, threat.norm)),
                chosen,
                of_cells[category],
                current,
            )
            for category in chosen.categories
            for arm in arms
        ]
        rows += measured
        for arm in arms if chosen.averages else ():
            own = [row for row in measured if row.arm == arm]
            average = _average(arm, of_paper.get((AVERAGE, arm.detector, threat.norm)), own, is_part=chosen.is_part)
            if average is not None:
                rows.append(average)
                notes += _average_notes(average, own)
    missing = [(r.category, r.arm) for r in rows if r.category != AVERAGE and _is_missing(r, chosen)]
    notes += _of_rows(rows) + (_of_draws(rows) if "spread" in chosen.shows else [])
    notes += _of_machines(of_cells.values()) if "seconds" in chosen.shows else []
    notes += _of_repeated(printed, filled) + _of_second_radii(chosen)
    notes += _elsewhere(chosen, known, missing) if missing else []
    findings = tuple((claim, _marked(claim.judge(rows), rows)) for claim in chosen.claims)
    return Reproduction(chosen, tuple(rows), findings, tuple(missing), tuple(dict.fromkeys(notes)))


def _marked(finding: Finding, rows: Sequence[Row]) -> Finding:
    """With the marks of what it rests on: a verdict by less than full runs, or by older code, is no better than they
    are."""
    marks = "".join(
        mark for mark in map(MARKS.get, ("partial", "stale")) if mark and any(mark in row.status for row in rows)
    )
    if not marks or finding.holds == "not measured":
        return finding
    return replace(finding, found=f"{finding.found}; cells marked {marks} count".removeprefix("; "))


def _is_missing(row: Row, recipe: Recipe) -> bool:
    found = {
        "clean": row.measured_clean,
        "robust": row.measured_robust,
        "k": row.chosen,
        "seconds": row.seconds,
    }
    if any(found[column] is None for column in recipe.shows if column in found):
        return True
    if "robust" in recipe.shows and row.arm.threat.also is not None and row.also_robust is None:
        return True
    # What is shown of less than a full run, or of older code, is not what the table asks for.
    return any(MARKS[mark] in row.status for mark in ("partial", "stale"))


OfArms = dict[Arm, dict[int, Record]]


def _of_category(
    category: str, recipe: Recipe, records: Sequence[Record], revisions: Revisions
) -> tuple[OfArms, OfArms]:
    """The records of each arm by fit seed, at its radius and at the second one."""

    def best(arm: Arm, epsilon: float | None) -> dict[int, Record]:
        fitting = [r for r in records if epsilon is not None and fits(r, category, arm, recipe, epsilon)]
        return best_of_each_fit(fitting, revisions, arm, recipe)

    shown = {arm: best(arm, arm.threat.epsilon) for arm in recipe.arms}
    also = {arm: best(arm, arm.threat.also) for arm in recipe.arms}
    if "seconds" in recipe.shows:
        shown = of_one_machine(shown)
    for compared in {(arm.detector, arm.threat.norm) for arm in recipe.arms}:
        shown |= of_common_fits({a: found for a, found in shown.items() if (a.detector, a.threat.norm) == compared})
    return shown, also


def _elsewhere(recipe: Recipe, records: Sequence[Record], missing: Sequence[tuple[str, Arm]]) -> list[str]:
    """Records that would fill missing lines had the table been asked for on other pictures, at another size or under
    another protocol: named, for they are not mixed in."""
    numbers = sorted({recipe.arms.index(arm) for _, arm in missing})
    own = (recipe.dataset, recipe.preset, recipe.protocol, recipe.image_size)
    places = {(r.dataset, r.preset, r.protocol, r.image_size) for r in records} - {own}
    notes = []
    for dataset, preset, protocol, size in sorted(places):
        there = [r for r in records if (r.dataset, r.preset, r.image_size) == (dataset, preset, size)]
        other = recipe if dataset == recipe.dataset else recipe.on(dataset, sorted({r.category for r in there}))
        other = other.at_size(size, preset=preset, protocol=protocol)
        arms = [other.arms[number] for number in numbers]
        count = sum(
            r.category in other.categories and any(fits(r, r.category, a, other, a.threat.epsilon) for a in arms)
            for r in there
        )
        if count:
            options = f"--preset {preset} --protocol {protocol} --image-size {size}"
            options = options if dataset == recipe.dataset else f"--dataset {dataset} {options}"
            notes.append(
                f"{plural(count, 'record')} of other data, size or protocol {'is' if count == 1 else 'are'} not shown "
                f"here: {options} shows {'it' if count == 1 else 'them'}."
            )
    return notes


def _of_draws(rows: Sequence[Row]) -> list[str]:
    """What a verdict of one noise draw would add, of each category's first arm."""
    return [
        f"{row.category}: a verdict of a single noise draw would move the robust AUC by {row.spread:.1f} points "
        "(standard deviation); ours is the mean over its draws."
        for category in dict.fromkeys(row.category for row in rows)
        for row in [next(row for row in rows if row.category == category)]
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


def _of_machines(cells: Iterable[tuple[OfArms, OfArms]]) -> list[str]:
    timed = [record for shown, _ in cells for of_fits in shown.values() for record in of_fits.values()]
    return [f"Seconds on {one}." for one in sorted(set(map(machine, timed)))]


def _of_repeated(printed: Sequence[PaperRow], filled: Sequence[PaperRow]) -> list[str]:
    return [
        f"{before.category}, {before.detector}, {norm_text(before.norm)}: the clean AUC is unreadable here and repeats "
        f"the other norm's {after.clean}."
        for before, after in zip(printed, filled, strict=True)
        if before.clean is None and after.clean is not None
    ]


def _of_second_radii(recipe: Recipe) -> list[str]:
    return [
        f"For {norm_text(threat.norm)} the column 'scaled' has epsilon {epsilon_text(threat.also, threat.norm)}: 0.2 "
        "at 256 pixels scaled to this side, equal energy per pixel."
        for threat in recipe.threats
        if threat.also is not None
    ]


def _measured(
    category: str,
    arm: Arm,
    printed: PaperRow | None,
    recipe: Recipe,
    of_arms: tuple[OfArms, OfArms],
    revisions: Revisions,
) -> Row:
    shown, also = (list(found[arm].values()) for found in of_arms)
    marks = ""
    firsts = [found[0] for found in (shown, also) if found]  # the records of a radius are all of one worth
    has_too_few = any(counted(found, revisions).are_too_few for found in (shown, also) if found)
    for mark, is_so in (
        ("failed", any(not r.ok for r in firsts)),
        ("partial", any(is_partial(r, arm, recipe) for r in firsts) or has_too_few),
        ("stale", any(is_stale(r, revisions) for r in firsts)),
    ):
        marks += MARKS[mark] if is_so else ""
    seconds = [s for s in map(seconds_a_score, shown) if s is not None]
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


def _average(arm: Arm, printed: PaperRow | None, rows: Sequence[Row], *, is_part: bool) -> Row | None:
    """None where there is one category alone and nothing is printed of its average. Of a part of the paper's categories
    the paper's average is that of their printed rows."""

    def over(estimates: Sequence[Estimate | None]) -> Estimate | None:
        present = [e for e in estimates if e is not None]
        return average_interval(present) if present and len(present) == len(estimates) else None

    if len(rows) < 2 and (printed is None or is_part):
        return None
    computed = computed_average(r.paper_clean for r in rows), computed_average(r.paper_robust for r in rows)
    clean, robust = computed if is_part else (printed.clean, printed.robust) if printed else (None, None)
    return Row(
        AVERAGE,
        arm,
        clean,
        robust,
        over([r.measured_clean for r in rows]),
        over([r.measured_robust for r in rows]),
        over([r.also_robust for r in rows]),
        *computed,
        status=_all_marks(rows),
    )


def _all_marks(rows: Sequence[Row]) -> str:
    """What is not to be believed of one of an average's cells is not to be believed of it."""
    used = "".join(mark for mark in MARKS.values() if any(mark in row.status for row in rows))
    return f" {used}" if used else ""


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
