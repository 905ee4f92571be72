"""FreeRAD's reconstruction: diffuse to timestep k, walk back (Algorithms 1 to 3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from detectors.freerad.diffusion import Denoiser, Process, at, diffuse, log_variance, posterior_mean, predict_x0
from detectors.freerad.frozen_unet import FrozenUNet
from detectors.noise import Noise

_MOST = 64  # images that a frozen U-Net gets at a time: more are hardly faster


def denoise(denoiser: Denoiser, x: Tensor, chain: Process, k: int, noise: Noise) -> Tensor:
    """Diffuse x (on [-1, 1]) to timestep k and walk back along the chain; the last x0 is the reconstruction.

    A chain of 1..T is walked from k down (Algorithm 1); a subsequence that ends at k from its end (Algorithm 3); the
    single timestep k is one shot (Algorithm 2). The denoiser gets one timestep, (1,), for all images.
    """
    start = int(torch.searchsorted(chain.timesteps, k))
    if start == len(chain) or int(chain.timesteps[start]) != k:
        raise ValueError(f"The chain has no timestep {k} to start from.")
    xt = diffuse(x, noise.normal(x.shape[1:], stream="diffuse", like=x), float(chain.alpha_bar[start]))
    for i in range(start, -1, -1):
        index = torch.tensor([i], device=x.device)
        predicted, raw = steady(denoiser, xt, chain.timesteps.to(x.device)[index])
        x0 = predict_x0(xt, predicted, at(chain.alpha_bar, index, x))
        if i > 0:
            z = noise.normal(x.shape[1:], stream=f"step-{i}", like=x)
            spread = torch.exp(0.5 * log_variance(raw, index, chain))
            xt = posterior_mean(x0, xt, index, chain) + spread * z
    return x0


def steady(denoiser: Denoiser, x: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
    """What the denoiser answers at one timestep, (1,), with bits that do not depend on how many images there are.

    On a CPU PyTorch convolves a lone small image (under 20,481 values), and on one thread a batch of 16 or more by a
    1 x 1 kernel, with other algorithms than the rest: scores would differ in their last bits. So a lone image goes
    together with a copy of itself, and a large batch in parts of 2 to 15; a frozen U-Net has no 1 x 1 convolutions, and
    takes large parts, for each of which PyTorch puts its weights in order again.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return denoiser(x, timestep)
    if len(x) == 1:
        noise, raw_variance = denoiser(torch.cat([x, x.detach()]), timestep)
        return noise[:1], raw_variance[:1]
    most = _MOST if isinstance(denoiser, FrozenUNet) else 15
    parts = [denoiser(part, timestep) for part in x.tensor_split(math.ceil(len(x) / most))]
    return torch.cat([noise for noise, _ in parts]), torch.cat([raw_variance for _, raw_variance in parts])
