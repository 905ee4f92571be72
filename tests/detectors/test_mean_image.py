"""The second trivial baseline, by its formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detectors import Detector, registry

SIDE = 4


def pictures(count: int, seed: int) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def fitted() -> Detector:
    return registry.create("mean-image", image_size=SIDE).fit(pictures(300, 0), seed=0)


def test_score_is_the_root_mean_square_distance_to_the_mean(fitted: Detector) -> None:
    x = pictures(5, 1)
    expected = (x - pictures(300, 0).mean(0)).square().mean(dim=(1, 2, 3)).sqrt()
    torch.testing.assert_close(fitted.score(x), expected)


def test_the_map_is_the_same_per_pixel(fitted: Detector) -> None:
    x = pictures(5, 1)
    torch.testing.assert_close(fitted.anomaly_map(x).square().mean(dim=(1, 2)).sqrt(), fitted.score(x))


def test_a_ball_in_l_inf_moves_the_score_by_its_radius_at_most(fitted: Detector) -> None:
    x = pictures(5, 1) * 0.8 + 0.1
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(fitted.score(leaf).sum(), leaf)
    moved = fitted.score(x + 0.05 * gradient.sign()) - fitted.score(x)
    assert (moved > 0.035).all() and (moved <= 0.05 + 1e-6).all()


def test_the_mean_itself_has_a_finite_gradient() -> None:
    one = torch.full((1, 3, SIDE, SIDE), 0.5)
    detector = registry.create("mean-image", image_size=SIDE).fit(one, seed=0)
    leaf = one.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(detector.score(leaf).sum(), leaf)
    assert float(detector.score(one)) < 1e-5 and bool(torch.isfinite(gradient).all())
