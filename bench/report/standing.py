"""How one detector stands under one protocol: its figures in each category, and their averages.

Records that differ in the seed of the fit alone are one cell: the mean over fits (`bench.report.fits`). A missing or
failed cell leaves no average: a mean over the easy categories would rank a detector by what it left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.metrics.intervals import Estimate, average_interval
from bench.records.record import Record, Revisions, is_stale
from bench.records.schema import Figures
from bench.report import fits
from bench.report.caveats import estimate, failure_flags
from bench.report.fits import Fits, Spread
from bench.report.marks import MARKS
from bench.report.noise_worth import noise_estimate
from bench.text import one_line


@dataclass(frozen=True)
class Cell:
    """One detector in one category under one protocol.

    Attributes:
        records: one for each fit, failed ones included, in the order of their seeds.
        clean, robust: the mean over the fits that did not fail (`fits.over_fits`); None where all did.
        clean_spread, robust_spread: over these fits; None where there is one.
        fits: how many there are, and are asked for.
        best_of, known_noise: of a stochastic detector, as `robust`; None where its records do not have them.
        marks, reasons: whatever is to be said of any of the fits.
    """

    records: tuple[Record, ...]
    clean: Estimate | None
    robust: Estimate | None
    marks: tuple[str, ...]
    reasons: tuple[str, ...]
    fits: Fits
    clean_spread: Spread | None = None
    robust_spread: Spread | None = None
    best_of: Estimate | None = None
    known_noise: Estimate | None = None

    @property
    def record(self) -> Record:
        """The first fit that did not fail, for what is the same in all of them."""
        return next((r for r in self.records if r.ok), self.records[0])

    def values(self, which: str) -> dict[int, float]:
        """The clean or robust AUC of each fit that did not fail, by its seed."""
        return {fits.fit_seed(r): e.value for r in self.records if (e := estimate(r, which)) is not None}


@dataclass(frozen=True)
class Standing:
    """One detector under one protocol. The averages are None unless every category of the leaderboard is there; their
    spreads over fits, unless every category has the same fits, several of them."""

    cells: Mapping[str, Cell]
    clean: Estimate | None = None
    robust: Estimate | None = None
    clean_spread: Spread | None = None
    robust_spread: Spread | None = None
    best_of: Estimate | None = None
    known_noise: Estimate | None = None

    @classmethod
    def of(cls, cells: Mapping[str, Cell], categories: Sequence[str]) -> Standing:
        """With the averages over the leaderboard's categories."""
        return cls(
            cells,
            clean=_average(cells, categories, "clean"),
            robust=_average(cells, categories, "robust"),
            clean_spread=_spread(cells, categories, "clean"),
            robust_spread=_spread(cells, categories, "robust"),
            best_of=_average(cells, categories, "best_of"),
            known_noise=_average(cells, categories, "known_noise"),
        )

    @property
    def marks(self) -> tuple[str, ...]:
        """Of its averages: whatever is to be said of one of the cells."""
        return tuple(mark for mark in MARKS if any(mark in cell.marks for cell in self.cells.values()))

    def place(self, category: str) -> Cell | Standing | None:
        """The cell of a category, or of "average" the standing itself; None where it was not run."""
        return self if category == "average" else self.cells.get(category)


def cell_of(records: Sequence[Record], revisions: Revisions, usual: str, fingerprint: str) -> Cell:
    """The cell of one detector's fits: whatever is up for one of them is up for the cell.

    Args:
        records: one for each fit.
        revisions: of the code at hand.
        usual: the images (`images_of`) that most rows of the protocol were measured on in this category.
        fingerprint: the category's data that most rows of the leaderboard were measured on.
    """
    usable = [r for r in records if r.ok]
    flags = fits.merged([failure_flags(r) for r in usable]) if usable else []
    number = fits.counted(records, revisions)
    is_up = {
        "partial": any(not r.full_run for r in records) or number.are_too_few,
        "stale": any(is_stale(r, revisions) for r in records),
        "other images": any(images_of(r) != usual or r.fingerprint != fingerprint for r in usable),
        "ties": any(_has_ties(f) for r in usable for f in (r.clean, r.robust)),
        "indicator": bool(flags),
        "failed": len(usable) < len(records),
    }
    failures = [
        (f"fit {fits.fit_seed(r)} " if len(records) > 1 else "") + f"failed: {one_line(r.reason) or 'no reason given'}"
        for r in records
        if not r.ok
    ]
    figures = {which: [e for r in usable if (e := estimate(r, which)) is not None] for which in ("clean", "robust")}
    noise = {
        which: [e for r in usable if (e := noise_estimate(r, which)) is not None]
        for which in ("best_of", "known_noise")
    }
    return Cell(
        records=tuple(records),
        clean=fits.over_fits(figures["clean"]),
        robust=fits.over_fits(figures["robust"]),
        marks=tuple(mark for mark in MARKS if is_up.get(mark)),
        reasons=(*failures, *flags),
        clean_spread=fits.spread([e.value for e in figures["clean"]]),
        robust_spread=fits.spread([e.value for e in figures["robust"]]),
        fits=number,
        # A mean over some of the fits would stand beside that over all.
        **{which: fits.over_fits(found) for which, found in noise.items() if len(found) == len(usable)},
    )


def images_of(record: Record) -> str:
    """Which pictures it was measured on."""
    return f"{record.fingerprint}/{record.subset.sha256}"


def most_usual(found: Sequence[str]) -> str:
    """The one that is there most often, the first of several; "" where there is none."""
    return Counter(found).most_common(1)[0][0] if found else ""


def _average(cells: Mapping[str, Cell], categories: Sequence[str], which: str) -> Estimate | None:
    estimates: list[Estimate | None] = [getattr(cells[c], which) if c in cells else None for c in categories]
    present = [e for e in estimates if e is not None]
    return average_interval(present) if len(present) == len(categories) else None


def _spread(cells: Mapping[str, Cell], categories: Sequence[str], which: str) -> Spread | None:
    return fits.spread_of_average([cells[c].values(which) if c in cells else {} for c in categories])


def _has_ties(figures: Figures | None) -> bool:
    return figures is not None and figures.strict_auc is not None and has_ties(figures.auc, figures.strict_auc)


def has_ties(auc: float, strict_auc: float) -> bool:
    """Whether an AUC owes so much to ties that a table says it."""
    return auc - strict_auc > 0.5
