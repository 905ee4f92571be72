"""How every figure looks and how it reaches the disk; no pyplot, so nothing global and nothing left open."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from bench import files
from bench.report.drawn import is_drawn as is_drawn
from bench.report.fonts import families
from detectors.checkpoint import write_atomically

# Okabe & Ito's palette (2008), told apart by the colour-blind; yellow is left out, it is too light for lines in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
# Of detectors beyond the palette's: from Tol's (2021) "muted" scheme those that are none of Okabe & Ito's.
MANY_COLOURS = (*COLOURS, "#882255", "#999933", "#332288", "#44AA99", "#661100", "#888888")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")
NORMAL, ANOMALOUS = COLOURS[0], COLOURS[1]

TEXT_WIDTH = 7.0  # inches; figures are made at the size they are printed at, so 8 points stay 8 points
_STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "legend.fontsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "hatch.linewidth": 0.5,
    "pdf.fonttype": 42,
    "text.usetex": False,
}


@contextmanager
def style() -> Iterator[None]:
    """The house style, for as long as a figure is made; the caller's own settings come back.

    All else is as matplotlib brings it: a user's matplotlibrc may name fonts that are not there, and each text would
    warn of them.
    """
    brought = {name: value for name, value in mpl.rcParamsDefault.items() if not name.startswith("backend")}
    with mpl.rc_context(brought | _STYLE | {"font.family": list(families())}):
        yield


def save(figure: Figure, stem: Path, *, vector: bool = False, source: str | None = None) -> list[Path]:
    """Write stem.png (200 dpi) and, with `vector`, stem.pdf atomically; the PNG says what it was drawn from.

    Raises DiskError where the disk refuses.
    """
    paths = []
    with style():
        if figure.get_layout_engine() is not None:  # computed once and kept: it takes longer than drawing
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
        kinds = [(".png", {"Software": None, "Source": source}), (".pdf", {"CreationDate": None})]
        for suffix, metadata in kinds if vector else kinds[:1]:
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix[1:], dpi=200, metadata=metadata)
            path = stem.with_name(stem.name + suffix)  # with_suffix would cut at a dot in the name
            with files.writing(stem.parent):
                write_atomically(path, buffer.getvalue())
            paths.append(path)
    return paths
