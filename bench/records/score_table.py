"""Per-image scores of one cell, and their CSV: image, label, defect, draw, clean, robust; a line per image and draw.

Numbers are written by repr and come back bit by bit. Tables from before the kind of defect was written lack that
column.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.errors import RecordError

COLUMNS = ("image", "label", "draw", "clean", "robust")  # of a table that knows no kinds of defect
WITH_DEFECTS = ("image", "label", "defect", "draw", "clean", "robust")
SOUND = "good"  # what stands for the kind of defect of a normal image


@dataclass(frozen=True, eq=False)
class Scores:
    """The verdict's scores.

    Attributes:
        images: N names, each once.
        labels: (N,), +1 normal, -1 anomalous.
        clean, robust: (D, N) over D draws (1 for a deterministic detector).
        defects: N kinds of defect, "good" of normal images; empty where nobody wrote them down.
    """

    images: tuple[str, ...]
    labels: NDArray[np.int64]
    clean: NDArray[np.float64]
    robust: NDArray[np.float64]
    defects: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = (len(self.clean), len(self.images))
        if self.clean.shape != shape or self.robust.shape != shape or self.labels.shape != shape[1:]:
            raise ValueError(
                f"{len(self.images)} images need labels (N,) and scores (D, N); got {self.labels.shape}, "
                f"{self.clean.shape} and {self.robust.shape}."
            )
        if len(set(self.images)) != len(self.images):
            raise ValueError("Every image must be named once.")
        if self.defects and [kind == SOUND for kind in self.defects] != [label == 1 for label in self.labels]:
            raise ValueError("Every image needs its kind of defect, which is good where it is normal and else is not.")


def ids_sha256(images: Iterable[str]) -> str:
    """SHA-256 of the images' names in order, one a line: by it a cell names its test images."""
    return hashlib.sha256("\n".join(images).encode("utf-8", "surrogateescape")).hexdigest()


def render_scores(scores: Scores) -> str:
    """The CSV's text."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(WITH_DEFECTS if scores.defects else COLUMNS)
    for draw, (clean, robust) in enumerate(zip(scores.clean, scores.robust, strict=True)):
        for index, image in enumerate(scores.images):
            label, kind = int(scores.labels[index]), scores.defects[index : index + 1]
            writer.writerow((image, label, *kind, draw, repr(float(clean[index])), repr(float(robust[index]))))
    return stream.getvalue()


def parse_scores(text: str) -> Scores:
    """Raises RecordError where lines are missing, doubled or unreadable."""
    try:
        # newline="" keeps line ends inside a quoted name as they are.
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
        if not rows or tuple(rows[0]) not in (COLUMNS, WITH_DEFECTS):
            raise RecordError(f"the first line should read {','.join(WITH_DEFECTS)}; run the cell again.")
        columns = len(rows[0])
        kinds = {r[0]: r[2] for r in rows[1:] if len(r) == columns == len(WITH_DEFECTS)}
        entries = [
            (r[0], int(r[1]), int(r[-3]), float(r[-2]), float(r[-1]))
            for r in rows[1:]
            if len(r) == columns and (not kinds or r[2] == kinds[r[0]])  # one kind in all draws
        ]
    except (csv.Error, ValueError) as error:
        raise RecordError(f"a line cannot be read ({error}); run the cell again.") from None
    if not entries or len(entries) != len(rows) - 1:
        raise RecordError("lines are missing or cut short; run the cell again.")
    labels = {image: label for image, label, *_ in entries}
    draws = 1 + max(entry[2] for entry in entries)
    if not set(labels.values()) <= {-1, 1}:
        raise RecordError("labels must be 1 (normal) or -1 (anomalous); run the cell again.")
    if len(entries) != draws * len(labels):  # before anything is made as large as a stranger's number says
        raise RecordError("every image should appear once per draw; run the cell again.")
    expected = [(image, label, draw) for draw in range(draws) for image, label in labels.items()]
    if [entry[:3] for entry in entries] != expected:
        raise RecordError("every image should appear once per draw, in the same order; run the cell again.")
    if kinds and any((kinds[image] == SOUND) != (label == 1) for image, label in labels.items()):
        raise RecordError("the kind of defect should be good of normal images and of no other; run the cell again.")
    values = np.array([entry[3:] for entry in entries]).reshape(draws, len(labels), 2)
    return Scores(
        tuple(labels),
        np.array(list(labels.values())),
        values[..., 0].copy(),
        values[..., 1].copy(),
        tuple(kinds[image] for image in labels) if kinds else (),
    )
