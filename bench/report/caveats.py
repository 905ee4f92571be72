"""What a record's figures may be called: which one ranks, what it bounds, and what speaks against believing it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from attacks.errors import AttackError
from attacks.registry import get_class
from bench.metrics.intervals import Estimate, score_interval
from bench.records.record import Record
from bench.records.schema import Figures
from bench.report import fits
from bench.text import LONGEST, epsilon_text, norm_text, one_line

# Above it a record is flagged (`failure_flags`, indicator `noise_won_share`). Measured on ELPV (PGD-20):
# 0 on detectors of this package (0.01 at most on FreeRAD); in the l-inf ball 0.85, 0.55 and 0.50 on an AE behind 12, 64
# and 255 grey levels. Chance alone makes 0.05 where a stochastic detector leaves nothing to find.
NOISE_WON_SHARE = 0.1
# Below it, too (indicator `gain_share`: the share of images with `rose(clean_loss, best_loss)`). Measured: 1 on
# most detectors of this package, 0.76 to 0.97 on those whose score is a maximum over pixels, which a step can fail to
# push down (0.42 on screw, where nothing was left of them), 0 on the rounded AE without a gradient.
GAIN_SHARE = 0.5
# A change that means nothing raises the mean of a stochastic loss on half of the images.
STOCHASTIC_GAIN_SHARE = 0.75

# Above it, too (indicator `auc_rise`: the robust AUC less that at the next smaller epsilon of a sweep, whose images lie
# in this ball). Of a deterministic detector it is never positive, but for rounding.
AUC_RISE = 0.5


def estimate(record: Record, which: str) -> Estimate | None:
    """The figure that is ranked: the AUC, and under the strict protocol the strict AUC. None for a failed cell."""
    figures = record.clean if which == "clean" else record.robust
    if figures is None:
        return None
    if not counts_ties_as_lost(record):
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
    if not record.ok:
        return []
    return signs(
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
    """The same of what a record states, whoever has found it."""
    flags = [one_line(flag) for flag in _list(indicators.get("flags"))]
    if not gate:
        flags.append("nothing says that the detector passed the gate")
    elif gate.get("remark"):
        flags.append(f"not attacked, or not looked at by the gate: {one_line(gate['remark'])}")
    if _number(indicators.get("zero_gradient_share")) > 0.1:
        flag = f"the gradient was zero in {100 * _number(indicators['zero_gradient_share']):.0f} % of the steps"
        if "surrogate_won_share" in indicators:
            won = 100 * _number(indicators["surrogate_won_share"])
            flag += f" (the surrogate's was followed as well and found more on {won:.0f} % of the images)"
        flags.append(flag)
    if _number(indicators.get("surrogate_zero_gradient_share")) > 0.1:
        share = 100 * _number(indicators["surrogate_zero_gradient_share"])
        flags.append(f"the surrogate's gradient was zero in {share:.0f} % of the steps")
    if _number(indicators.get("nonfinite_gradient_share")) > 0:
        flags.append("some gradients were not finite")
    if _number(indicators.get("last_worse_than_best_share")) > 0.5 and keep == "last":
        flags.append("most last iterates were worse than the best one and the last was kept")
    if _number(indicators.get("late_gain_share")) > 0.2:
        share = 100 * _number(indicators["late_gain_share"])
        flags.append(f"not converged: {share:.0f} % of the attack's gain came in the last fifth of its steps")
    draws = indicators.get("more_draws")
    if isinstance(draws, dict) and draws.get("speaks") is True:
        flags.append(
            f"too few noise draws: with {_number(draws.get('factor')):.0f} times as many the attack gained "
            f"{_more(draws)} on {_number(draws.get('images')):.0f} images"
        )
    own = indicators.get("own_gradient")
    if isinstance(own, dict) and own.get("speaks") is True:
        flags.append(
            f"along the score's own gradient the attack gained {_more(own)} on {_number(own.get('images')):.0f} images"
        )
    # Of a detector that has lost every pair there is nothing left to overestimate: where normals have risen above all
    # anomalies, an attack may well find no way to push a maximum over pixels of these further down.
    has_something_left = robust is not None and robust.auc > 0
    if has_something_left and _number(indicators.get("noise_won_share")) > NOISE_WON_SHARE:
        share = 100 * _number(indicators["noise_won_share"])
        flags.append(f"plain noise of the attack's size did more than the attack on {share:.0f} % of the images")
    least_gain = STOCHASTIC_GAIN_SHARE if is_stochastic else GAIN_SHARE
    gained = indicators.get("gain_share")
    if has_something_left and gained is not None and _number(gained) < least_gain:
        share = 100 - 100 * _number(indicators["gain_share"])
        flags.append(f"the attack gained nothing on {share:.0f} % of the images")
    if _number(indicators.get("auc_rise")) > AUC_RISE:
        points = _number(indicators["auc_rise"])
        flags.append(
            f"the AUC rises with epsilon, by {points:.1f} above that of the next smaller one: an attack failed"
        )
    if clean and robust and robust.auc > clean.auc + 1.0:
        flags.append("the attack raised the AUC")
    if clean and clean.high < 50.0:
        flags.append("the clean AUC lies below 50: is higher more anomalous?")
    return flags


def _more(found: Mapping[str, Any]) -> str:
    share = found.get("gain_share")
    return "something, and with these nothing," if share is None else f"{100 * _number(share):.0f} % more"


def claim(records: Sequence[Record]) -> str:
    """What a robust column is: "PGD-20/30, upper bound". Every attack gives an upper bound on the robust AUC."""
    name = _attack_title(records[0].attack_family)
    steps = sorted({int(_number(r.attack.settings.get("steps"))) for r in records} - {0})
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
    verdicts = sorted({int(_number(r.results.get("verdict_draws"))) for r in records} - {0})
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
        f"Attack {' and '.join(names)}: {norm_text(first.norm)} epsilon {epsilon_text(first.epsilon, first.norm)}"
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


def _each(records: Sequence[Record], setting: str, *, but: float | None = None) -> str | None:
    """The values of a setting that follows from the detector, those aside that say nothing; None where none is left."""
    found = {_number(value) for record in records if (value := record.attack.settings.get(setting)) is not None}
    return "/".join(f"{value:.4g}" for value in sorted(found - {but})) or None


def remarks(records: Sequence[Record]) -> list[str]:
    """What is odd about the pictures, once per category."""
    found = {(r.category, one_line(text, 500)) for r in records for text in _list(r.remarks)}
    return [f"{one_line(category, 40)}: {text}" for category, text in sorted(found) if text]


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else one_line(value, 40)


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return 0.0
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits, in a stranger's record
        return math.inf


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
