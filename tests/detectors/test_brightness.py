"""The trivial baseline, by its formula."""

from __future__ import annotations

import pytest
import torch

from detectors import registry
from detectors.brightness import Brightness


@pytest.fixture
def fitted() -> Brightness:
    detector = registry.create("brightness", image_size=4)
    assert isinstance(detector, Brightness)
    detector.fit(torch.stack([torch.full((3, 4, 4), value) for value in (0.2, 0.4)]), seed=0)
    return detector


def test_score_is_the_distance_to_the_mean_brightness(fitted: Brightness) -> None:
    x = torch.stack([torch.full((3, 4, 4), value) for value in (0.0, 0.3, 1.0)])
    torch.testing.assert_close(fitted.score(x), torch.tensor([0.3, 0.0, 0.7]))
    torch.testing.assert_close(fitted.signed(x), torch.tensor([-0.3, 0.0, 0.7]))


def test_brightness_is_the_mean_over_all_channels(fitted: Brightness) -> None:
    x = torch.zeros(1, 3, 4, 4)
    x[:, 2] = 0.9
    torch.testing.assert_close(fitted.score(x), torch.tensor([0.0]))


def test_the_gradient_is_one_over_the_number_of_values(fitted: Brightness) -> None:
    x = torch.stack([torch.full((3, 4, 4), value) for value in (0.0, 1.0)]).requires_grad_()
    (gradient,) = torch.autograd.grad(fitted.score(x).sum(), x)
    torch.testing.assert_close(gradient[0], torch.full((3, 4, 4), -1 / 48))
    torch.testing.assert_close(gradient[1], torch.full((3, 4, 4), 1 / 48))


def test_one_training_image_is_enough() -> None:
    detector = registry.create("brightness", image_size=4).fit(torch.full((1, 3, 4, 4), 0.5), seed=0)
    assert float(detector.score(torch.full((1, 3, 4, 4), 0.5))) == 0.0
