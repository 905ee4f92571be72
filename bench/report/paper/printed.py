"""The paper's numbers as they are printed, from the CSV files beside this module.

An empty cell is unreadable in the paper's text; it stays unknown and never becomes zero. Printed averages do not all
follow from the rows, so both are shown.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files

AVERAGE = "Average"
DETECTORS = {
    "OCR-GAN": "ocr-gan",
    "SPADE": "spade",
    "CFlow": "cflow",
    "FastFlow": "fastflow",
    "CFA": "cfa",
    "FreeRAD": "freerad",
}
_CIFAR10 = {"Plane": "airplane", "Car": "automobile"}


@dataclass(frozen=True)
class PaperRow:
    """One cell of a table as printed, in per cent; None is unreadable."""

    category: str
    detector: str
    norm: str
    clean: float | None
    robust: float | None


def read(source: str, *, category: str, norm: str) -> list[PaperRow]:
    """A table as printed, its averages included, names as in the registry ("Metal Nut" is metal_nut).

    Args:
        source: name of the CSV file.
        category, norm: of lines that name none.
    """
    text = files("bench.report.paper").joinpath(source).read_text(encoding="utf-8")
    return [
        PaperRow(
            _category(line.get("category") or category),
            DETECTORS[line["detector"]],
            line.get("norm") or norm,
            _number(line["standard_auc"]),
            _number(line["robust_auc"]),
        )
        for line in csv.DictReader(text.splitlines())
    ]


def computed_average(values: Iterable[float | None]) -> float | None:
    """The mean of a column; None where a cell is unreadable, since the mean of the rest is another quantity."""
    known = list(values)
    present = [value for value in known if value is not None]
    return sum(present) / len(present) if present and len(present) == len(known) else None


def implied_value(printed_average: float, values: Iterable[float | None]) -> float | None:
    """What the one unreadable cell of a column must have been for the printed average to hold; else None."""
    known = list(values)
    present = [value for value in known if value is not None]
    return printed_average * len(known) - sum(present) if len(known) - len(present) == 1 else None


def with_repeated_clean(rows: Sequence[PaperRow]) -> list[PaperRow]:
    """Unreadable clean figures taken over from the same detector and category under the other norm: clean AUC does not
    depend on the attack (Table 14: Bird)."""
    known = {(r.category, r.detector): r.clean for r in rows if r.clean is not None}
    return [replace(r, clean=known.get((r.category, r.detector))) if r.clean is None else r for r in rows]


def _category(printed: str) -> str:
    return printed if printed == AVERAGE else _CIFAR10.get(printed, printed.lower().replace(" ", "_"))


def _number(text: str | None) -> float | None:
    return float(text) if text and text.strip() else None
