"""The lowest robust AUC that any record holds of a fit on its test images, and whose attack found it.

Every attack's robust AUC is an upper bound, and what was found within a smaller ball lies within a larger one, too. So
records of other protocols, budgets and attacks bound the figure of a row as well as its own does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.records.record import Record
from bench.report.caveats import estimate
from bench.text import is_ball, one_line


@dataclass(frozen=True)
class Best:
    """An upper bound on a robust AUC.

    Attributes:
        value: in per cent.
        attack: by which attack, under which protocol.
        record: which holds it; of several fits the first one's.
    """

    value: float
    attack: str
    record: Record


class BestKnown:
    """Looks it up among records."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._of: dict[tuple[object, ...], list[tuple[float, Record]]] = {}
        for record in records:
            found = estimate(record, "robust")
            if found is not None:
                self._of.setdefault(_same(record), []).append((found.value, record))

    def of(self, record: Record) -> Best | None:
        """Of the fit and the images that a record is of; None of a failed one."""
        if not record.ok:
            return None
        known = [
            (value, other.key, other) for value, other in self._of.get(_same(record), ()) if _within(other, record)
        ]
        if not known:
            return None
        value, _, other = min(known)
        return Best(value, f"{one_line(other.attack_name, 40)} ({one_line(other.protocol, 20)})", other)

    def mean(self, records: Sequence[Record]) -> Best | None:
        """The mean over fits, failed ones left out."""
        found = [best for record in records if (best := self.of(record)) is not None]
        return average(found)


def average(found: Sequence[Best | None]) -> Best | None:
    """Of fits, or of categories; None where one is missing."""
    known = [best for best in found if best is not None]
    if not known or len(known) < len(found):
        return None
    attacks = "/".join(dict.fromkeys(best.attack for best in known))
    return Best(sum(best.value for best in known) / len(known), attacks, known[0].record)


def _same(record: Record) -> tuple[object, ...]:
    """The fit, the pictures, and what epsilon measures."""
    fit = record.detector_name, record.detector.checkpoint_sha256, record.cell.fit_seed
    return *fit, record.fingerprint, record.subset.sha256, record.image_size, record.norm


def _within(other: Record, record: Record) -> bool:
    if not is_ball(record.norm):
        return other.epsilon == record.epsilon
    return other.epsilon <= record.epsilon
