"""Leaderboards, computed from records and from nothing else.

One leaderboard holds what may be compared: the same dataset, preset, resolution, protocol, attack with its budget, and
threat model. Records that differ in the seed of the fit alone are one cell: the mean over fits (`bench.report.fits`). A
missing or failed cell is a dash, and a detector without all cells has no average: a mean over the easy categories would
rank it by what it left out.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.metrics.intervals import Estimate, average_interval
from bench.records.paths import safe_name
from bench.records.record import Record, Revisions, is_stale
from bench.records.schema import Figures
from bench.report import fits
from bench.report.caveats import claim, estimate, facts, failure_flags, remarks
from bench.report.fits import Spread
from bench.text import epsilon_text, norm_text, one_line, plural

MARKS = {
    "partial": "†",
    "stale": "‡",
    "other images": "§",
    "ties": "¶",
    "indicator": "!",
    "failed": "x",
}
MEANING = {
    "partial": "not a full run (the limits are in the record)",
    "stale": "measured with an older revision of the detector, the attack or the protocol",
    "other images": "not the test images that the other rows were measured on",
    "ties": "normal and anomalous scores tie; the AUC counts a tie as half",
    "indicator": "a failure indicator is up: this is not a claim of robustness",
    "failed": "the cell failed, or one of its fits, which the mean leaves out",
}
# Of a category whose classes something alone separates that is no defect, in either direction.
SHORTCUTS = {
    "brightness": ("*", "mean brightness alone separates normal from anomalous images here (AUC above 90)"),
    "file_order": ("°", "the place among the files alone separates normal from anomalous images here (AUC above 90)"),
}


_LIMITS = 8  # options that a note names


@dataclass(frozen=True)
class Cell:
    """One detector in one category.

    Attributes:
        records: one for each fit, failed ones included, in the order of their seeds.
        clean, robust: the mean over the fits that did not fail (`fits.over_fits`); None where all did.
        clean_spread, robust_spread: over these fits; None where there is one.
        marks, reasons: whatever is to be said of any of the fits.
    """

    records: tuple[Record, ...]
    clean: Estimate | None
    robust: Estimate | None
    marks: tuple[str, ...]
    reasons: tuple[str, ...]
    clean_spread: Spread | None = None
    robust_spread: Spread | None = None

    @property
    def record(self) -> Record:
        """The first fit that did not fail, for what is the same in all of them."""
        return next((r for r in self.records if r.ok), self.records[0])

    def values(self, which: str) -> dict[int, float]:
        """The clean or robust AUC of each fit that did not fail, by its seed."""
        return {fits.fit_seed(r): e.value for r in self.records if (e := estimate(r, which)) is not None}


@dataclass(frozen=True)
class Row:
    """One detector. The averages are None unless every category of the leaderboard is there; their spreads over fits,
    unless every category has the same fits, several of them."""

    name: str
    label: str
    cells: Mapping[str, Cell]
    clean: Estimate | None
    robust: Estimate | None
    clean_spread: Spread | None = None
    robust_spread: Spread | None = None

    @property
    def marks(self) -> tuple[str, ...]:
        """Of its average: whatever is to be said of one of the cells."""
        return tuple(mark for mark in MARKS if any(mark in cell.marks for cell in self.cells.values()))


@dataclass(frozen=True)
class Leaderboard:
    """Rows sorted by average robust AUC, incomplete ones last.

    Attributes:
        slug: a file name for it.
        title: dataset, attack and ball.
        facts: sentences for the heading.
        claim: what the robust column is ("PGD-20, upper bound").
        categories: sorted.
        flagged: the marks of those that brightness or file order alone separates.
        superseded: how many other records of the same cells are not shown.
    """

    slug: str
    title: str
    facts: tuple[str, ...]
    claim: str
    categories: tuple[str, ...]
    flagged: Mapping[str, str]
    rows: tuple[Row, ...]
    superseded: int

    def notes(self) -> list[str]:
        """What the marks mean, and why cells failed or are flagged."""
        used = {mark for row in self.rows for cell in row.cells.values() for mark in cell.marks}
        notes = [f"{MARKS[mark]} {MEANING[mark]}{self._limits(mark)}." for mark in MARKS if mark in used]
        flagged = "".join(self.flagged.values())
        notes += [f"{mark} {meaning}." for mark, meaning in SHORTCUTS.values() if mark in flagged]
        notes += remarks([cell.record for row in self.rows for cell in row.cells.values()])
        for row in self.rows:
            for category, cell in row.cells.items():
                notes += [f"{row.label}, {category}: {reason}" for reason in cell.reasons]
        if any(row.robust is None for row in self.rows):
            notes.append("– is a cell that was not run or failed; a row with one has no average and no rank.")  # noqa: RUF001
        if self.superseded:
            more, are = plural(self.superseded, "more record"), "is" if self.superseded == 1 else "are"
            notes.append(
                f"{more} of the same cells {are} not shown: another EOT, momentum, start or "
                "revision, or another fit with the same seed; of comparable ones the lowest robust AUC counts."
            )
        return notes

    def _limits(self, mark: str) -> str:
        """Which options made them no full runs: what their limits begin with."""
        if mark != "partial":
            return ""
        partial = [r for row in self.rows for cell in row.cells.values() for r in cell.records if not r.full_run]
        options = {one_line(str(limit).partition(":")[0], 60) for record in partial for limit in record.limits}
        listed = sorted(option for option in options if option)
        more = f" and {len(listed) - _LIMITS} more" if len(listed) > _LIMITS else ""
        return f": {', '.join(listed[:_LIMITS])}{more}" if listed else ""


def build(records: Iterable[Record], revisions: Revisions | None = None) -> list[Leaderboard]:
    """One leaderboard per (dataset, preset, protocol, attack and budget, epsilon), sorted by title."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(_group_key(record), []).append(record)
    boards = [_board(group, revisions or Revisions()) for group in groups.values()]
    return sorted(boards, key=lambda board: (board.title, board.slug))


def _group_key(record: Record) -> str:
    return json.dumps([curve_key(record), record.attack.epsilon])


def curve_key(record: Record) -> str:
    """What the records of one security curve have in common: everything but epsilon.

    Of the attack's budget it is the protocol, and what the user changed of it: how many steps, of what size, and draws
    that makes follows from the detector and may differ within one leaderboard.
    """
    protocol = record.cell.protocol
    budget = [record.attack.settings.get(name) for name in ("restarts", "random_start", "keep")]
    return json.dumps(
        [
            record.dataset,
            record.preset,
            record.image_size,
            record.protocol,
            protocol.statement,
            protocol.changed,
            record.attack_family,
            record.norm,
            budget,
            record.subset.per_class,
        ],
        sort_keys=True,
        default=str,
    )


def _board(records: list[Record], revisions: Revisions) -> Leaderboard:
    shown, superseded = _strongest(records, revisions)
    first = shown[0]
    categories = tuple(sorted({r.category for r in shown}))
    rows_of = rows_by_label(shown)
    # Of each row once, however many fits it has.
    seen = {(label, r.category, _images(r)) for label, own in rows_of.items() for r in own if r.ok}
    usual = {c: Counter(images for _, category, images in sorted(seen) if category == c) for c in categories}
    rows = []
    for label, own in rows_of.items():
        by_category = {c: [r for r in own if r.category == c] for c in categories}
        cells = {c: _cell(found, revisions, usual[c]) for c, found in by_category.items() if found}
        rows.append(
            Row(
                own[0].detector_name,
                label,
                cells,
                _average(cells, categories, "clean"),
                _average(cells, categories, "robust"),
                _spread(cells, categories, "clean"),
                _spread(cells, categories, "robust"),
            )
        )
    rows.sort(key=_rank)
    epsilon = epsilon_text(first.epsilon, first.norm)
    return Leaderboard(
        slug=safe_name(f"{first.dataset}-{first.preset}-{first.protocol}-{first.attack_family}-{epsilon}")
        + f"-{hashlib.sha256(_group_key(first).encode()).hexdigest()[:6]}",
        title=f"{first.dataset}: {first.attack_family} at {norm_text(first.norm)} epsilon {epsilon}",
        facts=facts(shown),
        claim=claim(shown),
        categories=categories,
        flagged={category: _shortcut_marks(r for r in shown if r.category == category) for category in categories},
        rows=tuple(rows),
        superseded=superseded,
    )


def _strongest(records: list[Record], revisions: Revisions) -> tuple[list[Record], int]:
    """Of records of one fit of a detector (settings, seeds) in one category: current before stale, a success before a
    failure, full before partial, then the one in which the attack found most. What differs among them (EOT, momentum,
    the gradient that is followed) must never let a weaker attack that ran later hide a stronger one. Fits do not
    compete, or the unluckiest would win: neither those of several seeds, nor those of one seed on several processors,
    of which the latest counts. Also returns how many records are left out."""
    best: dict[tuple[str, ...], dict[int, Record]] = {}
    latest = _latest_fits(records, revisions)

    def worth(record: Record) -> tuple[bool, bool, bool, float, str]:
        robust = estimate(record, "robust")
        found = -robust.value if robust is not None else 0.0
        return (not is_stale(record, revisions), record.ok, record.full_run, found, record.written)

    for record in records:
        if record.ok and latest.get(_fit_of(record), _checkpoint(record)) != _checkpoint(record):
            continue
        by_fit = best.setdefault((record.detector_name, _variant(record), record.category), {})
        seed = fits.fit_seed(record)
        if seed not in by_fit or worth(record) > worth(by_fit[seed]):
            by_fit[seed] = record
    shown = [r for by_fit in best.values() for r in fits.comparable(list(by_fit.values()), revisions)]
    return shown, len(records) - len(shown)


def _latest_fits(records: Sequence[Record], revisions: Revisions) -> dict[tuple[object, ...], str]:
    """Of each detector, category and fit seed the checkpoint that the latest record is of: among those that are not
    stale, and among full ones, where there are any."""

    def order(record: Record) -> tuple[bool, bool, str]:
        return (not is_stale(record, revisions), record.full_run, record.written)

    return {_fit_of(r): _checkpoint(r) for r in sorted((r for r in records if r.ok), key=order)}


def _fit_of(record: Record) -> tuple[object, ...]:
    return record.detector_name, _variant(record), record.category, fits.fit_seed(record)


def _checkpoint(record: Record) -> str:
    return record.detector.checkpoint_sha256


def _variant(record: Record) -> str:
    """What makes a row of its own; the seed of the fit does not."""
    return json.dumps([record.detector.settings, record.seed], sort_keys=True, default=str)


def rows_by_label(records: list[Record]) -> dict[str, list[Record]]:
    """Records by row, those of several fits in one. Settings may differ from category to category (FreeRAD's timestep
    does); only where one category has several settings do they become rows of their own, named by what differs."""
    rows: dict[str, list[Record]] = {}
    for name in sorted({r.detector_name for r in records}):
        own = [r for r in records if r.detector_name == name]
        title = own[0].detector_title
        if title in rows:
            title = f"{title} ({name})"
        variants = {(r.category, r.epsilon, _variant(r)) for r in own}
        if len({(category, epsilon) for category, epsilon, _ in variants}) == len(variants):
            rows[title] = own
            continue
        for record in own:
            rows.setdefault(f"{title} ({_difference(record, own)})", []).append(record)
    return rows


def _difference(record: Record, others: Sequence[Record]) -> str:
    own, flat = _flat(record.detector.settings), [_flat(r.detector.settings) for r in others]
    keys = sorted({key for settings in flat for key in settings})
    parts = [f"{k}={own.get(k, 'null')}" for k in keys if len({settings.get(k, "null") for settings in flat}) > 1]
    if len({r.seed for r in others}) > 1:
        parts.append(f"seed={record.seed}")
    return one_line(", ".join(parts), 120)


def _flat(settings: Mapping[str, Any], within: str = "") -> dict[str, str]:
    """Settings by the dotted names that `--set` takes, each value as JSON."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{within}{name}.")
        else:
            flat[within + name] = json.dumps(value, default=str)
    return flat


def _cell(records: Sequence[Record], revisions: Revisions, usual: Counter[str]) -> Cell:
    """The cell of one detector's fits: whatever is up for one of them is up for the cell."""
    usable = [r for r in records if r.ok]
    flags = fits.merged([failure_flags(r) for r in usable]) if usable else []
    is_up = {
        "partial": any(not r.full_run for r in records),
        "stale": any(is_stale(r, revisions) for r in records),
        "other images": any(usual.most_common(1)[0][0] != _images(r) for r in usable),
        "ties": any(_has_ties(f) for r in usable for f in (r.clean, r.robust)),
        "indicator": bool(flags),
        "failed": len(usable) < len(records),
    }
    failures = [
        (f"fit {fits.fit_seed(r)} " if len(records) > 1 else "") + f"failed: {one_line(r.reason) or 'no reason given'}"
        for r in records
        if not r.ok
    ]
    figures = {which: [e for r in usable if (e := estimate(r, which)) is not None] for which in ("clean", "robust")}
    clean, robust = (fits.over_fits(figures[which]) for which in ("clean", "robust"))
    spreads = (fits.spread([e.value for e in figures[which]]) for which in ("clean", "robust"))
    marks = tuple(mark for mark in MARKS if is_up[mark])
    return Cell(tuple(records), clean, robust, marks, (*failures, *flags), *spreads)


def _average(cells: Mapping[str, Cell], categories: Sequence[str], which: str) -> Estimate | None:
    estimates: list[Estimate | None] = [getattr(cells[c], which) if c in cells else None for c in categories]
    present = [e for e in estimates if e is not None]
    return average_interval(present) if len(present) == len(categories) else None


def _spread(cells: Mapping[str, Cell], categories: Sequence[str], which: str) -> Spread | None:
    return fits.spread_of_average([cells[c].values(which) if c in cells else {} for c in categories])


def _rank(row: Row) -> tuple[bool, float, str]:
    return (row.robust is None, -row.robust.value if row.robust else 0.0, row.label)


def _shortcut_marks(records: Iterable[Record]) -> str:
    found = list(records)
    return "".join(mark for name, (mark, _) in SHORTCUTS.items() if any(r.separated_by(name) for r in found))


def _images(record: Record) -> str:
    return f"{record.fingerprint}/{record.subset.sha256}"


def _has_ties(figures: Figures | None) -> bool:
    return figures is not None and figures.strict_auc is not None and figures.auc - figures.strict_auc > 0.5
