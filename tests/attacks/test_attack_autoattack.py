"""AutoAttack for a score: who takes part, that the best is kept, and that nobody's figure is made by the wrong one."""

import math

import pytest
import torch
from attack_fakes import (
    Linear,
    NoisyWavy,
    Saturated,
    Wavy,
    images,
    labels,
    optimum_of_linear,
    saturated_images,
    source,
)

from attacks import L2, LInf, get
from attacks.errors import AttackError

SMALL = {"iterations": 10, "starts": 3, "other_starts": 1, "queries": 60}
SMALL_RAND = {"iterations": 8, "mean_draws": 4, "selection_draws": 4}


class WithMap(Wavy):
    """Its score is the maximum of its map."""

    has_map = True
    score_is_map_maximum = True

    def _anomaly_map(self, x, noise):
        return (self.weight * torch.sin(25 * x)).sum(dim=1)

    def _score(self, x, noise):
        return self._anomaly_map(x, noise).flatten(1).amax(dim=1)


class NoisyWithMap(WithMap):
    is_stochastic = True

    def _anomaly_map(self, x, noise):
        return super()._anomaly_map(x + 0.01 * noise.normal(x.shape[1:], stream="fake", like=x), noise)


class Monotone(Saturated):
    surrogate_is_monotone = True


def followed(attack, detector):
    return [getattr(member.settings, "differentiate", "square") for member in attack.members(detector)]


def test_the_members_are_those_that_a_detector_gives_something_to_follow():
    attack = get("autoattack-linf", **SMALL)
    assert followed(attack, Linear()) == ["score", "square"]
    assert followed(attack, WithMap()) == ["score", "map", "mean-map", "square"]
    assert followed(attack, Saturated()) == ["score", "surrogate", "square"]
    assert followed(attack, Monotone()) == ["surrogate", "square"]
    starts = [getattr(member.settings, "restarts", None) for member in attack.members(WithMap())]
    assert starts == [3, 1, 1, None]


def test_under_noise_they_average():
    rand = get("autoattack-rand-linf")
    assert followed(rand, NoisyWavy()) == ["score", "auto"]
    assert followed(rand, NoisyWithMap()) == ["map", "score", "auto"]
    spent = [member.gradients(is_stochastic=True) for member in rand.members(NoisyWithMap())]
    assert spent == [2000, 2000, 2000]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_wrong_one_is_refused_with_the_name_of_the_right_one(norm):
    x, y = images(2), labels(2)
    with pytest.raises(AttackError, match=f"autoattack-rand-{norm}"):
        get(f"autoattack-{norm}", **SMALL).run(NoisyWavy(), x, y)
    with pytest.raises(AttackError, match=f"use autoattack-{norm}"):
        get(f"autoattack-rand-{norm}").run(Wavy(), x, y)
    forced = get(f"autoattack-{norm}", **SMALL, force=True).run(NoisyWavy(), x, y)
    assert forced.images.shape == x.shape


@pytest.mark.parametrize("threat", [LInf(0.05), L2(0.3), L2(3.0)], ids=repr)
@pytest.mark.parametrize("pictures", [images, saturated_images])
def test_on_a_linear_score_it_reaches_the_optimum_of_the_ball_cut_by_the_range(threat, pictures):
    detector, x, y = Linear(), pictures(6), labels(6)
    name = "autoattack-linf" if isinstance(threat, LInf) else "autoattack-l2"
    found = get(name, epsilon=threat.epsilon, **SMALL | {"iterations": 100}).run(detector, x, y, noise=source(6))
    most = optimum_of_linear(detector, x, y, threat) - found.clean_loss
    assert (found.best_loss - found.clean_loss >= 0.995 * most).all()


@pytest.mark.parametrize("name", ["autoattack-linf", "autoattack-l2"])
@pytest.mark.parametrize(
    "detector", [Linear(), Wavy(), WithMap(), Saturated(), Monotone()], ids=lambda d: type(d).__name__
)
def test_of_each_image_it_keeps_the_best_of_its_members(name, detector):
    x, y, noise = images(6), labels(6), source(6)
    attack = get(name, epsilon=0.05 if "linf" in name else 0.3, **SMALL)
    found = attack.run(detector, x, y, noise=noise)
    each = [m.run(detector, x, y, noise=noise.sub(i)).best_loss for i, m in enumerate(attack.members(detector))]
    torch.testing.assert_close(found.best_loss, torch.stack(each).amax(dim=0))
    torch.testing.assert_close(attack.compared_loss(detector, found.images, y, noise), found.best_loss)
    assert torch.equal(found.trace, torch.stack(each).cummax(dim=0).values)
    assert found.gradients == sum(m.gradients(is_stochastic=False) for m in attack.members(detector))


def test_an_image_that_has_enough_is_left_to_nobody_else():
    x, y, noise = images(6), labels(6), source(6)
    attack = get("autoattack-linf", epsilon=0.05, **SMALL)
    whole = attack.run(WithMap(), x, y, noise=noise)
    enough = torch.full((6,), math.inf)
    enough[::2] = (whole.clean_loss + 0.5 * (whole.best_loss - whole.clean_loss))[::2]
    found = attack.run(WithMap(), x, y, noise=noise, enough=enough)
    assert found.had_enough.tolist() == [True, False] * 3
    torch.testing.assert_close(found.images[1::2], whole.images[1::2])
    assert (found.gradients_spent[::2] < 10).all() and (found.gradients_spent[1::2] == 50).all()


def test_under_noise_another_members_image_must_be_ahead_by_more_than_luck():
    x, y = images(6), labels(6)
    attack = get("autoattack-rand-linf", epsilon=0.05, **SMALL_RAND)
    found = attack.run(NoisyWithMap(), x, y, noise=source(6), selection=source(6, purpose="selection"))
    again = attack.run(NoisyWithMap(), x, y, noise=source(6), selection=source(6, purpose="selection"))
    assert torch.equal(found.images, again.images)
    verdict = source(6, purpose="verdict")
    losses = [
        torch.stack([y * NoisyWithMap().score(some, noise=verdict.at(i)) for i in range(30)]).mean(dim=0)
        for some in (x, found.images)
    ]
    assert (losses[1] > losses[0]).all()


def test_a_cell_names_its_members_revisions():
    described = get("autoattack-l2", image_size=8).describe()
    assert described["member_revisions"] == {"apgd-l2": 1, "pgd-l2": 3, "square-l2": 1}


@pytest.mark.parametrize("name", ["autoattack-linf", "autoattack-rand-linf"])
def test_settings_that_make_no_sense_are_sentences(name):
    with pytest.raises(AttackError, match="iterations"):
        get(name, iterations=0)
