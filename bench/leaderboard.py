"""Leaderboards, computed from records and from nothing else.

One leaderboard holds what may be compared: the same dataset, preset, resolution, protocol, attack with its budget, and
threat model. A missing or failed cell is a dash, and a detector without all cells has no average: a mean over the easy
categories would rank it by what it left out.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.claims import claim, estimate, facts, failure_flags, remarks
from bench.intervals import Estimate, average_interval
from bench.markup import epsilon_text, norm_text, one_line
from bench.records import Figures, Record, Revisions, is_stale, safe_name

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
    "failed": "the cell failed",
}
BRIGHTNESS_MARK = "*"
BRIGHTNESS_MEANING = "mean brightness alone separates normal from anomalous images here (AUC above 90)"


@dataclass(frozen=True)
class Cell:
    """One detector in one category."""

    record: Record
    clean: Estimate | None
    robust: Estimate | None
    marks: tuple[str, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One detector. The averages are None unless every category of the leaderboard is there."""

    name: str
    label: str
    cells: Mapping[str, Cell]
    clean: Estimate | None
    robust: Estimate | None

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
        categories: sorted; `flagged` are those that brightness alone separates.
        superseded: how many other records of the same cells are not shown.
    """

    slug: str
    title: str
    facts: tuple[str, ...]
    claim: str
    categories: tuple[str, ...]
    flagged: frozenset[str]
    rows: tuple[Row, ...]
    superseded: int

    def notes(self) -> list[str]:
        """What the marks mean, and why cells failed or are flagged."""
        used = {mark for row in self.rows for cell in row.cells.values() for mark in cell.marks}
        notes = [f"{MARKS[mark]} {MEANING[mark]}." for mark in MARKS if mark in used]
        if self.flagged:
            notes.append(f"{BRIGHTNESS_MARK} {BRIGHTNESS_MEANING}.")
        notes += remarks([cell.record for row in self.rows for cell in row.cells.values()])
        for row in self.rows:
            for category, cell in row.cells.items():
                notes += [f"{row.label}, {category}: {reason}" for reason in cell.reasons]
        if any(row.robust is None for row in self.rows):
            notes.append("– is a cell that was not run or failed; a row with one has no average and no rank.")  # noqa: RUF001
        if self.superseded:
            notes.append(
                f"{self.superseded} more records of the same cells are not shown: another EOT, momentum, fit or "
                "revision; of comparable ones the lowest robust AUC counts."
            )
        return notes


def build(records: Iterable[Record], revisions: Revisions | None = None) -> list[Leaderboard]:
    """One leaderboard per (dataset, preset, protocol, attack and budget, epsilon), sorted by title."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(_group_key(record), []).append(record)
    boards = [_board(group, revisions or Revisions()) for group in groups.values()]
    return sorted(boards, key=lambda board: (board.title, board.slug))


def _group_key(record: Record) -> str:
    ball = [record.attack.get(key) for key in ("epsilon", "step_size")]
    return json.dumps([curve_key(record), ball])


def curve_key(record: Record) -> str:
    """What the records of one security curve have in common: everything but epsilon, and the step size with it."""
    cell, attack = record.cell, record.attack
    step, epsilon = attack.get("step_size"), attack.get("epsilon")
    step = round(step / epsilon, 9) if isinstance(step, float) and isinstance(epsilon, float) and epsilon > 0 else step
    # EOT, momentum, BPDA's surrogate and the draws follow from the detector and may differ within one leaderboard.
    budget = [attack.get(k) for k in ("norm", "steps", "restarts", "random_start", "keep")] + [step]
    return json.dumps(
        [
            record.dataset, record.preset, record.image_size, record.protocol, cell["protocol"].get("statement"),
            record.attack_name, budget, record.subset.get("per_class"),
        ],
        default=str,
    )  # fmt: skip


def _board(records: list[Record], revisions: Revisions) -> Leaderboard:
    shown, superseded = _strongest(records, revisions)
    first = shown[0]
    categories = tuple(sorted({r.category for r in shown}))
    usual = {c: Counter(_images(r) for r in shown if r.category == c and r.ok) for c in categories}
    rows = []
    for label, own in rows_by_label(shown).items():
        cells = {
            r.category: _cell(r, revisions, usual[r.category]) for r in sorted(own, key=lambda record: record.category)
        }
        rows.append(Row(own[0].detector_name, label, cells, *_averages(cells, categories)))
    rows.sort(key=_rank)
    epsilon = epsilon_text(first.epsilon, first.norm)
    return Leaderboard(
        slug=safe_name(f"{first.dataset}-{first.preset}-{first.protocol}-{first.attack_name}-{epsilon}")
        + f"-{hashlib.sha256(_group_key(first).encode()).hexdigest()[:6]}",
        title=f"{first.dataset}: {first.attack_name} at {norm_text(first.norm)} epsilon {epsilon}",
        facts=facts(shown),
        claim=claim(first),
        categories=categories,
        flagged=frozenset(r.category for r in shown if r.brightness_flagged),
        rows=tuple(rows),
        superseded=superseded,
    )


def _strongest(records: list[Record], revisions: Revisions) -> tuple[list[Record], int]:
    """Of records of one detector (settings, seed) in one category: current before stale, a success before a failure,
    full before partial, then the one in which the attack found most. What differs among them (EOT, momentum, the
    gradient that is followed, the training seed) must never let a weaker attack that ran later hide a stronger one."""
    best: dict[tuple[str, ...], Record] = {}

    def worth(record: Record) -> tuple[bool, bool, bool, float, str]:
        robust = estimate(record, "robust")
        found = -robust.value if robust is not None else 0.0
        return (not is_stale(record, revisions), record.ok, record.full_run, found, record.written)

    for record in records:
        key = (record.detector_name, _variant(record), record.category)
        if key not in best or worth(record) > worth(best[key]):
            best[key] = record
    return list(best.values()), len(records) - len(best)


def _variant(record: Record) -> str:
    return json.dumps([record.detector.get("settings"), record.seed], sort_keys=True, default=str)


def rows_by_label(records: list[Record]) -> dict[str, list[Record]]:
    """Records by row. Settings may differ from category to category (FreeRAD's timestep does); only where one category
    has several settings do they become rows of their own, named by what differs."""
    rows: dict[str, list[Record]] = {}
    for name in sorted({r.detector_name for r in records}):
        own = [r for r in records if r.detector_name == name]
        title = own[0].detector_title
        if title in rows:
            title = f"{title} ({name})"
        if len({(r.category, r.epsilon) for r in own}) == len(own):
            rows[title] = own
            continue
        for record in own:
            rows.setdefault(f"{title} ({_difference(record, own)})", []).append(record)
    return rows


def _difference(record: Record, others: Sequence[Record]) -> str:
    own, flat = _flat(record.detector["settings"]), [_flat(r.detector["settings"]) for r in others]
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


def _cell(record: Record, revisions: Revisions, usual: Counter[str]) -> Cell:
    marks, reasons = [], []
    if not record.ok:
        marks.append("failed")
        reasons.append(f"failed: {one_line(record.reason) or 'no reason given'}")
    if not record.full_run:
        marks.append("partial")
    if is_stale(record, revisions):
        marks.append("stale")
    if record.ok and usual.most_common(1)[0][0] != _images(record):
        marks.append("other images")
    if record.ok and any(_has_ties(f) for f in (record.clean, record.robust)):
        marks.append("ties")
    flags = failure_flags(record)
    if flags:
        marks.append("indicator")
        reasons += flags
    return Cell(record, estimate(record, "clean"), estimate(record, "robust"), tuple(marks), tuple(reasons))


def _averages(cells: Mapping[str, Cell], categories: Sequence[str]) -> tuple[Estimate | None, Estimate | None]:
    def over(estimates: list[Estimate | None]) -> Estimate | None:
        present = [e for e in estimates if e is not None]
        return average_interval(present) if len(present) == len(categories) else None

    chosen = [cells.get(category) for category in categories]
    return over([c.clean if c else None for c in chosen]), over([c.robust if c else None for c in chosen])


def _rank(row: Row) -> tuple[bool, float, str]:
    return (row.robust is None, -row.robust.value if row.robust else 0.0, row.label)


def _images(record: Record) -> str:
    return f"{record.fingerprint}/{record.subset.get('sha256')}"


def _has_ties(figures: Figures | None) -> bool:
    return figures is not None and figures.strict_auc is not None and figures.auc - figures.strict_auc > 0.5
