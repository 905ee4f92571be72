"""The signs that a robust AUC is no claim: each with its number, its limit, a sentence and what to do.

Which of them are up is decided here, from what a record states (after Pintor et al. 2022, and the flags of AutoAttack,
Croce & Hein 2020). docs/flags.md has a section for each, by its number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bench.records.schema import Figures
from bench.text import one_line

ZERO_SHARE = 0.1  # of the gradient steps
# Of the gain, in the last fifth of the steps: the rate of a twentieth in the last tenth. An attack that goes on evenly
# to its last step has 0.2. Measured on ELPV: 0.00 to 0.08 (PGD-20; FreeRAD under averaged PGD;
# anomalib's models were not asked).
LATE_SHARE = 0.1
LAST_WORSE_SHARE = 0.5
# Above it a record is flagged (indicator `noise_won_share`). Measured on ELPV (PGD-20):
# 0 on detectors of this package (0.01 at most on FreeRAD); in the l-inf ball 0.85, 0.55 and 0.50 on an AE behind 12, 64
# and 255 grey levels. Chance alone makes 0.05 where a stochastic detector leaves nothing to find.
NOISE_WON_SHARE = 0.1
# Below it, too (indicator `gain_share`: the share of images with `rose(clean_loss, best_loss)`). Measured: 1 on
# most detectors of this package, 0.76 to 0.97 on those whose score is a maximum over pixels, which a step can fail to
# push down (0.42 on screw, where nothing was left of them), 0 on the rounded AE without a gradient.
GAIN_SHARE = 0.5
# A change that means nothing raises the mean of a stochastic loss on half of the images.
STOCHASTIC_GAIN_SHARE = 0.75
BLACK_BOX_SHARE = 0.1  # of the images that were left to it
# Of the robust AUC over that at the next smaller epsilon of a sweep, whose images lie in this ball (indicator
# `auc_rise`). Of a deterministic detector it is never positive, but for rounding.
AUC_RISE = 0.5
LEAST_OPTIMALITY = 0.8  # of the best known gain, by the best single member


@dataclass(frozen=True)
class Sign:
    """One thing that was looked at.

    Attributes:
        flag: its number in docs/flags.md; 0: an attack's own.
        name: what was looked at.
        number: what was found; None where it could not be asked, or is no number.
        limit: what is borne.
        is_up: whether this makes the robust AUC no claim.
        sentence: what a table says then.
    """

    flag: int
    name: str
    number: float | None
    limit: str
    is_up: bool
    sentence: str


def of_record(
    indicators: Mapping[str, Any],
    gate: Mapping[str, Any],
    *,
    clean: Figures | None,
    robust: Figures | None,
    is_stochastic: bool,
    keep: str,
) -> list[Sign]:
    """All signs of what a record states, whoever has found it, up or not; what was not looked at has none."""
    # Of a detector that has lost every pair there is nothing left to overestimate: where normals have risen above all
    # anomalies, an attack may well find no way to push a maximum over pixels of these further down.
    has_something_left = robust is not None and robust.auc > 0
    return [
        *(
            Sign(0, "the attack's own flag", None, "", True, one_line(flag))
            for flag in as_list(indicators.get("flags"))
        ),
        _gate(gate),
        *_gradients(indicators, keep, has_lost=robust is not None and robust.auc <= 0),
        *_other_attacks(indicators),
        *_gain(indicators, is_stochastic=is_stochastic, has_something_left=has_something_left),
        *_members(indicators, has_something_left=has_something_left),
        *_rise(indicators),
        *_areas(clean, robust),
    ]


def _gate(gate: Mapping[str, Any]) -> Sign:
    if not gate:
        return Sign(11, "the gate", None, "passed", True, "nothing says that the detector passed the gate")
    remark = gate.get("remark")
    sentence = f"not attacked, or not looked at by the gate: {one_line(remark)}"
    return Sign(12, "the gate", None, "passed", bool(remark), sentence)


def _gradients(indicators: Mapping[str, Any], keep: str, *, has_lost: bool) -> Iterator[Sign]:
    zero = as_number(indicators.get("zero_gradient_share"))
    sentence = f"the gradient was zero in {_percent(zero)} % of the steps"
    if "surrogate_won_share" in indicators:
        won = as_number(indicators["surrogate_won_share"])
        sentence += f" (the surrogate's was followed as well and found more on {_percent(won)} % of the images)"
    if indicators.get("zero_gradient_share") is not None:
        yield Sign(1, "zero gradients", zero, f"<= {ZERO_SHARE}", zero > ZERO_SHARE, sentence)
    if indicators.get("surrogate_zero_gradient_share") is not None:
        zero = as_number(indicators["surrogate_zero_gradient_share"])
        sentence = f"the surrogate's gradient was zero in {_percent(zero)} % of the steps"
        yield Sign(2, "zero gradients of the surrogate", zero, f"<= {ZERO_SHARE}", zero > ZERO_SHARE, sentence)
    bad = as_number(indicators.get("nonfinite_gradient_share"))
    yield Sign(3, "gradients that are not finite", bad, "0", bad > 0, "some gradients were not finite")
    if indicators.get("late_gain_share") is not None:
        late = as_number(indicators["late_gain_share"])
        sentence = f"not converged: {_percent(late)} % of the attack's gain came in the last fifth of its steps"
        up = late > LATE_SHARE and not has_lost
        yield Sign(4, "gain in the last fifth of the steps", late, f"<= {LATE_SHARE}", up, sentence)
    if keep == "last":
        worse = as_number(indicators.get("last_worse_than_best_share"))
        sentence = "most last iterates were worse than the best one and the last was kept"
        up = worse > LAST_WORSE_SHARE
        yield Sign(5, "last iterate worse than the best", worse, f"<= {LAST_WORSE_SHARE}", up, sentence)


def _other_attacks(indicators: Mapping[str, Any]) -> Iterator[Sign]:
    draws = indicators.get("more_draws")
    if isinstance(draws, dict):
        sentence = (
            f"too few noise draws: with {as_number(draws.get('factor')):.0f} times as many the attack gained "
            f"{_more(draws)} on {as_number(draws.get('images')):.0f} images"
        )
        yield Sign(6, "gain of more noise draws", _share(draws), "<= 0.05", draws.get("speaks") is True, sentence)
    own = indicators.get("own_gradient")
    if isinstance(own, dict):
        images = as_number(own.get("images"))
        sentence = f"along the score's own gradient the attack gained {_more(own)} on {images:.0f} images"
        yield Sign(13, "gain of the score's own gradient", _share(own), "<= 0.05", own.get("speaks") is True, sentence)
    held = indicators.get("selection_held")
    if isinstance(held, dict):
        share = held.get("held_share")
        sentence = f"of the gain that the selection saw {_percent(as_number(share))} % are left on the verdict's draws"
        number = None if share is None else as_number(share)
        yield Sign(14, "selection held on the verdict's draws", number, ">= 0.8", held.get("speaks") is True, sentence)


def _gain(indicators: Mapping[str, Any], *, is_stochastic: bool, has_something_left: bool) -> Iterator[Sign]:
    if indicators.get("noise_won_share") is not None:
        share = as_number(indicators["noise_won_share"])
        sentence = f"plain noise of the attack's size did more than the attack on {_percent(share)} % of the images"
        up = has_something_left and share > NOISE_WON_SHARE
        yield Sign(7, "plain noise does more", share, f"<= {NOISE_WON_SHARE}", up, sentence)
    least = STOCHASTIC_GAIN_SHARE if is_stochastic else GAIN_SHARE
    if indicators.get("gain_share") is not None:
        share = as_number(indicators["gain_share"])
        sentence = f"the attack gained nothing on {100 - 100 * share:.0f} % of the images"
        up = has_something_left and share < least
        yield Sign(8, "images that the attack gained on", share, f">= {least}", up, sentence)


def _members(indicators: Mapping[str, Any], *, has_something_left: bool) -> Iterator[Sign]:
    """Of an ensemble: a black box that beats its gradients, and members that end in different places."""
    members = [m for m in as_list(indicators.get("members")) if isinstance(m, dict)]
    black = [m for m in members if m.get("gradients") == 0 and m.get("ahead_share") is not None]
    if black:
        images = max(as_number(m.get("attacked_images")) for m in members)  # the first is left them all
        share = max(_of_attacked(m, images) for m in black)
        sentence = f"a black box found clearly more than every gradient on {_percent(share)} % of those left to it"
        up = has_something_left and share > BLACK_BOX_SHARE
        yield Sign(15, "black box stronger than gradients", share, f"<= {BLACK_BOX_SHARE}", up, sentence)
    known = [as_number(m["optimality"]) for m in members if m.get("optimality") is not None]
    if len(known) > 1:
        best = max(known)
        sentence = f"no single attack of the ensemble found more than {_percent(best)} % of the best known gain"
        up = has_something_left and best < LEAST_OPTIMALITY
        yield Sign(16, "best single member's share of the gain", best, f">= {LEAST_OPTIMALITY}", up, sentence)


def _of_attacked(member: Mapping[str, Any], images: float) -> float:
    """On which share of the images that a member was left it was clearly ahead: of all of them a black box that beats
    every gradient may be ahead on few, where gradients have defeated most."""
    ahead, attacked = as_number(member["ahead_share"]), as_number(member.get("attacked_images"))
    return min(ahead * images / attacked, 1.0) if 0 < attacked < images < math.inf else ahead


def _rise(indicators: Mapping[str, Any]) -> Iterator[Sign]:
    if indicators.get("auc_rise") is not None:
        rise = as_number(indicators["auc_rise"])
        sentence = f"the AUC rises with epsilon, by {rise:.1f} above that of the next smaller one: an attack failed"
        yield Sign(27, "AUC above that of a smaller ball", rise, f"<= {AUC_RISE}", rise > AUC_RISE, sentence)


def _areas(clean: Figures | None, robust: Figures | None) -> Iterator[Sign]:
    if clean and robust:
        rise = robust.auc - clean.auc
        yield Sign(9, "AUC that the attack adds", rise, "<= 1.0", rise > 1.0, "the attack raised the AUC")
    if clean:
        sentence = "the clean AUC lies below 50: is higher more anomalous?"
        yield Sign(10, "clean AUC's upper bound", clean.high, ">= 50", clean.high < 50.0, sentence)


def _more(found: Mapping[str, Any]) -> str:
    share = found.get("gain_share")
    return "something, and with these nothing," if share is None else f"{_percent(as_number(share))} % more"


def _share(found: Mapping[str, Any]) -> float | None:
    share = found.get("gain_share")
    return None if share is None else as_number(share)


def _percent(share: float) -> str:
    return f"{100 * share:.0f}"


def as_number(value: Any) -> float:
    """A number of a record, whoever wrote it; 0 for what is none."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return 0.0
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits, in a stranger's record
        return math.inf


def as_list(value: Any) -> list[Any]:
    """A list of a record; an empty one for what is none."""
    return value if isinstance(value, list) else []
