"""The frozen U-Net: the same function and gradient as the plain one, and bits that do not depend on the batch."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest
import torch
from freerad_small import lively, random_images, shake, source
from torch import Tensor

from detectors.freerad.frozen_unet import FrozenUNet
from detectors.freerad.reconstruction import steady
from detectors.freerad.unet import UNet, UNetSettings
from detectors.noise import generator

Network = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

TINY = UNetSettings(channels=8, multipliers=(1, 2), blocks=1, attention_sides=(8,))
QUICK = UNetSettings(channels=8, multipliers=(1, 2, 4), blocks=1, attention_sides=(2,), unshuffle=2)
WIDE = UNetSettings(channels=64, multipliers=(1, 1), blocks=2, attention_sides=(16, 8), heads=2)  # groups of two
FLAT = UNetSettings(channels=8, multipliers=(1,), blocks=1, attention_sides=())
TIMESTEP = torch.tensor([50])


def _unet(settings: UNetSettings = TINY) -> UNet:
    unet = UNet(settings, 16)
    unet.initialise(generator(0, "test"))
    shake(unet, seed=0)
    return unet.eval().requires_grad_(False)


def _gradient(network: Network, x: Tensor, *, of_variance: bool = True) -> Tensor:
    leaf = x.clone().requires_grad_()
    noise, raw_variance = network(leaf, TIMESTEP)
    total = noise.square().sum() + (raw_variance.sin().sum() if of_variance else 0)
    (found,) = torch.autograd.grad(total, leaf)
    return found


# -- the function -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [TINY, QUICK, WIDE, FLAT], ids=["tiny", "quick", "wide", "flat"])
def test_it_is_the_plain_network(settings: UNetSettings) -> None:
    unet = _unet(settings).double()
    x = random_images(3, 16)
    frozen = FrozenUNet(unet)
    for found, expected in zip(frozen(x, TIMESTEP), unet(x, TIMESTEP), strict=True):
        assert not found.requires_grad
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    for of_variance in (True, False):
        expected = _gradient(unet, x, of_variance=of_variance)
        found = _gradient(frozen, x, of_variance=of_variance)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def test_in_float32_it_is_the_plain_network_up_to_rounding() -> None:
    unet, x = _unet(QUICK), random_images(3, 16).float()
    frozen = FrozenUNet(unet)
    torch.testing.assert_close(frozen(x, TIMESTEP)[0], unet(x, TIMESTEP)[0], rtol=1e-4, atol=1e-4)
    expected = _gradient(unet, x)
    torch.testing.assert_close(_gradient(frozen, x), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_a_kept_graph_gives_the_same_gradient_twice_and_no_second_derivative() -> None:
    frozen = FrozenUNet(_unet().double())
    leaf = random_images(2, 16).requires_grad_()
    total = sum(part.square().sum() for part in frozen(leaf, TIMESTEP))
    assert isinstance(total, Tensor)
    (first,) = torch.autograd.grad(total, leaf, retain_graph=True)
    (again,) = torch.autograd.grad(total, leaf, retain_graph=True)
    assert torch.equal(first, again)
    with pytest.raises(RuntimeError, match="create_graph"):
        torch.autograd.grad(total, leaf, create_graph=True)


def test_what_the_gradient_needs_is_freed_with_the_output() -> None:
    frozen = FrozenUNet(_unet())
    noise, raw_variance = frozen(random_images(2, 16).float().requires_grad_(), TIMESTEP)
    held_by_graph = weakref.ref(frozen)
    del frozen
    assert held_by_graph() is not None
    del noise, raw_variance
    assert held_by_graph() is None, "left to the garbage collector, the traces of many steps fill the memory"


def test_it_has_the_weights_of_now() -> None:
    detector, x = lively(), random_images(2, 16).float().mul(0.5).add(0.5)
    before = detector.score(x, noise=source(2))
    shake(detector.unet, seed=9)
    after = detector.score(x, noise=source(2))
    assert not torch.equal(before, after)
    detector._denoiser = lambda x: detector.unet  # type: ignore[method-assign]
    torch.testing.assert_close(detector.score(x, noise=source(2)), after, rtol=1e-4, atol=1e-6)


def test_a_fitted_detector_uses_it_and_one_whose_weights_need_a_gradient_does_not() -> None:
    detector, x = lively(), random_images(1, 16).float()
    assert isinstance(detector._denoiser(x), FrozenUNet)
    detector.unet.requires_grad_(True)
    assert detector._denoiser(x) is detector.unet
    with torch.no_grad():
        assert isinstance(detector._denoiser(x), FrozenUNet)
        detector.unet.training = True  # dropout
        assert detector._denoiser(x) is detector.unet


# -- bits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_frozen", [False, True])
@pytest.mark.parametrize("unshuffle", [1, 2])
def test_steady_answers_with_the_same_bits_for_any_number_of_images(unshuffle: int, is_frozen: bool) -> None:
    """PyTorch convolves a lone small image, and 16 or more by 1 x 1 kernels, with other algorithms."""
    unet = _unet(UNetSettings(channels=16, multipliers=(1, 2), blocks=1, attention_sides=(8,), unshuffle=unshuffle))
    network = FrozenUNet(unet) if is_frozen else unet
    x = random_images(70, 16).float()
    expected = network(x[:2], TIMESTEP)
    for count in (1, 2, 3, 5, 15, 16, 17, 31, 64, 65, 70):
        noise, raw = steady(network, x[:count], TIMESTEP)
        assert noise.shape == raw.shape == (count, 3, 16, 16)
        assert torch.equal(noise[:1], expected[0][:1]) and torch.equal(raw[:1], expected[1][:1]), count
        last_noise, last_raw = steady(network, x[count - 1 : count], TIMESTEP)
        assert torch.equal(noise[-1:], last_noise) and torch.equal(raw[-1:], last_raw), count


@pytest.mark.parametrize("is_frozen", [False, True])
def test_steady_loses_no_gradient(is_frozen: bool) -> None:
    unet = _unet()
    network = FrozenUNet(unet) if is_frozen else unet
    for count in (1, 2, 17, 65):
        x = random_images(count, 16).float()
        plain = _gradient(unet, x)
        found = _gradient(lambda leaf, timestep: steady(network, leaf, timestep), x)
        assert float((found - plain).abs().max()) < 1e-4 * float(plain.abs().max())
