"""What the paper says that a table shows, and whether the measurement shows it.

A claim is a sentence of the paper and a question to the rows of a table. The answer is "yes" or "no" where the 95 %
intervals leave no other, "undecided" where they do, "not measured" where a cell that it rests on was not run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bench.metrics.intervals import Estimate
from bench.report.paper.arms import Row
from bench.report.paper.printed import AVERAGE
from bench.text import norm_text

OURS = "freerad"
Figure = Literal["clean", "robust"]
Holds = Literal["yes", "no", "undecided", "not measured"]


@dataclass(frozen=True)
class Finding:
    """Whether a claim holds, and the numbers on which that rests."""

    holds: Holds
    found: str = ""


Judge = Callable[[Sequence["Row"]], Finding]


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper, and who judges it by a table's rows (averages included)."""

    sentence: str
    judge: Judge


NOT_MEASURED = Finding("not measured")


def difference(one: Estimate, other: Estimate) -> Estimate:
    """One minus the other, with the interval that follows from theirs as if they were independent (Newcombe 1998,
    method 10, for any two estimates with intervals: MOVER): too wide where both are of the same images, never too
    narrow because of it."""
    value = one.value - other.value
    below = math.hypot(one.value - one.low, other.high - other.value)
    above = math.hypot(one.high - one.value, other.value - other.low)
    return Estimate(value, value - below, value + above)


def at_least(found: Mapping[str, Estimate], least: float) -> Finding:
    """Whether every one of these is at least so much: "no" if one is surely less, "undecided" if one may be."""
    if not found:
        return NOT_MEASURED
    values = ", ".join(f"{name} {e.value:+.1f}" for name, e in found.items())
    if any(e.high < least for e in found.values()):
        return Finding("no", values)
    return Finding("yes" if all(e.low >= least for e in found.values()) else "undecided", values)


def figure(row: Row, which: Figure) -> Estimate | None:
    return row.measured_clean if which == "clean" else row.measured_robust


def leads(
    which: Figure,
    least: float = 0.0,
    *,
    over: Sequence[str] | None = None,
    averages: bool = False,
    whatever_attacks: bool = False,
    ours: str = OURS,
) -> Judge:
    """By how much one detector leads the best of the others under the same attack, in every category or on average.

    Args:
        which: of which AUC.
        least: the lead that is claimed, in points.
        over: which others; None: all of the table.
        averages: whether the means over categories are compared, not the categories.
        whatever_attacks: whether all attacks of a norm are compared with each other.
        ours: who leads.
    """

    def judge(rows: Sequence[Row]) -> Finding:
        of_category = [r for r in rows if (r.category == AVERAGE) == averages]
        found = {}
        for key, own in _groups(of_category, by_norm=whatever_attacks).items():
            mine = [r for r in own if r.detector == ours]
            others = [r for r in own if r.detector != ours and (over is None or r.detector in over)]
            known = [e for r in (*mine, *others) if (e := figure(r, which)) is not None]
            if not mine or not others or len(known) < len(mine) + len(others):
                return NOT_MEASURED
            found[key] = difference(known[0], max(known[len(mine) :], key=lambda e: e.value))
        return at_least(found, least)

    return judge


def falls_to(most: float) -> Judge:
    """Whether the lowest robust AUC of each category is at most so much."""

    def judge(rows: Sequence[Row]) -> Finding:
        own = [r for r in rows if r.category != AVERAGE]
        found = {(r.category, r.detector): e for r in own if (e := r.measured_robust) is not None}
        if not found or len(found) < len(own):
            return NOT_MEASURED
        told = ", ".join(f"{detector} on {category} {e.value:.1f}" for (category, detector), e in found.items())
        by_category: dict[str, list[Estimate]] = {}
        for (category, _), e in found.items():
            by_category.setdefault(category, []).append(e)
        lowest = [min(some, key=lambda e: e.value) for some in by_category.values()]
        if any(e.low > most for e in lowest):
            return Finding("no", told)
        return Finding("yes" if all(e.value <= most for e in lowest) else "undecided", told)

    return judge


def falls_by(most: float, *, norm: str, ours: str = OURS) -> Judge:
    """Whether averaging gradients over noise lowers the average robust AUC in a norm by no more than so much."""

    def judge(rows: Sequence[Row]) -> Finding:
        own = [r for r in rows if r.category == AVERAGE and r.detector == ours and r.norm == norm]
        plain = next((r.measured_robust for r in own if r.arm.threat.eot is None), None)
        averaged = next((r.measured_robust for r in own if r.arm.threat.eot is not None), None)
        if plain is None or averaged is None:
            return NOT_MEASURED
        fall = difference(plain, averaged)
        told = f"{plain.value:.1f} falls to {averaged.value:.1f}"
        if fall.low > most:
            return Finding("no", told)
        return Finding("yes" if fall.value <= most else "undecided", told)

    return judge


def highest(label: str, which: Figure) -> Judge:
    """Whether an arm of the table has the highest AUC in every category."""

    def judge(rows: Sequence[Row]) -> Finding:
        found = {}
        for category, own in _by_category(rows).items():
            mine = [figure(r, which) for r in own if r.arm.label == label]
            others = [figure(r, which) for r in own if r.arm.label != label]
            known = [e for e in others if e is not None]
            if not mine or mine[0] is None or len(known) < len(others) or not known:
                return NOT_MEASURED
            found[category] = difference(mine[0], max(known, key=lambda e: e.value))
        return at_least(found, 0.0)

    return judge


def rises(which: Figure, *, from_label: str, to_label: str) -> Judge:
    """Whether one arm of the table has a higher AUC than another in every category."""

    def judge(rows: Sequence[Row]) -> Finding:
        found = {}
        for category, own in _by_category(rows).items():
            ends = [[figure(r, which) for r in own if r.arm.label == label] for label in (from_label, to_label)]
            if not all(ends) or ends[0][0] is None or ends[1][0] is None:
                return NOT_MEASURED
            found[category] = difference(ends[1][0], ends[0][0])
        return at_least(found, 0.0)

    return judge


def best_differs(which: Figure) -> Judge:
    """Whether the arm with the highest AUC is another one in some categories, beyond the intervals."""

    def judge(rows: Sequence[Row]) -> Finding:
        of_category = {c: {r.arm.label: figure(r, which) for r in own} for c, own in _by_category(rows).items()}
        if len(of_category) < 2 or any(e is None for own in of_category.values() for e in own.values()):
            return NOT_MEASURED
        known = {c: {label: e for label, e in own.items() if e is not None} for c, own in of_category.items()}
        best = {c: max(own, key=lambda label, own=own: own[label].value) for c, own in known.items()}  # type: ignore[misc]
        told = ", ".join(f"{c} {label}" for c, label in best.items())
        if len(set(best.values())) == 1:
            return Finding("no", told)
        surely = any(
            difference(known[c][label], known[c][other]).low > 0
            for c, label in best.items()
            for other in set(best.values()) - {label}
        )
        return Finding("yes" if surely else "undecided", told)

    return judge


def choices_differ() -> Judge:
    """Whether the chosen setting is another one in some categories."""

    def judge(rows: Sequence[Row]) -> Finding:
        own = [r for r in rows if r.category != AVERAGE]
        chosen = {r.category: r.chosen for r in own if r.chosen is not None}
        if len(chosen) < max(2, len(own)):
            return NOT_MEASURED
        told = ", ".join(f"{category} {value}" for category, value in chosen.items())
        return Finding("yes" if len(set(chosen.values())) > 1 else "no", told)

    return judge


def grows_linearly(steps_of: Callable[[str], int], *, within: float) -> Judge:
    """Whether seconds over those of the first arm grow as the number of denoising steps does.

    Args:
        steps_of: the number of steps that an arm's label stands for.
        within: by which factor the growth may differ.
    """

    def judge(rows: Sequence[Row]) -> Finding:
        told, holds = [], []
        for category, own in _by_category(rows).items():
            seconds = [r.seconds for r in own]
            known = [s for s in seconds if s is not None and s > 0]
            if len(known) < len(seconds) or not known:
                return NOT_MEASURED
            # Everything but the network's passes is in the first arm as well, so growth is judged from the last two.
            first, last = own[0], own[-1]
            growth, steps = known[-1] / known[0], steps_of(last.arm.label) / steps_of(first.arm.label)
            told.append(f"{category} x{growth:.0f} at x{steps:.0f} steps")
            holds.append(1 / within <= growth / steps <= within)
        return Finding("yes" if holds and all(holds) else "no", ", ".join(told))

    return judge


def _by_category(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.category != AVERAGE:
            found.setdefault(row.category, []).append(row)
    return found


def _groups(rows: Iterable[Row], *, by_norm: bool) -> dict[str, list[Row]]:
    """Rows that stand under one attack (or under attacks of one norm) in one category."""

    def attack(row: Row) -> str:
        return norm_text(row.norm) if by_norm else str(row.arm.threat)

    known = list(rows)
    several = len({attack(row) for row in known}) > 1
    found: dict[str, list[Row]] = {}
    for row in known:
        where = "average" if row.category == AVERAGE else row.category
        found.setdefault(f"{where}, {attack(row)}" if several else where, []).append(row)
    return found
