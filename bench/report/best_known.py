"""The best known attack of each cell: the lowest robust AUC that any record states of the same fit on the same images.

A robust AUC is an upper bound, so whatever attack goes lower, in this ball or in a smaller one that lies in it, under
whichever protocol, says more: the column shows by how much, and whose attack it was. Ties are counted as the figure
that ranks counts them, and what code has measured that was revised since is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.metrics.intervals import Estimate
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
    """The figure, and the attack with its ball and protocol."""

    robust: Estimate
    attack: str


@dataclass(frozen=True)
class _Found:
    """What a record leaves, counted as the ranked figure is: where ties are lost in one, they are in the other."""

    record: Record
    robust: Estimate


def of_cells(
    cells: Iterable[tuple[tuple[str, str], Cell]], everything: Iterable[Record], revisions: Revisions
) -> dict[tuple[str, str], BestKnown]:
    """What is known beside each cell, given by its row and its category: those alone where it is lower than what the
    cell states itself. What was measured by code that was revised since (`revisions`) is known no longer."""
    others: dict[tuple[object, ...], list[Record]] = {}
    for record in everything:
        if record.robust is not None and not is_stale(record, revisions):
            others.setdefault(_measured(record), []).append(record)
    found = ((place, _best_known(cell, others)) for place, cell in cells)
    return {place: best for place, best in found if best is not None}


def _best_known(cell: Cell, others: Mapping[tuple[object, ...], Sequence[Record]]) -> BestKnown | None:
    ranked = [found for record in cell.records if (found := _found(record, record)) is not None]
    lowest = [min((one, *_rivals(one, others.get(_measured(one.record), ()))), key=_auc) for one in ranked]
    gains = [_auc(one) - _auc(low) for one, low in zip(ranked, lowest, strict=True)]
    if not gains or max(gains) < LOWER:
        return None
    robust = fits.over_fits([low.robust for low in lowest])
    winner = lowest[gains.index(max(gains))].record
    if robust is None:
        return None
    told = f"{attack_text(winner.attack_name, winner.epsilon, winner.norm)}, {winner.protocol}"
    return BestKnown(robust, one_line(told, 120))


def _found(record: Record, ranked: Record) -> _Found | None:
    robust = estimate(record, "robust", ties_lost=counts_ties_as_lost(ranked))
    return None if robust is None else _Found(record, robust)


def _rivals(ranked: _Found, others: Sequence[Record]) -> list[_Found]:
    """What speaks of the very same detector on the very same pictures, in a ball that lies in the ranked one's."""
    mine, found = ranked.record.detector, []
    for other in others:
        of_mine = other.detector.settings == mine.settings and other.detector.frozen == mine.frozen
        if of_mine and _lies_in(other, ranked.record) and (one := _found(other, ranked.record)) is not None:
            found.append(one)
    return found


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
