"""Security curves: the AUC over epsilon, of records that differ in epsilon alone, and where it crosses what.

The points come from what leaderboards show, means over fits. Between two measured radii a curve is a straight line.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bench.metrics.intervals import Estimate
from bench.records.paths import safe_name
from bench.records.record import Record
from bench.report import fits
from bench.report.caveats import estimate
from bench.report.grouping import curve_key
from bench.report.leaderboard import Leaderboard
from bench.report.rows import rows_by_label
from bench.report.signs import AUC_RISE
from bench.text import MISSING, epsilon_text, escape_csv, escape_markdown, is_ball, markdown_table, one_line, size_text

if TYPE_CHECKING:  # imported where it is needed, as in `bench.report.write`
    import pandas as pd

# What no detector should fall below: they see no image, or nothing that an attack could amplify.
BASELINES = ("mean-image", "brightness", "file-order")
CHANCE = 50.0


class Point(NamedTuple):
    """The AUC in per cent with its interval at an epsilon on [0, 1]; at 0 the clean one."""

    epsilon: float
    auc: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """One detector in one category.

    Attributes:
        label, name: as tables call it, and the registry's name.
        category, norm: of all its records.
        points: by rising epsilon, the first at 0.
        fits: the points of each fit, by its seed.
        ended: the epsilon from which on larger balls were not attacked, since nothing was left; None: all were.
    """

    label: str
    name: str
    category: str
    norm: str
    points: tuple[Point, ...]
    fits: dict[int, tuple[Point, ...]]
    ended: float | None

    @property
    def is_baseline(self) -> bool:
        return self.name in BASELINES

    @property
    def radii(self) -> int:
        """How many there are above 0."""
        return sum(point.epsilon > 0 for point in self.points)

    def at(self, epsilons: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """The AUC at epsilons within the measured range."""
        return np.interp(epsilons, [p.epsilon for p in self.points], [p.auc for p in self.points])

    def below(self, other: Curve | float) -> float | None:
        """The epsilon from which on the AUC lies below another curve, or a number: 0 where the clean one does, None
        where it does nowhere that both were measured."""
        last = self.points[-1].epsilon if isinstance(other, float) else min(self.points[-1].epsilon, _last(other))
        known = [p.epsilon for p in (*self.points, *(() if isinstance(other, float) else other.points))]
        at = sorted({epsilon for epsilon in known if epsilon <= last})
        ahead = self.at(at) - (other if isinstance(other, float) else other.at(at))
        behind = np.flatnonzero(ahead < 0)
        if not len(behind):
            return None
        first = int(behind[0])
        if first == 0:
            return 0.0
        share = ahead[first - 1] / (ahead[first - 1] - ahead[first])
        return float(at[first - 1] + share * (at[first] - at[first - 1]))

    def rises(self) -> list[tuple[Point, Point]]:
        """Where the AUC rises from one radius to the next by more than rounding and noise do."""
        attacked = [point for point in self.points if point.epsilon > 0]
        return [(a, b) for a, b in itertools.pairwise(attacked) if b.auc - a.auc > AUC_RISE]


def _last(curve: Curve) -> float:
    return curve.points[-1].epsilon


def groups(boards: Iterable[Leaderboard]) -> dict[str, list[Record]]:
    """What the leaderboards show, grouped so that only epsilon (and with it the step size) differs, by a file name."""
    found: dict[str, list[Record]] = {}
    for board in boards:
        for standing in (standing for row in board.rows for standing in row.standings.values()):
            for cell in standing.cells.values():
                r = cell.record  # the others are fits of the same
                parts = (r.dataset, r.preset, r.protocol, r.attack_family, f"{r.image_size}px")
                alike = hashlib.sha256(curve_key(r).encode()).hexdigest()[:6]
                found.setdefault(safe_name("-".join(map(str, (*parts, alike)))), []).extend(cell.records)
    return {key: records for key, records in found.items() if any(r.ok for r in records)}


def curves(records: Sequence[Record]) -> list[Curve]:
    """Of records of one group, failed ones left out: by category, then detectors by their label, baselines last."""
    usable = [r for r in records if r.ok]
    lines = rows_by_label(usable)
    found = [
        _curve(label, own)
        for label, of_line in lines.items()
        for category in sorted({r.category for r in of_line})
        if _points(own := [r for r in of_line if r.category == category])
    ]
    return sorted(found, key=lambda c: (c.category, c.is_baseline, c.label))


def _curve(label: str, records: Sequence[Record]) -> Curve:
    seeds = sorted({fits.fit_seed(r) for r in records})
    ended = [e for r in records if isinstance(e := r.indicators.get("smaller_ball"), float)]
    first = records[0]
    return Curve(
        label,
        first.detector_name,
        first.category,
        first.norm,
        _points(records),
        {seed: _points([r for r in records if fits.fit_seed(r) == seed]) for seed in seeds},
        min(ended, default=None),
    )


def _points(records: Sequence[Record]) -> tuple[Point, ...]:
    """At 0 the clean AUC (of the smallest ball's records), and the robust one at each radius; means over fits."""
    by_epsilon = {e: [r for r in records if r.epsilon == e] for e in sorted({r.epsilon for r in records})}
    figures = [(0.0, [estimate(r, "clean") for r in next(iter(by_epsilon.values()))])]
    figures += [(e, [estimate(r, "robust") for r in found]) for e, found in by_epsilon.items() if e > 0]
    means = [(at, fits.over_fits([Estimate(*f) for f in found if f is not None])) for at, found in figures]
    return tuple(Point(at, *mean) for at, mean in means if mean is not None)


def frame(found: Sequence[Curve]) -> pd.DataFrame:
    """One line per point."""
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "category": escape_csv(curve.category),
                "detector": escape_csv(curve.name),
                "label": escape_csv(curve.label),
                "baseline": curve.is_baseline,
                "norm": escape_csv(curve.norm),
                "epsilon": point.epsilon,
                "auc": point.auc,
                "low": point.low,
                "high": point.high,
                "fits": len(curve.fits),
                "smaller_ball": curve.ended if curve.ended is not None and point.epsilon > curve.ended else None,
            }
            for curve in found
            for point in curve.points
        ]
    )


def markdown(records: Sequence[Record]) -> str:
    """Where each curve crosses 50 and the baselines, as GitHub Markdown; "" where no detector was attacked at several
    radii."""
    found = curves(records)
    if max((curve.radii for curve in found), default=0) < 2:
        return ""
    first = next(r for r in records if r.ok)
    title = f"{first.dataset}: security curves of {first.attack_family} over {size_text(first.norm)}"
    parts = [
        f"## {escape_markdown(title)}",
        f"The {size_text(first.norm)} from which on the AUC lies below 50 (chance), and below that of each "
        "baseline at the same epsilon; by straight lines between the measured radii. 0: already on clean images; a "
        "radius after >: nowhere up to it.",
    ]
    for category in sorted({curve.category for curve in found}):
        own = [curve for curve in found if curve.category == category]
        baselines = [curve for name in BASELINES for curve in own if curve.name == name]
        header = [escape_markdown(text) for text in ("detector", "50", *(b.label for b in baselines))]
        rows = [
            [
                escape_markdown(one_line(curve.label, 60)),
                escape_markdown(_crossing(curve, CHANCE)),
                *(escape_markdown(MISSING if b is curve else _crossing(curve, b)) for b in baselines),
            ]
            for curve in own
        ]
        risen = [
            f"- {escape_markdown(one_line(curve.label, 60))}: the AUC rises from {a.auc:.1f} at "
            f"{epsilon_text(a.epsilon, curve.norm)} to {b.auc:.1f} at {epsilon_text(b.epsilon, curve.norm)}: an attack "
            "failed.\n"
            for curve in own
            for a, b in curve.rises()
        ]
        parts.append(f"{escape_markdown(one_line(category, 40))}\n\n{markdown_table(header, rows)}" + _list(risen))
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _list(items: Sequence[str]) -> str:
    return "\n" + "".join(items) if items else ""


def _crossing(curve: Curve, other: Curve | float) -> str:
    """ "1.4/255", "0", or "> 16/255" where it is crossed nowhere."""
    found = curve.below(other)
    if found is None:
        last = _last(curve) if isinstance(other, float) else min(_last(curve), _last(other))
        return f"> {epsilon_text(last, curve.norm)}"
    if not is_ball(curve.norm):  # a severity between two that were tried is none
        found = min(point.epsilon for point in curve.points if point.epsilon >= found)
    if curve.norm == "linf" and found > 0:
        return f"{255 * found:.2g}/255"
    return f"{found:.2g}"
