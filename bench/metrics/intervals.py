"""Confidence intervals of AUCs, in per cent. They cover images and the detector's noise, not training seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from bench.metrics import ranking
from bench.metrics.ranking import Bools, Floats


class Estimate(NamedTuple):
    """A figure and its confidence interval, in per cent."""

    value: float
    low: float
    high: float


def score_interval(
    auc: float, normals: int, anomalies: int, *, confidence: float = 0.95, variance: float = 0.0
) -> Estimate:
    """Newcombe's score interval for an AUC: not empty at 0 or 100, where bootstrap, DeLong and Hanley-McNeil collapse.

    Solves |theta_hat - theta| = z sqrt(V(theta)) with V(theta) = theta (1 - theta) [1 + (N* - 1) ((1 - theta) /
    (2 - theta) + theta / (1 + theta))] / (m n) and N* = (m + n) / 2 (Newcombe 2006, "Confidence intervals for an effect
    size measure based on the Mann-Whitney statistic. Part 2", Statistics in Medicine 25:559-573, method 5).

    For a mean of single-draw AUCs the interval is conservative in the noise: V is the variance of ONE draw on new
    images, and a mean over draws on the same images never varies more than one draw does.

    V's shape assumes similar spreads in both classes. With few widely spread normals and many alike anomalies it is too
    small (20 against 80 images, spreads 3 to 1: coverage 85 %, measured), so where an estimate of the variance from
    the data is larger, V is scaled up to meet it.

    Args:
        auc: the AUC, or the mean of single-draw AUCs, in per cent.
        normals, anomalies: numbers of test images.
        variance: DeLong's variance of the same AUC as a share (not in per cent); widens the interval, never narrows it.

    Raises:
        ValueError: an AUC outside [0, 100] or a class without images.
    """
    if not 0.0 <= auc <= 100.0:
        raise ValueError(f"An AUC lies in [0, 100]; got {auc}.")
    if normals < 1 or anomalies < 1:
        raise ValueError(f"An interval needs images of both classes; got {normals} normal and {anomalies} anomalous.")
    z = float(ndtri(0.5 + confidence / 2))
    theta = auc / 100.0
    if 0.0 < theta < 1.0:
        z *= max(1.0, np.sqrt(variance / _variance(theta, normals, anomalies)))
    low = _lower_root(theta, normals, anomalies, z)
    # V is symmetric, V(theta) = V(1 - theta): the upper bound is the mirrored lower bound of the mirrored estimate.
    high = 1.0 - _lower_root(1.0 - theta, normals, anomalies, z)
    return Estimate(auc, min(100.0 * low, auc), max(100.0 * high, auc))


def _variance(theta: float, m: int, n: int) -> float:
    spread = 1.0 + ((m + n) / 2 - 1.0) * ((1.0 - theta) / (2.0 - theta) + theta / (1.0 + theta))
    return theta * (1.0 - theta) * spread / (m * n)


def _lower_root(estimate: float, m: int, n: int, z: float) -> float:
    if estimate <= 0.0:
        return 0.0

    def excess(theta: float) -> float:
        return (estimate - theta) ** 2 - z * z * _variance(theta, m, n)

    # Just below the estimate the first term is of second order and the second is not: the sign there is negative, also
    # at an estimate of 1, where theta = 1 itself is a root and not the one that is wanted.
    from scipy.optimize import brentq  # not at the top: see `metrics.rank`

    return float(brentq(excess, 0.0, estimate * (1.0 - 1e-12), xtol=1e-12))


def mean_single_draw_interval(scores: ArrayLike, labels: ArrayLike, *, confidence: float = 0.95) -> Estimate:
    """The mean of single-draw AUCs of scores (D, N) or (N,) with its score interval, widened by `delong_variance`."""
    return _interval(ranking.auc(scores, labels), scores, labels, confidence)


def strict_interval(scores: ArrayLike, labels: ArrayLike) -> Estimate:
    """The same of `ranking.strict_auc`, where a tie is lost."""
    return _interval(ranking.strict_auc(scores, labels), scores, labels)


def _interval(per_draw: Floats, scores: ArrayLike, labels: ArrayLike, confidence: float = 0.95) -> Estimate:
    signs = np.asarray(labels)
    return score_interval(
        float(per_draw.mean()),
        int((signs == 1).sum()),
        int((signs == -1).sum()),
        confidence=confidence,
        variance=delong_variance(scores, labels),
    )


def delong_variance(scores: ArrayLike, labels: ArrayLike) -> float:
    """DeLong's variance of the mean single-draw AUC, as a share squared, over images: an image's placement (the share
    of the other class that it beats) is averaged over draws (DeLong, DeLong & Clarke-Pearson 1988). 0 for a class of
    one image. Raises CellError as `metrics.auc` does."""
    values = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    anomalous = np.asarray(labels) == -1
    ranking.auc(values, labels)  # for its checks
    ranks = ranking.rank(values)
    total = 0.0
    for own in (anomalous, ~anomalous):
        count = int(own.sum())
        if count > 1:
            placements = (ranks[:, own] - ranking.rank(values[:, own])).mean(axis=0) / int((~own).sum())
            total += float(placements.var(ddof=1)) / count
    return total


def summary(scores: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """What a record stores about one set of scores, (D, N) or (N,): the means over draws of auc, strict_auc, aupr and
    fpr95, the intervals low..high of auc and strict_low..strict_high, and sd, the deviation of auc over draws. Raises
    CellError on NaN."""
    estimate = mean_single_draw_interval(scores, labels)
    strict = strict_interval(scores, labels)
    return {
        "auc": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "sd": ranking.mean_single_draw_auc(scores, labels).sd,
        "strict_auc": strict.value,
        "strict_low": strict.low,
        "strict_high": strict.high,
        "aupr": float(ranking.average_precision(scores, labels).mean()),
        "fpr95": float(ranking.fpr_at_95_tpr(scores, labels).mean()),
    }


def paired_bootstrap(
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    labels: ArrayLike,
    *,
    seed: int,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Estimate:
    """Mean single-draw AUC of A minus that of B on the same images, with a percentile bootstrap interval.

    Images are resampled within their class, the same for A and B; the draws of A, (D, N), and of B, (E, N), are
    resampled each on their own, since two detectors share no noise. Where one side's AUC is 0 or 100 in every draw the
    bootstrap sees no variance in it; then the two score intervals are combined instead, as if independent (wider).

    Raises:
        CellError: NaN scores or a class without images.
    """
    first, second = np.atleast_2d(np.asarray(scores_a)), np.atleast_2d(np.asarray(scores_b))
    auc_a, auc_b = ranking.auc(first, labels), ranking.auc(second, labels)
    difference = float(auc_a.mean() - auc_b.mean())
    if any(bool((values == edge).all()) for values in (auc_a, auc_b) for edge in (0.0, 100.0)):
        return _difference_of_score_intervals(first, second, labels, confidence)
    anomalous = np.asarray(labels) == -1
    generator = np.random.default_rng(seed)
    of_anomalies, of_normals = (
        generator.multinomial(count, np.full(count, 1.0 / count), size=resamples) / count
        for count in (int(anomalous.sum()), int((~anomalous).sum()))
    )
    resampled_a, resampled_b = (
        _resampled(scores, anomalous, of_anomalies, of_normals, generator) for scores in (first, second)
    )
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(resampled_a - resampled_b, [tail, 100.0 - tail])
    return Estimate(difference, float(low), float(high))


def _resampled(
    scores: Floats, anomalous: Bools, anomaly_weights: Floats, normal_weights: Floats, generator: np.random.Generator
) -> Floats:
    """Mean single-draw AUC of each resample, (R,), for image weights (R, m) and (R, n)."""
    per_draw = np.empty((len(scores), len(anomaly_weights)))
    for index, row in enumerate(scores):
        above, normal = row[anomalous][:, None], row[~anomalous][None, :]
        wins = (above > normal) + 0.5 * (above == normal)  # (m, n)
        per_draw[index] = 100.0 * np.einsum("rn,rn->r", anomaly_weights @ wins, normal_weights)
    draws = len(scores)
    counts = generator.multinomial(draws, np.full(draws, 1.0 / draws), size=len(anomaly_weights))  # (R, D)
    return np.asarray(np.einsum("rd,dr->r", counts, per_draw) / draws)


def _difference_of_score_intervals(first: Floats, second: Floats, labels: ArrayLike, confidence: float) -> Estimate:
    a = mean_single_draw_interval(first, labels, confidence=confidence)
    b = mean_single_draw_interval(second, labels, confidence=confidence)
    difference = a.value - b.value
    low = difference - float(np.hypot(a.value - a.low, b.high - b.value))
    high = difference + float(np.hypot(a.high - a.value, b.value - b.low))
    return Estimate(difference, low, high)


def average_interval(estimates: Sequence[Estimate]) -> Estimate:
    """The mean over independent categories; the distances to the bounds are combined in quadrature, each side on its
    own (MOVER; Newcombe 1998, Zou & Donner 2008). Raises ValueError without estimates."""
    if not estimates:
        raise ValueError("An average needs at least one estimate.")
    count = len(estimates)
    mean = sum(e.value for e in estimates) / count
    low = mean - float(np.sqrt(sum((e.value - e.low) ** 2 for e in estimates))) / count
    high = mean + float(np.sqrt(sum((e.high - e.value) ** 2 for e in estimates))) / count
    return Estimate(mean, low, high)
