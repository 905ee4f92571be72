"""Leaderboards as files: a tidy CSV, Markdown, LaTeX; and as a table for the terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from bench import files
from bench.metrics.intervals import Estimate
from bench.records.record import Record, Revisions, is_stale
from bench.records.schema import Figures
from bench.report import curves, fits, narrow
from bench.report.caveats import estimate, failure_flags
from bench.report.leaderboard import MARKS, Cell, Leaderboard, Row, build
from bench.text import (
    MISSING,
    escape_csv,
    escape_latex,
    escape_markdown,
    interval_text,
    latex_table,
    markdown_table,
    one_line,
)
from detectors.checkpoint import write_atomically

if TYPE_CHECKING:  # imported where it is needed: what a run shows before its end needs no tables
    import pandas as pd

_LEVELS = (
    "separability",
    "robust_accuracy",
    "attack_success",
    "normals_only_auc",
    "anomalies_only_auc",
    "threshold",
)
_ATTACK_COLUMNS = ("steps", "step_size", "restarts", "random_start", "keep", "eot", "momentum")
_PIXEL = ("auroc", "aupro", "robust_auroc", "robust_aupro")


def tidy(records: Iterable[Record], revisions: Revisions | None = None) -> pd.DataFrame:
    """One line per cell with all of its figures, failed and stale ones included; empty where not known."""
    import pandas as pd

    return pd.DataFrame([_line(record, revisions or Revisions()) for record in records])


def frame(board: Leaderboard) -> pd.DataFrame:
    """Rows by detector; columns (category or "average", clean/robust, value/low/high/sd), NaN where not there; sd is
    the standard deviation over fits."""
    import pandas as pd

    columns: dict[tuple[str, str, str], list[float]] = {}
    for category in (*board.categories, "average"):
        for which in ("clean", "robust"):
            found = [_estimate(row, category, which) for row in board.rows]
            for part in Estimate._fields:
                columns[category, which, part] = [float("nan") if e is None else getattr(e, part) for e in found]
            spreads = [_spread(row, category, which) for row in board.rows]
            columns[category, which, "sd"] = [float("nan") if s is None else s.sd for s in spreads]
    return pd.DataFrame(columns, index=pd.Index([row.label for row in board.rows], name="detector"))


def markdown(board: Leaderboard) -> str:
    """The leaderboard as GitHub Markdown; whatever strangers wrote is escaped."""
    header, rows = _cells(board, escape_markdown)
    lines = [f"## {escape_markdown(board.title)}", *(escape_markdown(fact) for fact in board.facts)]
    notes = "".join(f"- {escape_markdown(note)}\n" for note in board.notes())
    return "\n\n".join([*lines, markdown_table(header, rows)]) + ("\n" + notes if notes else "")


def latex(board: Leaderboard) -> str:
    """The leaderboard as a booktabs table; whatever strangers wrote is escaped."""
    header, rows = _cells(board, escape_latex)
    caption = " ".join(escape_latex(text) for text in (f"{board.title}.", *board.facts))
    return latex_table(header, rows, caption=caption, notes=[escape_latex(note) for note in board.notes()])


def terminal(board: Leaderboard, width: int = 80) -> Table | Group:
    """For rich, within so many columns: a section for each category and one for the average."""
    shown = (*board.categories, *(("average",) if len(board.categories) > 1 else ()))
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
            figures = [_figure(row, category, which, line_break="\n") for which in ("clean", "robust")]
            table.add_row(Text(name if number == 0 else ""), Text(one_line(row.label, 60)), *figures)
        table.add_section()
    return table


def _listed(board: Leaderboard, shown: Sequence[str]) -> Group:
    lines = [(0, one_line(board.title))]
    for category in shown:
        lines.append((0, one_line(category, 40) + board.flagged.get(category, "")))
        for row in board.rows:
            figures = ((which, _figure(row, category, which)) for which in ("clean", "robust"))
            lines += [(1, one_line(row.label, 60)), *((2, f"{which} AUC {figure}") for which, figure in figures)]
    return narrow.listed(lines)


def write(records: Sequence[Record], folder: Path, revisions: Revisions | None = None) -> list[Path]:
    """Write leaderboard.csv, leaderboard.md, leaderboard.tex, each atomically. Returns their paths.

    Raises:
        DiskError: the folder cannot be written to.
    """
    found = texts(records, revisions)
    with files.writing(folder):
        for name, text in found.items():
            write_atomically(folder / name, text.encode(errors="replace"))
    return [folder / name for name in found]


def texts(records: Sequence[Record], revisions: Revisions | None = None) -> dict[str, str]:
    """What `write` writes, by the file's name."""
    import pandas as pd

    boards = build(records, revisions)
    table = tidy(records, revisions)
    for column in table.columns:
        if not pd.api.types.is_numeric_dtype(table[column]):
            table[column] = [escape_csv(v) if isinstance(v, str | list | dict) else v for v in table[column]]
    crossings = (curves.markdown(found) for found in curves.groups(boards).values())
    sections = [*map(markdown, boards), *filter(None, crossings)]
    return {
        "leaderboard.csv": table.to_csv(index=False, lineterminator="\n"),
        "leaderboard.md": "# Leaderboards\n\n" + ("\n".join(sections) or "There are no records yet.\n"),
        "leaderboard.tex": "\n".join(map(latex, boards)),
    }


def _cells(board: Leaderboard, escape: Callable[[object], str]) -> tuple[list[str], list[list[str]]]:
    names = [c + board.flagged.get(c, "") for c in board.categories]
    header = [escape("detector")]
    for name in (*names, "average"):
        header += [escape(f"{name}: clean AUC"), escape(f"{name}: robust AUC ({board.claim})")]
    rows = [
        [escape(row.label)]
        + [escape(_figure(row, c, which)) for c in (*board.categories, "average") for which in ("clean", "robust")]
        for row in board.rows
    ]
    return header, rows


def _figure(row: Row, category: str, which: str, *, line_break: str = " ") -> str:
    """ "62.1 [55.0, 68.7] ±3.2 (3 fits) †"; the spread, where there is one, after `line_break`."""
    found, spread = _estimate(row, category, which), _spread(row, category, which)
    text = interval_text(*found) if found is not None else MISSING
    text += f"{line_break}{spread}" if found is not None and spread is not None else ""
    holder = _holder(row, category)
    # An average that is missing needs no marks: its dash is explained.
    marked = holder is not None and which == "robust" and (isinstance(holder, Cell) or found is not None)
    marks = "".join(MARKS[m] for m in holder.marks) if marked and holder is not None else ""
    return f"{text} {marks}".strip()


def _holder(row: Row, category: str) -> Row | Cell | None:
    return row if category == "average" else row.cells.get(category)


def _estimate(row: Row, category: str, which: str) -> Estimate | None:
    holder = _holder(row, category)
    if holder is None:
        return None
    return holder.clean if which == "clean" else holder.robust


def _spread(row: Row, category: str, which: str) -> fits.Spread | None:
    holder = _holder(row, category)
    if holder is None:
        return None
    return holder.clean_spread if which == "clean" else holder.robust_spread


def _line(record: Record, revisions: Revisions) -> dict[str, object]:
    cell, attack, results = record.cell, record.attack, record.results
    line: dict[str, object] = {
        "dataset": record.dataset,
        "category": record.category,
        "preset": record.preset,
        "image_size": record.image_size,
        "protocol": record.protocol,
        "protocol_version": cell.protocol.version,
        "detector": record.detector_name,
        "detector_revision": cell.detector.revision,
        "seed": record.seed,
        "fit_seed": fits.fit_seed(record),
        "attack": record.attack_name,
        "norm": record.norm,
        "epsilon": record.epsilon,
        **{name: attack.settings.get(name) for name in _ATTACK_COLUMNS},
        "verdict_draws": cell.draws.verdict,
        "normals": record.subset.normals,
        "anomalies": record.subset.anomalies,
        "status": record.status,
        "reason": record.reason,
        "full_run": record.full_run,
        "stale": is_stale(record, revisions),
        "brightness_flagged": record.separated_by("brightness"),
        "file_order_flagged": record.separated_by("file_order"),
        "flags": "; ".join(failure_flags(record)),
    }
    for which, figures in (("clean", record.clean), ("robust", record.robust)):
        values = dataclasses.asdict(figures) if figures is not None else {}
        line |= {f"{which}_{f.name}": values.get(f.name) for f in dataclasses.fields(Figures)}
        ranked = estimate(record, which)
        line |= {f"{which}_ranked": ranked.value if ranked is not None else None}
    pixel, brightness = _table(results.get("pixel")), _table(results.get("brightness"))
    line |= {name: results.get(name, brightness.get(name)) for name in _LEVELS}
    line |= {f"pixel_{name}": pixel.get(name) for name in _PIXEL}
    line |= {f"seconds_{name}": record.seconds.get(name) for name in ("fit", "attack", "verdict", "total")}
    return line | {
        "peak_memory_mb": record.peak_memory_mb,
        "commit": record.environment.get("commit"),
        "written": record.written,
        "key": record.key,
    }


def _table(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}
