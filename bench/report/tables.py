"""A leaderboard as tables of plain text, which `bench.report.write` makes Markdown and LaTeX of.

One for the average over categories and one for each category, all alike: the clean AUC, then of each protocol the
robust AUC and what it cost.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.metrics.intervals import Estimate
from bench.report import best_known, certificates, members, noise_worth
from bench.report.best_known import BestKnown
from bench.report.certified_column import Certified
from bench.report.fits import Spread
from bench.report.leaderboard import Leaderboard, Row
from bench.report.marks import MARKS
from bench.report.standing import Cell, Standing
from bench.text import MISSING, interval_text


@dataclass(frozen=True)
class Table:
    """Plain text that may hold whatever strangers wrote: to be escaped."""

    heading: str
    header: list[str]
    rows: list[list[str]]


def tables(board: Leaderboard) -> list[Table]:
    """The average, where there are several categories, each category, and what each member of an ensemble did."""
    return [*(_of_place(board, place) for place in places(board)), *_of_members(board)]


def places(board: Leaderboard) -> tuple[str, ...]:
    """ "average", where there are several categories, and the categories."""
    return (*(("average",) if len(board.categories) > 1 else ()), *board.categories)


def label(board: Leaderboard, row: Row) -> str:
    """With a mark where it is ranked by a weaker protocol than others are."""
    return row.label + (f" {MARKS['weaker protocol']}" if board.is_behind(row) else "")


def figure(place: Cell | Standing | None, which: str, *, line_break: str = " ") -> str:
    """ "62.1 [55.0, 68.7] ±3.2 (3 fits) †"; the spread, where there is one, after `line_break`."""
    found: Estimate | None = None if place is None else getattr(place, which)
    spread: Spread | None = None if place is None else getattr(place, f"{which}_spread", None)
    text = interval_text(*found) if found is not None else MISSING
    text += f"{line_break}{spread}" if found is not None and spread is not None else ""
    # An average that is missing needs no marks: its dash is explained.
    marked = place is not None and which == "robust" and (isinstance(place, Cell) or found is not None)
    marks = "".join(MARKS[m] for m in place.marks) if marked and place is not None else ""
    return f"{text} {marks}".strip()


def noise_figures(board: Leaderboard, protocol: str) -> list[str]:
    """Those of `noise_worth` that some row has under a protocol."""
    return [which for which in noise_worth.TITLES if board.shows(which, protocol)]


def noise_figure(row: Row, protocol: str, category: str, which: str) -> str:
    """One of them; "" of a detector that has none."""
    place = row.place(protocol, category)
    found: Estimate | None = None if place is None else getattr(place, which)
    return "" if found is None else interval_text(*found)


def certified_figure(found: Certified | None) -> str:
    """ "62.1 [55.0, 68.7] (sigma 0.1, p 0.5)"."""
    return MISSING if found is None else f"{certificates.figure(found.auc)} ({found.label}) {found.marks}".strip()


def best_known_figure(found: BestKnown | None) -> str:
    """ "12.1 [8.0, 17.7] (apgd-linf at l-inf epsilon 2/255, strict)"; "" where it is the figure that ranks."""
    return "" if found is None else f"{interval_text(*found.robust)} ({found.attack})"


def _of_place(board: Leaderboard, category: str) -> Table:
    header = ["detector", "clean AUC"]
    rows = [[label(board, row), figure(row.ranked.place(category), "clean")] for row in board.rows]
    for column in board.columns:
        name, noise = column.protocol, noise_figures(board, column.protocol)
        header.append(f"{name}: robust AUC ({column.claim}; {column.images})")
        header += [f"{name}: {noise_worth.TITLES[which]}" for which in noise]
        header.append(f"{name}: budget")
        for cells, row in zip(rows, board.rows, strict=True):
            cells.append(figure(row.place(name, category), "robust"))
            cells += [noise_figure(row, name, category, which) for which in noise]
            cells.append(str(row.budget(name, category) or MISSING))
    if any(category == place for _, place in board.best_known):
        header.append(best_known.TITLE)
        for cells, row in zip(rows, board.rows, strict=True):
            cells.append(best_known_figure(board.best_known.get((row.label, category))))
    if any(category == place for _, place in board.certified):
        header.append("certified AUC (guaranteed; of the smoothed detector)")
        for cells, row in zip(rows, board.rows, strict=True):
            cells.append(certified_figure(board.certified.get((row.label, category))))
    average = f"average over {len(board.categories)} categories"
    return Table(average if category == "average" else category + board.flagged.get(category, ""), header, rows)


def _of_members(board: Leaderboard) -> list[Table]:
    found = []
    for column in board.columns:
        shares = members.of_column(board, column.protocol)
        if not shares:
            continue
        names = list(dict.fromkeys(share.member for one in shares for share in one.members))
        rows = []
        for one in shares:
            told = {share.member: str(share) for share in one.members}
            rows.append([one.label, one.category, *(told.get(name, "") for name in names)])
        found.append(Table(f"{column.protocol}: {members.EXPLAINED}", ["detector", "category", *names], rows))
    return found
