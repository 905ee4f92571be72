"""Which of N sorted samples bounds a quantile of where they come from, with a confidence asked for.

Exact, for every distribution: whether a sample lies above a quantile is a coin with a known bias, so how many do is
binomial (one-sided Clopper & Pearson 1934). A band around the whole distribution function (Dvoretzky, Kiefer &
Wolfowitz 1956) would be useless in its tails, and the tails are what a certificate reads.
"""

from __future__ import annotations

import math

from certificates.errors import CertificateError


def upper_place(count: int, q: float, alpha: float) -> int | None:
    """The place, from 0, of the sample that is at least the q-quantile with probability 1 - alpha, of `count` sorted
    samples; None where so few cannot show it.

    The q-quantile is inf{t : P(A <= t) >= q}, so that a sample lies below it with probability q at most. The k-th
    sample from below lies there only if k samples do.

    Raises:
        CertificateError: `count`, `q` or `alpha` is no such number.
    """
    _check(count, q, alpha)
    if q <= 0.0:
        return 0
    from scipy.stats import binom

    # The smallest k with P(Bin(count, q) >= k) <= alpha; isf gives k - 1 up to its rounding.
    below = int(binom.isf(alpha, count, q)) - 1
    k = next(k for k in range(max(below, 1), count + 2) if binom.sf(k - 1, count, q) <= alpha)
    return k - 1 if k <= count else None


def lower_place(count: int, q: float, alpha: float) -> int | None:
    """The same of the sample that is at most the q-quantile: a sample lies at or below it with probability q at least,
    and the k-th lies above only if fewer than k do."""
    _check(count, q, alpha)
    if q >= 1.0:
        return count - 1
    from scipy.stats import binom

    above = int(binom.ppf(alpha, count, q)) + 1
    k = next(k for k in range(min(above, count), -1, -1) if binom.cdf(k - 1, count, q) <= alpha)
    return k - 1 if k >= 1 else None


def samples_needed(q: float, alpha: float) -> int | None:
    """How many samples it takes until one can bound the q-quantile from the farther side: from above for q over one
    half, where the largest of them must do it, else from below; None where no number is enough (q of 0 or 1)."""
    far = max(q, 1.0 - q)
    return None if far >= 1.0 else max(1, math.ceil(math.log(alpha) / math.log(far)))


def share_bounds(hits: int, count: int, alpha: float) -> tuple[float, float]:
    """A lower and an upper bound of a probability of which `hits` of `count` draws came, each with confidence
    1 - alpha."""
    _check(count, 0.5, alpha)
    if not 0 <= hits <= count:
        raise CertificateError(f"{hits} of {count} draws cannot have come; give a number from 0 to {count}.")
    from scipy.stats import beta

    lower = 0.0 if hits == 0 else float(beta.ppf(alpha, hits, count - hits + 1))
    upper = 1.0 if hits == count else float(beta.isf(alpha, hits + 1, count - hits))
    return lower, upper


def _check(count: int, q: float, alpha: float) -> None:
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise CertificateError(f"A bound needs a whole number of samples, at least 1; got {count!r}.")
    if not 0.0 <= q <= 1.0:  # NaN, too
        raise CertificateError(f"A quantile is named by a number from 0 to 1; got {q!r}.")
    if not 0.0 < alpha < 1.0:
        raise CertificateError(f"alpha, the risk of a bound that does not hold, lies between 0 and 1; got {alpha!r}.")
