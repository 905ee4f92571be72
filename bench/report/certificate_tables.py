"""Certificates as files, `certificates.md` and `certificates.csv`, and as a table for the terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from bench import files
from bench.records.certificate import Certificate
from bench.records.record import Revisions
from bench.report import narrow
from bench.report.certificates import Board, attacked, boards, estimate, figure, flags, label
from bench.text import MISSING, epsilon_text, escape_csv, escape_markdown, interval_text, markdown_table, one_line
from detectors.checkpoint import write_atomically

MOST_RADII, MOST_ON_SCREEN = 9, 4
HEADER = (
    "# Certificates\n\n"
    "AUC in per cent that no attack within the radius can lower further, with its 95 % interval over test images; the\n"
    "attacked AUC of the same smoothed detector, where there is one, stands behind it. Radii are on the [0, 1] scale.\n"
)
FIGURES = (
    *("auc", "low", "high", "strict_auc", "abstained", "tpr", "fpr", "accuracy"),
    *("attacked_auc", "attacked_low", "attacked_high"),
)


def write(certificates: Sequence[Certificate], folder: Path, revisions: Revisions | None = None) -> list[Path]:
    """Write certificates.md and certificates.csv, each atomically. Returns their paths. Raises DiskError."""
    found = {
        "certificates.md": HEADER + "\n" + "\n".join(map(markdown, boards(certificates, revisions))),
        "certificates.csv": tidy(certificates),
    }
    with files.writing(folder):
        for name, text in found.items():
            write_atomically(folder / name, text.encode(errors="replace"))
    return [folder / name for name in found]


def markdown(board: Board) -> str:
    """The board as GitHub Markdown; whatever strangers wrote is escaped."""
    radii = board.shown_radii(MOST_RADII)
    header = ["detector", "AUC", *(f"r {epsilon_text(r, board.norm)}" if r else "r 0" for r in radii)]
    rows = []
    for row in board.rows:
        clean = row.results["clean"]
        cells = [interval_text(clean["auc"], clean["low"], clean["high"])]
        cells += [_figure(row, radius) for radius in radii]
        rows.append([f"{label(row)} {board.marks(row)}".strip(), *cells])
    table = markdown_table([escape_markdown(h) for h in header], [[escape_markdown(c) for c in row] for row in rows])
    notes = "".join(f"- {escape_markdown(note)}\n" for note in board.notes())
    facts = escape_markdown(_confidence(board))
    return "\n\n".join([f"## {escape_markdown(board.title)}", facts, table]) + ("\n" + notes if notes else "")


def terminal(board: Board, width: int = 80) -> Table | Group:
    """For rich, within so many columns."""
    radii = board.shown_radii(MOST_ON_SCREEN)
    names = [f"{epsilon_text(radius, board.norm)}" if radius else "0" for radius in radii]
    if width < narrow.COLUMNS:
        lines = [(0, one_line(board.title))]
        for row in board.rows:
            lines.append((1, f"{one_line(label(row), 80)} {board.marks(row)}".strip()))
            lines.append((2, f"AUC {row.clean_auc:.1f}"))
            lines += [(2, f"radius {n}: {_short(row, r)}") for n, r in zip(names, radii, strict=True)]
        return narrow.listed(lines)
    table = Table(title=Text(one_line(board.title)), title_justify="left", pad_edge=False)
    table.add_column("detector", overflow="fold")
    table.add_column("AUC", justify="right", no_wrap=True)
    for name in names:
        table.add_column(f"r {name}", justify="right", no_wrap=True)
    for row in board.rows:
        shown = f"{one_line(label(row), 60)} {board.marks(row)}".strip()
        table.add_row(Text(shown), f"{row.clean_auc:.1f}", *(Text(_short(row, radius)) for radius in radii))
    return table


def tidy(certificates: Sequence[Certificate]) -> str:
    """A CSV with a line for each certificate and radius, empty where not known."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    own = ("dataset", "category", "preset", "image_size", "detector", "detector_revision", "fit_seed")
    made = ("rule", "norm", "sigma", "p", "threshold", "samples", "alpha")
    more = ("radius", "clean_auc", *FIGURES, "crossed", "flags", "full_run", "written", "key")
    writer.writerow((*own, *made, *more))
    for one in certificates:
        claim, smoothing = one.claim, one.claim.smoothing
        facts: list[object] = [claim.dataset, claim.category, claim.preset, claim.image_size]
        facts += [claim.detector.name, claim.detector.revision, claim.fit_seed]
        facts += [*(getattr(smoothing, name) for name in made[:-1]), claim.alpha]
        for radius in claim.radii:
            entry = one.at(radius)
            values = [radius, one.clean_auc, *(entry.get(name) for name in FIGURES), entry.get("crossed")]
            end = ["; ".join(flags(one)), one.full_run, one.written, one.key]
            writer.writerow([escape_csv(v) if isinstance(v, str) else v for v in (*facts, *values, *end)])
    return stream.getvalue()


def _confidence(board: Board) -> str:
    alphas = sorted({row.claim.alpha for row in board.rows if row.claim.alpha})
    if not alphas:
        return "Exact certificates, of Lipschitz constants."
    told = " or ".join(f"{100 * (1 - alpha):.10g} %" for alpha in alphas)
    return (
        "The bounds that count in a smoothed row, upper ones of normals and lower ones of anomalies, hold together "
        f"with a confidence of {told}; exact ones always."
    )


def _figure(row: Certificate, radius: float) -> str:
    """ "62.1 [55.0, 68.7]", and "(attacked 70.2)" behind it."""
    if radius not in row.claim.radii:
        return MISSING
    text = figure(estimate(row, radius))
    under = dict(attacked(row)).get(radius)
    return text if under is None else f"{text} (attacked {under.value:.1f})"


def _short(row: Certificate, radius: float) -> str:
    return MISSING if radius not in row.claim.radii else f"{estimate(row, radius).value:.1f}"
