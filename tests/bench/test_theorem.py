"""Theorem E.1: closed forms, estimates against known divergences, and what is judged of a curve."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.errors import CellError
from bench.metrics import diffused, falling, kl_estimates
from bench.metrics.diffused import Gaussian, Marginals, ddpm, gaussian_fisher, gaussian_kl
from bench.metrics.falling import Curve, judge
from detectors.freerad.diffusion import Schedule, process
from detectors.noise import Noise, NoiseSeed

P, Q = diffused.example_pair(5)


def source(count: int, seed: int = 0) -> Noise:
    return NoiseSeed(seed).source("test", [str(i) for i in range(count)])


def curve(*rows: list[float]) -> Curve:
    return Curve("made up", np.arange(len(rows[0])), np.array(rows))


# -- closed forms -----------------------------------------------------------------------------------------------------


def test_the_marginals_are_freerads() -> None:
    made = ddpm()
    assert (made.timesteps[0], made.signal[0], made.noise[0], made.timesteps[-1]) == (0, 1, 0, 1000)
    np.testing.assert_allclose(made.signal[1:] ** 2, process(Schedule()).alpha_bar.numpy(), rtol=1e-14)
    np.testing.assert_allclose(ddpm((50, 100, 150, 200)).noise, (0.170, 0.321, 0.460, 0.584), atol=5e-4)
    for wrong in ((3, 2), (0, 1001), (-1, 5), ()):
        with pytest.raises(ValueError, match=r"0\.\.1000"):
            ddpm(wrong)


def test_the_divergence_of_gaussians_is_the_textbooks() -> None:
    difference = Q.mean - P.mean
    inverse = np.linalg.inv(Q.covariance)
    textbook = 0.5 * (
        np.trace(inverse @ P.covariance)
        - 5
        + difference @ inverse @ difference
        + np.linalg.slogdet(Q.covariance)[1]
        - np.linalg.slogdet(P.covariance)[1]
    )
    assert gaussian_kl(P, Q) == pytest.approx(float(textbook), rel=1e-12)
    assert gaussian_kl(P, P) == gaussian_fisher(P, P) == 0
    normal = torch.distributions.MultivariateNormal
    p, q = (normal(torch.from_numpy(g.mean), torch.from_numpy(g.covariance)) for g in (P, Q))
    assert gaussian_kl(P, Q) == pytest.approx(float(torch.distributions.kl_divergence(p, q)), rel=1e-12)


def test_the_fisher_divergence_is_the_mean_over_autograds_scores() -> None:
    normal = torch.distributions.MultivariateNormal
    p, q = (normal(torch.from_numpy(g.mean), torch.from_numpy(g.covariance)) for g in (P, Q))
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn((100_000, 5), generator=generator, dtype=torch.float64)
    x = (torch.from_numpy(P.mean) + drawn @ torch.linalg.cholesky(torch.from_numpy(P.covariance)).T).requires_grad_()
    (slope,) = torch.autograd.grad((p.log_prob(x) - q.log_prob(x)).sum(), x)
    squares = slope.square().sum(dim=1)
    error = float(squares.std()) / math.sqrt(len(squares))
    assert gaussian_fisher(P, Q) == pytest.approx(float(squares.mean()), abs=4 * error)


def test_the_proofs_identity_holds_at_every_timestep() -> None:
    assert diffused.identity_gap(P, Q, ddpm(range(1, 1001))).max() < 1e-5
    with pytest.raises(ValueError, match="from 1 on"):
        diffused.identity_gap(P, Q, ddpm((0, 1)))


def test_over_discrete_steps_the_divergence_falls_by_the_integral_of_the_identity() -> None:
    """KL_s - KL_t = 1/2 * integral of F over log(alpha_bar), by Simpson's rule: no limit of small steps is needed."""
    kept = np.linspace(math.log(ddpm((50,)).signal[0] ** 2), math.log(ddpm((60,)).signal[0] ** 2), 201)
    fisher = [
        gaussian_fisher(*(g.diffused(math.sqrt(math.exp(k)), math.sqrt(1 - math.exp(k))) for g in (P, Q))) for k in kept
    ]
    simpson = np.ones(201)
    simpson[1:-1:2], simpson[2:-1:2] = 4, 2
    integral = float(simpson @ fisher) * (kept[0] - kept[1]) / 3
    start, end = diffused.kl_over_time(P, Q, ddpm((50, 60)))
    assert start - end == pytest.approx(0.5 * integral, rel=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_of_any_two_gaussians_it_never_grows(seed: int) -> None:
    numbers = np.random.default_rng(seed)
    made = []
    for _ in range(2):
        root = numbers.standard_normal((4, 4))
        made.append(Gaussian(numbers.standard_normal(4), root @ root.T + 0.01 * np.eye(4)))
    process = ddpm(range(0, 1001, 10))
    found = judge(Curve("closed form", process.timesteps, diffused.kl_over_time(*made, process)[None]))
    assert (found.answer, found.growth, found.shown) == ("yes", None, 100)


# -- the judgement ----------------------------------------------------------------------------------------------------


def test_exact_values_are_compared_as_they_are_but_for_rounding() -> None:
    assert judge(curve([3.0, 2.0, 2.0, 1.0])).answer == "yes"
    assert judge(curve([3.0, 2.0, 2.0 + 1e-13, 1.0])).answer == "yes"
    grown = judge(curve([3.0, 2.0, 2.1, 1.0]))
    assert grown.answer == "no" and grown.growth == (1, 2, pytest.approx(0.1))
    assert judge(curve([0.0, 0.0])).answer == "yes"


def scattered(values: list[float], spread: float, rows: int = 20, *, common: float = 0.0, seed: int = 0) -> Curve:
    numbers = np.random.default_rng(seed)
    noise = spread * numbers.standard_normal((rows, len(values))) + common * numbers.standard_normal((rows, 1))
    return Curve("made up", np.arange(len(values)), np.array(values) + noise)


def test_estimates_are_judged_within_their_errors() -> None:
    assert judge(scattered([3.0, 2.0, 1.0], 0.1)).answer == "yes"
    flat = judge(scattered([3.0, 2.0, 2.0, 1.0], 0.1))
    assert (flat.answer, flat.shown, flat.steps) == ("undecided", 2, 3)
    found = judge(scattered([3.0, 2.0, 2.5, 1.0], 0.1))
    assert found.answer == "no" and found.growth is not None and found.growth[:2] == (1, 2)


def test_noise_that_all_timesteps_share_hides_nothing() -> None:
    found = scattered([3.0, 2.9, 2.8], 0.01, common=2.0)
    assert found.error.min() > 0.3 and judge(found).answer == "yes"


def test_a_slow_growth_is_seen_between_timesteps_that_are_far_apart() -> None:
    found = judge(scattered(np.linspace(1.0, 1.2, 13).tolist(), 0.08))
    assert found.answer == "no" and found.growth is not None
    assert found.growth[1] - found.growth[0] > 4, "a single step of 0.017 with an error of 0.025 shows nothing"


def test_a_curve_that_stays_level_is_seldom_called_a_growth() -> None:
    answers = [judge(scattered([1.0] * 6, 0.1, rows=8, seed=seed)).answer for seed in range(200)]
    assert answers.count("no") <= 20 and "yes" not in answers  # 5 % is the level; 20 of 200 has a chance of 0.003


def test_a_curve_that_is_none_is_refused() -> None:
    for wrong in (np.array([[1.0, math.nan]]), np.ones((1, 1)), np.ones((0, 2)), np.ones(2)):
        with pytest.raises(ValueError, match=r"(replicates|finite)"):
            Curve("", np.arange(2), wrong)
    with pytest.raises(ValueError, match="two timesteps"):
        judge(curve([1.0]))


# -- estimates --------------------------------------------------------------------------------------------------------


def test_one_image_and_its_copy_are_two_gaussians() -> None:
    """The mean over mirrored draws is then exact: what remains of the log-ratio is linear in the noise."""
    p = torch.tensor([[0.3, -0.2, 0.1]], dtype=torch.float64)
    q = p + 0.05
    steps = ddpm((1, 100, 300))
    exact = 0.5 * (steps.signal / steps.noise) ** 2 * 3 * 0.05**2
    found = kl_estimates.mixture_kl(p, q, steps, source(1), 4)
    np.testing.assert_allclose(found, np.broadcast_to(exact, (4, 3)), rtol=1e-9)


@pytest.mark.parametrize("apart", [0.02, 0.4, 1.5])
def test_the_divergence_of_mixtures_agrees_with_numerical_integration(apart: float) -> None:
    """In one dimension; 0.02 is close enough for the control variate, 1.5 is not."""
    p = torch.tensor([[-0.5], [0.1], [0.6]], dtype=torch.float64)
    q = p + apart * torch.tensor([[1.0], [-0.5], [0.8]], dtype=torch.float64)
    steps = ddpm((100, 300))
    found = Curve("", steps.timesteps, kl_estimates.mixture_kl(p, q, steps, source(3), 400))
    grid = np.linspace(-6, 6, 20_001)
    for i, (signal, noise) in enumerate(zip(steps.signal, steps.noise, strict=True)):
        log_p, log_q = (
            torch.distributions.Normal(signal * points.flatten(), torch.tensor(noise))
            .log_prob(torch.from_numpy(grid)[:, None])
            .logsumexp(dim=1)
            .numpy()
            - math.log(3)
            for points in (p, q)
        )
        exact = float((np.exp(log_p) * (log_p - log_q)).sum() * (grid[1] - grid[0]))
        assert found.kl[i] == pytest.approx(exact, abs=4.5 * found.error[i] + 1e-9)
        assert found.error[i] < 0.06 * exact


def images(count: int = 12, side: int = 8, epsilon: float = 0.03, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    clean = 0.5 + 0.02 * torch.randn((count, 3, side, side), generator=generator)
    signs = torch.randn(clean.shape, generator=generator).sign()
    return clean, clean + epsilon * (0.5 * signs + 0.5)  # towards brighter pixels, so that the means differ, too


def test_the_images_coordinates_keep_all_distances() -> None:
    """Wherever two points lie in the span, the noise beside it is the same for both: no divergence is lost."""
    clean, attacked = images()
    p, q = kl_estimates._coordinates(clean, attacked)
    assert p.shape == q.shape == (12, 24)
    for a, b, first, second in ((p, p, clean, clean), (p, q, clean, attacked), (q, q, attacked, attacked)):
        pixels = torch.cdist(*(2 * x.double().flatten(1) for x in (first, second)))
        torch.testing.assert_close(torch.cdist(a, b), pixels, rtol=1e-9, atol=1e-6)


def test_it_falls_on_images_and_the_bound_of_the_pairs_holds() -> None:
    clean, attacked = images()
    found = kl_estimates.kl_estimates(clean, attacked, source(12))
    for one in (found.full, found.projected):
        assert judge(one).answer == "yes"
    assert judge(found.two_sample).answer != "no"
    assert (found.full.kl <= found.bound * (1 + 1e-9) + 4 * found.full.error).all()
    assert found.bound[0] == pytest.approx(found.full.kl[0], rel=1e-6), "at t = 1 no two images are alike"
    assert found.bound[-1] > 1.2 * found.full.kl[-1], "at t = T they all are"
    assert (found.projected.kl <= found.full.kl + 4 * found.full.error).all(), "a projection only loses"
    assert 0 < found.share < 1 and (found.images, found.values, found.dimensions) == (12, 192, 4)


def test_the_draws_are_the_images_own() -> None:
    clean, attacked = images()
    one, two, other = (
        kl_estimates.kl_estimates(clean, attacked, source(12, seed), timesteps=(10, 100), repeats=2)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one.two_sample.replicates, two.two_sample.replicates)
    np.testing.assert_array_equal(one.full.replicates, two.full.replicates)
    assert (one.two_sample.replicates != other.two_sample.replicates).any()


def test_a_process_that_is_no_diffusion_is_judged_no() -> None:
    """Its signal comes back: from t = 2 to 3 the noise is taken away again, which no Markov chain can do."""
    clean, attacked = images()
    planted = Marginals(np.array([1, 2, 3]), np.array([0.9, 0.5, 0.9]), np.array([0.4, 0.8, 0.4]))
    found = kl_estimates.kl_estimates(clean, attacked, source(12), marginals=planted)
    for one in found.curves:
        judged = judge(one)
        assert judged.answer == "no", one.name
        assert judged.growth is not None and judged.growth[:2] == (2, 3)
    exact = Curve("closed form", planted.timesteps, diffused.kl_over_time(P, Q, planted)[None])
    assert judge(exact).answer == "no"


@pytest.mark.parametrize(
    ("dimensions", "shift", "bias"), [(1, 0.0, 0.0), (1, 1.0, 0.05), (2, 1.0, 0.1), (4, 1.0, 0.15), (4, 2.0, 0.25)]
)
def test_nearest_neighbours_find_the_divergence_of_known_gaussians(dimensions: int, shift: float, bias: float) -> None:
    """KL = |shift|^2 / 2: within four standard errors over repeats, and a bias that grows with it and the dimension."""
    numbers = np.random.default_rng(0)
    found = []
    for _ in range(6):
        x, y = numbers.standard_normal((2, 2000, dimensions))
        y[:, 0] += shift
        found.append(kl_estimates.nearest_neighbour_kl(x, y))
    error = np.std(found, ddof=1) / math.sqrt(len(found))
    assert np.mean(found) == pytest.approx(shift**2 / 2, abs=4 * error + bias * shift**2 / 2)


def test_nearest_neighbours_see_too_little_where_distributions_hardly_overlap() -> None:
    x, y = np.random.default_rng(0).standard_normal((2, 2000, 2))
    assert kl_estimates.nearest_neighbour_kl(x, y + 10) < 0.5 * 100


def test_pictures_that_cannot_be_compared_are_a_sentence() -> None:
    clean, attacked = images(4)
    broken = attacked.clone()
    broken[0, 0, 0, 0] = math.nan
    for pair, words in (
        ((clean, attacked[:3]), "each with its attacked copy"),
        ((clean[:1], attacked[:1]), "two clean images or more"),
        ((clean, broken), "not finite"),
        ((clean, clean), "changed no image"),
    ):
        with pytest.raises(CellError, match=words):
            kl_estimates.kl_estimates(*pair, source(len(pair[0])))
    with pytest.raises(ValueError, match="2 draws"):
        kl_estimates.mixture_kl(torch.zeros(1, 1), torch.ones(1, 1), ddpm((1,)), source(1), 1)
    assert dataclasses.is_dataclass(falling.Judgement)
