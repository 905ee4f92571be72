"""What `contract.check` found of a detector that passed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from detectors.contract.gradients import Steps

NO_PIXELS = "it sees no pixels"
NOT_FINITE = "its score is not finite"


@dataclass(frozen=True)
class Gradient:
    """What was found of one gradient.

    Attributes:
        error: against finite differences, as a share of its size, of the worst image.
        float32_cosine: with the one in float32, of the worst image.
    """

    error: float
    float32_cosine: float


@dataclass(frozen=True)
class Passed:
    """What was looked at, and the worst that was found.

    Attributes:
        images: how many were looked at.
        gradients: by "score" and, where there is one, "surrogate"; none where the score is not finite or sees no pixel.
        unaccounted: share of the change of the score under noise that its gradient does not account for
            (`gradients.check_path`); None where that was not asked.
        steps: by size, what steps along the gradient do beside noise.
        remark: why something was not asked.
    """

    images: int
    gradients: dict[str, Gradient]
    unaccounted: float | None = None
    steps: dict[str, Steps] | None = None
    remark: str = ""

    def describe(self) -> dict[str, Any]:
        """For a record, ready for JSON; four decimals, which float rounding hardly reaches."""
        found: dict[str, Any] = {"images": self.images}
        for which, gradient in self.gradients.items():
            found[which] = {
                "gradient_error": _digits(gradient.error),
                "float32_cosine": _digits(gradient.float32_cosine),
            }
        if self.unaccounted is not None:
            found["unaccounted"] = _digits(self.unaccounted)
        if self.steps is not None:
            found["steps"] = {
                size: {"kept": _digits(s.kept), "noise": _digits(s.noise), "beaten": s.beaten}
                for size, s in self.steps.items()
            }
        return found | ({"remark": self.remark} if self.remark else {})


def _digits(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
