"""The paper's Table 6 as a data frame, Markdown, CSV, and for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Group
from rich.table import Table
from rich.text import Text

from bench.report import narrow
from bench.report.paper.certified import NOTES, TABLE, CertifiedRecipe, CertifiedRow, finding, missing
from bench.report.paper.render import NOT_RUN, UNREADABLE, write_texts
from bench.text import MISSING, escape_markdown, markdown_table

HEADER = ("category", "detector", "sigma", "radius", "certified:\npaper", "\nours", "\ndiff")


def terminal(found: tuple[CertifiedRow, ...], width: int = 80, *, recipe: CertifiedRecipe | None = None) -> Group:
    """For rich, within so many columns."""
    where = recipe or CertifiedRecipe()
    title, cells = where.title, [_cells(row, where) for row in found]
    if width < 80:
        lines = [(0, title)]
        for row in cells:
            named = zip((" ".join(name.split()) for name in HEADER[2:]), row[2:], strict=True)
            lines += [(0, " ".join(row[:2])), (1, "  ".join(f"{name} {value}" for name, value in named))]
        return narrow.listed(lines)
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_lines=False)
    for index, name in enumerate(HEADER):
        table.add_column(Text(name), justify="left" if index < 2 else "right", no_wrap=True)
    for row in cells:
        table.add_row(*map(Text, row))
    return Group(Text(title, style="bold"), table)


def frame(found: tuple[CertifiedRow, ...]) -> pd.DataFrame:
    """One line per row, NaN where unreadable or not run."""
    return pd.DataFrame(
        [
            {
                "category": row.category,
                "detector": row.detector,
                "sigma": row.sigma,
                "radius": row.radius,
                "paper_certified": row.paper,
                "measured_certified": row.ours and row.ours.value,
                "measured_low": row.ours and row.ours.low,
                "measured_high": row.ours and row.ours.high,
                "difference": row.difference,
                "status": row.status.strip(),
            }
            for row in found
        ]
    )


def markdown(
    found: tuple[CertifiedRow, ...], recipe: CertifiedRecipe | None = None, notes: Sequence[str] = NOTES
) -> str:
    """The table, its claim, its notes, and the commands for what is missing."""
    where = recipe or CertifiedRecipe()
    text = f"## {escape_markdown(where.title)}\n\n"
    header = [escape_markdown(name) for name in HEADER]
    text += markdown_table(header, [[escape_markdown(cell) for cell in _cells(row, where)] for row in found])
    judged = finding(found)
    text += (
        f"\n\nWhat the paper says, and whether it holds here:\n\n- **{judged.holds}**: {escape_markdown(where.claim)}"
    )
    text += f" ({escape_markdown(judged.found)})\n" if judged.found else "\n"
    text += "".join(f"\n- {escape_markdown(note)}" for note in notes)
    commands = where.commands(missing(found))
    if commands:
        text += "\n\nMissing cells:\n\n```\n" + "\n".join(commands) + "\n```"
    return text + "\n"


def write(
    found: tuple[CertifiedRow, ...],
    folder: Path,
    recipe: CertifiedRecipe | None = None,
    notes: Sequence[str] = NOTES,
) -> list[Path]:
    """Write the table as CSV and as Markdown. Raises DiskError where the folder cannot be written to."""
    return write_texts(folder, TABLE, frame(found), markdown(found, recipe, notes))


def _cells(row: CertifiedRow, where: CertifiedRecipe) -> list[str]:
    def shown(value: float | None, absent: str, form: str = ".1f") -> str:
        return absent if value is None else format(value, form)

    return [
        row.category,
        row.detector,
        f"{row.sigma:g}",
        shown(row.radius, UNREADABLE, "g"),
        shown(row.paper, UNREADABLE if where.is_papers else MISSING),  # of other pictures there is none
        NOT_RUN if row.ours is None else f"{row.ours.value:.1f} {row.ours.low:.0f}-{row.ours.high:.0f}{row.status}",
        shown(row.difference, MISSING, "+.1f"),
    ]
