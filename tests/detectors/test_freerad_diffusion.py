"""The diffusion process against its closed forms and Bayes' rule."""

from __future__ import annotations

import math

import pytest
import torch
from freerad_small import alpha_bar_by_hand, normal_like, random_images

from detectors.freerad.diffusion import (
    Process,
    Schedule,
    at,
    diffuse,
    log_variance,
    posterior_mean,
    predict_x0,
    process,
    shots,
)

WHOLE = process(Schedule())
SUBSEQUENCES = ([1, 2], [7], [5, 6, 100], [20, 40, 60, 80, 100], [1, 999, 1000], list(range(1, 51)))


def test_betas_rise_from_1e_4_to_2e_2() -> None:
    assert len(WHOLE) == 1000
    assert WHOLE.beta[0].item() == pytest.approx(1e-4, rel=1e-9)
    assert WHOLE.beta[-1].item() == pytest.approx(0.02, rel=1e-9)
    assert bool((WHOLE.beta.diff() > 0).all())


@pytest.mark.parametrize(("k", "published"), [(50, 0.170), (100, 0.321), (150, 0.460), (200, 0.584)])
def test_noise_level_at_k_is_the_papers(k: int, published: float) -> None:
    spread = math.sqrt(1 - WHOLE.alpha_bar[k - 1].item())
    assert round(spread, 3) == published
    # One step off would show: neighbours differ by more than the third digit's half.
    assert abs(math.sqrt(1 - WHOLE.alpha_bar[k].item()) - published) > 0.0015
    assert abs(math.sqrt(1 - WHOLE.alpha_bar[k - 2].item()) - published) > 0.0015


@pytest.mark.parametrize("timestep", [1, 2, 50, 500, 1000])
def test_alpha_bar_is_the_product_over_timesteps_1_to_t(timestep: int) -> None:
    assert WHOLE.alpha_bar[timestep - 1].item() == pytest.approx(alpha_bar_by_hand(timestep), rel=1e-12)
    assert WHOLE.timesteps[timestep - 1].item() == timestep


@pytest.mark.parametrize("chosen", [list(range(1, 1001)), *SUBSEQUENCES])
def test_posterior_is_the_product_of_its_two_gaussians(chosen: list[int]) -> None:
    """q(x_s | x_t, x0) ~ q(x_s | x0) q(x_t | x_s), for neighbours s < t of the chain: precisions add."""
    found = process(Schedule(), chosen)
    x0, xt = random_images(1, 2), random_images(1, 2, seed=1) * 3
    pairs = range(1, len(chosen)) if len(chosen) < 100 else (1, 2, 49, 500, 999)
    for i in pairs:
        s, t = alpha_bar_by_hand(chosen[i - 1]), alpha_bar_by_hand(chosen[i])
        alpha = t / s  # x_t = sqrt(alpha) x_s + sqrt(1 - alpha) z
        precision = 1 / (1 - s) + alpha / (1 - alpha)
        mean = (math.sqrt(s) * x0 / (1 - s) + math.sqrt(alpha) * xt / (1 - alpha)) / precision
        index = torch.tensor([i])
        torch.testing.assert_close(posterior_mean(x0, xt, index, found), mean, rtol=1e-8, atol=1e-8)
        assert found.log_beta_tilde[i].item() == pytest.approx(-math.log(precision), rel=1e-7)


def test_first_posterior_is_x0_itself() -> None:
    x0, xt = random_images(1, 2), random_images(1, 2, seed=1)
    for chosen in (None, *SUBSEQUENCES):
        found = process(Schedule(), chosen)
        torch.testing.assert_close(posterior_mean(x0, xt, torch.tensor([0]), found), x0, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chosen", SUBSEQUENCES)
def test_a_subsequence_gets_its_own_betas(chosen: list[int]) -> None:
    found = process(Schedule(), chosen)
    before = [1.0, *(alpha_bar_by_hand(t) for t in chosen[:-1])]
    for i, t in enumerate(chosen):
        assert found.beta[i].item() == pytest.approx(1 - alpha_bar_by_hand(t) / before[i], rel=1e-9)
        assert found.alpha_bar[i].item() == WHOLE.alpha_bar[t - 1].item()
    # The betas of a chain carry the signal to the same alpha_bar as those of the whole process.
    assert torch.prod(1 - found.beta).item() == pytest.approx(alpha_bar_by_hand(chosen[-1]), rel=1e-9)


def test_log_beta_tilde_of_the_first_step_is_that_of_the_second() -> None:
    assert WHOLE.log_beta_tilde[0] == WHOLE.log_beta_tilde[1]
    assert bool(WHOLE.log_beta_tilde.isfinite().all())
    for chosen in SUBSEQUENCES:
        found = process(Schedule(), chosen)
        assert bool(found.log_beta_tilde.isfinite().all())
        if len(chosen) > 1:
            assert found.log_beta_tilde[0] == found.log_beta_tilde[1]


def test_the_chain_1_to_k_has_the_bits_of_the_whole_process() -> None:
    part = process(Schedule(), range(1, 101))
    for name in Process.__dataclass_fields__:
        assert torch.equal(getattr(part, name), getattr(WHOLE, name)[:100]), name


@pytest.mark.parametrize("chosen", [[], [2, 1], [3, 3], [0, 1], [1001]])
def test_timesteps_that_are_no_chain_are_refused(chosen: list[int]) -> None:
    with pytest.raises(ValueError, match="ascend within"):
        process(Schedule(), chosen)


def test_shots_end_at_k_ascend_and_are_as_many_as_asked() -> None:
    for k in (*range(1, 41), 50, 100, 200, 300):
        for count in range(1, k + 1):
            chosen = shots(k, count)
            assert len(chosen) == count and chosen[-1] == k and chosen[0] >= 1
            steps = [b - a for a, b in zip([0, *chosen], chosen, strict=False)]
            assert min(steps) >= 1 and max(steps) - min(steps) <= 2, "the steps are not even"
        assert shots(k, k) == list(range(1, k + 1)) and shots(k, 1) == [k]
    for count in (0, -1, 11):
        with pytest.raises(ValueError, match="takes 1 to 10 steps"):
            shots(10, count)


@pytest.mark.parametrize("k", [1, 100, 1000])
def test_diffused_images_have_the_mean_and_spread_of_q(k: int) -> None:
    x0 = torch.full((1, 3, 200, 200), 0.7, dtype=torch.float64)
    xt = diffuse(x0, normal_like(x0, seed=1), WHOLE.alpha_bar[k - 1])
    spread = math.sqrt(1 - alpha_bar_by_hand(k))
    standard_error = spread / math.sqrt(x0.numel())
    assert abs(xt.mean().item() - math.sqrt(alpha_bar_by_hand(k)) * 0.7) < 4 * standard_error
    assert xt.std().item() == pytest.approx(spread, rel=0.01)


def test_predict_x0_undoes_diffuse_given_the_true_noise() -> None:
    x0 = random_images(2, 4)
    noise = normal_like(x0, seed=2)
    for alpha_bar in WHOLE.alpha_bar[[0, 1, 49, 99, 299, 999]]:
        back = predict_x0(diffuse(x0, noise, alpha_bar), noise, alpha_bar)
        torch.testing.assert_close(back, x0, rtol=1e-12, atol=1e-12)


def test_predict_x0_is_not_clamped() -> None:
    xt = torch.full((1, 3, 1, 1), 5.0, dtype=torch.float64)
    assert predict_x0(xt, torch.zeros_like(xt), 1.0).max() == 5.0


def test_learned_variance_lies_between_beta_tilde_and_beta() -> None:
    for chosen in (None, [20, 40, 60, 80, 100]):
        found = process(Schedule(), chosen)
        index = torch.arange(len(found))
        like = torch.zeros(len(found), 1, 1, 1, dtype=torch.float64)
        low, high = at(found.log_beta_tilde, index, like), at(found.beta.log(), index, like)
        torch.testing.assert_close(log_variance(like - 1, index, found), low)  # raw -1 is v = 0
        torch.testing.assert_close(log_variance(like + 1, index, found), high)  # raw 1 is v = 1
        torch.testing.assert_close(log_variance(like, index, found), (low + high) / 2)
        assert bool((low[1:] <= high[1:]).all())
