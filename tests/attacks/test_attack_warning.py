"""Called for its images alone, an attack that had nothing to follow says so: they are the clean ones."""

import warnings

import pytest
import torch
from attack_fakes import Flat, Linear, NaNGradient, NaNWhereDark, NoisyWavy, Saturated, Wavy, images, labels, source

from attacks import AttackWarning, get

GRADIENT = {
    "pgd-linf": {"steps": 3},
    "pgd-l2": {"steps": 3},
    "apgd-linf": {"steps": 3},
    "apgd-l2": {"steps": 3},
    "patch": {"steps": 2, "squares": 1},
}


@pytest.mark.parametrize("name", GRADIENT)
@pytest.mark.parametrize("detector", [NaNGradient(), Flat()], ids=["nan", "flat"])
def test_images_that_no_gradient_moved_are_never_silent(name, detector):
    x, y = images(3), labels(3)
    attack = get(name, image_size=8, **GRADIENT[name])
    result = attack.run(detector, x, y, noise=source(3))
    if name != "patch":  # it fills its square anyhow
        assert torch.equal(result.images, x)
    assert result.never_had_a_gradient.all()
    still = int((result.images == x).flatten(1).all(dim=1).sum())
    if still:
        with pytest.warns(AttackWarning, match=rf"^{name} gives back {still} of 3 images as they were"):
            attack(detector, x, y, noise=source(3))


def test_an_ensemble_whose_black_box_finds_nothing_either_says_so():
    with pytest.warns(AttackWarning, match="autoattack-linf gives back 3 of 3 images"):
        get("autoattack-linf", iterations=2, starts=1, other_starts=1, queries=3)(Flat(), images(3), labels(3))


@pytest.mark.parametrize("name", ["pgd-linf", "apgd-linf", "square-linf", "noise-linf"])
@pytest.mark.parametrize("detector", [Linear(), Wavy(), NoisyWavy(), NaNWhereDark()], ids=lambda d: type(d).__name__)
def test_where_something_was_followed_or_no_gradient_was_asked_for_it_is_silent(name, detector):
    with warnings.catch_warnings():
        warnings.simplefilter("error", AttackWarning)
        get(name)(detector, images(3), labels(3))
        get(name, epsilon=0)(detector, images(3), labels(3))
        if name.endswith("pgd-linf"):  # the score is flat and its surrogate is not
            result = get(name).run(Saturated(), images(3), labels(3))
            assert not result.never_had_a_gradient.any() and (result.zero_gradients == 1).all()
