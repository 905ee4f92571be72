"""What a record's figures may be called: which one ranks, what it bounds, and what speaks against believing it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from attacks.errors import AttackError
from attacks.registry import get_class
from attacks.threat import threat_model
from bench.metrics.intervals import Estimate, score_interval
from bench.records.record import Record
from bench.records.schema import Figures
from bench.report import fits
from bench.report.signs import Sign, as_list, as_number, of_record
from bench.text import LONGEST, one_line, threat_text


def estimate(record: Record, which: str, *, ties_lost: bool | None = None) -> Estimate | None:
    """The figure that is ranked: the AUC, and under the strict protocol (or as `ties_lost` says) the strict AUC. None
    for a failed cell."""
    figures = record.clean if which == "clean" else record.robust
    if figures is None:
        return None
    if not (counts_ties_as_lost(record) if ties_lost is None else ties_lost):
        return Estimate(figures.auc, figures.low, figures.high)
    value = figures.strict_auc
    if value is None:
        return None
    if figures.strict_low is not None and figures.strict_high is not None:
        return Estimate(value, figures.strict_low, figures.strict_high)
    return score_interval(value, record.subset.normals, record.subset.anomalies)


def counts_ties_as_lost(record: Record) -> bool:
    """`strict` and `strict-lite` do."""
    return record.protocol.startswith("strict")


def failure_flags(record: Record) -> list[str]:
    """What makes this record's robust AUC no claim, as sentences: the attack's own flags, and the signs of a masked
    gradient in its indicators (after Pintor et al. 2022)."""
    return [sign.sentence for sign in all_signs(record) if sign.is_up]


def all_signs(record: Record) -> list[Sign]:
    """All that was looked at, up or not; nothing of a cell that failed."""
    if not record.ok:
        return []
    return of_record(
        record.indicators,
        record.gate,
        clean=record.clean,
        robust=record.robust,
        is_stochastic=record.detector.is_stochastic,
        keep=str(record.attack.settings.get("keep")),
    )


def signs(
    indicators: Mapping[str, Any],
    gate: Mapping[str, Any],
    *,
    clean: Figures | None,
    robust: Figures | None,
    is_stochastic: bool,
    keep: str,
) -> list[str]:
    """The flags of what has no record, as sentences."""
    found = of_record(indicators, gate, clean=clean, robust=robust, is_stochastic=is_stochastic, keep=keep)
    return [sign.sentence for sign in found if sign.is_up]


def claim(records: Sequence[Record]) -> str:
    """What a robust column is: "PGD-20/30, upper bound". Every attack gives an upper bound on the robust AUC."""
    name = _attack_title(records[0].attack_family)
    steps = sorted({int(as_number(r.attack.settings.get("steps"))) for r in records} - {0})
    listed = "/".join(map(str, steps))
    if listed:
        name += f", {listed} steps" if " " in name else f"-{listed}"
    return f"{name}, upper bound"


def _attack_title(name: str) -> str:
    """As the field writes it, without the norm, which the title of the table says."""
    try:
        title = get_class(name).title
    except AttackError:  # a stranger's, or one that is no longer there
        title = name.split("-")[0].upper()
    return one_line(re.sub(r"\s*\([^()]*\)$", "", title), 40)


def facts(records: Sequence[Record]) -> tuple[str, ...]:
    """The heading of a leaderboard of these records: what a reader must know before believing a number."""
    first = records[0]
    attack, protocol, subset = first.attack.settings, first.cell.protocol, first.subset
    sizes = sorted({(r.subset.normals, r.subset.anomalies) for r in records})
    counts = ", ".join(f"{n} normal and {a} anomalous" for n, a in sizes[:6]) + (", ..." if len(sizes) > 6 else "")
    verdicts = sorted({int(as_number(r.results.get("verdict_draws"))) for r in records} - {0})
    names = sorted({one_line(record.attack_name, 40) for record in records})
    settings = {
        "steps": _each(records, "steps"),
        "step size": _each(records, "step_size"),
        "iterations": _each(records, "iterations"),
        "starts along the score": _each(records, "starts"),
        "along each other loss": _each(records, "other_starts"),
        "queries of Square": _each(records, "queries"),
        "draws in the mean": _each(records, "mean_draws"),
        "restarts": attack.get("restarts"),
        "random start": attack.get("random_start"),
        "iterate kept": attack.get("keep"),
        "EOT draws at first": _each(records, "eot", but=1),
        "and at last": _each(records, "eot_last", but=1),
        "momentum where stochastic": _each(records, "momentum", but=0),
    }
    sentences = [
        f"Protocol {first.protocol} (version {protocol.version}), preset {first.preset}, "
        f"{first.image_size}x{first.image_size} pixels.",
        f"Test images per category: {counts}"
        + (f" (at most {subset.per_class} per class)." if subset.per_class else "."),
        f"Attack {' and '.join(names)}: {threat_text(first.epsilon, first.norm)}{_meaning(first)}"
        + "".join(f", {name} {_plain(value)}" for name, value in settings.items() if value is not None)
        + f"; robust AUC is {claim(records)}.",
        f"Verdict draws: {'/'.join(map(str, verdicts)) or 'none'} (1 where the detector is deterministic); an AUC is "
        "the mean of single-draw AUCs, anomalous the positive class, in per cent"
        + (", ties counted as lost." if counts_ties_as_lost(first) else "."),
        *fits.sentences(records),
    ]
    both = sorted({one_line(r.detector_title, 40) for r in records if r.attack.settings.get("differentiate") == "auto"})
    if both:
        sentences.append(
            f"Attacked along the gradients of score and surrogate, for each image the worse counts: {', '.join(both)}."
        )
    warm = sorted({one_line(r.detector_title, 40) for r in records if r.attack.warm_from})
    if warm:
        sentences.append(f"Started from what was found at the next smaller epsilon of a sweep: {', '.join(warm)}.")
    remarks = sorted({one_line(r.cell.remark) for r in records})
    return tuple(text for text in [*sentences, one_line(protocol.statement, LONGEST), *remarks] if text)


def _meaning(record: Record) -> str:
    """What epsilon allows, where it is in units of its own."""
    try:
        meaning = threat_model(record.norm, record.epsilon).at(record.image_size).meaning
    except AttackError:  # a stranger's
        return ""
    return f" ({meaning})" if meaning else ""


def _each(records: Sequence[Record], setting: str, *, but: float | None = None) -> str | None:
    """The values of a setting that follows from the detector, those aside that say nothing; None where none is left."""
    found = {as_number(value) for record in records if (value := record.attack.settings.get(setting)) is not None}
    return "/".join(f"{value:.4g}" for value in sorted(found - {but})) or None


def remarks(records: Sequence[Record]) -> list[str]:
    """What is odd about the pictures, once per category."""
    found = {(r.category, one_line(text, 500)) for r in records for text in as_list(r.remarks)}
    return [f"{one_line(category, 40)}: {text}" for category, text in sorted(found) if text]


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else one_line(value, 40)
