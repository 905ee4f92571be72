"""Attacks that are given images to start from: those that were found in a smaller ball."""

import dataclasses

import pytest
import torch
from attack_fakes import Fake, Linear, NoisyWavy, Wavy, images, labels, source
from test_attack_contract import EPSILON, made, one_for

import attacks
from attacks.base import Attack
from attacks.errors import AttackError
from attacks.registry import get_class
from attacks.result import AttackResult

BALLS = [name for name in attacks.names() if get_class(name).norm in ("linf", "l2")]
registered = pytest.mark.parametrize("name", BALLS)


class Lazy(Attack):
    """An attack that takes no start, and finds nothing."""

    name = "lazy"
    can_stop = True

    def _run(self, detector, x, y, threat, *, noise, selection, progress, enough=None):
        loss = self.compared_loss(detector, x, y, selection.sub(0))
        found = AttackResult.without_gradients(x, loss, clean_loss=loss, trace=loss[None], forwards=1, enough=enough)
        return dataclasses.replace(found, gain=torch.zeros_like(loss), late_gain=torch.zeros_like(loss))


class Valley(Fake):
    """A(x) = (mean - 1/2)^2, for images near its lowest point: uphill from there leads one way or the other."""

    def _score(self, x, noise):
        return (x.flatten(1).mean(1) - 0.5).square()


def ends_of(name, detector, x, y):
    """The images that the attack finds in the ball, and those of one of half its size."""
    epsilon = EPSILON[get_class(name).norm]
    return [made(name, detector, epsilon=e).run(detector, x, y, noise=source(len(x))) for e in (epsilon, epsilon / 2)]


@registered
def test_a_result_is_never_worse_than_its_start_and_stays_in_the_ball(name):
    detector, x, y = Wavy(), images(6), labels(6)
    larger, smaller = ends_of(name, detector, x, y)
    attack = made(name, detector)
    warm = attack.run(detector, x, y, noise=source(6), start=smaller.images)
    attack.threat.assert_inside(warm.images, x)
    assert not warm.reprojected.any()
    assert (warm.best_loss >= smaller.best_loss).all()
    # Also where a start is better than anything that the attack would find on its own.
    best = made("pgd-" + get_class(name).norm, steps=200, restarts=10).run(detector, x, y, noise=source(6))
    again = attack.run(detector, x, y, noise=source(6), start=best.images)
    assert (again.best_loss >= best.best_loss - 1e-6).all()
    assert torch.allclose(again.clean_loss, larger.clean_loss)
    reached = y * detector.score(again.images)
    assert torch.allclose(reached, again.best_loss, atol=1e-4)


@registered
def test_an_attack_with_a_start_depends_on_each_image_alone_and_repeats_itself(name):
    detector, x, y = one_for(name), images(4), labels(4)
    _, smaller = ends_of(name, detector, x, y)
    attack, noise, rows = made(name), source(4), [2, 0]
    together = attack.run(detector, x, y, noise=noise, start=smaller.images).images
    assert torch.equal(together, attack.run(detector, x, y, noise=noise, start=smaller.images).images)
    some = attack.run(detector, x[rows], y[rows], noise=noise.pick(rows), start=smaller.images[rows]).images
    torch.testing.assert_close(some, together[rows], rtol=0, atol=1e-5)


@registered
def test_a_linear_score_s_optimum_is_found_from_any_start(name):
    if get_class(name).norm != "linf" or made(name).gradients(is_stochastic=False) == 0:
        pytest.skip("of those that follow gradients, whose optimum has a simple form")
    detector, x, y = Linear(), images(4, low=0.2, high=0.8), labels(4)
    attack = made(name, detector)
    optimum = x + y[:, None, None, None] * EPSILON["linf"] * detector.weight.sign()
    wrong_way = x - y[:, None, None, None] * 0.5 * EPSILON["linf"] * detector.weight.sign()
    found = attack.run(detector, x, y, noise=source(4), start=wrong_way)
    torch.testing.assert_close(found.images, optimum.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["pgd-linf", "apgd-linf", "pgd-l2", "apgd-l2"])
@pytest.mark.parametrize("side", [1, -1])
def test_the_first_run_begins_where_the_start_lies(name, side):
    """The way uphill that the smaller ball has found is not left again."""
    x, y = torch.full((2, 3, 8, 8), 0.5 + side * 1e-3), torch.ones(2)
    attack = made(name, Valley(), steps=6)
    begun = attack.threat.project(x - side * 0.01, x)  # on the other side of the valley
    found = attack.run(Valley(), x, y, noise=source(2), start=begun).images.mean(dim=(1, 2, 3))
    cold = attack.run(Valley(), x, y, noise=source(2)).images.mean(dim=(1, 2, 3))
    assert ((found - 0.5) * side < 0).all() and ((cold - 0.5) * side > 0).all()


def test_on_a_stochastic_detector_a_start_is_where_the_iterates_begin():
    detector, x, y = NoisyWavy(), images(3), labels(3)
    start = (x + 0.01).clamp(0, 1)
    made("pgd-linf", steps=3).run(detector, x, y, noise=source(3), start=start)
    first = next(i for i, (under_gradient, *_) in enumerate(detector.seen) if under_gradient)
    assert first >= 0
    seen = []
    detector._score = lambda x, noise: (
        (seen.append(x.detach().clone()) if x.requires_grad else None) or Wavy._score(detector, x, noise)
    )
    made("pgd-linf", steps=3).run(detector, x, y, noise=source(3), start=start)
    assert torch.equal(seen[0], start)


def test_what_takes_no_start_is_offered_it_as_a_candidate():
    detector, x, y = Linear(), images(4, low=0.3, high=0.7), labels(4)
    attack = Lazy(made("pgd-linf").threat)
    better = x + y[:, None, None, None] * 0.02 * detector.weight.sign()
    start = torch.where((torch.arange(4) < 2)[:, None, None, None], better, 2 * x - better).detach()
    limits = torch.tensor([-torch.inf, torch.inf, -torch.inf, torch.inf])
    found = attack.run(detector, x, y, noise=source(4), start=start, enough=limits)
    assert torch.equal(found.images, torch.where((torch.arange(4) < 2)[:, None, None, None], start, x))
    assert found.gain.isnan().tolist() == [True, True, False, False]  # no steps led to the start
    assert found.had_enough.tolist() == [True, False, True, False]
    stochastic = NoisyWavy()
    assert torch.equal(attack(stochastic, x, y), attack.run(stochastic, x, y, start=start).images)


def test_a_start_outside_of_the_ball_is_brought_into_it():
    detector, x, y = Linear(), images(3), labels(3)
    attack = made("pgd-linf", steps=1, step_size=1e-9)
    found = attack.run(detector, x, y, noise=source(3), start=1 - x)
    attack.threat.assert_inside(found.images, x)


@pytest.mark.parametrize(
    "start",
    [
        torch.rand(2, 3, 8, 8),
        torch.rand(3, 3, 9, 9),
        torch.rand(3, 3, 8, 8) + 1,
        torch.full((3, 3, 8, 8), torch.nan),
        torch.zeros(3, 3, 8, 8, dtype=torch.uint8),
        "images",
    ],
    ids=["too few", "another size", "out of range", "NaN", "bytes", "a text"],
)
def test_a_start_that_is_none_is_a_sentence(start):
    with pytest.raises(AttackError, match="The start must be images"):
        made("pgd-linf").run(Linear(), images(3), labels(3), start=start)


@pytest.mark.parametrize("name", sorted(set(attacks.names()) - set(BALLS)))
def test_where_there_is_no_ball_nothing_can_be_started_from(name):
    x = images(2)
    with pytest.raises(AttackError, match="is none; leave start out"):
        made(name).run(Wavy(), x, labels(2), start=x)
