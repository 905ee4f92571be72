"""What an attack spent on an image: attacks are compared at equal budget, so every row says its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.records.record import Record
from bench.text import one_line

EXPLAINED = "Budget per image: gradients (mean over images) + forward passes (of an image that was attacked to the end)"


@dataclass(frozen=True)
class Budget:
    """Of some cells.

    Attributes:
        level: the attack's name without its norm ("autoattack-rand").
        gradients: backward passes per image, the mean over images (an image that has lost all its pairs costs no more).
        forwards: forward passes per image, of an image that was attacked to the end.
    """

    level: str
    gradients: float | None
    forwards: float | None

    def __str__(self) -> str:
        known = [f"{value:,.0f}" for value in (self.gradients, self.forwards) if value is not None]
        return f"{self.level} {' + '.join(known)}" if len(known) == 2 else self.level


def of_record(record: Record) -> Budget | None:
    """None of a failed cell."""
    if not record.ok:
        return None
    spent = record.indicators.get("mean_gradients_per_image", record.indicators.get("gradients_per_image"))
    level = one_line(record.attack_name, 60).removesuffix(f"-{record.norm}")
    return Budget(level, _number(spent), _number(record.indicators.get("forward_passes_per_image")))


def seconds_a_score(record: Record) -> float | None:
    """Of one score of one image, in batches, from the verdict's time; None where it is not known. Of a record that does
    not say it (before 2026-11-29) it is all of that time over the scores of clean and attacked images, so that the one
    pass of the held-out normals is in it as well."""
    stated, verdict = _number(record.seconds.get("score")), _number(record.seconds.get("verdict"))
    draws = _number(record.results.get("verdict_draws")) or 1
    scores = 2 * (record.subset.normals + record.subset.anomalies) * draws
    found = stated if stated is not None or verdict is None or not scores else verdict / scores
    return found if record.ok and found else None


def mean(budgets: Iterable[Budget | None]) -> Budget | None:
    """Of several fits or categories; None where none is known."""
    found = [b for b in budgets if b is not None]
    if not found:
        return None
    levels = dict.fromkeys(b.level for b in found)
    return Budget("/".join(levels), _mean([b.gradients for b in found]), _mean([b.forwards for b in found]))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
