"""The folded decoder is the autoencoder's, and its derivatives are those that autograd finds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detectors._folded_decoder import FoldedDecoder
from detectors.noise import generator
from detectors.parts.autoencoder import Autoencoder
from detectors.parts.training import initialise_

LEVELS = pytest.mark.parametrize("levels", [1, 2, 3, 5])  # without upsampling; with one, two and four
SIDE = 3  # of a code; odd, so that a map is no whole number of cells before its ring is counted


def network_of(levels: int) -> Autoencoder:
    network = Autoencoder(2, levels, 3).double()
    initialise_(network, generator(1, "weights"))
    with torch.no_grad():
        for parameter in network.parameters():  # biases, too
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator(2, str(parameter.shape)))
    return network.requires_grad_(False)


def inputs(levels: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A code, a tangent of it, a target and a cotangent of images, such that every SiLU is bent."""
    code, tangent = (2 * torch.randn(2, 3, SIDE, SIDE, generator=generator(3, name)).double() for name in "zv")
    side = SIDE * 2**levels
    target, cotangent = (torch.randn(2, 3, side, side, generator=generator(3, name)).double() for name in "xu")
    return code, tangent, target, cotangent


@LEVELS
def test_value_is_the_decoders(levels: int) -> None:
    network = network_of(levels)
    code, _, target, _ = inputs(levels)
    decoder = FoldedDecoder(network.decode)
    torch.testing.assert_close(decoder.image_of(decoder.value(code)[0]), network.image_of(code), rtol=1e-12, atol=1e-12)
    assert torch.equal(decoder.image_of(decoder.blocks_of(target)), target)


@LEVELS
def test_push_and_pull_are_the_jacobian_and_its_transpose(levels: int) -> None:
    network = network_of(levels)
    code, tangent, _, cotangent = inputs(levels)
    decoder = FoldedDecoder(network.decode)
    _, fronts = decoder.value(code)
    _, pushed = torch.func.jvp(network.image_of, (code,), (tangent,))
    (pulled,) = torch.func.vjp(network.image_of, code)[1](cotangent)
    torch.testing.assert_close(decoder.image_of(decoder.push(tangent, fronts)), pushed, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(decoder.pull(decoder.blocks_of(cotangent), fronts), pulled, rtol=1e-10, atol=1e-12)


@LEVELS
def test_slope_and_curve_are_the_derivatives_of_half_the_squared_error(levels: int) -> None:
    network = network_of(levels)
    code, tangent, target, _ = inputs(levels)

    def half_squares(z: Tensor) -> Tensor:
        return 0.5 * (network.image_of(z) - target).square().sum()

    leaf = code.clone().requires_grad_()
    (slope,) = torch.autograd.grad(half_squares(leaf), leaf, create_graph=True)
    (curved,) = torch.autograd.grad(slope, leaf, tangent)
    _, pushed = torch.func.jvp(network.image_of, (code,), (tangent,))

    decoder = FoldedDecoder(network.decode)
    blocks = decoder.blocks_of(target)
    found, expansion = decoder.slope(code, blocks, second=True)
    torch.testing.assert_close(found, slope.detach(), rtol=1e-10, atol=1e-12)
    assert torch.equal(decoder.slope(code, blocks, second=False)[0], found)
    for _ in range(2):  # an expansion can be used again
        found_curved, found_pushed = decoder.curve(tangent, expansion)
        torch.testing.assert_close(found_curved, curved, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(decoder.image_of(found_pushed), pushed, rtol=1e-10, atol=1e-12)
    gauss_newton = decoder.pull(decoder.blocks_of(pushed), expansion.fronts)
    assert float((gauss_newton - curved).abs().max()) > 1e-3 * float(curved.abs().max()), "no SiLU was bent"
