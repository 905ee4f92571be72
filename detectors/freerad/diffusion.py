"""Gaussian diffusion: the forward process, the posterior, the hybrid objective.

Ho et al. 2020 (DDPM) and Nichol & Dhariwal 2021 (learned variance), as the paper uses them (Algorithms 1 to 3,
appendices A to C). Timesteps are numbered 1..T: step t uses `alpha_bar[t - 1]` of the 0-based array. Images live on
[-1, 1] here. Subsequences of the timesteps get their own betas (Nichol & Dhariwal, section 4).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

Denoiser = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Schedule:
    """The linear schedule of betas.

    Attributes:
        steps: T.
        beta_first: beta_1.
        beta_last: beta_T.
    """

    steps: int = 1000
    beta_first: float = 1e-4
    beta_last: float = 0.02

    def alpha_bars(self) -> Tensor:
        """alpha_bar_1 .. alpha_bar_T, float64 (T,)."""
        betas = torch.linspace(self.beta_first, self.beta_last, self.steps, dtype=torch.float64)
        return torch.cumprod(1 - betas, dim=0)


@dataclass(frozen=True)
class Process:
    """The diffusion restricted to some of its timesteps, S_1 < ... < S_m; index i stands for the timestep S_{i+1}.

    Every quantity is a float64 tensor of length m, made on the CPU.

    Attributes:
        timesteps: S, int64: what the network is told.
        alpha_bar: alpha_bar at S_i.
        alpha_bar_previous: alpha_bar at S_{i-1}, 1 before the first.
        beta: the subsequence's own beta, 1 - alpha_bar / alpha_bar_previous.
        log_beta_tilde: log of the posterior variance; the first, whose variance is 0, is set to the second.
        mean_x0, mean_xt: coefficients of the posterior mean, mean_x0 * x0 + mean_xt * x_t.
    """

    timesteps: Tensor
    alpha_bar: Tensor
    alpha_bar_previous: Tensor
    beta: Tensor
    log_beta_tilde: Tensor
    mean_x0: Tensor
    mean_xt: Tensor

    def __len__(self) -> int:
        return len(self.timesteps)

    def to(self, device: torch.device) -> Process:
        """On the device, where many steps look things up: each copy from the CPU would wait for the GPU to be idle."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def process(schedule: Schedule, timesteps: Sequence[int] | None = None) -> Process:
    """The whole process (timesteps None) or the one over a subsequence, ascending, each in 1..T.

    Raises:
        ValueError: the subsequence is empty, not ascending, or leaves 1..T.
    """
    chosen = list(range(1, schedule.steps + 1)) if timesteps is None else list(timesteps)
    if not chosen or chosen != sorted(set(chosen)) or chosen[0] < 1 or chosen[-1] > schedule.steps:
        raise ValueError(f"Timesteps must ascend within 1..{schedule.steps}; got {chosen[:5]}...")
    index = torch.tensor(chosen)
    alpha_bar = schedule.alpha_bars()[index - 1]
    previous = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
    alpha = alpha_bar / previous
    beta = 1 - alpha
    beta_tilde = beta * (1 - previous) / (1 - alpha_bar)
    # beta_tilde of the first step is 0; its logarithm is borrowed from the second (as Nichol & Dhariwal do).
    log_beta_tilde = torch.log(torch.cat([beta_tilde[1:2], beta_tilde[1:]]) if len(chosen) > 1 else beta)
    return Process(
        timesteps=index,
        alpha_bar=alpha_bar,
        alpha_bar_previous=previous,
        beta=beta,
        log_beta_tilde=log_beta_tilde,
        mean_x0=previous.sqrt() * beta / (1 - alpha_bar),
        mean_xt=alpha.sqrt() * (1 - previous) / (1 - alpha_bar),
    )


def matched_timestep(schedule: Schedule, noise: float) -> int:
    """The timestep t whose noise stands to its signal, sqrt(1 - alpha_bar_t) / sqrt(alpha_bar_t), most nearly as the
    noise of an image on [-1, 1] with this standard deviation does.

    Raises:
        ValueError: the noise is less than half of that of the first timestep, or more than that of the last.
    """
    bars = schedule.alpha_bars()
    ratios = ((1 - bars) / bars).sqrt()
    least, most = float(ratios[0]) / 2, float(ratios[-1])
    if not least <= noise <= most:
        raise ValueError(f"No timestep has a noise of {noise:.3g} on [-1, 1]; set one from {least:.2g} to {most:.3g}.")
    return int((ratios - noise).abs().argmin()) + 1


def shots(k: int, count: int) -> list[int]:
    """A subsequence of 1..k with `count` steps, evenly spaced and ending at k (Algorithm 3): S_1 < ... < S_m = k."""
    if not 1 <= count <= k:
        raise ValueError(f"Denoising from k = {k} takes 1 to {k} steps, not {count}.")
    return sorted({max(1, round(k * (i + 1) / count)) for i in range(count)})


def at(values: Tensor, index: Tensor, like: Tensor) -> Tensor:
    """values[index] with the device and dtype of `like`, shaped (B, 1, 1, 1)."""
    return values.to(like.device)[index.to(like.device)].to(like.dtype)[:, None, None, None]


def diffuse(x0: Tensor, noise: Tensor, alpha_bar: Tensor | float) -> Tensor:
    """x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) noise (Eq. 4.2)."""
    kept = torch.as_tensor(alpha_bar, dtype=x0.dtype, device=x0.device)
    return kept.sqrt() * x0 + (1 - kept).sqrt() * noise


def predict_x0(xt: Tensor, noise: Tensor, alpha_bar: Tensor | float) -> Tensor:
    """The image that this noise was added to (Algorithm 2, line 3). Not clamped: a clamp would cut gradients."""
    kept = torch.as_tensor(alpha_bar, dtype=xt.dtype, device=xt.device)
    return (xt - (1 - kept).sqrt() * noise) / kept.sqrt()


def log_variance(raw: Tensor, index: Tensor, process: Process) -> Tensor:
    """log Sigma = v log beta + (1 - v) log beta_tilde with v = (raw + 1) / 2 (Nichol & Dhariwal, Eq. 15)."""
    v = (raw + 1) / 2
    return v * at(process.beta.log(), index, raw) + (1 - v) * at(process.log_beta_tilde, index, raw)


def posterior_mean(x0: Tensor, xt: Tensor, index: Tensor, process: Process) -> Tensor:
    """Mean of q(x_{t-1} | x_t, x0)."""
    return at(process.mean_x0, index, xt) * x0 + at(process.mean_xt, index, xt) * xt


def gaussian_kl(mean_a: Tensor, log_var_a: Tensor, mean_b: Tensor, log_var_b: Tensor) -> Tensor:
    """KL(a || b) of two diagonal Gaussians, per element, in nats."""
    distance = (mean_a - mean_b).square() * torch.exp(-log_var_b)
    return 0.5 * (log_var_b - log_var_a - 1 + torch.exp(log_var_a - log_var_b) + distance)


def discretised_log_likelihood(x0: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """log P of 8-bit pixels on [-1, 1], a Gaussian integrated over each pixel's bin, in nats (Ho et al., Eq. 13)."""
    inverse = torch.exp(-0.5 * log_var)
    upper = _normal_cdf((x0 - mean + 1 / 255) * inverse)
    lower = _normal_cdf((x0 - mean - 1 / 255) * inverse)
    tiny = 1e-12
    inner = torch.log((upper - lower).clamp(min=tiny))
    darkest = torch.log(upper.clamp(min=tiny))
    brightest = torch.log((1 - lower).clamp(min=tiny))
    return torch.where(x0 < -0.999, darkest, torch.where(x0 > 0.999, brightest, inner))


def _normal_cdf(z: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(z / math.sqrt(2)))


def hybrid_loss(
    denoiser: Denoiser, x0: Tensor, index: Tensor, noise: Tensor, process: Process, vb_weight: float
) -> tuple[Tensor, Tensor]:
    """L_simple and the weighted L_vb of Nichol & Dhariwal (Eq. 16), each per image (B,).

    L_simple is the mean squared error of the noise. L_vb is a sum over T terms, so the term of one sampled t stands for
    T * L_t: with the paper's 0.001 and T = 1000 it gets weight 1 (`vb_weight` * T). L_t is in bits per dimension, the
    mean inside it carries no gradient, and t = 1 uses the discretised likelihood.

    Args:
        denoiser: maps (x_t, timesteps) to (noise, raw variance).
        x0: images on [-1, 1], (B, 3, H, W).
        index: 0-based indices into the process, (B,).
        noise: standard normal, like x0.
    """
    xt = diffuse(x0, noise, at(process.alpha_bar, index, x0))
    predicted, raw = denoiser(xt, process.timesteps.to(x0.device)[index.to(x0.device)])
    simple = (predicted - noise).square().flatten(1).mean(dim=1)

    x0_hat = predict_x0(xt, predicted.detach(), at(process.alpha_bar, index, x0))
    mean_hat = posterior_mean(x0_hat, xt, index, process)
    log_var_hat = log_variance(raw, index, process)
    kl = gaussian_kl(
        posterior_mean(x0, xt, index, process), at(process.log_beta_tilde, index, x0), mean_hat, log_var_hat
    )
    nll = -discretised_log_likelihood(x0, mean_hat, log_var_hat)
    first = (index.to(x0.device) == 0)[:, None, None, None]
    bits = torch.where(first, nll, kl).flatten(1).mean(dim=1) / math.log(2)
    return simple, vb_weight * len(process) * bits
