"""The best known attack of each cell: the lowest robust AUC that any record states of the same fit on the same images.

A robust AUC is an upper bound, so whatever attack goes lower, in this ball or in a smaller one that lies in it, under
whichever protocol, says more: the column shows by how much, and whose attack it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.metrics.intervals import Estimate
from bench.records.record import Record
from bench.report import fits
from bench.report.caveats import estimate
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


def of_cells(
    cells: Iterable[tuple[tuple[str, str], Cell]], everything: Iterable[Record]
) -> dict[tuple[str, str], BestKnown]:
    """What is known beside each cell, given by its row and its category: those alone where it is lower than what the
    cell states itself."""
    others: dict[tuple[object, ...], list[Record]] = {}
    for record in everything:
        if estimate(record, "robust") is not None:
            others.setdefault(_measured(record), []).append(record)
    found = ((place, _best_known(cell, others)) for place, cell in cells)
    return {place: best for place, best in found if best is not None}


def _best_known(cell: Cell, others: Mapping[tuple[object, ...], Sequence[Record]]) -> BestKnown | None:
    ranked = [record for record in cell.records if estimate(record, "robust") is not None]
    lowest = [min((r, *_rivals(r, others.get(_measured(r), ()))), key=_auc) for r in ranked]
    gains = [_auc(record) - _auc(low) for record, low in zip(ranked, lowest, strict=True)]
    if not gains or max(gains) < LOWER:
        return None
    robust = fits.over_fits([e for low in lowest if (e := estimate(low, "robust")) is not None])
    winner = lowest[gains.index(max(gains))]
    if robust is None:
        return None
    told = f"{attack_text(winner.attack_name, winner.epsilon, winner.norm)}, {winner.protocol}"
    return BestKnown(robust, one_line(told, 120))


def _rivals(record: Record, others: Sequence[Record]) -> list[Record]:
    """What speaks of the very same detector on the very same pictures, in a ball that lies in the record's."""
    settings = record.detector.settings
    return [other for other in others if other.detector.settings == settings and _lies_in(other, record)]


def _measured(record: Record) -> tuple[object, ...]:
    detector = record.detector
    on = (record.dataset, record.category, record.preset, record.image_size, images_of(record))
    return (*on, detector.name, detector.revision, detector.checkpoint_sha256)


def _lies_in(one: Record, other: Record) -> bool:
    if one.norm != other.norm:
        return False
    return one.epsilon <= other.epsilon if is_ball(one.norm) else one.epsilon == other.epsilon


def _auc(record: Record) -> float:
    found = estimate(record, "robust")
    assert found is not None
    return found.value
