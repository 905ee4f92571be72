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
from bench.metrics.intervals import Estimate
from bench.records.certificate import Certificate
from bench.report import narrow
from bench.report.certificates import estimate
from bench.report.paper.claims import Finding, at_least, difference
from bench.report.paper.recipe import PAPER_SIZE
from bench.report.paper.render import NOT_RUN, UNREADABLE
from bench.text import MISSING, escape_markdown, markdown_table
from detectors.checkpoint import write_atomically

TABLE = "table6"
CATEGORIES = ("bottle", "grid", "toothbrush", "wood")
SIGMA, RADIUS = 0.25, 0.2  # of the surviving figures; the radius at 256 pixels
SAMPLES = {"paper": 10_000, "quick": 1_000}  # by preset
HEADER = ("category", "detector", "sigma", "radius", "certified:\npaper", "\nours", "\ndiff")
NOTES = (
    "The paper's figures are no certificates: its Theorem 5.1 bounds a mean by what holds for the median alone "
    "(uncertified).",
    "Ours certifies the median at the same radius; --rule paper gives the paper's quantity, marked as uncertified.",
    "The radius of bottle and all other cells of the table are unreadable.",
)
CLAIM = "No l2 perturbation of up to 0.2 can make FreeRAD's AUC on Grid lower than 98.2 (sigma 0.25)."


@dataclass(frozen=True)
class CertifiedRow:
    """One cell, in per cent; sigma and radius on [0, 1]. None: unreadable (`paper`, `radius`) or not run (`ours`)."""

    category: str
    detector: str
    sigma: float
    radius: float | None
    paper: float | None
    ours: Estimate | None = None

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        return None if self.ours is None or self.paper is None else self.ours.value - self.paper


@dataclass(frozen=True)
class CertifiedRecipe:
    """Where the table is measured: by default where the paper measured it.

    Attributes:
        dataset, categories, preset, protocol, image_size: of the certificates.
    """

    dataset: str = "mvtec"
    categories: tuple[str, ...] = CATEGORIES
    preset: str = "paper"
    protocol: str = "paper"
    image_size: int = PAPER_SIZE

    @property
    def is_papers(self) -> bool:
        return self.dataset == "mvtec" and set(self.categories) <= set(CATEGORIES)

    @property
    def radius(self) -> float:
        """The paper's, which as an l2 radius scales with the side."""
        return RADIUS * self.image_size / PAPER_SIZE

    @property
    def samples(self) -> int:
        return SAMPLES.get(self.preset, SAMPLES["paper"])

    @property
    def title(self) -> str:
        heading = "Table 6: MVTec AD, certified AUC in l2, sigma 0.25"
        if self == CertifiedRecipe():
            return heading
        ours = f"{self.dataset}, preset {self.preset}, {self.image_size} pixels, radius {self.radius:g}"
        return f"{heading}. Ours: {ours}" + ("" if self.is_papers else ", which is not the paper's data")

    def commands(self, missing: Iterable[CertifiedRow]) -> list[str]:
        """What runs the cells that are missing: our certificate, and the paper's own quantity from the same samples."""
        rows = list(missing)
        if not rows:
            return []
        root = "" if self.dataset == "elpv" else " --data-root DIR"
        categories, detectors = (
            ",".join(dict.fromkeys(getattr(row, name) for row in rows)) for name in ("category", "detector")
        )
        return [
            f"python -m bench certify --dataset {self.dataset}{root} --categories {categories} --detectors "
            f"{detectors} --sigma {SIGMA:g} --radii 0,{self.radius:g} --samples {self.samples} --preset {self.preset} "
            f"--protocol {self.protocol} --image-size {self.image_size} --rule percentile,paper"
        ]


Measured = Callable[[CertifiedRow], Estimate | None]


def rows(recipe: CertifiedRecipe | None = None, measured: Measured | None = None) -> tuple[CertifiedRow, ...]:
    """The table as printed, as far as it is readable, names as in the registry.

    Args:
        recipe: where it is measured.
        measured: gives our certified AUC of a cell, in per cent; None where it was not run.
    """
    where = recipe or CertifiedRecipe()
    text = resources("bench.report.paper").joinpath(f"{TABLE}_certified.csv").read_text(encoding="utf-8")
    printed = {line["category"].lower(): line for line in csv.DictReader(text.splitlines())} if where.is_papers else {}
    found = []
    for category in where.categories:
        line = printed.get(category, {})
        auc, radius = _number(line.get("certified_auc")), _number(line.get("radius"))
        shown = where.radius if radius is not None or auc is None else None
        row = CertifiedRow(category, "freerad", SIGMA, shown, auc)
        found.append(row if measured is None else replace(row, ours=measured(row)))
    return tuple(found)


def of_certificates(certificates: Iterable[Certificate], recipe: CertifiedRecipe | None = None) -> Measured:
    """What our certificates say of a cell: of the median, on the recipe's data at its preset and size, without changed
    settings. Of several the one of most samples, of these of most images, of these the newest."""
    where = recipe or CertifiedRecipe()
    own = [
        one
        for one in certificates
        if (one.claim.dataset, one.claim.preset, one.claim.image_size)
        == (where.dataset, where.preset, where.image_size)
        and (one.claim.smoothing.rule, one.claim.smoothing.p) == ("percentile", 0.5)
        and all(str(limit).startswith("--samples") for limit in one.limits)
        and (where.preset != "paper" or one.full_run)
    ]

    def measured(row: CertifiedRow) -> Estimate | None:
        radius = row.radius
        if radius is None:  # there is nothing to stand beside
            return None
        alike = [
            (one, r)
            for one in own
            for r in one.claim.radii
            if (one.claim.category, one.claim.detector.name) == (row.category, row.detector)
            and one.claim.smoothing.sigma == row.sigma
            and abs(r - radius) <= 1e-9
        ]

        def worth(entry: tuple[Certificate, float]) -> tuple[int, int, str]:
            claim = entry[0].claim
            return claim.smoothing.samples, claim.subset.normals + claim.subset.anomalies, entry[0].written

        best = max(alike, key=worth, default=None)
        return None if best is None else estimate(*best)

    return measured


def missing(found: Iterable[CertifiedRow]) -> list[CertifiedRow]:
    """The cells with a radius at which a certificate could stand beside them, and without one."""
    return [row for row in found if row.ours is None and row.radius is not None]


def finding(found: Iterable[CertifiedRow]) -> Finding:
    """Whether the table's claim holds in the measurement."""
    own = {f"{row.category} certified": row.ours for row in found if row.category == "grid" and row.ours is not None}
    least = 98.2
    return at_least({name: difference(e, Estimate(least, least, least)) for name, e in own.items()}, 0.0)


def terminal(
    found: tuple[CertifiedRow, ...], width: int = 80, *, recipe: CertifiedRecipe | None = None
) -> Table | Group:
    """For rich, within so many columns."""
    title, cells = (recipe or CertifiedRecipe()).title, [_cells(row) for row in found]
    if width < 80:
        lines = [(0, title)]
        for row in cells:
            named = zip((" ".join(name.split()) for name in HEADER[2:]), row[2:], strict=True)
            lines += [(0, " ".join(row[:2])), (1, "  ".join(f"{name} {value}" for name, value in named))]
        return narrow.listed(lines)
    table = Table(
        title=Text(title), title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False, show_lines=False
    )
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
                "measured_certified": row.ours and row.ours.value,
                "measured_low": row.ours and row.ours.low,
                "measured_high": row.ours and row.ours.high,
                "difference": row.difference,
            }
            for row in found
        ]
    )


def markdown(found: tuple[CertifiedRow, ...], recipe: CertifiedRecipe | None = None) -> str:
    """The table, its claim, its notes, and the commands for what is missing."""
    where = recipe or CertifiedRecipe()
    text = f"## {escape_markdown(where.title)}\n\n"
    header = [escape_markdown(name) for name in HEADER]
    text += markdown_table(header, [[escape_markdown(cell) for cell in _cells(row)] for row in found])
    judged = finding(found)
    text += f"\n\nWhat the paper says, and whether it holds here:\n\n- **{judged.holds}**: {escape_markdown(CLAIM)}"
    text += f" ({escape_markdown(judged.found)})\n" if judged.found else "\n"
    text += "".join(f"\n- {escape_markdown(note)}" for note in NOTES)
    commands = where.commands(missing(found))
    if commands:
        text += "\n\nMissing cells:\n\n```\n" + "\n".join(commands) + "\n```"
    return text + "\n"


def write(found: tuple[CertifiedRow, ...], folder: Path, recipe: CertifiedRecipe | None = None) -> list[Path]:
    """Write the table as CSV and as Markdown. Raises DiskError where the folder cannot be written to."""
    texts = {".csv": frame(found).to_csv(index=False, lineterminator="\n"), ".md": markdown(found, recipe)}
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
        NOT_RUN if row.ours is None else f"{row.ours.value:.1f} {row.ours.low:.0f}-{row.ours.high:.0f}",
        shown(row.difference, MISSING, "+.1f"),
    ]


def _number(text: str | None) -> float | None:
    return float(text) if text and text.strip() else None
