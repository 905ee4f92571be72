"""A reproduced table as a data frame, Markdown, CSV, and for the terminal: a block for each attack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Group
from rich.table import Table
from rich.text import Text

from bench import files
from bench.metrics.intervals import Estimate
from bench.report import narrow
from bench.report.paper.arms import Row, Threat
from bench.report.paper.claims import difference
from bench.report.paper.measured import Reproduction
from bench.report.paper.printed import AVERAGE
from bench.text import MISSING, escape_markdown, markdown_table
from detectors.checkpoint import write_atomically

NOT_RUN = "not run"
UNREADABLE = "?"
OUR_INTERVAL = "Ours: AUC in %, and its 95 % interval."


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
                "arm": r.arm.label,
                "attack": str(r.arm.threat),
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
                "chosen": r.chosen,
                "seconds_per_image": r.seconds,
                "average_disagrees": r.disagrees,
                "status": r.status,
            }
            for r in found.rows
        ]
    )


def markdown(found: Reproduction) -> str:
    """The tables, what holds, notes, and the commands for what is missing."""
    text = f"## {escape_markdown(found.recipe.title)}\n"
    for threat in _blocks(found):
        header, rows = _cells(found, threat)
        text += f"\n### {escape_markdown(str(threat))}\n\n" if len(_blocks(found)) > 1 else "\n"
        text += markdown_table(
            [escape_markdown(" ".join(h.split())) for h in header], [[escape_markdown(c) for c in row] for row in rows]
        )
    if found.findings:
        text += "\n\nWhat the paper says, and whether it holds here:\n"
    for claim, finding in found.findings:
        text += f"\n- **{finding.holds}**: {escape_markdown(claim.sentence)}"
        text += f" ({escape_markdown(finding.found)})" if finding.found else ""
    if found.findings:
        text += "\n"
    text += "".join(f"\n- {escape_markdown(note)}" for note in found.notes)
    commands = [run.command() for run in found.runs()]
    if found.absent():
        text += f"\n- Not among the installed detectors: {', '.join(found.absent())}."
    if commands:
        text += "\n\nMissing cells:\n\n```\n" + "\n".join(commands) + "\n```"
    return text + "\n"


def terminal(found: Reproduction, width: int = 80) -> Group:
    """For rich, within so many columns, 80 at most: the tables and what holds of the claims."""
    parts: list[Table | Group | Text] = [Text(found.recipe.title, style="bold")]
    several = len(_blocks(found)) > 1
    for threat in _blocks(found):
        header, rows = _cells(found, threat, is_narrow=True)
        if width < 80:  # its columns are no wider than their figures
            names = [" ".join(name.split()) for name in header]
            lines = [(0, str(threat))] if several else []
            for row in rows:
                values = [f"{name} {value}" for name, value in zip(names[2:], row[2:], strict=True) if value]
                lines += [(0, " ".join(row[:2])), (1, "  ".join(values))]
            parts.append(narrow.listed(lines))
            continue
        parts += [Text(f"\n{threat}", style="italic")] if several else []  # a table's own title wraps at its width
        parts.append(_table(header, rows))
    if found.findings:
        parts.append(Text("\nWhat the paper says, and whether it holds here:"))
    for claim, finding in found.findings:
        told = f" ({finding.found})" if finding.found else ""
        parts.append(Text(f"- {finding.holds}: {claim.sentence}{told}"))
    return Group(*parts)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_lines=False)
    for index, name in enumerate(header):
        table.add_column(Text(name), justify="left" if index < 2 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row), style="bold" if row[0] == AVERAGE else "")
    return table


def write(found: Reproduction, folder: Path) -> list[Path]:
    """Write TABLE.csv and TABLE.md. Raises DiskError where the folder cannot be written to."""
    return write_texts(folder, found.recipe.table, frame(found), markdown(found))


def write_texts(folder: Path, name: str, rows: pd.DataFrame, text: str) -> list[Path]:
    """Write a table as a CSV file and a Markdown file. Raises DiskError where the folder cannot be written to."""
    texts = {".csv": rows.to_csv(index=False, lineterminator="\n"), ".md": text}
    paths = [folder / f"{name}{suffix}" for suffix in texts]
    with files.writing(folder):
        for path, content in zip(paths, texts.values(), strict=True):
            write_atomically(path, content.encode())
    return paths


def _blocks(found: Reproduction) -> list[Threat]:
    """The attacks of which there is something to say; one alone where single arms of a table differ in it."""
    threats = list(found.recipe.threats)
    own = [row.arm.threat for row in found.rows if row.arm.label]
    return threats[:1] if own and len(set(own)) == len(threats) > 1 else threats


def _cells(found: Reproduction, threat: Threat, *, is_narrow: bool = False) -> tuple[list[str], list[list[str]]]:
    """Header and lines: "paper" is printed, "ours" is measured, "diff" is ours minus paper. `is_narrow`: no room for
    intervals beside a second radius."""
    shows, printed = found.recipe.shows, bool(found.recipe.printed())
    together = len(_blocks(found)) < len(found.recipe.threats)
    scaled = threat.also is not None
    with_interval = not (scaled and is_narrow)
    header = ["category", "detector"]
    for which in ("clean", "robust"):
        if which in shows:
            header += [f"{which}:\npaper", "\nours", "\ndiff"] if printed else [f"{which}:\nours"]
    header += ["\nscaled"] if scaled and "robust" in shows else []
    header += ["\nchange"] if "change" in shows else []
    header += ["\nk"] if "k" in shows else []
    header += ["seconds\nan image", "\nof the first"] if "seconds" in shows else []
    rows = []
    first: dict[str, float] = {}
    for r in found.rows:
        if not together and r.arm.threat != threat:
            continue
        cells = [r.category, str(r.arm)]
        if "clean" in shows:
            absent = NOT_RUN if "robust" not in shows else MISSING
            status = r.status if "robust" not in shows else ""
            ours = f"{_text(r.measured_clean, absent, interval=with_interval)}{status}"
            cells += [_text(r.paper_clean, UNREADABLE), ours, _signed(r.clean_difference)] if printed else [ours]
        if "robust" in shows:
            ours = f"{_text(r.measured_robust, NOT_RUN, interval=with_interval)}{r.status}"
            cells += [_text(r.paper_robust, UNREADABLE), ours, _signed(r.robust_difference)] if printed else [ours]
            cells += [_text(r.also_robust, MISSING, interval=with_interval)] if scaled else []
        if "change" in shows:
            cells.append(_change(r, found.rows))
        if "k" in shows:
            cells.append(MISSING if r.chosen is None else str(r.chosen))
        if "seconds" in shows:
            base = first.setdefault(r.category, r.seconds) if r.seconds is not None else None
            cells.append(NOT_RUN if r.seconds is None else f"{r.seconds:.3f}{r.status}")
            cells.append(f"x{r.seconds / base:.1f}" if r.seconds is not None and base else MISSING)
        rows.append(cells)
        if r.category == AVERAGE and printed and not found.recipe.is_part:
            computed = [_text(r.computed_clean, UNREADABLE), "", "", _text(r.computed_robust, UNREADABLE), "", ""]
            scale = [""] if scaled else []
            rows.append(["  of rows" + (" (!)" if r.disagrees else ""), str(r.arm), *computed, *scale])
    return header, rows


def _text(value: Estimate | float | None, absent: str, *, interval: bool = True) -> str:
    if value is None:
        return absent
    if not isinstance(value, Estimate):
        return f"{value:.1f}"
    return f"{value.value:.1f} {value.low:.0f}-{value.high:.0f}" if interval else f"{value.value:.1f}"


def _change(row: Row, rows: Sequence[Row]) -> str:
    """By how much an arm's robust AUC differs from that of the first arm of its detector, norm and category."""
    where = (row.category, row.detector, row.norm)
    first = next(r for r in rows if (r.category, r.detector, r.norm) == where)
    if row is first or row.measured_robust is None or first.measured_robust is None:
        return MISSING
    change = difference(row.measured_robust, first.measured_robust)
    return f"{change.value:+.1f} {change.low:+.0f} to {change.high:+.0f}"


def _signed(value: float | None) -> str:
    return MISSING if value is None else f"{value:+.1f}"
