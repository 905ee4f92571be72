"""Convolutions in cells of 2 x 2 pixels are PyTorch's, and so are their gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors import _cells
from detectors._halving import Closing, Doubling, Halving
from detectors.noise import generator

SIDES = pytest.mark.parametrize("side", [2, 4, 8, 16, 32])  # of the larger map: small ones go another way


def draw(*shape: int, name: str) -> Tensor:
    return torch.randn(shape, generator=generator(1, name)).double()


def assert_same(found: Callable[..., Tensor], expected: Callable[..., Tensor], *inputs: Tensor) -> None:
    """The values, and the gradients at all inputs."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    mine, theirs = found(*leaves), expected(*leaves)
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    direction = draw(*theirs.shape, name="direction")
    for a, b in zip(
        torch.autograd.grad(mine, leaves, direction), torch.autograd.grad(theirs, leaves, direction), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_cells_hold_the_pixels_in_rows_and_columns() -> None:
    x = draw(2, 3, 6, 8, name="x")[..., :6]
    cells = _cells.cells_of(x)
    for row in (0, 1):
        for column in (0, 1):
            place = 2 * row + column
            assert torch.equal(cells[:, 3 * place : 3 * place + 3], x[:, :, row::2, column::2])
    assert torch.equal(_cells.pixels_of(cells), x)
    straddled = _cells.straddled(x)
    assert straddled.shape == (2, 12, 4, 4) and torch.equal(_cells.unstraddled(straddled), x)
    assert float(straddled.square().sum()) == pytest.approx(float(x.square().sum())), "the ring is not zero"


def test_a_killed_ring_is_all_but_the_pixels() -> None:
    cells = _cells.straddled(torch.ones(1, 2, 6, 6))
    _cells.kill_ring(cells)
    pixels = _cells.pixels_of(cells)
    assert bool((pixels[..., 1:-1, 1:-1] == 1).all())
    assert int((pixels == _cells.DEAD).sum()) == pixels.numel() - 2 * 36
    dead = torch.tensor(_cells.DEAD, requires_grad=True)
    (slope,) = torch.autograd.grad(F.silu(dead), dead)
    assert float(F.silu(dead).detach()) == 0 and float(slope) == 0


@pytest.mark.parametrize("side", [2, 6, 8])
def test_a_convolution_in_cells_gives_what_each_pixel_has(side: int) -> None:
    def in_cells(x: Tensor, weight: Tensor) -> Tensor:
        return _cells.pixels_of(F.conv2d(_cells.straddled(x), _cells.to_places(weight)))

    assert_same(
        in_cells, lambda x, weight: F.conv2d(x, weight, padding=1), draw(2, 3, side, side, name="x"),
        draw(5, 3, 3, 3, name="weight"),
    )


@pytest.mark.parametrize("side", [1, 3, 4])
def test_a_convolution_of_the_small_map_is_one_of_the_upsampled_map(side: int) -> None:
    def in_cells(x: Tensor, weight: Tensor) -> Tensor:
        return _cells.unstraddled(F.conv2d(x, _cells.of_upsampling(weight), padding=1))

    assert_same(
        in_cells, lambda x, weight: F.conv2d(F.interpolate(x, scale_factor=2), weight, padding=1),
        draw(2, 3, side, side, name="x"), draw(5, 3, 3, 3, name="weight"),
    )


@SIDES
def test_halving_is_the_strided_convolution(side: int) -> None:
    layer = Halving(3, 5).double()
    assert_same(
        lambda x, weight: torch.func.functional_call(layer, {"weight": weight}, (x,)),
        lambda x, weight: F.conv2d(x, weight, stride=2, padding=1),
        draw(2, 3, side, side, name="x"), draw(5, 3, 4, 4, name="weight"),
    )


@SIDES
@pytest.mark.parametrize("has_bias", [True, False])
def test_doubling_is_the_transposed_convolution(side: int, has_bias: bool) -> None:
    layer = Doubling(3, 5, bias=has_bias).double()
    biases = [draw(5, name="bias")] if has_bias else []

    def call(x: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
        weights = {"weight": weight, **({"bias": bias[0]} if bias else {})}
        found: Tensor = torch.func.functional_call(layer, weights, (x,))
        return found

    assert_same(
        call, lambda x, weight, *bias: F.conv_transpose2d(x, weight, *bias, stride=2, padding=1),
        draw(2, 3, side // 2, side // 2, name="x"), draw(3, 5, 4, 4, name="weight"), *biases,
    )


def test_closing_is_the_convolution() -> None:
    layer = Closing(3, 5, 4).double()
    plain = nn.Conv2d(3, 5, 4, bias=False).double()
    plain.load_state_dict(layer.state_dict())
    assert_same(layer, plain, draw(2, 3, 4, 4, name="x"))


@SIDES
def test_gradients_by_hand_have_no_derivative(side: int) -> None:
    for layer, larger in ((Halving(3, 5), side), (Doubling(3, 5, bias=True), side // 2)):
        x = draw(2, 3, larger, larger, name="x").float().requires_grad_()
        with pytest.raises(RuntimeError, match="create_graph"):
            torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)


@SIDES
def test_what_asks_for_no_gradient_gets_none(side: int) -> None:
    for layer, larger in ((Halving(3, 5), side), (Doubling(3, 5, bias=True), side // 2)):
        x = draw(2, 3, larger, larger, name="x").float()
        layer(x).sum().backward()
        assert x.grad is None and all(p.grad is not None and p.grad.shape == p.shape for p in layer.parameters())
        layer.zero_grad()
        x.requires_grad_()
        layer.requires_grad_(False)
        layer(x).sum().backward()
        assert x.grad is not None and all(p.grad is None for p in layer.parameters())
