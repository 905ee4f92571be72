"""A curve of divergences over the timesteps of a diffusion, and whether it never grows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench.metrics.ranking import Floats

ROUNDING = 1e-12  # of the largest value: what an exact curve may grow by


@dataclass(frozen=True, eq=False)
class Curve:
    """Kullback-Leibler divergences over timesteps, in nats.

    Attributes:
        name: what was estimated, and how.
        timesteps: ascending, int64 (T,).
        replicates: estimates that are independent of one another, (R, T); those of one row share their random numbers,
            so that differences along a row scatter less than its values. One row means exact values.
    """

    name: str
    timesteps: NDArray[np.int64]
    replicates: Floats

    def __post_init__(self) -> None:
        shape = self.replicates.shape
        if len(shape) != 2 or shape[1] != len(self.timesteps) or not shape[0]:
            raise ValueError(f"The replicates of {len(self.timesteps)} timesteps have the shape {shape}, not (R, T).")
        if not np.isfinite(self.replicates).all() or (np.diff(self.timesteps) <= 0).any():
            raise ValueError("A curve has finite values over ascending timesteps.")

    @property
    def kl(self) -> Floats:
        """Means over the replicates, (T,)."""
        return np.asarray(self.replicates.mean(axis=0))

    @property
    def error(self) -> Floats:
        """Their standard errors, (T,); 0 of exact values."""
        return _standard_error(self.replicates)

    @property
    def is_exact(self) -> bool:
        return len(self.replicates) == 1


@dataclass(frozen=True)
class Judgement:
    """Whether a curve never grows.

    Attributes:
        answer: "yes" where every step from one timestep to the next is shown to fall; "no" where a growth between any
            two timesteps is shown; "undecided" where neither is.
        growth: (from, to, by how much) between the two timesteps that speak most clearly for a growth; None where
            nothing grew.
        shown: steps that are shown to fall; steps: all of them.
    """

    answer: Literal["yes", "no", "undecided"]
    growth: tuple[int, int, float] | None
    shown: int
    steps: int


def judge(curve: Curve, *, confidence: float = 0.95) -> Judgement:
    """Ask every pair of timesteps for a growth, and every step for a fall.

    Exact values are compared as they are, but for rounding. Of estimates the difference of two timesteps is compared
    with its own standard error by Student's t, one-sided, at a level that is divided by the number of pairs
    (Bonferroni): a curve that never grows is called "no" in 1 - `confidence` of all cases at most.
    """
    steps = len(curve.timesteps) - 1
    if steps < 1:
        raise ValueError("It takes two timesteps to fall.")
    early, late = np.triu_indices(steps + 1, k=1)
    rise = curve.replicates[:, late] - curve.replicates[:, early]  # (R, pairs)
    if curve.is_exact:
        margin = np.full(len(early), ROUNDING * float(np.abs(curve.replicates).max()))
        grew, fell = rise[0] > margin, rise[0] <= margin
    else:
        margin = _quantile(1 - (1 - confidence) / len(early), len(rise) - 1) * _standard_error(rise)
        grew, fell = rise.mean(axis=0) > margin, rise.mean(axis=0) < -margin
    is_step = late == early + 1
    shown = int(fell[is_step].sum())
    answer: Literal["yes", "no", "undecided"] = "no" if grew.any() else "yes" if shown == steps else "undecided"
    return Judgement(answer, _clearest(curve, rise.mean(axis=0) - margin, early, late), shown, steps)


def _clearest(
    curve: Curve, excess: Floats, early: NDArray[np.intp], late: NDArray[np.intp]
) -> tuple[int, int, float] | None:
    rise = curve.kl[late] - curve.kl[early]
    grown = np.flatnonzero(rise > 0)
    if not len(grown):
        return None
    pair = grown[np.argmax(excess[grown])]
    return int(curve.timesteps[early[pair]]), int(curve.timesteps[late[pair]]), float(rise[pair])


def _standard_error(replicates: Floats) -> Floats:
    if len(replicates) == 1:
        return np.zeros(replicates.shape[1:])
    return np.asarray(replicates.std(axis=0, ddof=1) / np.sqrt(len(replicates)))


def _quantile(level: float, freedom: int) -> float:
    from scipy.stats import t  # not at the top: see `metrics.rank`

    return float(t.ppf(level, freedom))
