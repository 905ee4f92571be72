"""Small charts as SVG that a page holds: lines, steps and points over two axes, each point with its numbers as a title.

Colours and fonts come from the page's style sheet by class, so that a chart follows light and dark; nothing in it runs
or is loaded. All text is escaped.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from markupsafe import Markup

WIDTH, HEIGHT = 640.0, 380.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 16.0, 14.0, 46.0
COLOURS = 12  # classes c0 .. c11 of the style sheet
LINE_HEIGHT = 13.0  # of labels beside points
LETTER = 7.2  # the width of one, about
MOST_NAMES = 30
MOST_BANDS = 4  # more of them hide each other


@dataclass(frozen=True)
class Axis:
    """One of the two.

    Attributes:
        title: what it measures.
        low, high: its ends.
        ticks: where, and what is written there.
        scale: root gives small values room and knows 0.
    """

    title: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    scale: Literal["linear", "root", "log"] = "linear"

    def share(self, value: float) -> float:
        """Where a value lies, from 0 to 1."""
        low, high, at = (self._scaled(v) for v in (self.low, self.high, value))
        return min(1.0, max(0.0, (at - low) / (high - low))) if high > low else 0.5

    def _scaled(self, value: float) -> float:
        if self.scale == "linear":
            return value
        return math.sqrt(max(value, 0.0)) if self.scale == "root" else math.log(max(value, 1e-300))


@dataclass(frozen=True)
class Point:
    """A value, its interval where it has one, and what is said of it."""

    x: float
    y: float
    title: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """Points that belong together; points with a `name` beside the first of them."""

    label: str
    points: tuple[Point, ...]
    colour: int
    kind: Literal["line", "steps", "points"] = "line"
    is_dashed: bool = False
    name: str = ""


@dataclass(frozen=True)
class Chart:
    """A figure of a page: the drawing, its legend, and the numbers that are drawn.

    Attributes:
        title, note: above and beneath.
        svg: the drawing.
        legend: class and label of each entry.
        header, rows: the numbers as a table, for whoever cannot see or wants to copy them.
    """

    title: str
    note: str
    svg: Markup
    legend: tuple[tuple[str, str], ...] = ()
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = field(default=(), repr=False)


PER_CENT = Axis("", 0, 100, tuple((float(v), str(v)) for v in range(0, 101, 20)))


def draw(title: str, x: Axis, y: Axis, series: Sequence[Series], *, diagonal: bool = False) -> Markup:
    """The drawing; `diagonal`: with the line on which both axes say the same; a line at 50 where y is in per cent."""
    parts = [*_grid(x, y)]
    if diagonal:
        ends = [(_x(x, v), _y(y, v)) for v in (max(x.low, y.low), min(x.high, y.high))]
        parts.append(_polyline(ends, "guide"))
    if (y.low, y.high) == (0, 100):
        parts.append(_polyline([(LEFT, _y(y, 50)), (WIDTH - RIGHT, _y(y, 50))], "guide"))
    solid = [one for one in series if one.kind == "line" and not one.is_dashed]
    for one in series:
        parts += _series(one, x, y, has_band=one in solid and len(solid) <= MOST_BANDS)
    parts += _names(series, x, y)
    return _svg(title, parts)


def _svg(title: str, parts: Iterable[Markup], height: float = HEIGHT) -> Markup:
    head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}" class="chart">').format(
        _n(WIDTH), _n(height), title
    )
    return head + Markup("").join(parts) + Markup("</svg>")


def _series(one: Series, x: Axis, y: Axis, *, has_band: bool) -> list[Markup]:
    look = f"c{one.colour % COLOURS}" + (" dashed" if one.is_dashed else "")
    at = [(_x(x, p.x), _y(y, p.y)) for p in one.points]
    parts = [Markup('<g class="{}">').format(look)]
    if one.kind == "line" and len(at) > 1:
        if has_band and all(p.low is not None and p.high is not None for p in one.points):
            upper = [(_x(x, p.x), _y(y, p.high or 0.0)) for p in one.points]
            lower = [(_x(x, p.x), _y(y, p.low or 0.0)) for p in reversed(one.points)]
            parts.append(Markup('<polygon class="band" points="{}"/>').format(_points([*upper, *lower])))
        parts.append(_polyline(at, "line"))
    elif one.kind == "steps":  # what holds at a radius holds at each smaller one, back to the radius before
        stairs = [at[0], *(p for (x0, _), (x1, y1) in itertools.pairwise(at) for p in ((x0, y1), (x1, y1)))]
        parts.append(_polyline(stairs, "line"))
    for (px, py), point in zip(at, one.points, strict=True):
        bar = Markup("")
        if one.kind == "points" and point.low is not None and point.high is not None:
            bar = Markup('<path class="bar" d="M{0} {1}V{2}"/>').format(
                _n(px), _n(_y(y, point.low)), _n(_y(y, point.high))
            )
        parts.append(
            Markup('<g class="point"><title>{}</title>{}<circle cx="{}" cy="{}" r="{}"/></g>').format(
                point.title, bar, _n(px), _n(py), "4" if one.kind == "points" else "2.6"
            )
        )
    return [*parts, Markup("</g>")]


def _names(series: Sequence[Series], x: Axis, y: Axis) -> list[Markup]:
    """Names beside points, moved up or down where they would be written over each other or over a point; none where
    they would fill the chart."""
    wanted = [(_x(x, one.points[0].x), _y(y, one.points[0].y), one) for one in series if one.name and one.points]
    taken = [
        (px - 5, px + 5, py - 5, py + 5) for one in series for p in one.points for px, py in [(_x(x, p.x), _y(y, p.y))]
    ]
    parts: list[Markup] = []
    if len(wanted) > MOST_NAMES:
        return parts
    for px, py, one in sorted(wanted, key=lambda entry: (-entry[1], entry[0], entry[2].label)):
        width = LETTER * len(one.name)
        is_left = px + width + 12 > WIDTH - RIGHT
        start = px - width - 8 if is_left else px + 8
        line = _free(py, (start, start + width), taken)
        taken.append((start, start + width, line - 9, line + 3))
        if abs(line - 4 - py) > LINE_HEIGHT / 2:
            lead = Markup('<path class="lead c{}" d="M{} {}L{} {}"/>')
            parts.append(
                lead.format(one.colour % COLOURS, _n(px), _n(py), _n(px - 7 if is_left else px + 7), _n(line - 4))
            )
        parts.append(
            Markup('<text class="name c{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
                one.colour % COLOURS,
                _n(px - 8 if is_left else px + 8),
                _n(line),
                "end" if is_left else "start",
                one.name,
            )
        )
    return parts


def _free(wanted: float, across: tuple[float, float], taken: Sequence[tuple[float, float, float, float]]) -> float:
    """The base line nearest to a point's height at which nothing is in the way; the point's own where all is taken."""
    for step in range(40):
        for way in (0.0,) if step == 0 else (-step * LINE_HEIGHT / 2, step * LINE_HEIGHT / 2):
            line = wanted + 4 + way
            is_inside = TOP + 8 <= line <= HEIGHT - BOTTOM - 2
            over = any(across[0] < b and across[1] > a and line - 9 < d and line + 3 > c for a, b, c, d in taken)
            if is_inside and not over:
                return line
    return wanted + 4


def _grid(x: Axis, y: Axis) -> list[Markup]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [Markup('<g class="grid">')]
    for value, _ in y.ticks:
        parts.append(Markup('<path d="M{} {}H{}"/>').format(_n(LEFT), _n(_y(y, value)), _n(right)))
    for value, _ in x.ticks:
        parts.append(Markup('<path d="M{0} {1}v5"/>').format(_n(_x(x, value)), _n(bottom)))
    parts.append(Markup('</g><g class="ticks">'))
    for value, text in y.ticks:
        parts.append(
            Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(_n(LEFT - 7), _n(_y(y, value) + 4), text)
        )
    for value, text in x.ticks:
        parts.append(
            Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(_n(_x(x, value)), _n(bottom + 18), text)
        )
    middle = (LEFT + right) / 2, (TOP + bottom) / 2
    parts.append(Markup('</g><g class="titles">'))
    parts.append(
        Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(_n(middle[0]), _n(HEIGHT - 8), x.title)
    )
    parts.append(
        Markup('<text transform="translate(14 {}) rotate(-90)" text-anchor="middle">{}</text>').format(
            _n(middle[1]), y.title
        )
    )
    return [*parts, Markup("</g>")]


def _polyline(points: Sequence[tuple[float, float]], look: str) -> Markup:
    return Markup('<polyline class="{}" points="{}"/>').format(look, _points(points))


def _points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{_n(x)},{_n(y)}" for x, y in points)


def _x(axis: Axis, value: float) -> float:
    return LEFT + axis.share(value) * (WIDTH - LEFT - RIGHT)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis.share(value) * (HEIGHT - TOP - BOTTOM)


def _n(value: float) -> str:
    """Short, and the same on every machine whose sums differ in last bits."""
    return f"{value:.1f}".removesuffix(".0")


def thinned(ticks: Sequence[tuple[float, str]], axis: Axis, apart: float = 0.09) -> tuple[tuple[float, str], ...]:
    """Those that do not lie too near the one before, the last one among them."""
    kept: list[tuple[float, str]] = []
    for tick in sorted(ticks):
        if not kept or axis.share(tick[0]) - axis.share(kept[-1][0]) >= apart:
            kept.append(tick)
        elif tick == max(ticks) and len(kept) > 1:
            kept[-1] = tick
    return tuple(kept)


def histogram(
    title: str, edges: Sequence[float], shares: Sequence[tuple[str, str, Sequence[float]]], x: Axis
) -> Markup:
    """Bars of several classes over the same bins: (class of the style sheet, label, shares in per cent)."""
    top = max((max(values, default=0.0) for *_, values in shares), default=0.0) or 1.0
    step = _nice(top / 4)
    y = Axis("% of the class", 0, top, tuple((step * n, f"{step * n:g}") for n in range(int(top / step) + 1)))
    parts = [*_grid(x, y)]
    for look, label, values in shares:
        parts.append(Markup('<g class="{}">').format(look))
        for low, high, value in ((a, b, v) for (a, b), v in zip(itertools.pairwise(edges), values, strict=True)):
            if value > 0:
                left, up = _x(x, low), _y(y, value)
                parts.append(
                    Markup('<rect x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>').format(
                        _n(left),
                        _n(up),
                        _n(max(_x(x, high) - left, 0.5)),
                        _n(HEIGHT - BOTTOM - up),
                        f"{label}: {value:.1f} % from {low:.4g} to {high:.4g}",
                    )
                )
        parts.append(Markup("</g>"))
    return _svg(title, parts)


def even_ticks(
    low: float, high: float, count: int = 5, scale: Literal["linear", "log"] = "linear"
) -> tuple[tuple[float, str], ...]:
    """Round numbers between two ends."""
    if scale == "log" and low > 0:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        stride = max(1, math.ceil((last - first) / count))
        factors = (1.0, 2.0, 5.0) if last - first <= 2 else (1.0,)
        found = [10.0**n * factor for n in range(first, last + 1, stride) for factor in factors]
        return tuple((value, f"{value:,.6g}") for value in found if low <= value <= high)
    step = _nice((high - low) / count)
    first = math.ceil(low / step)
    return tuple((n * step, f"{n * step:.6g}") for n in range(first, math.floor(high / step) + 1))


def _nice(step: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    if not step > 0 or not math.isfinite(step):
        return 1.0
    base = 10.0 ** math.floor(math.log10(step))
    return next(base * factor for factor in (1.0, 2.0, 5.0, 10.0) if base * factor >= step * 0.999)
