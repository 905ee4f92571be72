"""PLS's folded autoencoder is the plain one, forwards and backwards, whatever its levels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detectors._pls_folded import FoldedPass
from detectors.noise import generator
from detectors.parts.training import initialise_
from detectors.pls import PLS, PLSSettings
from detectors.pls.network import PrincipalAutoencoder

NETWORKS = pytest.mark.parametrize(
    ("side", "widths", "poolings"),
    [
        (16, (4, 6, 5), 2), (16, (4, 6, 5), 3), (16, (4, 6, 5), 1), (16, (4, 6, 5), 0), (16, (7,), 1), (8, (7,), 0),
        (32, (3, 4, 5, 6), 4),
    ],
)


def draw(*shape: int, name: str) -> Tensor:
    return torch.rand(shape, generator=generator(1, name)).double()


def network_of(side: int, widths: tuple[int, ...], poolings: int) -> PrincipalAutoencoder:
    network = PrincipalAutoencoder(side, widths, poolings, vector_components=2, spatial_components=1).double()
    initialise_(torch.nn.ModuleList([network.encode, network.decode]), generator(1, "weights"))
    small = side // 2**poolings
    network.principal.update(draw(40, widths[-1], small, small, name="latent"), 1.0)
    return network


def plain(network: PrincipalAutoencoder, x: Tensor) -> Tensor:
    rebuilt: Tensor = (network.decode(network.principal(network.encode(2 * x - 1))) + 1) / 2
    return rebuilt


@NETWORKS
def test_reconstruction_and_all_gradients_are_the_plain_networks(
    side: int, widths: tuple[int, ...], poolings: int
) -> None:
    network = network_of(side, widths, poolings)
    x = draw(3, 3, side, side, name="x").requires_grad_()
    direction = draw(3, 3, side, side, name="direction") - 0.5
    expected = plain(network, x)
    wanted = [x, *network.parameters()]
    gradients = torch.autograd.grad(expected, wanted, direction, retain_graph=True)
    found = network(x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for a, b in zip(torch.autograd.grad(found, wanted, direction), gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    network.requires_grad_(False)  # by hand
    found = network(x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(found, x, direction)[0], gradients[0], rtol=1e-10, atol=1e-14)


@NETWORKS
def test_errors_are_those_of_the_reconstruction(side: int, widths: tuple[int, ...], poolings: int) -> None:
    network = network_of(side, widths, poolings).requires_grad_(False)
    x = draw(3, 3, side, side, name="x").requires_grad_()
    expected = (x - plain(network, x)).square().mean(dim=(1, 2, 3))
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    found = network.mean_squared_errors(x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), x)[0], gradient, rtol=1e-10, atol=1e-14)


@NETWORKS
def test_maps_are_images_laid_out_otherwise(side: int, widths: tuple[int, ...], poolings: int) -> None:
    folded = network_of(side, widths, poolings).folded().detached()
    x = draw(3, 3, side, side, name="x")
    maps = folded.maps_of(x)
    torch.testing.assert_close(folded.images_of(maps), x, rtol=1e-12, atol=1e-12)
    assert torch.equal(maps * folded.inside, maps), "there is something in the ring"
    assert not FoldedPass(folded).rebuild(maps.requires_grad_()).requires_grad


def test_the_gradient_by_hand_has_no_derivative() -> None:
    network = network_of(16, (4, 6), 2).requires_grad_(False)
    x = draw(1, 3, 16, 16, name="x").requires_grad_()
    with pytest.raises(RuntimeError, match="create_graph"):
        torch.autograd.grad(network.mean_squared_errors(x).sum(), x, create_graph=True)


def test_the_projections_transpose_is_what_autograd_finds() -> None:
    space = network_of(16, (4, 6), 2).principal
    latent, direction = (draw(3, 6, 4, 4, name=name) for name in ("z", "direction"))
    latent.requires_grad_()
    (expected,) = torch.autograd.grad(space(latent), latent, direction)
    torch.testing.assert_close(space.pull(direction), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("poolings", [0, 1, 3])
def test_the_training_attack_is_pgd_on_the_squared_error(poolings: int) -> None:
    settings = PLSSettings(
        work_size=16, widths=(4, 6, 5), poolings=poolings, spatial_components=2, attack_epsilon=8 / 255, attack_steps=3
    )
    detector = PLS(settings, 16)
    detector._initialise(0)
    detector.double()
    images = draw(3, 3, 16, 16, name="images")
    low, high = (images - 8 / 255).clamp(0, 1), (images + 8 / 255).clamp(0, 1)
    expected = torch.lerp(low, high, torch.rand(images.shape, generator=generator(0, "attack")).double())
    for _ in range(3):
        leaf = expected.clone().requires_grad_()
        (gradient,) = torch.autograd.grad((leaf - plain(detector.network, leaf)).square().sum(), leaf)
        expected = (expected + 2.5 * 8 / 255 / 3 * gradient.sign()).clamp(low, high)
    torch.testing.assert_close(detector._attack(images, generator(0, "attack")), expected, rtol=1e-10, atol=1e-12)
