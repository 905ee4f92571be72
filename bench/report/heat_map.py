"""A heat map of one protocol of a leaderboard: categories by detectors, clean and robust."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle

from bench.metrics.ranking import Floats
from bench.report.fonts import drawable
from bench.report.leaderboard import Column, Leaderboard
from bench.report.style import TEXT_WIDTH, style
from bench.text import MISSING


def heat_map_figure(board: Leaderboard, column: Column) -> Figure:
    """Clean (left) and robust AUC (right) under one protocol of detectors (rows, as they are ranked) in categories and
    on average (columns), means over fits written in the cells; a hatched dash is a cell that is missing or failed."""
    columns = [*board.categories, "average"]
    standings = {row.label: row.standings[column.protocol] for row in board.rows if column.protocol in row.standings}
    with style():
        wide = len(columns) > 6
        # Both halves side by side, unless so many categories leave no room for the numbers.
        size = (TEXT_WIDTH, (2 if wide else 1) * (0.24 * len(standings) + 0.35) + 1.35)
        # Room at the sides: the engine measures labels a little too short.
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.1))
        halves = figure.subplots(2 if wide else 1, 1 if wide else 2, sharey=True, sharex=wide, squeeze=False).ravel()
        image = None
        for axes, which in zip(halves, ("clean", "robust"), strict=True):
            values = np.full((len(standings), len(columns)), np.nan)
            for y, standing in enumerate(standings.values()):
                for x, category in enumerate(columns):
                    place = standing.place(category)
                    found = getattr(place, which) if place is not None else None
                    values[y, x] = np.nan if found is None else found.value
            image = axes.imshow(values, cmap="cividis", vmin=0, vmax=100, aspect="auto")
            write_numbers(axes, values)
            axes.set_title(which if which == "clean" else f"robust ({drawable(column.claim, 40)})")
            axes.set_xticks(
                range(len(columns)), [drawable(c, 14) for c in columns], rotation=40, ha="right", rotation_mode="anchor"
            )
            axes.set_yticks(range(len(standings)), [drawable(label, 34) for label in standings])
            axes.axvline(len(columns) - 1.5, color="white", linewidth=2)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
        if image is not None:
            figure.colorbar(image, ax=list(halves), label="AUC (%)", fraction=0.03, pad=0.01)
        has_fits = any(len(cell.records) > 1 for standing in standings.values() for cell in standing.cells.values())
        title = drawable(f"{board.dataset}: {column.protocol}, {column.attack}{board.threat}", 90)
        figure.suptitle(title + (" – means over fits" if has_fits else ""), fontsize=8.5)  # noqa: RUF001
    return figure


def write_numbers(axes: Axes, values: Floats) -> None:
    size = 7.0 if values.shape[1] <= 12 else 6.0
    for (y, x), value in np.ndenumerate(values):
        if np.isnan(value):
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor="0.92", edgecolor="0.6", hatch="////", lw=0))
            axes.text(x, y, MISSING, ha="center", va="center", fontsize=size)
        else:
            axes.text(
                x, y, f"{value:.1f}", ha="center", va="center", fontsize=size, color="black" if value > 55 else "white"
            )
