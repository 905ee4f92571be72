"""Whether what the selection saw in an attack's images is still there on the draws of the verdict.

Of a stochastic detector an attack chooses its images by their mean loss on a few common draws. The best of several
estimates is too high; an attack that chooses among many, or on few draws, has chosen luck, and its robust AUC is that
of images that do little.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ERRORS = 3.0  # standard errors; with 10 draws chance alone passes them in one record of a hundred
LOST = 0.2  # of the gain


@dataclass(frozen=True)
class SelectionHeld:
    """The gain over the clean images, in the mean over images, by the selection's draws and by the verdict's.

    Attributes:
        selected, judged: the two gains in y * A(x).
        standard_errors: their difference in its standard errors, over draws.
    """

    selected: float
    judged: float
    standard_errors: float

    @property
    def held_share(self) -> float | None:
        """How much of the selection's gain is left on the verdict's draws; None where there was none."""
        return self.judged / self.selected if self.selected > 0 else None

    @property
    def speaks(self) -> bool:
        """Whether more of it is lost than noise explains, and not a negligible part."""
        share = self.held_share
        return share is not None and share < 1 - LOST and self.standard_errors > ERRORS

    def describe(self) -> dict[str, Any]:
        """For the record."""
        return {
            "held_share": None if self.held_share is None else round(self.held_share, 4),
            "standard_errors": round(self.standard_errors, 2),
            "speaks": self.speaks,
        }


def selection_held(
    selected: Floats, clean: Floats, robust: Floats, labels: NDArray[np.int64], selection_draws: int
) -> SelectionHeld | None:
    """Compare an attack's own view of its gain with the verdict's.

    Args:
        selected: by how much the selection saw each kept image's loss above the clean one's, (N,).
        clean, robust: scores on the verdict's draws, (D, N).
        labels: +1 normal, -1 anomalous, (N,).
        selection_draws: on how many draws `selected` is a mean.

    Returns:
        None where there is one draw alone, as of a deterministic detector, or a gain that is not finite.
    """
    if len(clean) < 2 or not np.isfinite(selected).all():
        return None
    gains = (labels * (robust - clean)).mean(axis=1)  # (D,): draws are common to all images of one
    spread = float(gains.std(ddof=1)) * (1 / len(gains) + 1 / selection_draws) ** 0.5
    lost = float(selected.mean() - gains.mean())
    if not np.isfinite(lost):
        return None
    # A difference that is the same on all draws has no error: it is as sure as can be.
    errors = lost / max(spread, 1e-6 * abs(lost)) if lost else 0.0
    return SelectionHeld(float(selected.mean()), float(gains.mean()), errors)
