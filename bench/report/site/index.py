"""The rows of the first page: each detector of each leaderboard, in each category and on average, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.metrics.intervals import Estimate
from bench.records.record import Record
from bench.report import fits
from bench.report.best_known import BestKnown
from bench.report.curves import BASELINES
from bench.report.grouping import OWN_ATTACK
from bench.report.leaderboard import Leaderboard, Row
from bench.report.marks import MARKS
from bench.report.noise_worth import TITLES
from bench.report.site import names, sources
from bench.report.site.facts import seconds_per_image
from bench.report.site.found import Found
from bench.report.site.texts import PAGE, texts
from bench.report.standing import Cell, Standing
from bench.report.tables import places
from bench.text import epsilon_text, norm_text, one_line

AVERAGE = "average"
OWN_PARTS = "folder"  # the data set of pictures of one's own
# Besides the AUC: of a record's figures, clean and robust; the robust accuracy has no clean side.
METRICS = ("aupr", "fpr95", "accuracy", "pixel")


@dataclass(frozen=True)
class IndexRow:
    """A detector in a category, or on average over the categories of its leaderboard.

    Attributes:
        board: its number among the site's leaderboards. place: the category, or "average".
        is_main: whether it is the average, or there is one category alone.
        detector, label: the registry's name; what the row is called.
        rank: by the strongest protocol; None without a figure.
        protocol: by which it is ranked; clean and robust AUC in per cent are under that one.
        by_protocol: the robust AUC under each protocol.
        noise: of a stochastic detector what its noise is worth (`noise_worth`): title and robust AUC.
        best: the lowest that any record states, where that is lower than `robust`.
        certified: with the certificate's label.
        gradients, forwards, seconds: what the attack cost on an image.
        metrics: by name ("aupr") the clean and the robust value.
        marks, flags: signs of the tables; sentences.
        is_pretrained, is_stochastic, is_painted: whether it stands on weights from elsewhere, draws noise, chose
            settings on painted defects.
        is_adversarial, is_extra: whether its fit attacks its training images, or takes other pictures, as its class
            says; False of what is not installed.
        fits, spread: of how many it is the mean, and the standard deviation of the robust AUC over them.
        records: of its cells.
    """

    board: int
    place: str
    is_main: bool
    detector: str
    label: str
    rank: int | None
    protocol: str
    clean: Estimate | None
    robust: Estimate | None
    by_protocol: Mapping[str, Estimate]
    noise: tuple[tuple[str, Estimate], ...]
    best: BestKnown | None
    certified: tuple[Estimate, str] | None
    gradients: float | None
    forwards: float | None
    seconds: float | None
    metrics: Mapping[str, tuple[float | None, float | None]]
    marks: tuple[str, ...]
    flags: tuple[str, ...]
    is_pretrained: bool
    is_stochastic: bool
    is_painted: bool
    is_adversarial: bool
    is_extra: bool
    fits: int
    spread: float | None
    records: tuple[Record, ...] = field(repr=False)

    @property
    def cell(self) -> Record | None:
        """Of whose page the figure is; None of an average, or where all failed."""
        return None if self.place == AVERAGE else next((record for record in self.records if record.ok), None)

    @property
    def is_baseline(self) -> bool:
        return self.detector in BASELINES

    @property
    def family(self) -> str:
        """ "purify" of purify:NAME; "" of detectors that are no family's."""
        return self.detector.partition(":")[0] if ":" in self.detector else ""


def rows(found: Found) -> list[IndexRow]:
    """All rows, board by board, in the order of their ranks."""
    made: list[IndexRow] = []
    for number, board in enumerate(found.boards):
        shown = places(board)
        for place in shown:
            ranks = _ranks(board, place)
            own = [
                _row(number, board, place, row, ranks.get(row.label), is_main=place == shown[0])
                for row in board.rows
                if row.ranked.place(place) is not None
            ]
            made += sorted(own, key=lambda row: (row.rank is None, row.rank or 0, row.label))
    return made


def _ranks(board: Leaderboard, place: str) -> dict[str, int]:
    """By label. On average as the leaderboard has them; in a category by its own figures."""
    figures = [(row, getattr(row.ranked.place(place), "robust", None)) for row in board.rows]
    ranked = [(row, estimate) for row, estimate in figures if estimate is not None]
    if place != AVERAGE:
        ranked.sort(key=lambda pair: (board.is_behind(pair[0]), -pair[1].value, pair[0].label))
    return {row.label: number for number, (row, _) in enumerate(ranked, start=1)}


def _row(number: int, board: Leaderboard, place: str, row: Row, rank: int | None, *, is_main: bool) -> IndexRow:
    standing = row.ranked.place(place)
    assert standing is not None
    cells = [row.cells[c] for c in board.categories if c in row.cells and place in (AVERAGE, c)]
    records = tuple(record for cell in cells for record in cell.records)
    complete = place != AVERAGE or len(cells) == len(board.categories)
    spent = row.budget(row.ranked_by, place)
    known = board.certified.get((row.label, place))
    cls, spread = sources.installed(row.name), standing.robust_spread
    return IndexRow(
        board=number,
        place=place,
        is_main=is_main,
        detector=row.name,
        label=one_line(row.label, 120),
        rank=rank,
        protocol=row.ranked_by,
        clean=standing.clean,
        robust=standing.robust,
        by_protocol={
            protocol: at.robust for protocol in row.standings if (at := row.place(protocol, place)) and at.robust
        },
        noise=tuple(
            (title, worth) for which, title in TITLES.items() if (worth := getattr(standing, which)) is not None
        ),
        best=board.best_known.get((row.label, place)),
        certified=None if known is None else (known.auc, f"{known.label} {known.marks}".strip()),
        gradients=None if spent is None else spent.gradients,
        forwards=None if spent is None else spent.forwards,
        seconds=mean([seconds_per_image(record) for record in records if record.ok]),
        metrics={name: _metric(cells, name) if complete else (None, None) for name in METRICS},
        marks=_marks(standing, board, row, place),
        flags=tuple(dict.fromkeys(reason for cell in cells for reason in cell.reasons)),
        is_pretrained=any(record.detector.frozen for record in records),
        is_stochastic=any(record.detector.is_stochastic for record in records),
        is_painted=any(is_chosen(record.detector.settings) for record in records),
        is_adversarial=cls is not None and cls.trains_adversarially,
        is_extra=cls is not None and cls.has_extra_data,
        fits=max((len({fits.fit_seed(record) for record in cell.records}) for cell in cells), default=0),
        spread=None if spread is None else spread.sd,
        records=records,
    )


def _marks(standing: Cell | Standing, board: Leaderboard, row: Row, place: str) -> tuple[str, ...]:
    behind = (MARKS["weaker protocol"],) if board.is_behind(row) else ()
    return (*(MARKS[mark] for mark in standing.marks), *behind, *board.flagged.get(place, ""))


def is_chosen(settings: Mapping[str, Any]) -> bool:
    """Whether a setting was left open, which the suite chooses on painted defects."""
    return any(is_chosen(v) if isinstance(v, Mapping) else v == "auto" for v in settings.values())


def mean(values: Sequence[float | None]) -> float | None:
    """None where one is missing."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _metric(cells: Sequence[Cell], name: str) -> tuple[float | None, float | None]:
    """The mean over fits, then over categories, clean and robust."""
    pairs = [[metric(record, name) for record in cell.records if record.ok] for cell in cells]
    clean, robust = ([mean([pair[side] for pair in found]) for found in pairs] for side in (0, 1))
    return mean(clean), mean(robust)


def metric(record: Record, name: str) -> tuple[float | None, float | None]:
    """A figure in per cent, clean and robust; None where the record does not state it."""
    if name == "accuracy":
        return None, _percent(record.results.get("robust_accuracy"))
    if name == "pixel":
        pixel = record.results.get("pixel")
        stated = pixel if isinstance(pixel, dict) else {}
        return _percent(stated.get("auroc")), _percent(stated.get("robust_auroc"))
    clean, robust = (getattr(figures, name, None) for figures in (record.clean, record.robust))
    return clean, robust


def _percent(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        return None
    return float(value)


def payload(found: Found, all_rows: Sequence[IndexRow]) -> dict[str, Any]:
    """The rows as short as they can be said: figures in tenths of a per cent, and of what is said often its number in a
    list. `static/board.js` reads it."""
    detectors = {name: number for number, name in enumerate(sorted({row.detector for row in all_rows}))}
    lists: dict[str, dict[str, int]] = {"labels": {}, "places": {}, "texts": {}}

    def known(name: str, text: str) -> int:
        return lists[name].setdefault(text, len(lists[name]))

    first = {row.detector: row.records[0] for row in reversed(all_rows)}
    coded = []
    for row in all_rows:
        coded.append(
            [
                row.board,
                known("places", one_line(row.place, 60)),
                detectors[row.detector],
                known("labels", row.label),
                row.rank or 0,
                known("texts", one_line(row.protocol, 40)),
                _short(row.clean),
                _short(row.robust),
                {
                    known("texts", one_line(name, 40)): _short(value)
                    for name, value in row.by_protocol.items()
                    if name != row.protocol
                },
                0 if row.best is None else [_short(row.best.robust), known("texts", row.best.attack)],
                0 if row.certified is None else [_short(row.certified[0]), known("texts", row.certified[1])],
                [_digits(row.gradients), _digits(row.forwards), _digits(row.seconds)],
                _trimmed([_tenths(v) for name in METRICS for v in row.metrics[name]]),
                "".join(row.marks),
                [known("texts", one_line(flag, 400)) for flag in row.flags[:12]],
                _bits(row),
                row.fits if row.spread is None else [row.fits, _digits(row.spread)],
                0 if row.cell is None else names.cell(row.cell).rpartition("--")[2].removesuffix(".html"),
                *([[known("texts", title), _short(worth)] for title, worth in row.noise]),
            ]
        )
    return {
        "boards": [_board(board) for board in found.boards],
        "protocols": sorted({one_line(c.protocol, 40) for b in found.boards for c in b.columns}, key=_strength),
        "start": min(range(len(found.boards)), key=lambda n: weight(found.boards[n]), default=0),
        "detectors": [
            [
                one_line(name, 80),
                names.detector(name),
                names.cell(record).rpartition("--")[0] + "--",
                sources.paper(name),
                sources.paper_link(name),
            ]
            for name, record in sorted(first.items())
        ],
        **{name: list(entries) for name, entries in lists.items()},
        "flags": {
            known("texts", text): texts().link(text).removeprefix(PAGE)
            for text in dict.fromkeys(one_line(flag, 400) for row in all_rows for flag in row.flags[:12])
        },
        "rows": coded,
    }


def _strength(protocol: str) -> tuple[int, str]:
    """The strongest first; who is not known last."""
    order = [*OWN_ATTACK]
    return order.index(protocol) if protocol in order else len(order), protocol


def weight(board: Leaderboard) -> tuple[bool, int, int, int]:
    """What is shown first: of a published data set, ranked by the strongest protocol; of these the one with most rows,
    then the one with most protocols."""
    ranking = next(column for column in board.columns if column.protocol == board.ranking)
    is_own = ranking.attack.startswith(OWN_ATTACK.get(board.ranking, "?"))
    strength = _strength(board.ranking)[0] if is_own else len(OWN_ATTACK)
    return board.dataset == OWN_PARTS, strength, -len(board.rows), -len(board.columns)


def _bits(row: IndexRow) -> int:
    found = (row.is_main, row.is_baseline, row.is_pretrained, row.is_stochastic, row.is_painted)
    return sum(is_so << n for n, is_so in enumerate((*found, row.is_adversarial, row.is_extra)))


def _board(board: Leaderboard) -> dict[str, Any]:
    record = next(cell.record for row in board.rows for cell in row.cells.values())
    return {
        "title": one_line(board.title, 200),
        "page": names.board(board.slug),
        "data": one_line(board.dataset, 60),
        "preset": f"{one_line(record.preset, 30)}, {record.image_size} px",
        "norm": norm_text(one_line(record.norm, 30)),
        "epsilon": epsilon_text(record.epsilon, record.norm),
        "size": record.epsilon,
        "attacks": [one_line(column.attack, 40) for column in board.columns],
        "protocols": [one_line(column.protocol, 40) for column in board.columns],
        "images": [column.images for column in board.columns],
        "categories": len(board.categories),
    }


def _short(estimate: Estimate | None) -> list[int] | int:
    return 0 if estimate is None else [round(10 * value) for value in estimate]


def _tenths(value: float | None) -> int:
    """-1 where there is none."""
    return -1 if value is None else round(10 * value)


def _trimmed(values: list[int]) -> list[int]:
    """Without what is missing at the end."""
    last = max((n for n, value in enumerate(values, start=1) if value >= 0), default=0)
    return values[:last]


def _digits(value: float | None) -> float | int:
    """To three digits; -1 where there is none."""
    if value is None:
        return -1
    rounded = float(f"{value:.3g}")
    return int(rounded) if rounded.is_integer() else rounded
