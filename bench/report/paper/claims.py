"""What the paper says that a table shows, and whether the measurement shows it.

A claim is a sentence of the paper and a question to the rows of a table. The answer is "yes" or "no" where the 95 %
intervals leave no other, "undecided" where they do, "not measured" where a cell that it rests on was not run. What
surely fails in cells that were run is "no" whatever the others would show.
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
Cells = Sequence[Estimate | None]  # None: not run


def difference(one: Estimate, other: Estimate) -> Estimate:
    """One minus the other, with the interval that follows from theirs as if they were independent (Newcombe 1998,
    method 10, for any two estimates with intervals: MOVER): too wide where both are of the same images, never too
    narrow because of it."""
    value = one.value - other.value
    below = math.hypot(one.value - one.low, other.high - other.value)
    above = math.hypot(one.high - one.value, other.value - other.low)
    return Estimate(value, value - below, value + above)


def least_of(estimates: Sequence[Estimate]) -> Estimate:
    """The least of several figures. One that is surely low makes the least surely low; only where all are surely high
    is the least surely high. Which of them has the lowest value does not matter: a higher one may be less sure."""
    return Estimate(min(e.value for e in estimates), min(e.low for e in estimates), min(e.high for e in estimates))


def at_least(found: Mapping[str, Estimate], least: float, *, complete: bool = True) -> Finding:
    """Whether every one of these is at least so much: "no" if one is surely less, also where others were not measured
    (not `complete`); "undecided" if one may be less."""
    values = "; ".join(f"{name}: {e.value:+.1f}" for name, e in found.items())
    if any(e.high < least for e in found.values()):
        return Finding("no", _told(values, complete))
    if not found or not complete:
        return NOT_MEASURED
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
    The lead over the best is the least of the leads over each.

    Args:
        which: of which AUC.
        least: the lead that is claimed, in points.
        over: which others; None: all of the table.
        averages: whether the means over categories are compared, not the categories.
        whatever_attacks: whether all attacks of a norm are compared with each other.
        ours: who leads.
    """

    def judge(rows: Sequence[Row]) -> Finding:
        compared = _averages(rows) if averages else [r for r in rows if r.category != AVERAGE]
        pairs: dict[str, tuple[Cells, Cells]] = {}
        for where, own in _groups(compared, by_norm=whatever_attacks).items():
            others = [r for r in own if r.detector != ours and (over is None or r.detector in over)]
            absent = set(over or ()) - {r.detector for r in others}
            mine = [figure(r, which) for r in own if r.detector == ours]
            pairs[where] = mine, [*(figure(r, which) for r in others), *(None for _ in absent)]
        return _above(pairs, least)

    return judge


def falls_to(most: float) -> Judge:
    """Whether the lowest robust AUC of each category is at most so much: "yes" where its whole interval is. An AUC of 0
    has one, too: of 60 + 60 images up to 3.3, of 12 + 30 up to 11.8."""

    def judge(rows: Sequence[Row]) -> Finding:
        own = [r for r in rows if r.category != AVERAGE]
        known = [(r, e) for r in own if (e := r.measured_robust) is not None]
        absent = {r.category for r in own if r.measured_robust is None}
        # What was not run may be the lowest of its category.
        lowest = [least_of([e for r, e in known if r.category == c]) for c in _by_category(own) if c not in absent]
        told = ", ".join(f"{r.detector} on {r.category} {e.value:.1f}" for r, e in known)
        if any(e.low > most for e in lowest):
            return Finding("no", _told(told, not absent))
        if absent or not lowest:
            return NOT_MEASURED
        return Finding("yes" if all(e.high <= most for e in lowest) else "undecided", told)

    return judge


def falls_by(most: float, *, norm: str, ours: str = OURS) -> Judge:
    """Whether averaging gradients over noise lowers the average robust AUC in a norm by no more than so much: "no"
    where it surely falls further or surely rises, "yes" where it surely falls no further and did not rise."""

    def judge(rows: Sequence[Row]) -> Finding:
        own = [r for r in _averages(rows) if r.detector == ours and r.norm == norm]
        plain = next((r.measured_robust for r in own if r.arm.threat.eot in (None, 1)), None)
        averaged = next((r.measured_robust for r in own if r.arm.threat.eot not in (None, 1)), None)
        if plain is None or averaged is None:
            return NOT_MEASURED
        fall = difference(plain, averaged)
        told = f"from {plain.value:.1f} to {averaged.value:.1f}"
        if fall.low > most or fall.high < 0:
            return Finding("no", told)
        return Finding("yes" if fall.high <= most and fall.value >= 0 else "undecided", told)

    return judge


def highest(label: str, which: Figure) -> Judge:
    """Whether an arm of the table has the highest AUC in every category: at least that of each other arm."""

    def judge(rows: Sequence[Row]) -> Finding:
        pairs: dict[str, tuple[Cells, Cells]] = {}
        for category, own in _by_category(rows).items():
            mine, others = (
                [figure(r, which) for r in own if (r.arm.label == label) == is_it] for is_it in (True, False)
            )
            pairs[category] = mine, others
        return _above(pairs, 0.0)

    return judge


def rises(which: Figure, *, from_label: str, to_label: str) -> Judge:
    """Whether one arm of the table has a higher AUC than another in every category."""

    def judge(rows: Sequence[Row]) -> Finding:
        pairs: dict[str, tuple[Cells, Cells]] = {}
        for category, own in _by_category(rows).items():
            before, after = ([figure(r, which) for r in own if r.arm.label == end] for end in (from_label, to_label))
            pairs[category] = after, before
        return _above(pairs, 0.0)

    return judge


def best_differs(which: Figure) -> Judge:
    """Whether no one arm has the highest AUC in all categories: "yes" where each arm has a category in which another is
    surely above it, "no" where one arm is surely the best, or as good, in every category."""

    def judge(rows: Sequence[Row]) -> Finding:
        own = [r for r in rows if r.category != AVERAGE]
        labels = {r.arm.label for r in own}
        known = {
            category: {r.arm.label: e for r in some if (e := figure(r, which)) is not None}
            for category, some in _by_category(own).items()
        }
        if min(len(known), len(labels)) < 2 or any(some.keys() != labels for some in known.values()):
            return NOT_MEASURED
        told = ", ".join(f"{c} {max(some, key=lambda label: some[label].value)}" for c, some in known.items())
        leads = {
            label: [
                least_of([difference(some[label], some[other]) for other in labels - {label}])
                for some in known.values()
            ]
            for label in labels
        }
        if any(all(lead.low >= 0 for lead in over) for over in leads.values()):
            return Finding("no", told)
        surely = all(any(lead.high < 0 for lead in over) for over in leads.values())
        return Finding("yes" if surely else "undecided", told)

    return judge


def choices_differ() -> Judge:
    """Whether the chosen setting is another one in some categories. Never "no": that data sets may differ in it is not
    disproved by some that agree, and the choice itself is made on few images."""

    def judge(rows: Sequence[Row]) -> Finding:
        own = [r for r in rows if r.category != AVERAGE]
        chosen = {r.category: r.chosen for r in own if r.chosen is not None}
        if len(chosen) < max(2, len(own)):
            return NOT_MEASURED
        told = ", ".join(f"{category} {value}" for category, value in chosen.items())
        return Finding("yes" if len(set(chosen.values())) > 1 else "undecided", told)

    return judge


def grows_linearly(steps_of: Callable[[str], int], *, within: float) -> Judge:
    """Whether seconds grow from a table's first arm to its last as the number of denoising steps does. Seconds have no
    interval, so this is never "undecided".

    Args:
        steps_of: the number of steps that an arm's label stands for.
        within: by which factor the growth may differ: what a score takes besides the network's passes is in both arms.
    """

    def judge(rows: Sequence[Row]) -> Finding:
        told, holds, complete = [], [], True
        for category, own in _by_category(rows).items():
            first, last = own[0], own[-1]
            complete = complete and len(own) > 1 and all(r.seconds for r in own)
            if first is last or not first.seconds or not last.seconds:
                continue
            growth, steps = last.seconds / first.seconds, steps_of(last.arm.label) / steps_of(first.arm.label)
            told.append(f"{category} x{growth:.0f} at x{steps:.0f} steps, from {first.arm.label} to {last.arm.label}")
            holds.append(1 / within <= growth / steps <= within)
        if not all(holds):
            return Finding("no", _told("; ".join(told), complete))
        return Finding("yes", "; ".join(told)) if holds and complete else NOT_MEASURED

    return judge


def _above(pairs: Mapping[str, tuple[Cells, Cells]], least: float) -> Finding:
    """Whether everywhere each of the first figures is at least so much above each of the second."""
    complete = all(ours and others and None not in (*ours, *others) for ours, others in pairs.values())
    found: dict[str, Estimate] = {}
    for where, (ours, others) in pairs.items():
        known = [difference(one, other) for one in ours for other in others if one is not None and other is not None]
        if known:
            found[where] = least_of(known)
    return at_least(found, least, complete=complete)


def _told(found: str, complete: bool) -> str:
    return found if complete else f"{found}, others not run"


def _averages(rows: Sequence[Row]) -> list[Row]:
    """The means over categories; of a table of one category alone, which has none, that category."""
    averages = [r for r in rows if r.category == AVERAGE]
    return list(rows) if not averages and len(_by_category(rows)) == 1 else averages


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
