"""Several fits of one detector: what a table shows of records that differ in the seed of the fit alone.

The mean over fits, the interval over images of one fit, and beside it how far the fits spread. Which of several fits is
better or worse is never chosen: that would report luck.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.metrics.intervals import Estimate
from bench.records.record import Record, Revisions, is_stale
from bench.text import one_line

_NUMBER = re.compile(r"(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Spread:
    """The sample standard deviation of an AUC over fits, in per cent, and how many fits there are (2 or more)."""

    sd: float
    fits: int

    def __str__(self) -> str:
        return f"±{self.sd:.1f} ({self.fits} fits)"


def fit_seed(record: Record) -> int:
    """The seed of the record's fit; 0 where a stranger's record does not say."""
    return record.cell.fit_seed


def over_fits(estimates: Sequence[Estimate]) -> Estimate | None:
    """The mean over fits; its bounds are as far from it as those of one fit are on average. None without fits.

    All fits are judged on the same images, so the mean over many is hardly more certain than one is: the interval is
    that of one fit, and does not shrink with their number. How far fits differ is not in it; `spread` says it.
    """
    if not estimates:
        return None
    # The mean of the values less the mean distance to the lower bounds is the mean of the lower bounds.
    value, low, high = (sum(part) / len(estimates) for part in zip(*estimates, strict=True))
    return Estimate(value, low, high)


def spread(values: Sequence[float]) -> Spread | None:
    """None for a single fit, of which nothing can be said."""
    return Spread(statistics.stdev(values), len(values)) if len(values) > 1 else None


def spread_of_average(by_category: Sequence[Mapping[int, float]]) -> Spread | None:
    """The spread of an average over categories, from each one's values by fit seed: each fit's average is taken on its
    own. None unless the same seeds are in every category."""
    seeds = {frozenset(values) for values in by_category}
    if len(seeds) != 1:
        return None
    return spread([statistics.fmean(values[seed] for values in by_category) for seed in sorted(seeds.pop())])


def comparable(records: Sequence[Record], revisions: Revisions) -> list[Record]:
    """Of one cell's records, one per fit, those that a mean may be taken of, in the order of their seeds.

    A stale one beside current ones is another detector or attack, and a partial one beside full ones a weaker attack:
    either is left out. A failed one stays, for the table to say so.
    """
    current = [r for r in records if not is_stale(r, revisions)] or records
    has_full = any(r.ok and r.full_run for r in current)
    return sorted((r for r in current if r.full_run or not (r.ok and has_full)), key=fit_seed)


@dataclass(frozen=True)
class Fits:
    """How many fits a cell has, and how many its protocol asks for."""

    there: int
    asked: int

    @property
    def are_too_few(self) -> bool:
        """A mean over fewer is not the protocol's figure."""
        return self.there < self.asked


def counted(records: Sequence[Record], revisions: Revisions) -> Fits:
    """Of the records of one cell, one for each fit."""
    first = records[0]
    return Fits(len({fit_seed(r) for r in records}), revisions.fits(first.protocol, first.detector_name))


def shortfalls(cells: Iterable[tuple[str, str, Fits]]) -> list[str]:
    """Who has too few fits, a sentence for each protocol and number; of (label, protocol, fits)."""
    lacking: dict[tuple[str, Fits], list[str]] = {}
    for label, protocol, found in cells:
        if found.are_too_few:
            lacking.setdefault((protocol, found), []).append(label)
    return [
        f"{found.there} of the {found.asked} fits that {one_line(protocol, 40)} takes: "
        f"{', '.join(dict.fromkeys(labels))}."
        for (protocol, found), labels in lacking.items()
    ]


def merged(flags_by_fit: Sequence[Sequence[str]]) -> list[str]:
    """Each flag once, with how many of the fits it is up for; flags that differ in numbers alone are one with ranges
    ("the gradient was zero in 12 to 40 % of the steps (2 of 3 fits)")."""
    if len(flags_by_fit) == 1:
        return list(flags_by_fit[0])
    alike: dict[tuple[str, ...], dict[int, list[str]]] = {}  # words around the numbers: number of the fit: numbers
    for number, flags in enumerate(flags_by_fit):
        for flag in flags:
            parts = _NUMBER.split(flag)
            alike.setdefault(tuple(parts[::2]), {})[number] = parts[1::2]
    return [_with_ranges(words, list(by_fit.values()), len(flags_by_fit)) for words, by_fit in alike.items()]


def _with_ranges(words: Sequence[str], numbers: Sequence[Sequence[str]], fits: int) -> str:
    ranges = [sorted(set(column), key=float) for column in zip(*numbers, strict=True)]
    texts = [found[0] if len(found) == 1 else f"{found[0]} to {found[-1]}" for found in ranges]
    text = "".join(word + number for word, number in zip(words, [*texts, ""], strict=True))
    return f"{text} ({len(numbers)} of {fits} fits)"


def sentences(records: Iterable[Record]) -> list[str]:
    """What the heading of a table of these records says of fits and of what its brackets cover."""
    found: dict[tuple[str, str], dict[str, set[int]]] = {}  # title and name: category, settings and seed: fits
    for record in records:
        of_detector = found.setdefault((one_line(record.detector_title, 40), record.detector_name), {})
        cell = repr((record.category, record.detector.settings, record.seed))
        of_detector.setdefault(cell, set()).add(fit_seed(record))
    counts = {names: {len(seeds) for seeds in of_detector.values()} for names, of_detector in found.items()}
    several: dict[str, list[str]] = {}
    for (title, _), numbers in sorted(counts.items()):
        if max(numbers) > 1:
            text = str(max(numbers)) if len(numbers) == 1 else f"{min(numbers)} to {max(numbers)}"
            several.setdefault(text, []).append(title)
    if not several:
        return ["Brackets: 95 % intervals over images and noise, not over training seeds."]
    parts = [f"{number} for {', '.join(titles)}" for number, titles in several.items()]
    if any(max(numbers) == 1 for numbers in counts.values()):
        parts.append("1 for the others")
    return [
        f"Fits: {'; '.join(parts)}.",
        "Brackets: 95 % intervals over images and noise; ± the standard deviation over fits.",
    ]
