"""Algorithms 1 to 3 with denoisers whose answer is known."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from freerad_small import alpha_bar_by_hand, lively, random_images, source
from torch import Tensor

from detectors.freerad.diffusion import Schedule, process, shots
from detectors.freerad.reconstruction import denoise
from detectors.freerad.unet import UNet
from detectors.noise import Noise

WHOLE = process(Schedule())


@dataclass
class Oracle:
    """Knows the image and answers with the noise that is truly in x_t."""

    x0: Tensor
    told: list[int] = field(default_factory=list)
    seen: list[Tensor] = field(default_factory=list)

    def __call__(self, xt: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        assert timestep.shape == (1,)
        self.told.append(int(timestep))
        self.seen.append(xt)
        kept = alpha_bar_by_hand(int(timestep))
        return (xt - math.sqrt(kept) * self.x0) / math.sqrt(1 - kept), 0.2 * torch.ones_like(xt)


@pytest.mark.parametrize("k", [1, 2, 25, 50, 100, 200, 300, 1000])
def test_one_shot_with_the_true_noise_gives_the_image_back(k: int) -> None:
    x = random_images(2, 3)
    oracle = Oracle(x)
    found = denoise(oracle, x, process(Schedule(), [k]), k, source(2))
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)
    assert oracle.told == [k]


@pytest.mark.parametrize("k", [1, 50, 100, 200])
def test_the_denoiser_sees_noise_of_level_k_and_is_told_k(k: int) -> None:
    """Fails on an off-by-one in alpha_bar: the noise's factor is compared to nine digits."""
    x = torch.zeros(1, 3, 4, 4, dtype=torch.float64)
    oracle = Oracle(x)
    noise = source(1)
    denoise(oracle, x, WHOLE, k, noise)
    factor = oracle.seen[0] / noise.normal((3, 4, 4), stream="diffuse", like=x)
    torch.testing.assert_close(factor, torch.full_like(factor, math.sqrt(1 - alpha_bar_by_hand(k))), rtol=1e-9, atol=0)
    assert oracle.told == list(range(k, 0, -1)), "full-shot walks k, k - 1, ..., 1"


@pytest.mark.parametrize(("k", "count"), [(10, 10), (100, 5), (60, 7), (300, 2)])
def test_any_chain_with_the_true_noise_gives_the_image_back(k: int, count: int) -> None:
    x = random_images(2, 3)
    oracle = Oracle(x)
    found = denoise(oracle, x, process(Schedule(), shots(k, count)), k, source(2))
    torch.testing.assert_close(found, x, rtol=1e-8, atol=1e-8)
    assert oracle.told == shots(k, count)[::-1]


def _answers(xt: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
    """A denoiser that is wrong in a way that depends on everything it sees."""
    t = timestep.to(xt.dtype)[:, None, None, None] / 1000
    return torch.sin(2 * xt + t), torch.cos(3 * xt - t)


@pytest.mark.parametrize("chosen", [[40], [3, 40], [1, 2, 3, 4, 5], [10, 20, 30, 40]])
def test_denoise_is_algorithm_3_written_again_in_numpy(chosen: list[int]) -> None:
    x = random_images(2, 3)
    noise, k = source(2), chosen[-1]
    draws = {
        name: noise.normal((3, 3, 3), stream=name, like=x).numpy()
        for name in ("diffuse", *(f"step-{i}" for i in range(1, len(chosen))))
    }
    bars = [1.0, *(alpha_bar_by_hand(t) for t in chosen)]  # bars[m] belongs to S_m, bars[0] to the clean image
    current = np.sqrt(bars[-1]) * x.numpy() + np.sqrt(1 - bars[-1]) * draws["diffuse"]
    for m in range(len(chosen), 0, -1):
        predicted = np.sin(2 * current + chosen[m - 1] / 1000)
        v = (np.cos(3 * current - chosen[m - 1] / 1000) + 1) / 2
        clean = (current - np.sqrt(1 - bars[m]) * predicted) / np.sqrt(bars[m])
        if m > 1:
            beta = 1 - bars[m] / bars[m - 1]
            beta_tilde = (1 - bars[m - 1]) / (1 - bars[m]) * beta
            mean = np.sqrt(bars[m - 1]) * beta / (1 - bars[m]) * clean
            mean += np.sqrt(1 - beta) * (1 - bars[m - 1]) / (1 - bars[m]) * current
            sigma = np.exp(0.5 * (v * np.log(beta) + (1 - v) * np.log(beta_tilde)))
            current = mean + sigma * draws[f"step-{m - 1}"]
    found = denoise(_answers, x, process(Schedule(), chosen), k, noise)
    np.testing.assert_allclose(found.numpy(), clean, rtol=1e-8, atol=1e-8)


@dataclass(frozen=True)
class Listener(Noise):
    """A noise source that remembers the streams that were asked for."""

    streams: list[str] = field(default_factory=list)

    def normal(self, shape: object, *, stream: str, like: Tensor) -> Tensor:
        self.streams.append(stream)
        return super().normal(shape, stream=stream, like=like)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_step_but_the_last_adds_its_own_noise(count: int) -> None:
    x = random_images(1, 3)
    listener = Listener(source(1).key, ("image",))
    denoise(_answers, x, process(Schedule(), shots(20, count)), 20, listener)
    assert len(listener.streams) == count == len(set(listener.streams)), "one draw to diffuse, one per step but one"


def test_the_chain_1_to_k_and_the_whole_process_give_the_same_bits() -> None:
    x = random_images(2, 3).float()
    a = denoise(_answers, x, WHOLE, 30, source(2))
    b = denoise(_answers, x, process(Schedule(), range(1, 31)), 30, source(2))
    assert torch.equal(a, b)


def test_a_chain_without_k_is_refused() -> None:
    for k in (15, 31):
        with pytest.raises(ValueError, match="no timestep"):
            denoise(_answers, random_images(1, 3), process(Schedule(), [10, 20, 30]), k, source(1))


def test_denoising_steps_zero_and_k_are_the_same_detector() -> None:
    x = (random_images(2, 16).float() + 1) / 2
    full = lively(k=6, denoising_steps=0)
    named = lively(k=6, denoising_steps=6)
    fewer = lively(k=6, denoising_steps=3)
    expected = full.score(x, noise=source(2))
    assert torch.equal(expected, named.score(x, noise=source(2)))
    assert not torch.equal(expected, fewer.score(x, noise=source(2)))


@pytest.mark.parametrize(("denoising_steps", "calls"), [(1, 1), (3, 3), (0, 6)])
def test_the_unet_is_called_once_per_denoising_step(
    denoising_steps: int, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = lively(k=6, denoising_steps=denoising_steps)
    counted: list[int] = []
    forward = UNet.forward

    def count(network: UNet, x: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        counted.append(1)
        return forward(network, x, timesteps)

    monkeypatch.setattr(UNet, "forward", count)
    detector.score((random_images(2, 16).float() + 1) / 2, noise=source(2))
    assert len(counted) == calls
