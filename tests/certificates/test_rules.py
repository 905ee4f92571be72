"""What the rules certify, against closed forms; and the paper's rule, whose claim fails."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import beta, binomtest, norm

from bench.metrics import ranking
from certificates.errors import CertificateError
from certificates.lipschitz import exact_bounds
from certificates.order_statistics import lower_place
from certificates.rules import Exceedance, PaperMean, Percentile, place, worst

SIGMA = 0.25
RADII = (0.0, 0.1, 0.25, 0.5)


def linear_samples(centres: np.ndarray, slope: float, count: int, seed: int = 0) -> np.ndarray:
    """Sorted scores <w, x + d> + b, of which <w, x> + b is the centre and |w| the slope."""
    noise = np.random.default_rng(seed).normal(size=(len(centres), count))
    return np.sort(centres[:, None] + slope * SIGMA * noise, axis=1)


@pytest.mark.parametrize("p", [0.2, 0.5, 0.9])
def test_of_a_linear_score_the_bounds_close_in_on_the_closed_form(p: float) -> None:
    """Q_p(x + e) = <w, x> + <w, e> + |w| sigma Phi^-1(p): within r it moves by |w| r, and not by less."""
    centres, slope = np.linspace(-1, 1, 40), 3.0
    samples = linear_samples(centres, slope, 100_000)
    found = Percentile(p).bounds(samples, sigma=SIGMA, radii=RADII, alpha=1e-4)
    middle = centres + slope * SIGMA * norm.ppf(p)
    for row, radius in enumerate(RADII):
        assert (found.upper[row] >= middle + slope * radius).all()
        assert (found.lower[row] <= middle - slope * radius).all()
        near = 0.08 if norm.sf(norm.ppf(max(p, 1 - p)) + radius / SIGMA) > 0.01 else 0.4  # tails take more samples
        assert found.upper[row] == pytest.approx(middle + slope * radius, abs=near)
        assert found.lower[row] == pytest.approx(middle - slope * radius, abs=near)
    assert Percentile(p).estimate(samples) == pytest.approx(middle, abs=0.02)


@pytest.mark.parametrize("p", [0.3, 0.5])
def test_so_many_bounds_hold_as_were_promised_at_every_radius(p: float) -> None:
    """1,000 images whose scores under noise are known: lower and upper bounds of Q_p(x + e) for the worst e."""
    slope, alpha = 2.0, 0.05
    centres = np.random.default_rng(1).normal(size=1000)
    found = Percentile(p).bounds(linear_samples(centres, slope, 400, seed=2), sigma=SIGMA, radii=RADII, alpha=alpha)
    middle = centres + slope * SIGMA * norm.ppf(p)
    for row, radius in enumerate(RADII):
        for broken in (found.upper[row] < middle + slope * radius, found.lower[row] > middle - slope * radius):
            assert binomtest(int(broken.sum()), 1000, alpha, alternative="greater").pvalue > 0.001


def test_of_a_linear_score_the_exceedance_is_known_and_moves_by_the_radius_in_sigmas() -> None:
    centres, slope, threshold = np.linspace(-0.6, 0.6, 30), 2.0, 0.1
    found = Exceedance(threshold).bounds(linear_samples(centres, slope, 20_000), sigma=SIGMA, radii=RADII, alpha=1e-4)
    true = (centres - threshold) / (slope * SIGMA)  # Phi^-1 of P(centre + |w| sigma z > t)
    for row, radius in enumerate(RADII):
        assert (found.upper[row] >= true + radius / SIGMA).all() and (found.lower[row] <= true - radius / SIGMA).all()
        assert found.upper[row] - radius / SIGMA == pytest.approx(true, abs=0.12)
    steps = np.diff(found.upper, axis=0)
    assert steps == pytest.approx(np.diff(RADII)[:, None] / SIGMA * np.ones((1, 30)))


def rough(points: np.ndarray) -> np.ndarray:
    """A score in two dimensions that jumps and bends."""
    return np.floor(4 * np.sin(3 * points[..., 0])) + (points[..., 1] > 0.2) + points[..., 0] * points[..., 1]


@pytest.mark.parametrize("seed", range(3))
def test_on_a_rough_score_the_true_exceedance_is_lipschitz_and_no_step_crosses_a_bound(seed: int) -> None:
    """Two dimensions, 400,000 samples each: as good as exact."""
    numbers = np.random.default_rng(seed)
    x = numbers.normal(size=2) / 2
    step = numbers.normal(size=2)
    step *= 0.2 / np.linalg.norm(step)
    noise = SIGMA * numbers.normal(size=(400_000, 2))
    here, there = (np.sort(rough(point + noise))[None] for point in (x, x + step))
    for threshold in (-1.0, 0.5, 2.0):
        rule = Exceedance(threshold)
        moved = abs(rule.estimate(here) - rule.estimate(there))
        assert moved <= 0.2 / SIGMA + 0.05
    for p in (0.2, 0.5, 0.8):
        found = Percentile(p).bounds(here, sigma=SIGMA, radii=(0.2,), alpha=1e-5)
        assert found.lower[0] <= Percentile(p).estimate(there) <= found.upper[0]


def test_the_papers_claim_fails_where_ours_holds() -> None:
    """A score that is 1 for most of the noise and very low for the rest: more than half of the samples exceed 0, so
    Theorem 5.1 has the mean above 0 within a radius; it lies below at radius 0 already."""
    share = 0.7
    samples = np.sort(np.where(np.random.default_rng(0).random((1, 20_000)) < share, 1.0, -9.0), axis=1)
    claimed = PaperMean().bounds(samples, sigma=SIGMA, radii=(0.0, 0.05), alpha=0.001)
    true_mean = share - 9 * (1 - share)
    assert (claimed.lower > 0).all() and true_mean < -1.9
    assert PaperMean().estimate(samples) == pytest.approx([true_mean], abs=0.2)
    assert not PaperMean.is_certified
    ours = Percentile().bounds(samples, sigma=SIGMA, radii=(0.0,), alpha=0.001)
    assert ours.lower[0] <= 1.0 <= ours.upper[0]  # the median, which is 1
    exceeds = Exceedance(0.0).bounds(samples, sigma=SIGMA, radii=(0.0,), alpha=0.001)
    assert exceeds.lower[0] <= norm.ppf(share) <= exceeds.upper[0]


def certified_shares(
    samples: np.ndarray, h: float, radius: float, p: float, alpha: float, *, upwards: bool
) -> np.ndarray:
    """Whether an image's samples let its p-quantile lie above h (upwards: somewhere within the radius; else everywhere
    there), threshold by threshold, without any bound on a score: from the share of samples that exceed h, Clopper and
    Pearson's bound of its probability, and the lemma, (M,)."""
    count = samples.shape[1]
    above = (samples > h).sum(axis=1)
    if upwards:  # P(A > h) is at most this, and within the radius so much more
        most = np.where(above == count, 1.0, beta.isf(alpha, above + 1, np.maximum(count - above, 1e-300)))
        return np.asarray(most > norm.cdf(norm.ppf(1 - p) - radius / SIGMA))
    least = np.where(above == 0, 0.0, beta.ppf(alpha, np.maximum(above, 1e-300), count - above + 1))
    return np.asarray(least >= norm.cdf(norm.ppf(1 - p) + radius / SIGMA))


@pytest.mark.parametrize("p", [0.25, 0.5])
def test_the_certified_auc_is_that_of_certifying_threshold_by_threshold(p: float) -> None:
    """From the raw samples, by another road than the bounds': exactly the same pairs."""
    numbers, alpha = np.random.default_rng(5), 1e-3
    labels = np.repeat([1, -1], [20, 30]).astype(np.int64)
    centres = np.where(labels == 1, 0.0, 0.5) + 0.3 * numbers.normal(size=50)
    samples = np.round(linear_samples(centres, 1.0, 300, seed=6), 2)  # with ties
    radii = (0.0, 0.1, 0.3, 1.5)
    bounds = worst(Percentile(p).bounds(samples, sigma=SIGMA, radii=radii, alpha=alpha), labels)
    values = np.unique(samples)
    for row, radius in enumerate(radii):
        tpr, fpr = [0.0], [float(np.isinf(bounds[row][labels == 1]).mean())]  # these lie above every threshold
        for h in values[::-1]:
            low = certified_shares(samples[labels == -1], h, radius, p, alpha, upwards=False)
            high = certified_shares(samples[labels == 1], h, radius, p, alpha, upwards=True)
            tpr, fpr = [*tpr, float(low.mean())], [*fpr, float(high.mean())]
            assert (low == (bounds[row][labels == -1] > h)).all() and (high == (bounds[row][labels == 1] > h)).all()
        below = values[0] - 1  # where every sample lies above
        low = certified_shares(samples[labels == -1], below, radius, p, alpha, upwards=False).mean()
        high = certified_shares(samples[labels == 1], below, radius, p, alpha, upwards=True).mean()
        tpr, fpr = np.array([*tpr, low, 1.0]), np.array([*fpr, high, 1.0])
        area = 100 * (np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2).sum()
        assert ranking.auc(bounds[row], labels) == pytest.approx(area, abs=1e-9)


def test_the_certified_auc_is_the_area_of_the_bounds() -> None:
    """Under (FPR_r(h), TPR_r(h)) over every threshold, infinite bounds and ties included."""
    numbers = np.random.default_rng(3)
    labels = np.repeat([1, -1], [40, 60]).astype(np.int64)
    centres = np.where(labels == 1, 0.0, 0.8) + numbers.normal(size=100)
    samples = np.round(linear_samples(centres, 1.0, 300, seed=4), 1)  # with ties
    radii = (0.0, 0.1, 0.3, 1.5)
    scores = worst(Percentile().bounds(samples, sigma=SIGMA, radii=radii, alpha=1e-4), labels)
    assert np.isinf(scores[-1]).any()  # where 300 samples cannot show it
    for row in range(len(radii)):
        normal, anomalous = scores[row][labels == 1], scores[row][labels == -1]
        thresholds = np.concatenate([[np.inf], np.unique(scores[row])[::-1], [-np.inf]])
        flagged = [((normal >= h).mean(), (anomalous >= h).mean()) for h in thresholds]
        area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(flagged))
        assert ranking.auc(scores[row], labels) == pytest.approx(100 * area, abs=1e-12)


def test_what_the_samples_cannot_show_counts_against_the_detector() -> None:
    labels = np.array([1, -1])
    samples = np.sort(np.array([[0.0] * 20, [1.0] * 20]), axis=1)
    scores = worst(Percentile().bounds(samples, sigma=SIGMA, radii=(0.0, 2.0), alpha=0.001), labels)
    assert scores[0].tolist() == [0.0, 1.0]
    assert scores[1].tolist() == [math.inf, -math.inf]
    assert ranking.auc(scores[1], labels) == 0.0


def test_one_more_sample_may_cost_something() -> None:
    """The place of a bound is a whole number: of 47 samples the same is taken as of 46, a smaller share of them."""
    places = {count: lower_place(count, 0.5, 1e-3) for count in (46, 47)}
    expected = {c: (k + 1) / (c + 1) for c, k in places.items() if k is not None}  # of uniform scores
    assert expected[47] < expected[46]


def test_four_times_the_samples_raise_what_is_shown() -> None:
    """In the mean: a bound lies nearer to what it bounds."""
    centres = np.zeros(500)
    mean_of = [
        Percentile().bounds(linear_samples(centres, 1.0, count, seed=count), sigma=SIGMA, radii=(0.2,), alpha=1e-3)
        for count in (100, 400, 1600, 6400)
    ]
    lows, highs = ([float(getattr(found, side).mean()) for found in mean_of] for side in ("lower", "upper"))
    assert lows == sorted(lows) and highs == sorted(highs, reverse=True)


def test_the_risk_is_shared_among_the_bounds_of_a_curve() -> None:
    assert Percentile().shares(0.001, RADII, 50) == pytest.approx(0.001 / 200)
    assert Exceedance(0.0).shares(0.001, RADII, 50) == pytest.approx(0.001 / 50)


def test_alpha_is_the_risk_of_one_side_and_either_fails_more_often() -> None:
    """What counts of an image is one side: a certificate that claimed both of them would have twice the risk."""
    samples = linear_samples(np.zeros(20_000), 1.0, 200, seed=7)
    found = Percentile().bounds(samples, sigma=SIGMA, radii=(0.0,), alpha=0.1)
    above, below = found.lower[0] > 0.0, found.upper[0] < 0.0
    assert max(above.mean(), below.mean()) < 0.1 + 0.01
    assert 0.1 + 0.02 < (above | below).mean() < 0.2


def test_so_many_samples_are_needed_at_a_radius() -> None:
    alpha = 0.001 / (160 * 20)
    needed = Percentile().needed(alpha, SIGMA, 2.97 * SIGMA)
    assert needed is not None and 9_000 < needed < 11_000  # what 10,000 samples can show reaches 2.97 sigmas
    few = Percentile().bounds(np.zeros((1, needed - 1)), sigma=SIGMA, radii=(2.97 * SIGMA,), alpha=alpha)
    enough = Percentile().bounds(np.zeros((1, needed)), sigma=SIGMA, radii=(2.97 * SIGMA,), alpha=alpha)
    assert np.isinf(few.upper).all() and np.isfinite(enough.upper).all()


def test_an_exact_certificate_is_a_shift() -> None:
    found = exact_bounds([1.0, 2.0], 0.5, (0.0, 0.2))
    assert found.lower == pytest.approx(np.array([[1.0, 2.0], [0.9, 1.9]]))
    assert found.upper == pytest.approx(np.array([[1.0, 2.0], [1.1, 2.1]]))


def test_a_quantile_s_place_is_not_moved_by_rounding() -> None:
    assert 0.55 * 100 > 55 and place(0.55, 100) == 54
    assert [place(p, 10) for p in (0.01, 0.1, 0.11, 0.5, 0.999)] == [0, 0, 1, 4, 9]


@pytest.mark.parametrize("p", [0.0, 1.0, -1, math.nan])
def test_a_percentile_outside_is_a_sentence(p: float) -> None:
    with pytest.raises(CertificateError, match="between 0 and 1"):
        Percentile(p)


def test_a_threshold_that_is_no_number_is_a_sentence() -> None:
    with pytest.raises(CertificateError, match="finite"):
        Exceedance(math.inf)
