"""The paper's Table 6 (certified AUC by randomised smoothing), as far as it survived, and what would stand beside it.

Two figures are readable. An empty cell is unreadable, never zero. The paper's rule certifies nothing: from a bound on
P(A(x + d) > h) its Theorem 5.1 concludes on the mean of A(x + d), which can lie on the other side of h.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.resources import files as resources
from pathlib import Path

import pandas as pd
from rich.console import Group
from rich.table import Table
from rich.text import Text

from bench import files
from bench.records.certificate import Certificate
from bench.report import narrow
from bench.report.paper.render import NOT_RUN, UNREADABLE
from bench.report.paper.tables import DETECTORS, PAPER_SIZE
from bench.text import MISSING, escape_markdown, markdown_table
from detectors.checkpoint import write_atomically

TABLE = "table6"
TITLE = "Table 6: MVTec AD, certified AUC in l2, sigma 0.25"
SAMPLES = 10_000
HEADER = ("category", "detector", "sigma", "radius", "certified:\npaper", "\nours", "\ndiff")
NOTES = (
    "The paper's figures are no certificates: its Theorem 5.1 bounds a mean by what holds for the median alone "
    "(uncertified).",
    "Ours certifies the median at the same radius; --rule paper gives the paper's quantity, marked as uncertified.",
    "The radius of bottle and all other cells of the table are unreadable.",
)


@dataclass(frozen=True)
class CertifiedRow:
    """One cell, in per cent; sigma and radius on [0, 1]. None: unreadable (`paper`, `radius`) or not run (`ours`)."""

    category: str
    detector: str
    sigma: float
    radius: float | None
    paper: float | None
    ours: float | None = None

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        return None if self.ours is None or self.paper is None else self.ours - self.paper


Measured = Callable[[CertifiedRow], float | None]


def rows(measured: Measured | None = None) -> tuple[CertifiedRow, ...]:
    """The table as printed, names as in the registry.

    Args:
        measured: gives our certified AUC of a cell, in per cent; None where it was not run.
    """
    text = resources("bench.report.paper").joinpath(f"{TABLE}_certified.csv").read_text(encoding="utf-8")
    printed = [
        CertifiedRow(
            line["category"].lower(),
            DETECTORS[line["detector"]],
            float(line["sigma"]),
            _number(line["radius"]),
            _number(line["certified_auc"]),
        )
        for line in csv.DictReader(text.splitlines())
    ]
    return tuple(printed if measured is None else [replace(row, ours=measured(row)) for row in printed])


def of_certificates(certificates: Iterable[Certificate]) -> Measured:
    """What our certificates say of a cell: of the median, on the dataset, with the preset and at the size that
    `commands` asks for, full ones alone. Of several the one of most images, of these the newest."""
    own = [
        one
        for one in certificates
        if (one.claim.dataset, one.claim.preset, one.claim.image_size) == ("mvtec", "paper", PAPER_SIZE)
        and (one.claim.smoothing.rule, one.claim.smoothing.p) == ("percentile", 0.5)
        and one.full_run
    ]

    def measured(row: CertifiedRow) -> float | None:
        if row.radius is None:  # there is nothing to stand beside
            return None
        alike = [
            one
            for one in own
            if (one.claim.category, one.claim.detector.name) == (row.category, row.detector)
            and one.claim.smoothing.sigma == row.sigma
            and row.radius in one.claim.radii
        ]
        best = max(
            alike, key=lambda one: (one.claim.subset.normals + one.claim.subset.anomalies, one.written), default=None
        )
        return None if best is None else float(best.at(row.radius)["auc"])

    return measured


def commands(found: tuple[CertifiedRow, ...]) -> list[str]:
    """What runs the cells that are missing: our certificate, and the paper's own quantity."""
    missing = [row for row in found if row.ours is None]
    if not missing:
        return []
    categories, detectors, sigmas = (
        ",".join(dict.fromkeys(str(getattr(row, name)) for row in missing))
        for name in ("category", "detector", "sigma")
    )
    radii = sorted({0.0} | {row.radius for row in missing if row.radius is not None})
    line = (
        f"python -m bench certify --dataset mvtec --data-root DIR --categories {categories} --detectors {detectors} "
        f"--sigma {sigmas} --radii {','.join(f'{radius:g}' for radius in radii)} --samples {SAMPLES} --preset paper "
        f"--protocol paper --image-size {PAPER_SIZE}"
    )
    return [line, f"{line} --rule paper"]


def terminal(found: tuple[CertifiedRow, ...], width: int = 80) -> Table | Group:
    """For rich, within so many columns."""
    cells = [_cells(row) for row in found]
    if width < 80:
        lines = [(0, TITLE)]
        for row in cells:
            named = zip((" ".join(name.split()) for name in HEADER[2:]), row[2:], strict=True)
            lines += [(0, " ".join(row[:2])), (1, "  ".join(f"{name} {value}" for name, value in named))]
        return narrow.listed(lines)
    table = Table(title=Text(TITLE), box=None, padding=(0, 1, 0, 0), pad_edge=False, show_lines=False)
    for index, name in enumerate(HEADER):
        table.add_column(Text(name), justify="left" if index < 2 else "right", no_wrap=True)
    for row in cells:
        table.add_row(*map(Text, row))
    return table


def frame(found: tuple[CertifiedRow, ...]) -> pd.DataFrame:
    """One line per row, NaN where unreadable or not run."""
    return pd.DataFrame(
        [
            {
                "category": row.category,
                "detector": row.detector,
                "sigma": row.sigma,
                "radius": row.radius,
                "paper_certified": row.paper,
                "measured_certified": row.ours,
                "difference": row.difference,
            }
            for row in found
        ]
    )


def markdown(found: tuple[CertifiedRow, ...]) -> str:
    """The table, its notes, and the commands for what is missing."""
    text = f"## {escape_markdown(TITLE)}\n\n"
    header = [escape_markdown(name) for name in HEADER]
    text += markdown_table(header, [[escape_markdown(cell) for cell in _cells(row)] for row in found])
    text += "".join(f"\n- {escape_markdown(note)}" for note in NOTES)
    missing = commands(found)
    if missing:
        text += "\n\nMissing cells:\n\n```\n" + "\n".join(missing) + "\n```"
    return text + "\n"


def write(found: tuple[CertifiedRow, ...], folder: Path) -> list[Path]:
    """Write the table as CSV and as Markdown. Raises DiskError where the folder cannot be written to."""
    texts = {".csv": frame(found).to_csv(index=False, lineterminator="\n"), ".md": markdown(found)}
    paths = [folder / f"{TABLE}{suffix}" for suffix in texts]
    with files.writing(folder):
        for path, text in zip(paths, texts.values(), strict=True):
            write_atomically(path, text.encode())
    return paths


def _cells(row: CertifiedRow) -> list[str]:
    def shown(value: float | None, absent: str, form: str = ".1f") -> str:
        return absent if value is None else format(value, form)

    return [
        row.category,
        row.detector,
        f"{row.sigma:g}",
        shown(row.radius, UNREADABLE, "g"),
        shown(row.paper, UNREADABLE),
        shown(row.ours, NOT_RUN),
        shown(row.difference, MISSING, "+.1f"),
    ]


def _number(text: str | None) -> float | None:
    return float(text) if text and text.strip() else None
