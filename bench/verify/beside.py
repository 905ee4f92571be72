"""What stands beside an AUC in a record, held against what the same cell comes to here: other figures, indicators, the
signs that an attack did not do its work.

A table shows them, and they follow from no scores: a record that leaves a sign out passes for one that never had it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from bench.records.record import Record
from bench.records.recount import ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE
from bench.report.caveats import all_signs
from bench.text import one_line

POINTS = 0.1  # of AUC: what another machine's rounding may come to
IMAGES = 2  # of the smaller class: by so many may another machine's rounding move a figure that counts images
# Those that rounding may move by more: in the scores' own units, or numbers of draws, or words.
_NO_POINTS = frozenset({"threshold", "threshold_rule", "verdict_draws", "draws", "resubmissions"})
_SHORTCUTS = ("brightness", "file_order")


def unstated(record: Record, found: Record) -> list[str]:
    """What speaks against the figures that were found here, and the record does not say, as sentences."""
    signs = _signs(record)
    told = [sentence for name, sentence in _signs(found).items() if name not in signs]
    shortcuts = [name for name in _SHORTCUTS if found.separated_by(name) and not record.separated_by(name)]
    return told + [f"{name.replace('_', ' ')} alone separates the classes" for name in shortcuts]


def others_than(record: Record, found: Record) -> list[str]:
    """All numbers in which the record is another one than what was found on the same bits, with both values."""
    pairs = (
        (record.results, found.results),
        (record.indicators, found.indicators),
        (record.gate, found.gate),
    )
    return [told for one, other in pairs for told in differences(one, dict.fromkeys(one) | dict(other))]


def far_apart(stated: Mapping[str, Any], found: Mapping[str, Any], normals: int, anomalies: int) -> list[str]:
    """The results in per cent that are further apart than another machine's rounding would bring them, with both
    values: an AUC by 0.1 points, whatever counts images by as much as two of them."""
    step = POINTS + 100 * IMAGES / max(min(normals, anomalies), 1)
    return list(differences(stated, dict.fromkeys(stated) | dict(found), step=step))


def differences(one: Mapping[str, Any], other: Mapping[str, Any], within: str = "", step: float = 0.0) -> Iterator[str]:
    """The figures that both state and that differ by more than rounding, with both values; those that are `step` apart
    (AUCs: 0.1 points) count as one figure where that is not 0."""
    for name in sorted(one.keys() & other.keys()):
        first, second = one[name], other[name]
        if step and name in _NO_POINTS:
            continue
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            yield from differences(first, second, f"{within}{name}.", step)
        elif not _alike(first, second, min(step, POINTS) if name in ("auc", "strict_auc") else step):
            yield f"{within}{one_line(name, 60)} {_shown(first)} and {_shown(second)}"


def _signs(record: Record) -> dict[tuple[int, str], str]:
    """The signs that are up, by what was looked at."""
    up = (sign for sign in all_signs(record) if sign.is_up)
    return {(sign.flag, sign.name if sign.flag else sign.sentence): sign.sentence for sign in up}


def _alike(one: object, other: object, step: float) -> bool:
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=RELATIVE_TOLERANCE, abs_tol=max(step, ABSOLUTE_TOLERANCE))
    return one == other or (isinstance(one, str) and isinstance(other, str))  # words may change with the code


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else one_line(value, 40)
