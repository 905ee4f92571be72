"""Which sample bounds a quantile: against the definition, and how often it holds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from certificates.errors import CertificateError
from certificates.order_statistics import lower_place, samples_needed, share_bounds, upper_place

CASES = [
    (count, q, alpha)
    for count in (1, 2, 7, 50, 1000)
    for q in (1e-6, 0.01, 0.3, 0.5, 0.9, 0.999)
    for alpha in (0.3, 0.01, 4e-7)
]


@pytest.mark.parametrize(("count", "q", "alpha"), CASES)
def test_the_place_is_the_nearest_that_the_definition_allows(count: int, q: float, alpha: float) -> None:
    """The k-th sample is below the quantile with probability P(Bin >= k) at most, above it with P(Bin < k)."""
    above = [k for k in range(1, count + 1) if binom.sf(k - 1, count, q) <= alpha]
    below = [k for k in range(1, count + 1) if binom.cdf(k - 1, count, q) <= alpha]
    assert upper_place(count, q, alpha) == (min(above) - 1 if above else None)
    assert lower_place(count, q, alpha) == (max(below) - 1 if below else None)


def test_the_ends_are_bounded_by_every_sample() -> None:
    assert upper_place(9, 0.0, 0.01) == 0 and lower_place(9, 1.0, 0.01) == 8
    assert upper_place(9, 1.0, 0.01) is None and lower_place(9, 0.0, 0.01) is None


@pytest.mark.parametrize("q", [0.5, 0.7, 0.02, 0.999])
@pytest.mark.parametrize("alpha", [0.05, 4e-7])
def test_so_many_samples_are_needed_and_one_less_is_too_few(q: float, alpha: float) -> None:
    needed = samples_needed(q, alpha)
    place = upper_place if q >= 0.5 else lower_place
    assert needed is not None
    assert place(needed, q, alpha) is not None and place(needed - 1, q, alpha) is None
    assert samples_needed(1.0, alpha) is None


@pytest.mark.parametrize("q", [0.1, 0.5, 0.93])
def test_of_a_thousand_images_as_many_bounds_hold_as_were_promised(q: float) -> None:
    """Exponential scores, whose quantiles are known; a one-sided binomial test at 1 in 1,000."""
    count, images, alpha = 200, 1000, 0.05
    samples = np.sort(np.random.default_rng(0).exponential(size=(images, count)), axis=1)
    true = -math.log(1 - q)
    above, below = upper_place(count, q, alpha), lower_place(count, q, alpha)
    assert above is not None and below is not None
    for broken in ((samples[:, above] < true).sum(), (samples[:, below] > true).sum()):
        assert binomtest(int(broken), images, alpha, alternative="greater").pvalue > 0.001
        assert broken > 0  # at 95 % a bound that never breaks would be far too wide


def test_they_hold_of_scores_that_tie_as_well() -> None:
    """A coin: the quantiles are 0 up to one half, 1 above."""
    samples = np.sort(np.random.default_rng(1).integers(0, 2, (1000, 60)).astype(float), axis=1)
    for q, true in ((0.4, 0.0), (0.6, 1.0)):
        above, below = upper_place(60, q, 0.05), lower_place(60, q, 0.05)
        assert above is not None and below is not None
        for broken in ((samples[:, above] < true).sum(), (samples[:, below] > true).sum()):
            assert binomtest(int(broken), 1000, 0.05, alternative="greater").pvalue > 0.001


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (3, 10), (10, 10), (9990, 10000)])
def test_a_share_is_bounded_as_clopper_and_pearson_do(hits: int, count: int) -> None:
    lower, upper = share_bounds(hits, count, 0.025)
    theirs = binomtest(hits, count).proportion_ci(0.95, method="exact")
    assert (lower, upper) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize(
    ("count", "q", "alpha", "text"),
    [
        (0, 0.5, 0.01, "at least 1"),
        (True, 0.5, 0.01, "at least 1"),
        (10, 1.5, 0.01, "from 0 to 1"),
        (10, math.nan, 0.01, "from 0 to 1"),
        (10, 0.5, 0.0, "alpha"),
        (10, 0.5, 1.0, "alpha"),
    ],
)
def test_what_is_no_number_of_the_kind_is_a_sentence(count: int, q: float, alpha: float, text: str) -> None:
    for place in (upper_place, lower_place):
        with pytest.raises(CertificateError, match=text):
            place(count, q, alpha)


def test_more_hits_than_draws_are_refused() -> None:
    with pytest.raises(CertificateError, match="11 of 10"):
        share_bounds(11, 10, 0.01)
