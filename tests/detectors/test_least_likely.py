"""The least likely pixel has the value and the gradient that the whole upsampled map has there."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detectors.noise import generator
from detectors.parts.likelihood import least_log_likelihood, log_likelihood

KERNEL = torch.randn(1, 3, 5, 5, generator=generator(0, "kernel"), dtype=torch.float64)


def logs_of(scale: int, maps: Tensor, positions: Tensor | None) -> Tensor:
    """Something that depends on positions up to two away, on zeros beyond the border, and on the scale."""
    return -(scale + 3) * F.conv2d(maps, KERNEL, padding=2)[:, 0].square()


def by_position(scale: int, maps: Tensor, positions: Tensor | None) -> Tensor:
    """Something that depends on one position and on which one it is."""
    chosen = torch.arange(maps[0, 0].numel())[None] if positions is None else positions
    return -(maps.square().sum(dim=1) + 0.3 * chosen.view(-1, *maps.shape[-2:]).sin()) * (scale + 3)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("sides", [((16, 16), (8, 8), (4, 4)), ((7, 12), (9, 3)), ((1, 1), (2, 20))])
@pytest.mark.parametrize(("function", "reach"), [(logs_of, 2), (by_position, 0)])
def test_it_equals_the_minimum_of_the_whole_map(function, reach, sides, align_corners) -> None:  # type: ignore[no-untyped-def]
    draws = generator(1, "maps")
    # Many images: their least likely pixels lie everywhere, at the borders and in the corners too.
    maps = [torch.randn(60, 3, *side, generator=draws, dtype=torch.float64).requires_grad_() for side in sides]
    whole = log_likelihood([function(i, m, None) for i, m in enumerate(maps)], 32, align_corners=align_corners)
    expected = whole.amin(dim=(1, 2))
    found = least_log_likelihood(maps, function, 32, align_corners=align_corners, reach=reach)
    assert torch.equal(found, expected)
    weights = torch.arange(-30.0, 30.0).double() + 0.5  # normal images are pushed the other way
    for ours, theirs in zip(
        torch.autograd.grad((weights * found).sum(), maps),
        torch.autograd.grad((weights * expected).sum(), maps),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_the_value_has_the_same_bits_with_and_without_a_graph() -> None:
    maps = [torch.randn(9, 3, 16, 16, generator=generator(2, "maps"))]

    def single(scale: int, maps: Tensor, positions: Tensor | None) -> Tensor:
        return -F.conv2d(maps, KERNEL.float(), padding=2)[:, 0].square()

    plain = least_log_likelihood(maps, single, 50, align_corners=True, reach=2)
    graphed = least_log_likelihood([maps[0].requires_grad_()], single, 50, align_corners=True, reach=2)
    assert graphed.requires_grad and torch.equal(plain, graphed.detach())


def test_it_neither_underflows_nor_hides_nan() -> None:
    maps = [(200 * torch.randn(4, 3, 8, 8, generator=generator(3, "maps"))).requires_grad_()]
    found = least_log_likelihood(maps, by_position, 32, align_corners=False, reach=0)
    (gradient,) = torch.autograd.grad(found.sum(), maps)
    assert float(found.detach().max()) < -1e4 and bool(gradient.isfinite().all())
    assert float(gradient.flatten(1).norm(dim=1).min()) > 1
    broken = maps[0].detach().clone()
    broken[0, 1, 3, 3] = float("nan")
    found = least_log_likelihood([broken.requires_grad_()], by_position, 32, align_corners=False, reach=0)
    assert bool(found[0].isnan()) and bool(found[1:].isfinite().all())
