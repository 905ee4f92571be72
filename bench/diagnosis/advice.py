"""What to do about a flag, in a line; docs/flags.md says more, by the same number."""

from __future__ import annotations

from collections.abc import Mapping

_MORE = "Attack with more: --protocol strict-lite, or more --steps and --restarts; believe the lower figure."
_SMOOTH = "Look for a rounding, an argmax or a very steep function; declare a smooth surrogate (has_surrogate)."
_FLAT = "Look for a clamp, a rounding or a function that saturates; declare a surrogate; attack with --restarts 5."
_OWN_GRADIENT = "Look for a detach(), a no_grad(), a hook or a step in NumPy on the way from the image to the score."

BY_FLAG: Mapping[int, str] = {
    0: "Ask the attack's author.",
    1: _FLAT,
    2: "Look for a surrogate that does not saturate: the logarithm of a score that does seldom will.",
    3: "Look for a root or a logarithm at zero, or a division by a norm.",
    4: "Raise --steps, and compare: the robust AUC should not fall.",
    5: "Use --keep best.",
    6: "Use --steps 60 --eot 4, then more, until it is down.",
    7: _SMOOTH,
    8: _FLAT,
    9: "Check labels and the sign of the score; of a stochastic detector take more draws.",
    10: "Check that higher is more anomalous, then look at the pictures (bench inspect).",
    11: "Run it again with the code at hand.",
    12: "Read it as a baseline.",
    13: "Use --gradient score, and believe the lower figure.",
    14: "Select on more draws, among fewer candidates.",
    15: _SMOOTH,
    16: _MORE,
    17: "Mend the detector: the sentence says where to look (docs/contract.md).",
    18: "Compute each image's score from that image and the noise source alone.",
    19: _SMOOTH,
    20: _OWN_GRADIENT,
    21: _MORE,
    22: "Attack with more steps; then look for a gradient that is masked.",
    23: _SMOOTH,
    24: _MORE,
    25: _MORE,
    26: "Run it with --verbose to see where.",
    27: _MORE,
}
