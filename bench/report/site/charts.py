"""Which charts the pages have, from what tables are made of: security curves, clean against robust, cost against
strength, certified against attacked, and the histogram of one cell's scores."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from bench.metrics.intervals import Estimate
from bench.metrics.ranking import Floats
from bench.records.certificate import PAPER
from bench.records.record import Record
from bench.records.score_table import Scores
from bench.report import certificates, curves
from bench.report.bins import bins, drawn
from bench.report.certificates import label
from bench.report.leaderboard import Leaderboard
from bench.report.site.index import IndexRow
from bench.report.site.svg import (
    PER_CENT,
    Axis,
    Chart,
    Point,
    Series,
    draw,
    even_ticks,
    histogram,
    thinned,
)
from bench.text import MISSING, epsilon_text, interval_text, one_line, plural, size_text, threat_text

GREY = 11  # the last colour: of baselines
_SHORT = 24


def colours(labels: Sequence[tuple[str, bool]]) -> dict[str, int]:
    """By label the number of a colour, from (label, whether it is a baseline)."""
    numbers = itertools.count()
    return {text: GREY if is_baseline else next(numbers) % GREY for text, is_baseline in labels}


def security_curves(records: Sequence[Record]) -> list[Chart]:
    """A chart for each category of one group of records that differ in epsilon alone."""
    found = curves.curves(records)
    if not found:
        return []
    looks = colours(list(dict.fromkeys((c.label, c.is_baseline) for c in found)))
    made = []
    for category in sorted({curve.category for curve in found}):
        own = [curve for curve in found if curve.category == category]
        norm = own[0].norm
        radii = sorted({point.epsilon for curve in own for point in curve.points})
        whole = Axis(size_text(one_line(norm, 30)), 0.0, radii[-1] or 1.0, (), "root")
        x = Axis(whole.title, 0.0, whole.high, thinned([(r, _radius(r, norm)) for r in radii], whole), "root")
        series = [
            Series(
                one_line(curve.label, 60),
                tuple(
                    Point(
                        p.epsilon,
                        p.auc,
                        f"{one_line(curve.label, 60)} at {_radius(p.epsilon, norm)}: "
                        f"{interval_text(p.auc, p.low, p.high)}",
                        p.low,
                        p.high,
                    )
                    for p in curve.points
                ),
                looks[curve.label],
                is_dashed=curve.is_baseline,
            )
            for curve in own
        ]
        title = f"AUC over {size_text(one_line(norm, 30))}: {one_line(category, 60)}"
        rows = tuple(
            (s.label, *(next((interval_text(p.y, p.low, p.high) for p in s.points if p.x == r), "") for r in radii))
            for s in series
        )
        made.append(
            Chart(
                title,
                "At 0 the clean AUC. Dashed: baselines. Bands, where there is room: 95 % intervals (see the numbers).",
                draw(title, x, Axis("AUC (%)", 0, 100, PER_CENT.ticks), series),
                _legend(series),
                ("detector", *(_radius(r, norm) for r in radii)),
                rows,
            )
        )
    return made


def _radius(epsilon: float, norm: str) -> str:
    return "0" if epsilon == 0 else epsilon_text(epsilon, norm)


def clean_against_robust(rows: Sequence[IndexRow], where: str) -> Chart | None:
    """Of the detectors of one leaderboard in one place."""
    known = [row for row in rows if row.clean is not None and row.robust is not None]
    if len(known) < 2:
        return None
    looks = colours([(row.label, row.is_baseline) for row in known])
    series = []
    for row in known:
        assert row.clean is not None and row.robust is not None
        told = f"{row.label}: clean {interval_text(*row.clean)}, robust {interval_text(*row.robust)}"
        point = Point(row.clean.value, row.robust.value, told, row.robust.low, row.robust.high)
        series.append(Series(row.label, (point,), looks[row.label], "points", name=_name(row.label)))
    x, y = (Axis(f"{which} AUC (%)", 0, 100, PER_CENT.ticks) for which in ("clean", "robust"))
    title = f"Clean against robust: {where}"
    return Chart(
        title,
        "On the slanted line an attack takes nothing; bars: 95 % intervals of the robust AUC; grey: baselines.",
        draw(title, x, y, series, diagonal=True),
        (),
        ("detector", "clean AUC", "robust AUC"),
        tuple((r.label, interval_text(*(r.clean or ())), interval_text(*(r.robust or ()))) for r in known),
    )


def cost_against_strength(boards: Sequence[Leaderboard], place: str, where: str) -> Chart | None:
    """What each attack on each detector cost, and what it left: of all leaderboards of one ball, and all protocols.
    None where all cost the same."""
    points: dict[str, list[tuple[Point, str]]] = {}
    for row, protocol in [(one, name) for board in boards for one in board.rows for name in one.standings]:
        found, spent = row.place(protocol, place), row.budget(protocol, place)
        passes = 0.0 if spent is None else (spent.gradients or 0.0) + (spent.forwards or 0.0)
        if found is not None and found.robust is not None and spent is not None and passes > 0:
            text, how = one_line(row.label, 60), f"{one_line(protocol, 20)}, {spent.level}"
            told = f"{text}, {how}: {passes:,.0f} passes for each image leave {found.robust.value:.1f}"
            points.setdefault(text, []).append((Point(passes, found.robust.value, told), how))
    costs = sorted({point.x for found in points.values() for point, _ in found})
    if len(costs) < 2:
        return None
    low, high = costs[0] / 1.3, costs[-1] * 1.3
    x = Axis("gradients + forward passes for each image", low, high, even_ticks(low, high, scale="log"), "log")
    baselines = {one_line(row.label, 60) for board in boards for row in board.rows if row.name in curves.BASELINES}
    looks = colours([(name, name in baselines) for name in points])
    ordered = {name: sorted(found, key=lambda entry: entry[0].x) for name, found in points.items()}
    series = [
        Series(
            name,
            tuple(point for point, _ in found),
            looks[name],
            "line" if len(found) > 1 else "points",
            name in baselines,
            _name(name),
        )
        for name, found in ordered.items()
    ]
    title = f"Cost against strength: {where}"
    return Chart(
        title,
        "Each point is an attack on one detector: lower is stronger, further left is cheaper.",
        draw(title, x, Axis("robust AUC (%)", 0, 100, PER_CENT.ticks), series),
        (),
        ("detector", "attack", "passes for each image", "robust AUC"),
        tuple((name, how, f"{p.x:,.0f}", f"{p.y:.1f}") for name, found in ordered.items() for p, how in found),
    )


def certified_against_attacked(board: certificates.Board, base: Mapping[str, Sequence[tuple[float, float]]]) -> Chart:
    """The certificates of one category in one norm, and what attacks leave of the same detectors; `base`: of detectors
    without noise (`certificates.base_lines`)."""
    known = {row.claim.detector.name for row in board.rows}
    largest = board.radii[-1] or 1.0
    x = Axis(f"{board.norm} radius", 0.0, largest, even_ticks(0.0, largest))
    series = []
    for number, row in enumerate(board.rows):
        colour, text = number % GREY, one_line(label(row), 80)
        held = "certified" if row.claim.smoothing.rule != PAPER else "claimed, not certified"
        certified = [(r, certificates.estimate(row, r)) for r in row.claim.radii]
        points = tuple(Point(r, e.value, f"{text} at {r:g}: {held} {certificates.figure(e)}") for r, e in certified)
        series.append(Series(f"{text}: {held}", points, colour, "steps", is_dashed=row.claim.smoothing.rule == PAPER))
        under = tuple(
            Point(r, e.value, f"{text} at {r:g}: attacked {interval_text(*e)}", e.low, e.high)
            for r, e in certificates.attacked(row)
        )
        if under:
            series.append(Series(f"{text}: attacked", under, colour, "points"))
    for name, pairs in base.items():
        if name in known:
            text = f"{one_line(name, 60)} without noise, attacked"
            at = tuple(Point(r, auc, f"{text} at {r:g}: {auc:.1f}") for r, auc in pairs if r <= largest)
            series.append(Series(text, at, GREY, "line", is_dashed=True))
    title = one_line(board.title, 200)
    return Chart(
        title,
        "Steps: no attack within the radius leaves less. Points: the best attack so far on the same smoothed detector. "
        "The truth lies between them.",
        draw(title, x, Axis("AUC (%)", 0, 100, PER_CENT.ticks), [s for s in series if s.points]),
        _legend(series),
        ("series", "radius", "AUC"),
        tuple((s.label, f"{p.x:g}", interval_text(p.y, p.low, p.high)) for s in series for p in s.points),
    )


def score_histograms(scores: Scores) -> list[Chart]:
    """Scores of normal and anomalous images before and after the attack, draws pooled, over the same bins."""
    both = np.concatenate([scores.clean.ravel(), scores.robust.ravel()])
    edges, is_log = bins(both[drawn(both)])
    low, high = float(edges[0]), float(edges[-1])
    if not low < high:  # so near that a float holds both
        return []
    scale = "log" if is_log else "linear"
    x = Axis("anomaly score", low, high, even_ticks(low, high, scale=scale), scale)  # type: ignore[arg-type]
    made = []
    for when, values in (("before the attack", scores.clean), ("after the attack", scores.robust)):
        classes = [("normal", 1), ("anomalous", -1)]
        shares = [(name, name, _shares(values[:, scores.labels == side], edges)) for name, side in classes]
        beyond = int((~drawn(values)).sum())
        note = f"{plural(beyond, 'score')} beyond 1e300 not shown." if beyond else ""
        rows = tuple(
            (f"{a:.4g}", f"{b:.4g}", *(f"{found[n]:.1f}" for *_, found in shares))
            for n, (a, b) in enumerate(itertools.pairwise(edges.tolist()))
            if any(found[n] for *_, found in shares)
        )
        svg = histogram(f"Scores {when}", edges.tolist(), shares, x)
        legend = (("normal", "normal"), ("anomalous", "anomalous"))
        header = ("from", "to", "% of normal", "% of anomalous")
        made.append(Chart(f"Scores {when}", note, svg, legend, header, rows))
    return made


def _shares(values: Floats, edges: Floats) -> list[float]:
    flat = values[drawn(values)]
    counts, _ = np.histogram(flat, bins=edges)
    return [100.0 * count / max(values.size, 1) for count in counts.tolist()]


def where_of(dataset: str, place: str, epsilon: float, norm: str) -> str:
    """ "elpv, mono, l-inf 2/255"."""
    return f"{one_line(dataset, 40)}, {one_line(place, 40)}, {one_line(threat_text(epsilon, norm, short=True), 40)}"


def _legend(series: Sequence[Series]) -> tuple[tuple[str, str], ...]:
    return tuple((f"c{one.colour}" + (" dashed" if one.is_dashed else ""), one.label) for one in series)


def _name(text: str) -> str:
    return one_line(text, _SHORT)


def interval(estimate: Estimate | None) -> str:
    """ "93.1 [88.0, 96.2]"; a dash where there is none."""
    return MISSING if estimate is None else interval_text(*estimate)
