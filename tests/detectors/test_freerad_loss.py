"""The hybrid objective against torch.distributions, scipy and its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from freerad_small import alpha_bar_by_hand, normal_like, random_images
from scipy.stats import norm
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from detectors.freerad.diffusion import (
    Schedule,
    discretised_log_likelihood,
    gaussian_kl,
    hybrid_loss,
    log_variance,
    process,
)

WHOLE = process(Schedule())


class TwoHeads(nn.Module):
    """A denoiser with one parameter per head, so that gradients can be told apart."""

    def __init__(self) -> None:
        super().__init__()
        self.noise_head = nn.Parameter(torch.tensor(0.8, dtype=torch.float64))
        self.variance_head = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        self.told: list[int] = []

    def forward(self, x: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        self.told += timesteps.tolist()
        return self.noise_head * x, self.variance_head * torch.tanh(x)


def _setting(index: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    x0 = (random_images(len(index), 4) * 127.5).round() / 127.5  # on the grid of 8-bit pixels, nearly
    return x0, torch.tensor(index), normal_like(x0, seed=3)


def test_kl_of_gaussians_is_that_of_torch_distributions() -> None:
    a, b, log_var_a, log_var_b = (normal_like(torch.zeros(50, dtype=torch.float64), seed=s) for s in range(4))
    expected = kl_divergence(Normal(a, (log_var_a / 2).exp()), Normal(b, (log_var_b / 2).exp()))
    torch.testing.assert_close(gaussian_kl(a, log_var_a, b, log_var_b), expected)
    torch.testing.assert_close(gaussian_kl(a, log_var_a, a, log_var_a), torch.zeros_like(a))


@pytest.mark.parametrize("mean", [-1.3, -1.0, -0.2, 0.999, 1.5])
@pytest.mark.parametrize("spread", [0.002, 0.01, 0.5])
def test_the_256_bins_of_the_likelihood_sum_to_one(mean: float, spread: float) -> None:
    pixels = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    log_var = torch.full_like(pixels, 2 * math.log(spread))
    found = discretised_log_likelihood(pixels, torch.full_like(pixels, mean), log_var).exp()
    assert found.sum().item() == pytest.approx(1.0, abs=1e-9)
    edges = np.concatenate([[-np.inf], (np.arange(255) + 0.5) / 127.5 - 1, [np.inf]])
    np.testing.assert_allclose(found.numpy(), np.diff(norm.cdf(edges, mean, spread)), atol=2e-12)


def test_l_simple_is_the_mean_squared_error_of_the_noise() -> None:
    x0, index, noise = _setting([0, 10, 999])
    heads = TwoHeads()
    simple, _ = hybrid_loss(heads, x0, index, noise, WHOLE, 0.001)
    assert simple.shape == (3,)
    for i, timestep in enumerate([1, 11, 1000]):
        kept = alpha_bar_by_hand(timestep)
        xt = math.sqrt(kept) * x0[i] + math.sqrt(1 - kept) * noise[i]
        assert simple[i].item() == pytest.approx((0.8 * xt - noise[i]).square().mean().item(), rel=1e-9)
    assert heads.told == [1, 11, 1000], "the network must be told timesteps that count from 1"


@pytest.mark.parametrize("timestep", [2, 50, 1000])
def test_l_vb_is_the_kl_in_bits_with_weight_one(timestep: int) -> None:
    """0.001 * T * KL(q(x_{t-1} | x_t, x0) || p) / ln 2, the mean over dimensions."""
    x0, index, noise = _setting([timestep - 1])
    _, variational = hybrid_loss(TwoHeads(), x0, index, noise, WHOLE, 0.001)
    kept, before = alpha_bar_by_hand(timestep), alpha_bar_by_hand(timestep - 1)
    alpha = kept / before
    xt = math.sqrt(kept) * x0 + math.sqrt(1 - kept) * noise
    guess = (xt - math.sqrt(1 - kept) * 0.8 * xt) / math.sqrt(kept)
    tilde = (1 - before) / (1 - kept) * (1 - alpha)

    def mean(of: Tensor) -> Tensor:
        return math.sqrt(before) * (1 - alpha) / (1 - kept) * of + math.sqrt(alpha) * (1 - before) / (1 - kept) * xt

    v = (0.3 * torch.tanh(xt) + 1) / 2
    variance = (1 - alpha) ** v * tilde ** (1 - v)
    expected = kl_divergence(Normal(mean(x0), math.sqrt(tilde)), Normal(mean(guess), variance.sqrt()))
    assert variational.item() == pytest.approx(expected.mean().item() / math.log(2), rel=1e-6)


def test_the_first_timestep_uses_the_discretised_likelihood() -> None:
    x0, index, noise = _setting([0])
    _, variational = hybrid_loss(TwoHeads(), x0, index, noise, WHOLE, 0.001)
    kept = alpha_bar_by_hand(1)
    xt = math.sqrt(kept) * x0 + math.sqrt(1 - kept) * noise
    mean = (xt - math.sqrt(1 - kept) * 0.8 * xt) / math.sqrt(kept)  # of q(x_0 | x_1, x0_hat): x0_hat itself
    log_var = log_variance(0.3 * torch.tanh(xt), index, WHOLE)
    inside = norm.cdf(x0 + 1 / 255, mean, (log_var / 2).exp()) - norm.cdf(x0 - 1 / 255, mean, (log_var / 2).exp())
    assert bool((x0.abs() < 0.999).all())
    assert variational.item() == pytest.approx(-np.log2(np.maximum(inside, 1e-12)).mean(), rel=1e-6)


@pytest.mark.parametrize("index", [[0], [1], [500], [999], [0, 500]])
def test_l_vb_reaches_the_variance_head_only(index: list[int]) -> None:
    heads = TwoHeads()
    simple, variational = hybrid_loss(heads, *_setting(index), WHOLE, 0.001)
    to_noise, to_variance = torch.autograd.grad(
        variational.sum(), [heads.noise_head, heads.variance_head], allow_unused=True
    )
    assert to_noise is None or to_noise.item() == 0.0, "the mean inside L_vb is not stopped"
    assert to_variance is not None and to_variance.item() != 0.0
    to_noise, to_variance = torch.autograd.grad(
        simple.sum(), [heads.noise_head, heads.variance_head], allow_unused=True
    )
    assert to_noise is not None and to_noise.item() != 0.0
    assert to_variance is None or to_variance.item() == 0.0


def test_each_image_has_its_own_loss() -> None:
    x0, index, noise = _setting([0, 10, 999])
    together = hybrid_loss(TwoHeads(), x0, index, noise, WHOLE, 0.001)
    for i in range(3):
        alone = hybrid_loss(TwoHeads(), x0[i : i + 1], index[i : i + 1], noise[i : i + 1], WHOLE, 0.001)
        for whole, one in zip(together, alone, strict=True):
            torch.testing.assert_close(whole[i : i + 1], one)


def test_float32_gives_a_finite_gradient_at_every_timestep() -> None:
    heads = TwoHeads().float()
    index = torch.arange(0, 1000, 37)
    x0 = random_images(len(index), 4).float()
    simple, variational = hybrid_loss(heads, x0, index, normal_like(x0, seed=3), WHOLE, 0.001)
    (simple + variational).sum().backward()
    assert bool(torch.isfinite(torch.stack([p.grad for p in heads.parameters()])).all())
