"""Per-image bounds of one certificate, and their CSV: a line for each radius and image.

    image,label,score,radius,lower,upper,attacked,attacked_low,attacked_high

Numbers are written by repr and come back bit by bit; what could not be bounded is inf or -inf, and what was not
attacked is empty.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.errors import RecordError
from certificates.rules import Bounds

COLUMNS = ("image", "label", "score", "radius", "lower", "upper", "attacked", "attacked_low", "attacked_high")
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class BoundsTable:
    """What is certified of each image.

    Attributes:
        images: N names, each once.
        labels: (N,), +1 normal, -1 anomalous.
        scores: the clean score that the bounds are of, (N,).
        radii: R, rising.
        lower, upper: bounds of it within each radius, (R, N).
        attacked: the score of the attacked image, (R, N); NaN where the radius was not attacked.
        attacked_low, attacked_high: its own interval, (R, N), since it is an estimate as well.
    """

    images: tuple[str, ...]
    labels: NDArray[np.int64]
    scores: Floats
    radii: tuple[float, ...]
    lower: Floats
    upper: Floats
    attacked: Floats
    attacked_low: Floats
    attacked_high: Floats

    def __post_init__(self) -> None:
        shape = (len(self.radii), len(self.images))
        both = (self.lower, self.upper, self.attacked, self.attacked_low, self.attacked_high)
        if any(values.shape != shape for values in both) or not self.labels.shape == self.scores.shape == shape[1:]:
            raise ValueError(f"{len(self.images)} images at {len(self.radii)} radii need tables of shape {shape}.")
        if len(set(self.images)) != len(self.images):
            raise ValueError("Every image must be named once.")

    @property
    def bounds(self) -> Bounds:
        return Bounds(self.lower, self.upper)

    @property
    def is_attacked(self) -> NDArray[np.bool_]:
        """Which radii were attacked, (R,)."""
        return np.asarray(~np.isnan(self.attacked).any(axis=1))


def render(table: BoundsTable) -> str:
    """The CSV's text."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    columns = (table.lower, table.upper, table.attacked, table.attacked_low, table.attacked_high)
    for row, radius in enumerate(table.radii):
        for n, image in enumerate(table.images):
            values = (_text(values[row, n]) for values in columns)
            writer.writerow((image, int(table.labels[n]), _text(table.scores[n]), repr(float(radius)), *values))
    return stream.getvalue()


def parse(text: str) -> BoundsTable:
    """Raises RecordError where lines are missing, doubled or unreadable, or no certificate says so."""
    again = "run the command again."
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
        if not lines or tuple(lines[0]) != COLUMNS:
            raise RecordError(f"the first line should read {','.join(COLUMNS)}; {again}")
        entries = [(r[0], int(r[1]), [_number(v) for v in r[2:]]) for r in lines[1:] if len(r) == len(COLUMNS)]
    except (csv.Error, ValueError) as error:
        raise RecordError(f"a line cannot be read ({error}); {again}") from None
    if not entries or len(entries) != len(lines) - 1:
        raise RecordError(f"lines are missing or cut short; {again}")
    labels = {image: label for image, label, _ in entries}
    radii = tuple(dict.fromkeys(values[1] for *_, values in entries))
    if not set(labels.values()) <= {-1, 1}:
        raise RecordError(f"labels must be 1 (normal) or -1 (anomalous); {again}")
    if len(entries) != len(labels) * len(radii):  # before anything is made as large as a stranger's number says
        raise RecordError(f"every image should appear once for each radius; {again}")
    expected = [(image, label, radius) for radius in radii for image, label in labels.items()]
    if [(image, label, values[1]) for image, label, values in entries] != expected:
        raise RecordError(f"every image should appear once for each radius, in the same order; {again}")
    cube = np.array([values for *_, values in entries]).reshape(len(radii), len(labels), len(COLUMNS) - 2)
    scores, _, lower, upper, *attacked = (cube[..., column].copy() for column in range(cube.shape[2]))
    if np.isnan(scores).any() or (scores != scores[0]).any():
        raise RecordError(f"an image has one score, the same at each radius; {again}")
    if not (lower <= upper).all():  # so written that NaN is refused, too
        raise RecordError(f"a lower bound lies above its upper one; {again}")
    if (lower[1:] > lower[:-1]).any() or (upper[1:] < upper[:-1]).any():
        raise RecordError(f"a bound is closer at a larger radius, which no certificate says; {again}")
    some = np.isnan(attacked[0])
    if any((np.isnan(values) != some).any() for values in attacked) or (some.any(axis=1) != some.all(axis=1)).any():
        raise RecordError(f"at a radius all images were attacked, or none; {again}")
    return BoundsTable(tuple(labels), np.array(list(labels.values())), scores[0], radii, lower, upper, *attacked)


def _text(value: float) -> str:
    return "" if value != value else repr(float(value))


def _number(text: str) -> float:
    if text == "":
        return float("nan")
    value = float(text)
    if value != value:
        raise ValueError("a NaN")
    return value
