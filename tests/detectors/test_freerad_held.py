"""FreeRAD's surrogate: the score with the reconstruction held constant, followed where it is asked for alone."""

from __future__ import annotations

import pytest
import torch
from freerad_small import SIDE, lively, random_images, source
from torch import Tensor

import attacks
from attacks import ascent
from attacks.objective import Objective, loss_and_gradient
from attacks.pgd import PGDSettings
from detectors.contract.scores import check_surrogate_is_declared
from detectors.freerad import FreeRAD
from detectors.freerad.scoring import image_score, multiscale_error

COUNT = 3


@pytest.fixture(scope="module")
def detector() -> FreeRAD:
    return lively()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return (random_images(COUNT, SIDE) + 1) / 2


def gradient(value: Tensor, leaf: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(value.sum(), leaf)
    return found


def test_its_values_are_the_scores_and_its_gradient_that_with_a_constant_reconstruction(
    detector: FreeRAD, x: Tensor
) -> None:
    detector = detector.double()
    noise, leaf = source(COUNT), x.clone().requires_grad_()
    held, full = detector.surrogate_score(leaf, noise=noise), detector.score(leaf, noise=noise)
    assert torch.equal(held, full)
    rebuilt = detector._rebuilt(x, noise).detach()
    by_hand = multiscale_error(leaf, rebuilt, detector.settings.scales, detector.settings.filter_size)
    expected = gradient(image_score(by_hand, detector.normal_map), leaf)
    assert torch.allclose(gradient(held, leaf), expected, rtol=1e-9, atol=1e-15)
    whole = gradient(full, leaf)
    assert torch.cosine_similarity(whole.flatten(1), expected.flatten(1)).max() < 0.999
    detector.float()


def test_an_attack_follows_it_where_it_is_told_to_alone(detector: FreeRAD, x: Tensor) -> None:
    assert not detector.has_surrogate and detector.surrogate_holds_reconstruction
    for wanted, followed in (("surrogate", "surrogate"), ("score", "score"), ("auto", "score"), ("map", "map")):
        assert ascent.settled_gradient(wanted, detector, smooth_map=False) == followed
    assert attacks.get("pgd-linf", differentiate="surrogate").follows(detector) == "surrogate"
    assert attacks.get("autoattack-rand-linf").members(detector)[-1].follows(detector) == "score"
    images, y, noise = x.float(), torch.tensor([1.0, -1.0, 1.0]), source(COUNT)
    followed = loss_and_gradient(detector, images, y, noise, differentiate="surrogate")
    leaf = images.clone().requires_grad_()
    by_hand = gradient(y * detector.surrogate_score(leaf, noise=noise.sub(0)), leaf)
    assert torch.equal(followed.gradient, by_hand)
    assert torch.equal(followed.loss, y * detector.score(images, noise=noise.sub(0)))
    objective = Objective(detector, y, differentiate="surrogate")
    objective.gradient(images, noise, 2)
    assert (objective.forwards, objective.gradients) == (2, 2)  # its value is the loss: no other pass is made


def test_the_full_gradient_climbs_higher(detector: FreeRAD, x: Tensor) -> None:
    images, y = x.float(), torch.ones(COUNT)

    def gain(which: str) -> float:
        attack = attacks.get("pgd-linf", epsilon=0.03, **vars(PGDSettings(20, differentiate=which, selection_draws=8)))  # type: ignore[arg-type]
        found = attack.run(detector, images, y, noise=source(COUNT), selection=source(COUNT, purpose="selection"))
        fresh = [source(COUNT, purpose="verdict").at(draw) for draw in range(8)]
        with torch.no_grad():
            rises = [detector.score(found.images, noise=n) - detector.score(images, noise=n) for n in fresh]
        return float(torch.stack(rises).mean())

    assert gain("score") > max(0.0, gain("surrogate"))


def test_it_keeps_the_contract(detector: FreeRAD, x: Tensor) -> None:
    assert check_surrogate_is_declared(detector, x.float(), source(COUNT), tolerance=0)
