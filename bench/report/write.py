"""Leaderboards as files: a tidy CSV, Markdown, LaTeX; and as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from bench import files
from bench.metrics.intervals import Estimate
from bench.records.certificate import Certificate
from bench.records.record import Record, Revisions
from bench.report import budget, curves, defects, narrow, noise_worth
from bench.report.leaderboard import Leaderboard, Row, build
from bench.report.tables import (
    best_known_figure,
    certified_figure,
    figure,
    label,
    noise_figure,
    noise_figures,
    places,
    tables,
)
from bench.report.tidy import tidy
from bench.text import escape_csv, escape_latex, escape_markdown, latex_table, markdown_table, one_line
from detectors.checkpoint import write_atomically

if TYPE_CHECKING:  # imported where it is needed: what a run shows before its end needs no tables
    import pandas as pd


OF_DEFECTS = ("defects.csv", "defects.md")
OF_RANKED = {
    "best_known": ("best_known_auc", "best_known_low", "best_known_high", "best_known_attack"),
    "certified": ("certified_auc", "certified_low", "certified_high", "certificate"),
}  # columns of leaderboard.csv


def frame(board: Leaderboard) -> pd.DataFrame:
    """Rows by detector; columns (category or "average", clean/robust, value/low/high/sd), NaN where not there; sd is
    the standard deviation over fits. "robust" is the ranking protocol's; "robust (PROTOCOL)" that of another one;
    "clean" that of the protocol by which the row is ranked."""
    import pandas as pd

    columns: dict[tuple[str, str, str], list[float]] = {}
    for category in (*board.categories, "average"):
        found = {"clean": [(row.ranked.place(category), "clean") for row in board.rows]}
        for column in board.columns:
            name = "robust" if column.protocol == board.ranking else f"robust ({column.protocol})"
            found[name] = [(row.place(column.protocol, category), "robust") for row in board.rows]
        for name, at in found.items():
            estimates = [None if place is None else getattr(place, which) for place, which in at]
            spreads = [None if place is None else getattr(place, f"{which}_spread") for place, which in at]
            for part in Estimate._fields:
                columns[category, name, part] = [float("nan") if e is None else getattr(e, part) for e in estimates]
            columns[category, name, "sd"] = [float("nan") if s is None else s.sd for s in spreads]
    return pd.DataFrame(columns, index=pd.Index([row.label for row in board.rows], name="detector"))


def markdown(board: Leaderboard) -> str:
    """The leaderboard as GitHub Markdown; whatever strangers wrote is escaped."""
    lines = [f"## {escape_markdown(board.title)}"]
    lines += [" ".join(escape_markdown(fact) for fact in paragraph) for paragraph in board.paragraphs]
    lines.append(escape_markdown(f"{budget.EXPLAINED}."))
    for table in tables(board):
        escaped = [[escape_markdown(text) for text in row] for row in (table.header, *table.rows)]
        lines += [f"### {escape_markdown(table.heading)}", markdown_table(escaped[0], escaped[1:]).rstrip("\n")]
    notes = "".join(f"- {escape_markdown(note)}\n" for note in board.notes())
    return "\n\n".join(lines) + "\n" + ("\n" + notes if notes else "")


def latex(board: Leaderboard) -> str:
    """The leaderboard as booktabs tables, the heading and the notes with the first; whatever strangers wrote is
    escaped."""
    found = []
    for number, table in enumerate(tables(board)):
        heading = (*board.facts, f"{budget.EXPLAINED}.") if number == 0 else ()
        escaped = [[escape_latex(text) for text in row] for row in (table.header, *table.rows)]
        caption = " ".join(escape_latex(text) for text in (f"{board.title}, {table.heading}.", *heading))
        notes = [escape_latex(note) for note in board.notes()] if number == 0 else []
        found.append(latex_table(escaped[0], escaped[1:], caption=caption, notes=notes))
    return "\n".join(found)


def terminal(board: Leaderboard, width: int = 80) -> Table | Group:
    """For rich, within so many columns: a section for each category and one for the average."""
    shown = [*board.categories, *(place for place in places(board) if place == "average")]
    if width < narrow.COLUMNS:
        return _listed(board, shown)
    table = Table(title=Text(board.title), title_justify="left", pad_edge=False)
    table.add_column("category", overflow="fold", max_width=18)
    table.add_column("detector", overflow="fold", max_width=18)
    table.add_column("clean AUC", justify="right", no_wrap=True)
    table.add_column(Text(f"robust AUC\n({board.claim})"), justify="right", no_wrap=True)
    for category in shown:
        name = one_line(category, 40) + board.flagged.get(category, "")
        for number, row in enumerate(board.rows):
            clean = figure(row.ranked.place(category), "clean", line_break="\n")
            robust = [
                figure(row.place(board.ranking, category), "robust", line_break="\n"),
                *_beside(board, row, category),
            ]
            first = Text(name if number == 0 else "")
            table.add_row(first, Text(one_line(label(board, row), 60)), clean, "\n".join(robust))
        table.add_section()
    return table


def terminal_notes(board: Leaderboard) -> list[str]:
    """What a terminal's table has no room for: the budgets."""
    found = []
    for column in board.columns:
        spent: dict[str, list[str]] = {}
        for row in board.rows:
            known = row.budget(column.protocol, "average")
            if known is not None:
                spent.setdefault(str(known), []).append(one_line(row.label, 60))
        if spent:
            told = "; ".join(f"{', '.join(labels)}: {text}" for text, labels in spent.items())
            found.append(f"{budget.EXPLAINED}, under {column.protocol}: {told}.")
    return found


def _beside(board: Leaderboard, row: Row, category: str) -> list[str]:
    """What stands beneath a robust AUC: what its noise is worth, the other protocols' figures, the lowest known
    one, and what is certified."""
    of_noise = noise_figures(board, board.ranking)
    noise = ((noise_worth.TITLES[which], noise_figure(row, board.ranking, category, which)) for which in of_noise)
    others = (
        (column.protocol, figure(row.place(column.protocol, category), "robust"))
        for column in board.columns
        if column.protocol != board.ranking
    )
    place = row.label, category
    known = ("best known", best_known_figure(board.best_known.get(place)))
    sure = ("smoothed, certified", certified_figure(board.certified[place]) if place in board.certified else "")
    return [f"{name}: {text}" for name, text in (*noise, *others, known, sure) if text]


def _listed(board: Leaderboard, shown: Sequence[str]) -> Group:
    lines = [(0, one_line(board.title))]
    for category in shown:
        lines.append((0, one_line(category, 40) + board.flagged.get(category, "")))
        for row in board.rows:
            lines.append((1, one_line(label(board, row), 60)))
            lines.append((2, f"clean AUC {figure(row.ranked.place(category), 'clean')}"))
            lines.append((2, f"robust AUC {figure(row.place(board.ranking, category), 'robust')}"))
            lines += [(3, text) for text in _beside(board, row, category)]
    return narrow.listed(lines)


def write(
    records: Sequence[Record],
    folder: Path,
    revisions: Revisions | None = None,
    certificates: Sequence[Certificate] = (),
) -> list[Path]:
    """Write leaderboard.csv, leaderboard.md, leaderboard.tex, and where a category has several kinds of defect
    defects.csv and defects.md, each atomically. Returns their paths.

    Raises:
        DiskError: the folder cannot be written to.
    """
    found = texts(records, revisions, certificates)
    with files.writing(folder):
        for name, text in found.items():
            write_atomically(folder / name, text.encode(errors="replace"))
        for name in OF_DEFECTS:
            if name not in found:  # of records that are there no more
                (folder / name).unlink(missing_ok=True)
    return [folder / name for name in found]


def _beside_the_ranked(boards: Sequence[Leaderboard]) -> dict[str, dict[str, object]]:
    """Further columns of the CSV, each by the key of the record that a row is ranked by (of several fits the first)."""
    found: dict[str, dict[str, object]] = {column: {} for columns in OF_RANKED.values() for column in columns}

    def add(key: str, name: str, auc: Estimate, of: str) -> None:
        values = (auc.value, auc.low, auc.high, of)
        for column, value in zip(OF_RANKED[name], values, strict=True):
            found[column][key] = value

    for board in boards:
        for row in board.rows:
            for category, cell in row.cells.items():
                place, key = (row.label, category), cell.record.key
                if (known := board.best_known.get(place)) is not None:
                    add(key, "best_known", known.robust, known.attack)
                if (sure := board.certified.get(place)) is not None:
                    add(key, "certified", sure.auc, sure.label)
    return found


def texts(
    records: Sequence[Record], revisions: Revisions | None = None, certificates: Sequence[Certificate] = ()
) -> dict[str, str]:
    """What `write` writes, by the file's name."""
    import pandas as pd

    boards = build(records, revisions, certificates)
    table = tidy(records, revisions)
    for name, found in _beside_the_ranked(boards).items() if len(table) else ():
        table[name] = table["key"].map(found)
    for column in table.columns:
        if not pd.api.types.is_numeric_dtype(table[column]):
            table[column] = [escape_csv(v) if isinstance(v, str | list | dict) else v for v in table[column]]
    crossings = (curves.markdown(found) for found in curves.groups(boards).values())
    sections = [*map(markdown, boards), *filter(None, crossings)]
    kinds = [(board, defects.of_board(board)) for board in boards]
    of_defects: dict[str, str] = {}
    if listed := [one for _, found in kinds for one in found]:
        tidied = defects.frame(listed).to_csv(index=False, lineterminator="\n")
        of_defects = dict(zip(OF_DEFECTS, (tidied, defects.markdown(kinds)), strict=True))
    return {
        "leaderboard.csv": table.to_csv(index=False, lineterminator="\n"),
        "leaderboard.md": "# Leaderboards\n\n" + ("\n".join(sections) or "There are no records yet.\n"),
        "leaderboard.tex": "\n".join(map(latex, boards)),
        **of_defects,
    }
