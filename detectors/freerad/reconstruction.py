"""FreeRAD's reconstruction: diffuse to timestep k, walk back (Algorithms 1 to 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from detectors.freerad.diffusion import Denoiser, Process, at, diffuse, log_variance, posterior_mean, predict_x0
from detectors.noise import Noise


def denoise(denoiser: Denoiser, x: Tensor, chain: Process, k: int, noise: Noise) -> Tensor:
    """Diffuse x (on [-1, 1]) to timestep k and walk back along the chain; the last x0 is the reconstruction.

    A chain of 1..T is walked from k down (Algorithm 1); a subsequence that ends at k from its end (Algorithm 3); the
    single timestep k is one shot (Algorithm 2). The denoiser gets one timestep, (1,), for all images.
    """
    start = _place(chain, k)
    xt = diffuse(x, noise.normal(x.shape[1:], stream="diffuse", like=x), float(chain.alpha_bar[start]))
    for i in range(start, -1, -1):
        index = torch.tensor([i], device=x.device)
        # On a CPU the convolutions take a fifth less time when channels lie together in memory.
        xt = xt.contiguous(memory_format=torch.channels_last)
        predicted, raw = denoiser(xt, chain.timesteps.to(x.device)[index])
        x0 = predict_x0(xt, predicted, at(chain.alpha_bar, index, x))
        if i > 0:
            z = noise.normal(x.shape[1:], stream=f"step-{i}", like=x)
            spread = torch.exp(0.5 * log_variance(raw, index, chain))
            xt = posterior_mean(x0, xt, index, chain) + spread * z
    return x0


def denoise_given(denoiser: Denoiser, x: Tensor, chain: Process, k: int) -> Tensor:
    """One shot from timestep k of an image on [-1, 1] that carries as much noise as its signal has there
    (`diffusion.matched_timestep`): scaled by sqrt(alpha_bar_k) it is an x_k. Nothing is drawn."""
    index = torch.tensor([_place(chain, k)], device=x.device)
    kept = at(chain.alpha_bar, index, x)
    xt = (kept.sqrt() * x).contiguous(memory_format=torch.channels_last)
    predicted, _ = denoiser(xt, chain.timesteps.to(x.device)[index])
    return predict_x0(xt, predicted, kept)


def _place(chain: Process, k: int) -> int:
    place = int(torch.searchsorted(chain.timesteps, k))
    if place == len(chain) or int(chain.timesteps[place]) != k:
        raise ValueError(f"The chain has no timestep {k} to start from.")
    return place
