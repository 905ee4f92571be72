"""Leaderboards, computed from records and from nothing else.

A leaderboard holds what was measured of one dataset at one preset, resolution and ball. Each protocol is a column
(`bench.report.grouping`), and the strongest one ranks: a robust AUC is an upper bound, and a weaker attack's is a
looser one. A missing or failed cell is a dash, and a detector without all cells has no average: a mean over the easy
categories would rank it by what it left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.metrics.intervals import Estimate
from bench.records.certificate import Certificate
from bench.records.paths import safe_name
from bench.records.record import Record, Revisions
from bench.report import best_known, budget, fits, grouping
from bench.report.best_known import BestKnown, Known
from bench.report.budget import Budget
from bench.report.caveats import claim, facts, remarks
from bench.report.certified_column import Certified, certified_beside
from bench.report.fits import Spread
from bench.report.marks import MARKS, MEANING, SHORTCUTS, shortcut_marks
from bench.report.noise_worth import MEANING as NOISE_MEANING
from bench.report.rows import rows_by_label, strongest
from bench.report.standing import Cell, Standing, cell_of, images_of, most_usual
from bench.text import attack_text, epsilon_text, one_line, plural

_LIMITS = 8  # options that a note names


@dataclass(frozen=True)
class Row:
    """One detector.

    Attributes:
        name, label: the registry's name; the title, with what tells it from other rows of that name.
        standings: by protocol, the strongest first; those under which it was run.
        ranked_by: the strongest protocol under which it has all categories, by which it is ranked; of one that has no
            rank the strongest under which it was run.
    """

    name: str
    label: str
    standings: Mapping[str, Standing]
    ranked_by: str

    @property
    def ranked(self) -> Standing:
        """How it stands under the protocol that it is ranked by."""
        return self.standings[self.ranked_by]

    @property
    def cells(self) -> Mapping[str, Cell]:
        """By category, under the protocol that it is ranked by; so are the next ones."""
        return self.ranked.cells

    @property
    def clean(self) -> Estimate | None:
        return self.ranked.clean

    @property
    def robust(self) -> Estimate | None:
        return self.ranked.robust

    @property
    def clean_spread(self) -> Spread | None:
        return self.ranked.clean_spread

    @property
    def robust_spread(self) -> Spread | None:
        return self.ranked.robust_spread

    @property
    def marks(self) -> tuple[str, ...]:
        return self.ranked.marks

    def place(self, protocol: str, category: str) -> Cell | Standing | None:
        """Its cell, or its standing for "average"; None where it was not run."""
        standing = self.standings.get(protocol)
        return None if standing is None else standing.place(category)

    def budget(self, protocol: str, category: str) -> Budget | None:
        """What the attack spent on an image, the mean over fits; of "average" over categories, too."""
        standing = self.standings.get(protocol)
        cells = [] if standing is None else [c for n, c in standing.cells.items() if category in ("average", n)]
        return budget.mean(budget.mean(map(budget.of_record, cell.records)) for cell in cells)


@dataclass(frozen=True)
class Column:
    """One protocol.

    Attributes:
        protocol: its name.
        slug: a file name for it.
        attack: the family of its attack.
        facts: sentences for the heading.
        claim: what its robust AUC is ("PGD-20, upper bound").
        images: how many test images of each class ("60 + 60 images").
        superseded: how many other records of the same cells are not shown.
    """

    protocol: str
    slug: str
    attack: str
    facts: tuple[str, ...]
    claim: str
    images: str
    superseded: int


@dataclass(frozen=True)
class Leaderboard:
    """Rows sorted by the average robust AUC of the ranking protocol; those without it by the next one's, below; those
    without an average last.

    Attributes:
        dataset, threat: what was measured (" at l-inf epsilon 2/255", ", severity 3").
        columns: the strongest protocol first.
        ranking: the strongest protocol under which some row has every category.
        categories: of all columns, sorted.
        flagged: the marks of those that brightness or file order alone separates.
        certified: by a row's label and a category the best certified AUC in the same ball, of the same fit on the same
            test images, where there is one.
        best_known: by a row's label and a category or "average" what another attack has left, where that is less.
    """

    dataset: str
    threat: str
    columns: tuple[Column, ...]
    ranking: str
    categories: tuple[str, ...]
    flagged: Mapping[str, str]
    rows: tuple[Row, ...]
    certified: Mapping[tuple[str, str], Certified] = field(default_factory=dict)
    best_known: Mapping[tuple[str, str], BestKnown] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """A file name for it."""
        return self.columns[0].slug

    @property
    def title(self) -> str:
        """What was measured: dataset, attack or protocols, and ball."""
        names = [c.protocol for c in self.columns] if len(self.columns) > 1 else [self.columns[0].attack]
        return f"{self.dataset}: {', '.join(names)}{self.threat}"

    @property
    def paragraphs(self) -> tuple[tuple[str, ...], ...]:
        """The heading: of one protocol each fact for itself, of several those of each together."""
        if len(self.columns) == 1:
            return tuple((fact,) for fact in self.columns[0].facts)
        others = " and ".join(c.protocol for c in self.columns if c.protocol != self.ranking)
        ranked = (
            f"Ranked by the protocol {self.ranking}; {others} beside it: other attacks, on the images that are named."
        )
        return ((ranked,), *(column.facts for column in self.columns))

    @property
    def facts(self) -> tuple[str, ...]:
        """Sentences for the heading."""
        return tuple(fact for paragraph in self.paragraphs for fact in paragraph)

    @property
    def claim(self) -> str:
        """What the robust AUC of the ranking protocol is."""
        return next(column.claim for column in self.columns if column.protocol == self.ranking)

    @property
    def superseded(self) -> int:
        """How many other records of the same cells are not shown."""
        return sum(column.superseded for column in self.columns)

    def is_behind(self, row: Row) -> bool:
        """Whether a row lacks what the others are ranked by."""
        return row.ranked_by != self.ranking

    def shows(self, which: str, protocol: str) -> bool:
        """Whether some row has a figure of `bench.report.noise_worth` under a protocol."""
        standings = (row.standings[protocol] for row in self.rows if protocol in row.standings)
        return any(getattr(cell, which) is not None for standing in standings for cell in standing.cells.values())

    def notes(self) -> list[str]:
        """What the marks mean, and why cells failed or are flagged."""
        cells = [
            (row.label, category, protocol, cell)
            for row in self.rows
            for protocol, standing in row.standings.items()
            for category, cell in standing.cells.items()
        ]
        partial = [r for *_, cell in cells for r in cell.records if not r.full_run]
        used = {mark for *_, cell in cells for mark in cell.marks} - (set() if partial else {"partial"})
        used |= {"weaker protocol" for row in self.rows if self.is_behind(row)}
        limits = _limits(partial)
        notes = [f"{MARKS[m]} {MEANING[m]}{limits if m == 'partial' else ''}." for m in MARKS if m in used]
        lacking = fits.shortfalls((label, protocol, cell.fits) for label, _, protocol, cell in cells)
        notes += [f"{MARKS['partial']} {text}" for text in lacking]
        flagged = "".join(self.flagged.values())
        notes += [f"{mark} {meaning}." for mark, meaning in SHORTCUTS.values() if mark in flagged]
        shown = [which for which in NOISE_MEANING if any(self.shows(which, c.protocol) for c in self.columns)]
        notes += [NOISE_MEANING[which] for which in shown]
        if self.best_known:
            notes.append(best_known.MEANING)
        if self.certified:
            alpha = max(found.alpha for found in self.certified.values())
            notes.append(
                "A certified AUC is that of the detector smoothed by the noise that is named, or, where it is exact, "
                "of the detector itself: no change of the images in the ball brings it lower. Each is the best of all "
                f"certificates, which hold together with a confidence of at least {100 * (1 - alpha):.10g} %; "
                "certificates.md has them, and explains their marks."
            )
        notes += remarks([cell.record for *_, cell in cells])
        several = len(self.columns) > 1
        for label, category, protocol, cell in cells:
            where = f"{label}, {category}" + (f", {protocol}" if several else "")
            notes += [f"{where}: {reason}" for reason in cell.reasons]
        if any(place is None or place.robust is None for row in self.rows for place in self._averages(row)):
            there = " under that protocol" if several else ""
            notes.append(f"– is a cell that was not run or failed; a row with one has no average and no rank{there}.")  # noqa: RUF001
        if self.superseded:
            more, are = plural(self.superseded, "more record"), "is" if self.superseded == 1 else "are"
            notes.append(
                f"{more} of the same cells {are} not shown: another EOT, momentum, start or "
                "revision, or another fit with the same seed; of comparable ones the lowest robust AUC counts."
            )
        return notes

    def _averages(self, row: Row) -> list[Standing | None]:
        return [row.standings.get(column.protocol) for column in self.columns]


def build(
    records: Iterable[Record], revisions: Revisions | None = None, certificates: Sequence[Certificate] = ()
) -> list[Leaderboard]:
    """The leaderboards of these records: by dataset and ball, and of each the one with most protocols first. What is
    certified in the same ball stands beside."""
    everything = list(records)
    boards = grouping.boards(everything)
    known = Known(everything, revisions or Revisions())
    found = [_board(columns, revisions or Revisions(), certificates, known) for columns in boards]
    return sorted(found, key=lambda board: (board.dataset, board.threat, -len(board.columns), board.title, board.slug))


def _board(
    columns: Sequence[list[Record]],
    revisions: Revisions,
    certificates: Sequence[Certificate],
    known: Known,
) -> Leaderboard:
    shown, made = [], []
    for records in columns:
        counting, superseded = strongest(records, revisions)
        shown += counting
        made.append(_column(counting, superseded))
    protocols = [column.protocol for column in made]
    categories = tuple(sorted({r.category for r in shown}))
    rows_of = rows_by_label(shown)
    # Of each row once, however many fits it has.
    seen = sorted(
        {
            (label, r.category, r.protocol, images_of(r), r.fingerprint)
            for label, own in rows_of.items()
            for r in own
            if r.ok
        }
    )
    usual = {
        (c, p): most_usual([i for _, cc, pp, i, _ in seen if (cc, pp) == (c, p)]) for c in categories for p in protocols
    }
    data = {c: most_usual([f for _, cc, _, _, f in seen if cc == c]) for c in categories}
    rows = []
    for label, own in rows_of.items():
        standings = {}
        for protocol in protocols:
            under = [r for r in own if r.protocol == protocol]
            by_category = {c: [r for r in under if r.category == c] for c in categories}
            cells = {
                c: cell_of(found, revisions, usual[c, protocol], data[c]) for c, found in by_category.items() if found
            }
            if cells:
                standings[protocol] = Standing.of(cells, categories)
        complete = [p for p, standing in standings.items() if standing.robust is not None]
        rows.append(Row(own[0].detector_name, label, standings, (complete or list(standings))[0]))
    rows.sort(key=lambda row: _rank(row, protocols))
    cells_of_rows = {row.label: row.cells for row in rows}
    first = columns[0][0]
    return Leaderboard(
        dataset=first.dataset,
        threat=attack_text("", first.epsilon, first.norm),
        columns=tuple(made),
        ranking=next((p for p in protocols for row in rows if row.ranked_by == p and row.robust), protocols[0]),
        categories=categories,
        flagged={category: shortcut_marks(r for r in shown if r.category == category) for category in categories},
        rows=tuple(rows),
        certified=certified_beside(cells_of_rows, categories, certificates, revisions),
        best_known=best_known.beside(cells_of_rows, categories, known),
    )


def _column(records: list[Record], superseded: int) -> Column:
    first = records[0]
    epsilon = epsilon_text(first.epsilon, first.norm)
    sizes = sorted({(r.subset.normals, r.subset.anomalies) for r in records})
    counts = " to ".join(f"{n} + {a}" for n, a in dict.fromkeys((sizes[0], sizes[-1])))
    return Column(
        protocol=first.protocol,
        slug=safe_name(f"{first.dataset}-{first.preset}-{first.protocol}-{first.attack_family}-{epsilon}")
        + f"-{hashlib.sha256(grouping.column_key(first).encode()).hexdigest()[:6]}",
        attack=first.attack_family,
        facts=facts(records),
        claim=claim(records),
        images=f"{counts} images",
        superseded=superseded,
    )


def _rank(row: Row, protocols: Sequence[str]) -> tuple[bool, int, float, str]:
    if row.robust is None:
        return True, 0, 0.0, row.label
    return False, protocols.index(row.ranked_by), -row.robust.value, row.label


def _limits(partial: Sequence[Record]) -> str:
    """Which options made them no full runs: what their limits begin with."""
    options = {one_line(str(limit).partition(":")[0], 60) for record in partial for limit in record.limits}
    listed = sorted(option for option in options if option)
    more = f" and {len(listed) - _LIMITS} more" if len(listed) > _LIMITS else ""
    return f": {', '.join(listed[:_LIMITS])}{more}" if listed else ""
