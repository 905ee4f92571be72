"""The paper's Figures 1 and 2, drawn from the examples that a cell keeps beside its record.

Figure 1: a picture, what an attack adds to it, the sum, and what the detector says before and after. Figure 2: pictures
and their reconstructions, clean and attacked. Of any detector (the second: of one that reconstructs) and any record.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bench.errors import BenchError
from bench.metrics.ranking import Floats
from bench.records.record import Record
from bench.report.example_panel import (
    NOTICE,
    Examples,
    add_notice,
    examples_of,
    has_examples,
    magnification,
    perturbation_of,
)
from bench.report.fits import fit_seed
from bench.report.fonts import drawable
from bench.report.style import COLOURS, save, style
from bench.text import one_line, threat_text

COLUMN_WIDTH = 3.4  # inches: a figure at the width of a column, with 7 points that stay 7 points
RIGHT, WRONG = COLOURS[2], COLOURS[1]
CLASSES = {1: "normal", -1: "anomalous"}
Pixels = NDArray[np.uint8] | Floats


@dataclass(frozen=True)
class Wanted:
    """What a figure is drawn of.

    Attributes:
        usual: the detector that the paper shows in it.
        draw: makes the figure of a record and its examples.
        lacks: what the examples of a record lack for it, in words; "" where nothing.
    """

    usual: str
    draw: Callable[[Record, Examples], Figure]
    lacks: Callable[[Examples], str]


def draw(
    which: str,
    records: Sequence[Record],
    folder: Path,
    *,
    detector: str | None = None,
    dataset: str | None = None,
    category: str | None = None,
    attack: str | None = None,
) -> list[Path]:
    """Draw "figure1" or "figure2" from the newest record that has what it shows.

    Args:
        which: the figure.
        records: as read from their files.
        folder: where figureN.png, figureN.pdf and NOTICE.txt, with the pictures' licence, are written.
        detector, dataset, category, attack: of which record; None: of any.

    Returns:
        The files.

    Raises:
        BenchError: no such figure, or no record has what is needed; the sentence names the command that makes one.
        RecordError: the examples of the record are damaged. DiskError: the folder cannot be written to.
    """
    if which not in FIGURES:
        raise BenchError(f"The paper's figures are {' and '.join(FIGURES)}; got {which!r:.60}.")
    wanted = FIGURES[which]
    asked = {"detector": detector, "dataset": dataset, "category": category, "attack": attack}
    alike = [r for r in records if r.ok and all(name is None or _name(r, part) == name for part, name in asked.items())]
    alike.sort(key=lambda r: r.written, reverse=True)
    lacking: tuple[Record, str] | None = None
    for record in alike:
        if not has_examples(record):
            continue
        examples = examples_of(record)
        reason = wanted.lacks(examples)
        if not reason:
            # The notice first: a picture without its licence must not exist, not even after a kill.
            notice = add_notice(folder / NOTICE, which, record)
            return [*save(wanted.draw(record, examples), folder / which, vector=True, source=record.stamp), notice]
        lacking = lacking or (record, reason)
    raise BenchError(_missing(which, wanted, asked, alike, lacking))


def figure1(record: Record, examples: Examples) -> Figure:
    """The paper's Figure 1: an anomalous picture above, a normal one below; in a row x + delta = x + delta with the
    score of each, the ground truth, and what a verdict at the record's threshold says."""
    rows = _one_of_each(examples.labels, (-1, 1))
    delta = perturbation_of(examples)
    factor = magnification(delta[rows])
    shown = np.clip(0.5 + factor * delta, 0, 1)
    threshold = _threshold(record)
    with style():
        page = _Page(columns=3, rows=len(rows), left=0.2, gap=0.2, below=0.36, head=0.48, foot=0.63)
        for y, index in enumerate(rows):
            truth = int(examples.labels[index])
            pictures: list[tuple[str, Pixels, Floats | None]] = [
                ("$x$", examples.image, examples.score),
                (rf"$\delta$ (×{factor:g})", shown, None),  # noqa: RUF001
                (r"$x + \delta$", examples.adversarial, examples.adversarial_score),
            ]
            for x, (title, pixels, score) in enumerate(pictures):
                axes = page.axes(x, y)
                _show(axes, pixels[index])
                if y == 0:
                    axes.set_title(title, fontsize=8, pad=3)
                if x:
                    axes.text(-0.5 * page.gap / page.side, 0.5, "+="[x - 1], transform=axes.transAxes, **_CENTRED)
                if score is not None:
                    _say_verdict(axes, float(score[index]), threshold, truth)
            page.axes(0, y).set_ylabel(f"GT: {CLASSES[truth]}", fontsize=7.5, labelpad=3)
        _name_record(page.figure, record)
        page.figure.text(0.5, 0.05 / page.height, _legend(record, threshold), fontsize=6.5, ha="center", va="bottom")
    return page.figure


def figure2(record: Record, examples: Examples) -> Figure:
    """The paper's Figure 2: below pictures their reconstructions, and how far these are from them; a normal and an
    anomalous one, clean, then attacked."""
    assert examples.reconstruction is not None and examples.adversarial_reconstruction is not None
    both = _one_of_each(examples.labels, (1, -1))
    columns = [
        (
            f"{CLASSES[int(examples.labels[index])]}{added}",
            image[index],
            rebuilt[index],
            None if s is None else s[index],
        )
        for added, image, rebuilt, s in (
            ("", examples.image, examples.reconstruction, examples.score),
            (",\nattacked", examples.adversarial, examples.adversarial_reconstruction, examples.adversarial_score),
        )
        for index in both
    ]
    errors = [np.abs(rebuilt / 255.0 - image / 255.0).mean(axis=0) for _, image, rebuilt, _ in columns]
    factor = max(1.0, float(int(1 / max(float(np.quantile(errors, 0.995)), 0.01))))
    with style():
        page = _Page(columns=len(columns), rows=3, left=0.2, gap=0.06, below=0.05, head=0.66, foot=0.2)
        for x, ((title, image, rebuilt, score), error) in enumerate(zip(columns, errors, strict=True)):
            top, middle, bottom = (page.axes(x, y) for y in range(3))
            _show(top, image)
            _show(middle, rebuilt)
            bottom.imshow(np.clip(factor * error, 0, 1), cmap="gray", vmin=0, vmax=1)
            _strip(bottom)
            top.set_title(title, fontsize=7.5, pad=3)
            if score is not None:
                bottom.set_xlabel(f"score {score:.3g}", fontsize=6.5, labelpad=3)
        for y, name in enumerate(("image", "reconstruction", f"|error| ×{factor:g}")):  # noqa: RUF001
            page.axes(0, y).set_ylabel(name, fontsize=7, labelpad=3)
        _name_record(page.figure, record)
    return page.figure


class _Page:
    """A figure of column width with square pictures in a grid, and margins in inches.

    Args:
        columns, rows: of the grid.
        left: margin; gap: between columns; below: each row, for a line of text; head, foot: above and below the grid.
    """

    def __init__(
        self, *, columns: int, rows: int, left: float, gap: float, below: float, head: float, foot: float
    ) -> None:
        self.gap = gap
        self.side = (COLUMN_WIDTH - left - 0.04 - gap * (columns - 1)) / columns
        self.height = head + rows * self.side + (rows - 1) * below + foot
        self.figure = Figure(figsize=(COLUMN_WIDTH, self.height))
        self._axes = {
            (x, y): self.figure.add_axes(
                (
                    (left + x * (self.side + gap)) / COLUMN_WIDTH,
                    1 - (head + (y + 1) * self.side + y * below) / self.height,
                    self.side / COLUMN_WIDTH,
                    self.side / self.height,
                )
            )
            for y in range(rows)
            for x in range(columns)
        }

    def axes(self, x: int, y: int) -> Axes:
        return self._axes[x, y]


_CENTRED: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 11}


def _show(axes: Axes, pixels: Pixels) -> None:
    axes.imshow(pixels.transpose(1, 2, 0))
    _strip(axes)


def _strip(axes: Axes) -> None:
    axes.set_xticks([], [])
    axes.set_yticks([], [])
    axes.spines[:].set_visible(False)


def _say_verdict(axes: Axes, score: float, threshold: float | None, truth: int) -> None:
    """Below a picture: its score, and what it is called at the threshold; a wrong verdict is crossed, and coloured."""
    text, colour = f"score {score:.3g}", "black"
    if threshold is not None and not math.isnan(score):
        found = -1 if score > threshold else 1
        text += f"\n{CLASSES[found]} {'✓' if found == truth else '✗'}"
        colour = RIGHT if found == truth else WRONG
    axes.set_xlabel(text, fontsize=7, labelpad=2.5, color=colour)


def _threshold(record: Record) -> float | None:
    """None where there is none, or what a stranger put there is no number."""
    found = record.results.get("threshold")
    return float(found) if isinstance(found, int | float) and math.isfinite(found) else None


def _legend(record: Record, threshold: float | None) -> str:
    named = "GT: ground truth."
    if threshold is None:
        return f"{named} The record has no threshold."
    rule = drawable(str(record.results.get("threshold_rule") or "that of the record"), 60)
    return f"{named} Anomalous above {threshold:.3g}\n({rule})."


def _name_record(figure: Figure, record: Record) -> None:
    threat = threat_text(record.epsilon, record.norm, short=True)
    figure.suptitle(
        f"{drawable(record.detector_title, 24)} on {drawable(record.dataset, 16)} {drawable(record.category, 20)}\n"
        f"{drawable(record.attack_name, 24)}, {drawable(threat, 30)}, fit {fit_seed(record)}",
        fontsize=7.5,
        y=1 - 0.03 / figure.get_figheight(),
    )


def _one_of_each(labels: NDArray[np.int8], order: tuple[int, int]) -> list[int]:
    """The first picture of each class that is there."""
    return [int(np.flatnonzero(labels == label)[0]) for label in order if (labels == label).any()]


def _no_reconstruction(examples: Examples) -> str:
    if examples.adversarial_reconstruction is None:
        return "no reconstructions among its examples"
    if examples.reconstruction is None:
        return "no reconstruction of the clean pictures among its examples, which were not kept then"
    return ""


FIGURES = {
    "figure1": Wanted("ocr-gan", figure1, lambda examples: ""),
    "figure2": Wanted("freerad", figure2, _no_reconstruction),
}


def _name(record: Record, part: str) -> str:
    return {
        "detector": record.detector_name,
        "dataset": record.dataset,
        "category": record.category,
        "attack": record.attack_name,
    }[part]


def _where(record: Record) -> str:
    return f"{record.detector_name} on {record.dataset} {record.category} ({record.attack_name})"


def _missing(
    which: str,
    wanted: Wanted,
    asked: dict[str, str | None],
    alike: Sequence[Record],
    lacking: tuple[Record, str] | None,
) -> str:
    """The sentence where no record has what is needed: what there is, and the command that makes one."""
    limits = ", ".join(f"{part} {one_line(name, 60)}" for part, name in asked.items() if name is not None)
    of = f" of {limits}" if limits else ""
    detector = asked["detector"] or wanted.usual
    if lacking is not None:
        record, reason = lacking
        found = f"the newest{of} ({_where(record)}) has {reason}"
        detector = wanted.usual
    elif alike:
        found = f"none{of} has them"
    else:
        found = f"there is none{of}"
    options = {
        "--dataset": asked["dataset"] or "elpv",
        **({} if asked["dataset"] in (None, "elpv") else {"--data-root": "DIR"}),
        "--categories": asked["category"] or ("mono" if asked["dataset"] in (None, "elpv") else "all"),
        "--detectors": detector,
        "--attack": asked["attack"] or "pgd-linf",
    }
    words = " ".join(f"{option} {shlex.quote(one_line(value, 60))}" for option, value in options.items())
    made = f"python -m bench run {words} --out DIR"  # where no record is: one that is there is not made again
    return f"{which} is drawn from a record with its examples, and {found}. This makes one: {made} (then --records DIR)"
