"""A reproduced table as a data frame, Markdown, CSV, and for the terminal."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from rich.console import Group
from rich.table import Table
from rich.text import Text

from bench import files
from bench.metrics.intervals import Estimate
from bench.report import narrow
from bench.report.paper.reproduce import Reproduction
from bench.report.paper.tables import AVERAGE
from bench.text import MISSING, escape_markdown, markdown_table, norm_text
from detectors.checkpoint import write_atomically

NOT_RUN = "not run"
UNREADABLE = "?"


def frame(found: Reproduction) -> pd.DataFrame:
    """One line per row, NaN where unreadable or not run."""

    def bounds(prefix: str, e: Estimate | None) -> dict[str, float | None]:
        parts = e if e is not None else (None, None, None)
        return dict(zip((prefix, f"{prefix}_low", f"{prefix}_high"), parts, strict=True))

    return pd.DataFrame(
        [
            {
                "category": r.category,
                "detector": r.detector,
                "norm": r.norm,
                "epsilon": r.epsilon,
                "paper_clean": r.paper_clean,
                **bounds("measured_clean", r.measured_clean),
                "clean_difference": r.clean_difference,
                "computed_clean": r.computed_clean,
                "paper_robust": r.paper_robust,
                **bounds("measured_robust", r.measured_robust),
                "robust_difference": r.robust_difference,
                "computed_robust": r.computed_robust,
                **bounds("scaled_robust", r.also_robust),
                "average_disagrees": r.disagrees,
                "status": r.status,
            }
            for r in found.rows
        ]
    )


def markdown(found: Reproduction) -> str:
    """The table, its notes, and the commands for what is missing."""
    header, rows = _cells(found)
    text = f"## {escape_markdown(found.recipe.title)}\n\n"
    text += markdown_table([escape_markdown(h) for h in header], [[escape_markdown(c) for c in row] for row in rows])
    text += "".join(f"\n- {escape_markdown(note)}" for note in found.notes)
    commands = found.commands()
    if found.absent():
        text += f"\n- Not among the installed detectors: {', '.join(found.absent())}."
    if commands:
        text += "\n\nMissing cells:\n\n```\n" + "\n".join(commands) + "\n```"
    return text + "\n"


def terminal(found: Reproduction, width: int = 80) -> Table | Group:
    """For rich, within so many columns, 80 at most."""
    header, rows = _cells(found)
    if width < 80:  # its columns are no wider than their figures
        names = [" ".join(name.split()) for name in header]
        lines = [(0, found.recipe.title)]
        for row in rows:
            values = [f"{name} {value}" for name, value in zip(names[2:], row[2:], strict=True) if value]
            lines += [(0, " ".join(row[:2])), (1, "  ".join(values))]
        return narrow.listed(lines)
    table = Table(title=Text(found.recipe.title), box=None, padding=(0, 1, 0, 0), pad_edge=False, show_lines=False)
    for index, name in enumerate(header):
        table.add_column(Text(name), justify="left" if index < 2 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row), style="bold" if row[0] == AVERAGE else "")
    return table


def write(found: Reproduction, folder: Path) -> list[Path]:
    """Write TABLE.csv and TABLE.md. Raises DiskError where the folder cannot be written to."""
    texts = {".csv": frame(found).to_csv(index=False, lineterminator="\n"), ".md": markdown(found)}
    paths = [folder / f"{found.recipe.table}{suffix}" for suffix in texts]
    with files.writing(folder):
        for path, text in zip(paths, texts.values(), strict=True):
            write_atomically(path, text.encode())
    return paths


def _cells(found: Reproduction) -> tuple[list[str], list[list[str]]]:
    scaled = any(t.also is not None for t in found.recipe.threats)
    several = len(found.recipe.threats) > 1
    # "paper" is printed, "ours" is measured, "diff" is ours minus paper; first clean, then robust.
    header = ["category", "detector", *(["norm"] if several else [])]
    header += [
        "clean:\npaper",
        "\nours",
        "\ndiff",
        "robust:\npaper",
        "\nours",
        "\ndiff",
        *(["\nscaled"] if scaled else []),
    ]
    rows = []
    for r in found.rows:
        ours = f"{_text(r.measured_robust, NOT_RUN)}{r.status}"
        cells = [r.category, r.detector, *([norm_text(r.norm)] if several else [])]
        cells += [_text(r.paper_clean, UNREADABLE), _text(r.measured_clean, MISSING), _signed(r.clean_difference)]
        cells += [_text(r.paper_robust, UNREADABLE), ours, _signed(r.robust_difference)]
        cells += [_text(r.also_robust, MISSING)] if scaled else []
        rows.append(cells)
        if r.category == AVERAGE:
            computed = [_text(r.computed_clean, UNREADABLE), "", "", _text(r.computed_robust, UNREADABLE), "", ""]
            rows.append(
                [
                    "  of rows" + (" (!)" if r.disagrees else ""),
                    r.detector,
                    *([norm_text(r.norm)] if several else []),
                    *computed,
                    *([""] if scaled else []),
                ]
            )
    return header, rows


def _text(value: Estimate | float | None, absent: str) -> str:
    if value is None:
        return absent
    return f"{value.value if isinstance(value, Estimate) else value:.1f}"


def _signed(value: float | None) -> str:
    return MISSING if value is None else f"{value:+.1f}"
