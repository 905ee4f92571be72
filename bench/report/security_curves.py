"""The figure of security curves (`bench.report.curves`): a panel for each category, a line for each detector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from bench import files
from bench.records.record import Record
from bench.report.caveats import counts_ties_as_lost
from bench.report.curves import BASELINES, CHANCE, Curve, Point, curves, frame
from bench.report.fonts import drawable
from bench.report.style import MANY_COLOURS, MARKERS, TEXT_WIDTH, save, style
from bench.text import size_text
from detectors.checkpoint import write_atomically

GREY = "0.35"
BASELINE_LINES = ((0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
TICKS = (0, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 255)  # of l-inf, in 1/255
WIDEST = 2**12  # ratio of radii that is shown on a logarithmic scale
FRACTIONS = {0.25: "¼", 0.5: "½"}


def write_curves(records: Sequence[Record], stem: Path) -> list[Path]:
    """The figure as PNG and PDF, and its points as CSV. Raises DiskError where the disk refuses."""
    table = stem.with_name(stem.name + ".csv")
    with files.writing(stem.parent):
        write_atomically(table, frame(curves(records)).to_csv(index=False, lineterminator="\n").encode())
    return [*save(security_curve_figure(records), stem, vector=True), table]


def security_curve_figure(records: Sequence[Record]) -> Figure:
    """Robust AUC over epsilon with its 95 % band, the clean AUC at 0; one panel per category, one line per detector
    (baselines grey and dashed): the mean over its fits, and a thin line for each of several.

    The records share dataset, preset, protocol and attack and differ in category, detector and epsilon; failed ones are
    left out. l-inf epsilons are in units of 1/255. Below the smallest radius the scale is linear, above it
    logarithmic.
    """
    found = curves(records)
    categories = sorted({curve.category for curve in found})
    looks = _looks(found)
    columns = min(2 if len(categories) <= 4 else 3, max(1, len(categories)))
    rows = max(1, math.ceil(len(categories) / columns))
    legend_rows = math.ceil(len(looks) / 5)
    with style():
        height = (2.6 if columns < 3 else 2.1) * rows + 0.75 + 0.17 * legend_rows
        figure = Figure(figsize=(TEXT_WIDTH, height), layout="constrained")
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(categories) :]:
            axes.set_axis_off()
        for axes, category in zip(grid.flat, categories, strict=False):
            own = [curve for curve in found if curve.category == category]
            for curve in own:
                _draw(axes, curve, looks[curve.label], band=0.14 if len(own) <= 4 else 0.05)
            axes.axhline(CHANCE, color="0.75", linewidth=0.7, zorder=0)
            axes.set_title(drawable(category, 30))
            axes.set_ylim(-3, 103)
            axes.label_outer()
        if found:
            first = next(r for r in records if r.ok)
            _scale(grid.flat[0], found, is_narrow=columns > 2)
            unit = " (1/255)" if first.norm == "linf" else ""
            lowest = grid.flat[max(0, len(categories) - columns) : len(categories)]
            for axes in lowest:
                axes.tick_params(labelbottom=True)  # also above a panel that is not there
                # Not a supxlabel: it would be laid over a legend that is outside.
                axes.set_xlabel(f"{drawable(size_text(first.norm), 20)}{unit}")
            figure.supylabel("strict AUC (%)" if counts_ties_as_lost(first) else "AUC (%)", fontsize=8)
            title = f"{first.dataset}, {first.attack_family}, protocol {first.protocol}, {first.image_size} px"
            has_fits = any(len(curve.fits) > 1 for curve in found)
            note = "95 % bands, thin: single fits" if has_fits else "95 % bands"
            figure.suptitle(drawable(f"{title} – {note}, grey line: chance", 120), fontsize=8.5)  # noqa: RUF001
            handles: dict[str, Artist] = {}
            for axes in grid.flat:
                handles |= {str(label): line for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
            names = [name for label in looks if (name := drawable(label, 40)) in handles]
            figure.legend([handles[n] for n in names], names, loc="outside lower center", ncols=5, frameon=False)
    return figure


def _looks(found: Sequence[Curve]) -> dict[str, tuple[str, object, str]]:
    """Colour, line and marker of each label, the same in every panel: detectors by name, baselines last."""
    labels = dict.fromkeys(c.label for c in sorted(found, key=lambda c: (c.is_baseline, c.label)))
    names = {curve.label: curve.name for curve in found}
    detectors = [label for label in labels if names[label] not in BASELINES]
    colours = MANY_COLOURS
    looks: dict[str, tuple[str, object, str]] = {
        label: (colours[number % len(colours)], "-", MARKERS[number % len(MARKERS)])
        for number, label in enumerate(detectors)
    }
    for label in labels:
        if label not in looks:
            looks[label] = (GREY, BASELINE_LINES[BASELINES.index(names[label])], "")
    return looks


def _draw(axes: Axes, curve: Curve, look: tuple[str, object, str], band: float) -> None:
    colour, line, marker = look
    at, auc, low, high = _columns(curve.points, curve.norm)
    axes.fill_between(at, low, high, color=colour, alpha=band, linewidth=0)
    drawn = {"color": colour, "linestyle": line, "marker": marker, "label": drawable(curve.label, 40)}
    axes.plot(at, auc, **drawn, clip_on=False, zorder=2 if curve.is_baseline else 3)  # type: ignore[arg-type]
    for points in curve.fits.values() if len(curve.fits) > 1 else ():
        at, auc, *_ = _columns(points, curve.norm)
        axes.plot(at, auc, color=colour, alpha=0.5, linewidth=0.5)


def _columns(points: Sequence[Point], norm: str) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    table = np.array(points, dtype=float).T
    table[0] *= 255 if norm == "linf" else 1
    return table


def _scale(axes: Axes, found: Sequence[Curve], *, is_narrow: bool) -> None:
    """Linear up to the smallest radius, as wide as two doublings; ticks at powers of 2 of 1/255, or at the radii
    of another norm."""
    radii = sorted({at for curve in found for at in _columns(curve.points, curve.norm)[0] if at > 0})
    if not radii:
        return
    if found[0].norm == "linf":
        ticks = [t for t in TICKS if t == 0 or 0.99 * radii[0] <= t <= 1.01 * radii[-1]]
        labels = [(FRACTIONS if is_narrow else {}).get(t, f"{t:g}") for t in ticks]
    else:
        ticks = [0.0, *radii]
        labels = [f"{tick:.3g}" for tick in ticks]
    axes.set_xscale("symlog", base=2, linthresh=max(radii[0], radii[-1] / WIDEST), linscale=1)
    axes.set_xlim(0, radii[-1])
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_ticks(ticks, labels)
