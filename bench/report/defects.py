"""Which kinds of defect an attack hides first: clean and robust AUC of each kind against the same normals.

Computed from the scores beside records. That the attack left images early, once they had lost all their pairs, changes
nothing here: the pairs of one kind are among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import CellError, RecordError
from bench.metrics.intervals import Estimate, mean_single_draw_interval
from bench.records.record import Record
from bench.records.score_table import SOUND, Scores
from bench.records.store import read_scores
from bench.report import fits
from bench.report.leaderboard import Leaderboard
from bench.report.marks import MARKS
from bench.report.standing import Cell
from bench.text import escape_csv, escape_markdown, interval_text, markdown_table, one_line

if TYPE_CHECKING:  # imported where it is needed, as in `bench.report.write`
    import pandas as pd

# Whose ids hold the kind ("test/crack/003.png"): older tables of scores do not name it.
_BY_FOLDER = ("folder", "mvtec")
EXPLAINED = (
    "Each kind of defect against all normal test images, both attacked: the same images, scores and attack as in "
    "leaderboard.md. Of each detector the kind comes first of which the attack leaves least. Few images of a kind mean "
    "wide brackets (95 %)."
)


@dataclass(frozen=True)
class KindOfDefect:
    """What a detector makes of one kind of defect in one category, the mean over its fits.

    Attributes:
        protocol, label, name, category: where it stands in a leaderboard, and the registry's name.
        kind: of defect.
        anomalies, normals: how many test images.
        clean, robust: AUC in per cent with its interval.
        marks: of the cell that it is a part of.
        record: of the first fit.
    """

    protocol: str
    label: str
    name: str
    category: str
    kind: str
    anomalies: int
    normals: int
    clean: Estimate
    robust: Estimate
    marks: tuple[str, ...]
    record: Record


def of_board(board: Leaderboard) -> list[KindOfDefect]:
    """By protocol, category and detector, in the leaderboard's order; of each the kind first of which the attack leaves
    least. Categories of a single kind are left out."""
    found = []
    for column in board.columns:
        for category in board.categories:
            for row in board.rows:
                standing = row.standings.get(column.protocol)
                cell = None if standing is None else standing.cells.get(category)
                if cell is not None:
                    kinds = _of_cell(cell, column.protocol, row.label, row.name, category)
                    found += sorted(kinds, key=lambda k: (k.robust.value, k.robust.value - k.clean.value, k.kind))
    return found


def kinds_of(record: Record, scores: Scores) -> tuple[str, ...]:
    """The kind of defect of each image, "good" of normal ones; empty where it is not known."""
    if scores.defects or record.dataset not in _BY_FOLDER:
        return scores.defects
    parts = [image.split("/") for image in scores.images]
    if any(len(part) != 3 for part in parts):
        return ()
    kinds = tuple(part[1] for part in parts)
    known = [kind == SOUND for kind in kinds] == [label == 1 for label in scores.labels]
    return kinds if known else ()


def estimates(scores: Scores, kinds: Sequence[str]) -> dict[str, tuple[int, int, Estimate, Estimate]]:
    """Of each kind of defect how many anomalies and normals there are, its clean and its robust AUC.

    Raises:
        CellError: NaN scores, or no normals.
    """
    found = {}
    for kind in sorted(set(kinds) - {SOUND}):
        rows = np.array([own in (kind, SOUND) for own in kinds])
        labels = scores.labels[rows]
        clean, robust = (mean_single_draw_interval(values[:, rows], labels) for values in (scores.clean, scores.robust))
        found[kind] = (int((labels == -1).sum()), int((labels == 1).sum()), clean, robust)
    return found


def _of_cell(cell: Cell, protocol: str, label: str, name: str, category: str) -> list[KindOfDefect]:
    """Nothing where there is a single kind, or fits that were judged on others."""
    by_fit = [found for record in cell.records if (found := _of_record(record))]
    if not by_fit or len(by_fit) < sum(record.ok for record in cell.records):
        return []
    if len(by_fit[0]) < 2 or any(found.keys() != by_fit[0].keys() for found in by_fit):
        return []
    made = []
    for kind, (anomalies, normals, *_) in by_fit[0].items():
        clean = fits.over_fits([found[kind][2] for found in by_fit])
        robust = fits.over_fits([found[kind][3] for found in by_fit])
        assert clean is not None and robust is not None
        where = (protocol, label, name, category, kind)
        made.append(KindOfDefect(*where, anomalies, normals, clean, robust, cell.marks, cell.record))
    return made


def _of_record(record: Record) -> dict[str, tuple[int, int, Estimate, Estimate]]:
    if not record.ok or record.path is None:
        return {}
    try:
        scores = read_scores(record)
        return estimates(scores, kinds_of(record, scores))
    except (RecordError, CellError):  # who read the record has said what is wrong with its scores
        return {}


def frame(kinds: Iterable[KindOfDefect]) -> pd.DataFrame:
    """One line for each."""
    import pandas as pd

    return pd.DataFrame([_line(found) for found in kinds])


def _line(found: KindOfDefect) -> dict[str, object]:
    record = found.record
    line: dict[str, object] = {
        "dataset": record.dataset,
        "category": found.category,
        "preset": record.preset,
        "image_size": record.image_size,
        "protocol": found.protocol,
        "detector": found.name,
        "label": found.label,
        "attack": record.attack_name,
        "norm": record.norm,
        "epsilon": record.epsilon,
        "defect": found.kind,
        "anomalies": found.anomalies,
        "normals": found.normals,
    }
    for which, estimate in (("clean", found.clean), ("robust", found.robust)):
        line |= {f"{which}_{name}": value for name, value in zip(("auc", "low", "high"), estimate, strict=True)}
    line |= {"lost": found.clean.value - found.robust.value, "marks": "; ".join(found.marks)}
    return {name: escape_csv(value) if isinstance(value, str) else value for name, value in line.items()}


def markdown(kinds: Iterable[tuple[Leaderboard, Sequence[KindOfDefect]]]) -> str:
    """Of each leaderboard (`of_board`) a table for each category, as GitHub Markdown."""
    sections = ["# Kinds of defect\n", f"{EXPLAINED}\n"]
    for board, found in kinds:
        for place in dict.fromkeys((one.protocol, one.category) for one in found):
            own = [one for one in found if (one.protocol, one.category) == place]
            title = f"{board.title}: {one_line(place[1], 40)}" + (f", {place[0]}" if len(board.columns) > 1 else "")
            rows = [[escape_markdown(text) for text in _cells(one)] for one in own]
            header = ["detector", "defect", "images", "clean AUC", "robust AUC", "lost"]
            sections.append(f"## {escape_markdown(title)}\n\n{markdown_table(header, rows)}")
    return "\n".join(sections)


def _cells(found: KindOfDefect) -> list[str]:
    marks = "".join(MARKS[mark] for mark in found.marks)
    return [
        one_line(found.label, 60),
        one_line(found.kind, 60),
        str(found.anomalies),
        interval_text(*found.clean),
        f"{interval_text(*found.robust)} {marks}".strip(),
        f"{found.clean.value - found.robust.value:.1f}",
    ]
