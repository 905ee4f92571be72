"""The best known attack of each cell: the lowest robust AUC that any record states of the same fit on the same images.

A robust AUC is an upper bound, so whatever attack goes lower, in this ball or in a smaller one that lies in it, under
whichever protocol, says more: the column shows by how much, and whose attack it was. Ties are counted as the figure
that ranks counts them, and what code has measured that was revised since is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.metrics.intervals import Estimate, average_interval
from bench.records.record import Record, Revisions, is_stale
from bench.report import fits
from bench.report.caveats import counts_ties_as_lost, estimate
from bench.report.standing import Cell, images_of
from bench.text import attack_text, is_ball, one_line

TITLE = "best known (lowest robust AUC of any attack)"
MEANING = (
    "Best known is the lowest robust AUC that any record states of the same fit on the same images, in this ball or a "
    "smaller one: of several fits the mean, and the attack that went lowest beyond the ranked one. It is shown where "
    "that is lower than the figure that ranks."
)
LOWER = 0.05  # points: less is not seen in a table


@dataclass(frozen=True)
class BestKnown:
    """The lowest that is known beside a figure, and whose it is.

    Attributes:
        robust: in per cent.
        attack: the attack with its ball and protocol.
        record: which holds it; of several fits or categories that one which goes lowest beyond the ranked one.
        gain: by how many points that is.
    """

    robust: Estimate
    attack: str
    record: Record
    gain: float

    @property
    def is_lower(self) -> bool:
        """Whether it says more than the figure beside which it stands."""
        return self.gain >= LOWER


@dataclass(frozen=True)
class _Found:
    """What a record leaves, counted as the ranked figure is: where ties are lost in one, they are in the other."""

    record: Record
    robust: Estimate


class Known:
    """What records state, to be looked up. What was measured by code that was revised since (`revisions`) is known no
    longer."""

    def __init__(self, records: Iterable[Record], revisions: Revisions) -> None:
        self._alike: dict[tuple[object, ...], list[Record]] = {}
        for record in records:
            if record.robust is not None and not is_stale(record, revisions):
                self._alike.setdefault(_measured(record), []).append(record)

    def of_record(self, record: Record) -> BestKnown | None:
        """Of the very fit and images that a record is of; its own figure where none is lower, None of a failed one."""
        return self._of((record,))

    def of_cell(self, cell: Cell) -> BestKnown | None:
        """The mean over its fits, failed ones left out."""
        return self._of(cell.records)

    def _of(self, records: Sequence[Record]) -> BestKnown | None:
        ranked = [found for record in records if (found := _found(record, record)) is not None]
        lowest = [min((one, *self._rivals(one)), key=_auc) for one in ranked]
        robust = fits.over_fits([low.robust for low in lowest])
        if robust is None:
            return None
        gains = [_auc(one) - _auc(low) for one, low in zip(ranked, lowest, strict=True)]
        winner = lowest[gains.index(max(gains))].record
        told = f"{attack_text(winner.attack_name, winner.epsilon, winner.norm)}, {winner.protocol}"
        return BestKnown(robust, one_line(told, 120), winner, max(gains))

    def _rivals(self, ranked: _Found) -> list[_Found]:
        """What speaks of the very same detector on the very same pictures, in a ball that lies in the ranked one's."""
        mine, found = ranked.record.detector, []
        for other in self._alike.get(_measured(ranked.record), ()):
            of_mine = other.detector.settings == mine.settings and other.detector.frozen == mine.frozen
            if of_mine and _lies_in(other, ranked.record) and (one := _found(other, ranked.record)) is not None:
                found.append(one)
        return found


def average(found: Sequence[BestKnown | None]) -> BestKnown | None:
    """Over categories; None where one of them has no figure."""
    known = [one for one in found if one is not None]
    if not known or len(known) < len(found):
        return None
    winner = max(known, key=lambda one: one.gain)
    return BestKnown(average_interval([one.robust for one in known]), winner.attack, winner.record, winner.gain)


def beside(
    rows: Mapping[str, Mapping[str, Cell]], categories: Sequence[str], known: Known
) -> dict[tuple[str, str], BestKnown]:
    """What is known beside each cell by which a row is ranked, and beside its average, where that is lower.

    Args:
        rows: cells by a row's label and the category.
        categories: of the leaderboard.
        known: what all records state.
    """
    found: dict[tuple[str, str], BestKnown] = {}
    for label, cells in rows.items():
        own = {category: known.of_cell(cell) for category, cell in cells.items()}
        over_all = average([own.get(category) for category in categories])
        of_row = own | ({"average": over_all} if len(categories) > 1 else {})
        found |= {(label, place): best for place, best in of_row.items() if best is not None and best.is_lower}
    return found


def _found(record: Record, ranked: Record) -> _Found | None:
    robust = estimate(record, "robust", ties_lost=counts_ties_as_lost(ranked))
    return None if robust is None else _Found(record, robust)


def _measured(record: Record) -> tuple[object, ...]:
    detector = record.detector
    on = (record.dataset, record.category, record.preset, record.image_size, images_of(record))
    return (*on, detector.name, detector.revision, detector.checkpoint_sha256)


def _lies_in(one: Record, other: Record) -> bool:
    if one.norm != other.norm:
        return False
    return one.epsilon <= other.epsilon if is_ball(one.norm) else one.epsilon == other.epsilon


def _auc(found: _Found) -> float:
    return found.robust.value
