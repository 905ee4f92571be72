"""What is certified of a detector A under noise d ~ N(0, sigma^2 I): two scores whose change is bounded, and one that
is not.

An image that moves by e, |e|_2 <= r, sees its noise through another Gaussian, whose probabilities cannot differ by more
than that of a half space (Neyman & Pearson 1933; Cohen et al. 2019): if P(A(x + d) <= t) = P, then for x + e it lies
between Phi(Phi^-1(P) - r / sigma) and Phi(Phi^-1(P) + r / sigma). Both certificates are readings of this.

- `Percentile` (Chiang et al. 2020; p = 1/2 is the median): Q_p(x) = inf{t : P(A(x + d) <= t) >= p}, and
  Q at Phi(Phi^-1(p) - r / sigma) <= Q_p(x + e) <= Q at Phi(Phi^-1(p) + r / sigma), both at x.
- `Exceedance` (after Salman et al. 2019): S(x) = Phi^-1(P(A(x + d) > t)) moves by r / sigma at most.
- `PaperMean`: the mean of A(x + d), read as if a bound on P(A(x + d) > h) bounded it (Theorem 5.1 of the paper, which
  does not follow: a mean can lie on the other side of h than most of the samples). Uncertified.

Bounds are of N samples, each with confidence 1 - alpha (`certificates.order_statistics`). What N samples cannot show is
infinite: -inf for a lower bound, inf for an upper one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from certificates.errors import CertificateError
from certificates.order_statistics import lower_place, samples_needed, share_bounds, upper_place

Floats = NDArray[np.float64]


class Bounds(NamedTuple):
    """Bounds of the smoothed score under every change of the image within each of R radii, (R, M) for M images."""

    lower: Floats
    upper: Floats


@dataclass(frozen=True)
class Percentile:
    """The p-quantile of the scores under noise; 0 < p < 1."""

    p: float = 0.5
    is_certified: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raises CertificateError for another p."""
        if not 0.0 < self.p < 1.0:
            raise CertificateError(f"A percentile lies between 0 and 1, without its ends; got {self.p!r}.")

    @property
    def name(self) -> str:
        """As it stands behind a detector's name."""
        return f"{self.p:g}"

    def estimate(self, samples: Floats) -> Floats:
        """The smoothed score of each image, from its sorted samples (M, N): the sample at place ceil(p N), (M,)."""
        count = samples.shape[1]
        return np.asarray(samples[:, place(self.p, count)])

    def shares(self, alpha: float, radii: Sequence[float], images: int) -> float:
        """The risk of one bound, so that all of a curve, one of each image at each radius, hold together with
        confidence 1 - alpha."""
        return alpha / (images * len(radii))

    def needed(self, alpha: float, sigma: float, radius: float) -> int | None:
        """How many samples it takes to show anything at a radius, `alpha` being the risk of one bound."""
        far = max(_moved(self.p, radius / sigma), _moved(1.0 - self.p, radius / sigma))
        return samples_needed(far, alpha)

    def places(self, count: int, ratio: float, alpha: float) -> tuple[int | None, int | None]:
        """Which of `count` sorted samples bound it from below and from above within a radius of `ratio` sigmas; None
        where so few cannot show it."""
        below = lower_place(count, _moved(self.p, -ratio), alpha)
        return below, upper_place(count, _moved(self.p, ratio), alpha)

    def bounds(self, samples: Floats, *, sigma: float, radii: Sequence[float], alpha: float) -> Bounds:
        """Bounds at each radius, from sorted samples (M, N); `alpha` is the risk of one bound."""
        count = samples.shape[1]
        lower = np.full((len(radii), len(samples)), -np.inf)
        upper = np.full((len(radii), len(samples)), np.inf)
        for row, radius in enumerate(radii):
            below, above = self.places(count, radius / sigma, alpha)
            if below is not None:
                lower[row] = samples[:, below]
            if above is not None:
                upper[row] = samples[:, above]
        return Bounds(lower, upper)


@dataclass(frozen=True)
class Exceedance:
    """Phi^-1 of the share of scores under noise that exceed a threshold: 1 / sigma-Lipschitz in l2."""

    threshold: float
    is_certified: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raises CertificateError for a threshold that is no number."""
        if not math.isfinite(self.threshold):
            raise CertificateError(f"The threshold must be a finite number; got {self.threshold!r}.")

    @property
    def name(self) -> str:
        """As it stands behind a detector's name."""
        return "t"

    def estimate(self, samples: Floats) -> Floats:
        """The smoothed score of each image, from its samples (M, N), (M,): with half a draw added on each side
        ((hits + 1/2) / (N + 1)), so that it is finite."""
        hits = (samples > self.threshold).sum(axis=1)
        return _normal_quantile((hits + 0.5) / (samples.shape[1] + 1))

    def shares(self, alpha: float, radii: Sequence[float], images: int) -> float:
        """The risk of one bound: one bound of an image's share serves every radius."""
        return alpha / images

    def needed(self, alpha: float, sigma: float, radius: float) -> int | None:
        """As of the median. A share of none or all of N draws is bounded with fewer, but then no image can be shown to
        lie on one side of the threshold for sure, and every upper bound lies above every lower one."""
        return Percentile().needed(alpha, sigma, radius)

    def bounds(self, samples: Floats, *, sigma: float, radii: Sequence[float], alpha: float) -> Bounds:
        """As of `Percentile`."""
        count = samples.shape[1]
        found = [share_bounds(int(hits), count, alpha) for hits in (samples > self.threshold).sum(axis=1)]
        lower, upper = (_normal_quantile(np.array(values)) for values in zip(*found, strict=True))
        moved = np.asarray(radii, dtype=np.float64)[:, None] / sigma
        return Bounds(lower[None] - moved, upper[None] + moved)


@dataclass(frozen=True)
class PaperMean:
    """The paper's quantity: the mean, with the bounds of the median.

    Theorem 5.1 concludes from P(A(x + d) > h) = P > 1/2 that the mean of A stays above h within a radius of
    sigma Phi^-1(P). So, threshold by threshold, the mean is given what holds for the median. It does not follow: the
    mean can lie on the other side of h than most of the samples, already at radius 0 (tests/certificates has such a
    score).
    """

    is_certified: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """As it stands behind a detector's name."""
        return "paper"

    def estimate(self, samples: Floats) -> Floats:
        """The mean of each image's samples (M, N), (M,)."""
        return np.asarray(samples.mean(axis=1))

    def shares(self, alpha: float, radii: Sequence[float], images: int) -> float:
        """Of each image alone, as the paper says it."""
        return alpha

    def needed(self, alpha: float, sigma: float, radius: float) -> int | None:
        """As of the median."""
        return Percentile().needed(alpha, sigma, radius)

    def places(self, count: int, ratio: float, alpha: float) -> tuple[int | None, int | None]:
        """As of the median."""
        return Percentile().places(count, ratio, alpha)

    def bounds(self, samples: Floats, *, sigma: float, radii: Sequence[float], alpha: float) -> Bounds:
        """As of the median, of which they are bounds."""
        return Percentile().bounds(samples, sigma=sigma, radii=radii, alpha=alpha)


Rule = Percentile | Exceedance | PaperMean


def worst(bounds: Bounds, labels: NDArray[np.int64]) -> Floats:
    """The worst score of each image at each radius, (R, M): upper bounds of normals (+1), lower ones of anomalies.

    An adversary moves each image on its own, so the AUC of these is the certified AUC: no pair is counted that an
    attack within the radius could not undo on its own.
    """
    return np.where(labels[None] == 1, bounds.upper, bounds.lower)


def place(p: float, count: int) -> int:
    """Of the p-quantile among so many sorted samples, from 0: the sample number ceil(p count)."""
    # 0.55 * 100 is 55.00000000000001 in floats.
    return max(math.ceil(round(p * count, 9)), 1) - 1


def _moved(p: float, ratio: float) -> float:
    """Phi(Phi^-1(p) + ratio)."""
    from scipy.special import ndtr, ndtri

    return float(ndtr(ndtri(p) + ratio))


def _normal_quantile(shares: Floats) -> Floats:
    from scipy.special import ndtri

    return np.asarray(ndtri(shares), dtype=np.float64)
