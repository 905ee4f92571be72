"""The lowest robust AUC that any record holds of a fit on its test images, and whose attack found it.

Every attack's robust AUC is an upper bound, and what was found within a smaller ball lies within a larger one, too. So
records of other protocols, budgets and attacks bound the figure of a row as well as its own does.
"""

from __future__ import annotations

import bisect
import itertools
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
        found: dict[tuple[object, ...], list[_Entry]] = {}
        for record in records:
            robust = estimate(record, "robust")
            if robust is not None:
                found.setdefault(_same(record), []).append((record.epsilon, robust.value, record.key, record))
        # By fit and images: radii, rising, and of each the lowest that was found in that ball or a smaller one.
        self._of: dict[tuple[object, ...], tuple[list[float], list[tuple[float, Record]]]] = {}
        for key, same in found.items():
            same.sort(key=lambda entry: entry[:3])
            lowest = itertools.accumulate(same, _lower)
            self._of[key] = [entry[0] for entry in same], [(entry[1], entry[3]) for entry in lowest]

    def of(self, record: Record) -> Best | None:
        """Of the fit and the images that a record is of; None of a failed one."""
        if not record.ok or _same(record) not in self._of:
            return None
        radii, lowest = self._of[_same(record)]
        value, other = lowest[bisect.bisect_right(radii, record.epsilon) - 1]
        attack = f"{one_line(other.attack_name, 40)} ({one_line(other.protocol, 20)})"
        return Best(value, attack, other)

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


_Entry = tuple[float, float, str, Record]  # epsilon, robust AUC, key


def _lower(first: _Entry, second: _Entry) -> _Entry:
    return second if second[1] < first[1] else first


def _same(record: Record) -> tuple[object, ...]:
    """The fit, the pictures, and what epsilon measures; its size, too, where larger ones do not hold smaller ones."""
    fit = record.detector_name, record.detector.checkpoint_sha256, record.cell.fit_seed
    size = None if is_ball(record.norm) else record.epsilon
    return *fit, record.dataset, record.category, record.fingerprint, record.subset.sha256, record.norm, size
