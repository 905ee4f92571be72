"""Plots from records: score histograms, and what `bench.report.heat_map` and `bench.report.security_curves` draw.

Each `*_figure` returns a figure for records that may be compared; `write_all` groups records and writes PNG, and PDF of
what belongs into a paper (curves and heat maps).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.errors import DiskError, RecordError
from bench.metrics.ranking import Floats
from bench.records.paths import safe_name
from bench.records.record import Record, Revisions
from bench.records.score_table import Scores
from bench.records.store import read_scores
from bench.report import curves, fits
from bench.report.bins import bins, drawn
from bench.report.example_panel import write_panel
from bench.report.fonts import drawable
from bench.report.heat_map import heat_map_figure
from bench.report.leaderboard import Column, Leaderboard, build
from bench.report.security_curves import write_curves
from bench.report.style import ANOMALOUS, NORMAL, TEXT_WIDTH, is_drawn, save, style
from bench.text import one_line, threat_text

log = logging.getLogger(__name__)


def write_all(
    records: Sequence[Record], folder: Path, revisions: Revisions | None = None, *, of_cells: bool = True
) -> tuple[list[Path], list[str]]:
    """Every plot that the records allow; what was drawn from these very records stays as it is, if it is of one cell.
    `of_cells` False leaves out the two pictures of each cell, which take some tenths of a second.

    Returns the files, and a sentence about each plot that could not be drawn: it costs no other one.

    Raises:
        DiskError: the folder cannot be written to.
    """
    boards = build(records, revisions)
    drawings: list[Callable[[], list[Path]]] = [
        *(partial(write_curves, found, folder / f"security-curve--{k}") for k, found in curves.groups(boards).items()),
        *(
            partial(_write_heat_map, board, c, folder / f"heat-map--{c.slug}")
            for board in boards
            for c in board.columns
        ),
        *(partial(write_histogram, record, folder) for record in records if record.ok and of_cells),
        *(partial(write_panel, record, folder) for record in records if record.ok and of_cells),
    ]
    paths: list[Path] = []
    problems: list[str] = []
    for draw in drawings:
        try:
            paths += draw()
        except DiskError:
            raise
        except RecordError as error:
            problems.append(str(error))
        except Exception as error:
            log.debug("While drawing:", exc_info=error)
            problems.append(
                f"A plot could not be drawn ({type(error).__name__}: {one_line(error, 200)}); records and leaderboards "
                "are complete: python -m bench report draws it again."
            )
    return paths, problems


def _write_heat_map(board: Leaderboard, column: Column, stem: Path) -> list[Path]:
    return save(heat_map_figure(board, column), stem, vector=True)


def write_histogram(record: Record, folder: Path) -> list[Path]:
    """The histogram of a record that did not fail; [] where it was not read from a file. Not drawn twice.

    Raises:
        RecordError: its scores are damaged.
        DiskError: the folder cannot be written to.
    """
    if record.path is None:
        return []
    stem = folder / f"histogram--{safe_name(record.dataset)}--{safe_name(record.category)}--{_stem(record)}"
    picture = stem.with_name(stem.name + ".png")
    if is_drawn(picture, record.stamp):
        return [picture]
    return save(histogram_figure(record, read_scores(record)), stem, source=record.stamp)


def histogram_figure(record: Record, scores: Scores) -> Figure:
    """Scores of normal and anomalous images before (top) and after (bottom) the attack, draws pooled, same bins."""
    with style():
        # Fixed margins: there is one of these per cell, and a computed layout takes most of the time.
        figure = Figure(figsize=(TEXT_WIDTH / 2, 2.9))
        figure.subplots_adjust(left=0.16, right=0.97, top=0.80, bottom=0.22, hspace=0.42)
        panels = figure.subplots(2, 1, sharex=True, sharey=True)
        both = np.concatenate([scores.clean.ravel(), scores.robust.ravel()])
        edges, logarithmic = bins(both[drawn(both)])
        rows = (("before", scores.clean, record.clean), ("after", scores.robust, record.robust))
        for axes, (when, values, figures) in zip(panels, rows, strict=True):
            for label, name, colour, hatch in (
                (1, "normal", NORMAL, "////"),
                (-1, "anomalous", ANOMALOUS, "...."),
            ):
                _histogram(axes, values[:, scores.labels == label], edges, name, colour, hatch)
            auc = f"AUC {figures.auc:.1f}" if figures is not None else "AUC not known"
            beyond = int((~drawn(values)).sum())
            lost = f", {beyond} scores beyond 1e300 not shown" if beyond else ""
            axes.set_title(f"{when} the attack: {auc}{lost}", loc="left")
            if logarithmic:
                axes.set_xscale("log")
        panels[1].set_xlabel("anomaly score")
        figure.supylabel("share of the class", fontsize=8)
        threat = threat_text(record.epsilon, record.norm, short=True)
        figure.suptitle(
            f"{drawable(record.detector_title, 24)}, {drawable(record.category, 24)}\n"
            f"{drawable(record.attack_name, 24)}, {drawable(threat, 40)}, "
            f"fit {fits.fit_seed(record)}",
            fontsize=8.5,
        )
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="lower center", ncols=2, frameon=False)
    return figure


def _histogram(axes: Axes, values: Floats, edges: Floats, name: str, colour: str, hatch: str) -> None:
    flat = values[drawn(values)]
    weights = np.full(flat.shape, 1.0 / max(values.size, 1))
    shares, _ = np.histogram(flat, bins=edges, weights=weights)
    axes.stairs(shares, edges, fill=True, color=colour, alpha=0.3, linewidth=0)  # one patch, not one per bin
    axes.hist(
        flat,
        bins=edges.tolist(),
        weights=weights,
        histtype="step",
        color=colour,
        hatch=hatch,
        linewidth=1.1,
        label=name,
    )


def _stem(record: Record) -> str:
    return record.path.name.removesuffix(".json") if record.path is not None else record.key[:12]
