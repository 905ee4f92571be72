"""The picture of a transfer matrix: a heat map of AUCs."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle

from bench.records.transfer import CLEAN, TransferMatrix
from bench.report.fonts import drawable
from bench.report.heat_map import write_numbers
from bench.report.style import COLOURS, TEXT_WIDTH, save, style

_AHEAD = COLOURS[1]


def transfer_figure(matrix: TransferMatrix, place: str) -> Figure:
    """AUCs in per cent; rows: what images were made on, columns: what judged them.

    A white frame is the white box, a red one surrounds what did more to a detector than its own images; a hatched dash
    is missing.

    Args:
        matrix: what is drawn.
        place: the dataset and category, for the title.
    """
    values, targets = matrix.values, matrix.targets
    with style():
        # A square for each number, as far as the page is wide.
        width = min(TEXT_WIDTH, 2.6 + 0.52 * len(targets))
        size = (width, 0.3 * (1 + len(matrix.sources)) + 1.6)
        # Room at the sides: the engine measures labels a little too short.
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.1))
        axes = figure.subplots()
        image = axes.imshow(values, cmap="cividis", vmin=0, vmax=100, aspect="auto")
        write_numbers(axes, values)
        axes.axhline(0.5, color="white", linewidth=2)
        for y, source in enumerate(matrix.sources, start=1):
            for x, target in enumerate(targets):
                found = matrix.entries.get((source, target))
                if found is not None and (source == target or found.is_ahead):
                    colour = "white" if source == target else _AHEAD
                    frame = Rectangle((x - 0.46, y - 0.44), 0.92, 0.88, fill=False, edgecolor=colour, linewidth=1.4)
                    axes.add_patch(frame)
        axes.set_xticks(
            range(len(targets)), [drawable(t, 18) for t in targets], rotation=40, ha="right", rotation_mode="anchor"
        )
        axes.set_yticks(range(1 + len(matrix.sources)), [CLEAN, *(drawable(name, 24) for name in matrix.sources)])
        axes.set_xlabel("judged on")
        axes.set_ylabel("made on")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        figure.colorbar(image, ax=axes, label="AUC (%)", fraction=0.05, pad=0.02)
        figure.suptitle(f"{drawable(place, 60)}\n{drawable(matrix.title, 80)}", fontsize=8.5)
    return figure


def write_map(matrix: TransferMatrix, place: str, stem: Path) -> list[Path]:
    """Write stem.png and stem.pdf atomically. Returns the paths. Raises DiskError where the disk refuses."""
    return save(transfer_figure(matrix, place), stem, vector=True)
