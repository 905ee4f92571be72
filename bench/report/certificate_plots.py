"""Certified AUC over radius: a panel for each sigma, and in it what attacks leave of the same smoothed detectors."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.records.certificate import EXACT, PAPER, Certificate
from bench.records.paths import safe_name
from bench.records.record import Record, Revisions
from bench.report.certificates import Board, attacked, base_lines, boards, estimate
from bench.report.curves import BASELINES
from bench.report.fonts import drawable
from bench.report.style import MANY_COLOURS, MARKERS, TEXT_WIDTH, save, style

STYLES: dict[str, Any] = {"percentile": "-", "exceedance": "-.", PAPER: ":", EXACT: "--"}
WORDS = {
    "percentile": "percentile",
    "exceedance": "exceedance",
    PAPER: "the paper's rule (uncertified)",
    EXACT: "exact, without noise",
}
_GREY = "0.35"
_GREYS = ("0.15", "0.45", "0.65")  # of the baselines, and of them alone
_COLOURS = tuple(colour for colour in MANY_COLOURS if colour not in ("#000000", "#888888"))


def write_all(
    certificates: Sequence[Certificate], records: Sequence[Record], folder: Path, revisions: Revisions | None = None
) -> list[Path]:
    """A figure for each category in l2, as PNG and PDF. Returns their paths. Raises DiskError."""
    paths: list[Path] = []
    for board in boards(certificates, revisions):
        if board.norm == "l2":
            claim = board.rows[0].claim
            alike = hashlib.sha256(f"{claim.fingerprint}{claim.subset.sha256}".encode()).hexdigest()[:6]
            name = safe_name(f"{claim.dataset}-{claim.category}-{claim.preset}-{claim.image_size}px-{alike}")
            figure = certified_figure(board, base_lines(records, board.rows[0]))
            paths += save(figure, folder / f"certified-auc--{name}", vector=True)
    return paths


def certified_figure(board: Board, base: Mapping[str, Sequence[tuple[float, float]]] | None = None) -> Figure:
    """The certificates of a board; `base`: of detectors without noise, attacked, by name (`base_lines`)."""
    sigmas = sorted({row.claim.smoothing.sigma for row in board.rows if row.claim.smoothing.sigma is not None})
    names = sorted({row.claim.detector.name for row in board.rows}, key=lambda name: (name in BASELINES, name))
    learned = [name for name in names if name not in BASELINES]
    colours = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(learned)}
    colours |= {name: shade for name, shade in zip(BASELINES, _GREYS, strict=True) if name in names}
    markers = {name: MARKERS[number % len(MARKERS)] for number, name in enumerate(names)}
    columns = min(3, max(1, len(sigmas)))
    rows = max(1, math.ceil(len(sigmas) / columns))
    panels: list[float | None] = [*sigmas] or [None]  # exact ones alone need no noise
    with style():
        figure = Figure(figsize=(TEXT_WIDTH, 2.4 * rows + 1.1), layout="constrained")
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        used: set[str] = set()
        for axes, sigma in zip(grid.flat, panels, strict=False):
            for row in board.rows:
                if row.claim.smoothing.sigma in (None, sigma):
                    used |= _line(axes, row, colours[row.claim.detector.name], markers[row.claim.detector.name])
            for name, points in (base or {}).items():
                if name in colours:
                    axes.plot(*zip(*points, strict=True), color=colours[name], linewidth=0.6, marker="x", markersize=3)
                    used.add("base")
            axes.axhline(50, color="0.6", linewidth=0.7, zorder=0)
            axes.set_title(f"noise sigma {sigma:g}" if sigma is not None else "without noise")
            axes.set_ylim(-3, 103)
            axes.set_xlim(-0.01 * board.radii[-1], max(board.radii[-1], 1e-9) * 1.02)
            axes.set_xlabel("l2 radius")
            axes.label_outer()
        for axes in grid.flat[max(0, len(panels) - columns) : len(panels)]:
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("l2 radius")
        figure.supylabel("AUC (%)", fontsize=8)
        figure.suptitle(drawable(board.title.replace("Certified AUC (l2): ", "Certified AUC, "), 120), fontsize=8.5)
        titles = {row.claim.detector.name: row.claim.detector.title or row.claim.detector.name for row in board.rows}
        handles = [Line2D([], [], color=colours[name], label=drawable(titles[name], 40)) for name in names]
        handles += [Line2D([], [], color=_GREY, linestyle=STYLES[r], label=WORDS[r]) for r in STYLES if r in used]
        told: dict[str, tuple[str, Any, str]] = {
            "attacked": ("o", "none", "the same, attacked"),
            "base": ("x", "-", "without noise, attacked"),
        }
        handles += [
            Line2D([], [], color=_GREY, marker=marker, linestyle=line, linewidth=0.6, markersize=3.5, label=word)
            for name, (marker, line, word) in told.items()
            if name in used
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _line(axes: Axes, row: Certificate, colour: str, marker: str) -> set[str]:
    """Draws one certificate. Returns what there is to explain of it."""
    rule, radii = row.claim.smoothing.rule, list(row.claim.radii)
    values = [estimate(row, radius).value for radius in radii]
    # In steps: between two radii what is certified at the larger one holds, and no more.
    axes.plot(radii, values, color=colour, linestyle=STYLES[rule], drawstyle="steps-pre", clip_on=False, linewidth=1.2)
    points = attacked(row)
    if points:
        at, found = zip(*((radius, under.value) for radius, under in points), strict=True)
        face = colour if rule == "percentile" else "none"
        axes.plot(at, found, color=colour, marker=marker, markerfacecolor=face, linestyle="none", clip_on=False)
    return {rule, *(["attacked"] if points else [])}
