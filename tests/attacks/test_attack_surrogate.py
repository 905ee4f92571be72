"""Surrogate gradients (BPDA): both are followed where there are two, the score alone decides, nothing else changes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from attack_fakes import Linear, NoisyWavy, Wavy, images, labels, source

from attacks import L2, PGD, AttackResult, LInf
from attacks.pgd import PGDSettings

FOLLOWED = ("auto", "score", "surrogate")


def bright(x):
    return x[:, 2, -1, -1] > 0.5


def bright_and_dark(count):
    """Images that stay bright or dark anywhere in the balls."""
    x = images(count, low=0.1, high=0.9)
    x[:, 2, -1, -1] = torch.where(bright(x), 0.9, 0.1)
    return x


class Halved(Wavy):
    """Of bright images the score is flat but for steps, and the surrogate useful; of dark ones it leads astray."""

    has_surrogate = True

    def _score(self, x, noise):
        honest = super()._score(x, noise)
        return torch.where(bright(x), (honest * 4).round() / 4, honest)

    def _surrogate_score(self, x, noise):
        honest = Wavy._score(self, x, noise)
        return torch.where(bright(x), honest, -honest)


class NoisyHalved(NoisyWavy):
    """Its surrogate sees the image without the noise."""

    has_surrogate = True

    def _surrogate_score(self, x, noise):
        return Wavy._score(self, x, noise)


def attacked(detector, x, y, *, threat=None, **settings) -> dict[str, AttackResult]:
    sources = {"noise": source(len(x)), "selection": source(len(x), purpose="selection")}
    return {
        which: PGD(threat or LInf(0.05), PGDSettings(differentiate=which, **settings)).run(detector, x, y, **sources)
        for which in FOLLOWED
    }


@pytest.mark.parametrize("threat", [LInf(0.05), L2(0.3)], ids=repr)
@pytest.mark.parametrize(
    ("detector", "keep"),
    [(Halved(), "best"), (Halved(), "last"), (NoisyHalved(), "last")],
    ids=["deterministic-best", "deterministic-last", "stochastic-last"],
)
def test_auto_is_image_by_image_the_better_of_both(detector, threat, keep):
    x, y = bright_and_dark(24), labels(24)
    found = attacked(detector, x, y, threat=threat, steps=6, restarts=2, keep=keep)
    auto, score, surrogate = (found[which] for which in FOLLOWED)
    loss = {"best": "best_loss", "last": "last_loss"}[keep]
    assert torch.equal(getattr(auto, loss), torch.maximum(getattr(score, loss), getattr(surrogate, loss)))
    won = getattr(surrogate, loss) > getattr(score, loss)
    assert torch.equal(auto.surrogate_won, won) and 0 < won.sum() < 24
    assert torch.equal(auto.images, torch.where(won[:, None, None, None], surrogate.images, score.images))
    assert torch.equal(auto.trace, torch.where(won, surrogate.trace, score.trace))
    assert torch.equal(auto.clean_loss, score.clean_loss)
    threat.assert_inside(auto.images, x)


def test_of_a_stochastic_detector_the_surrogate_wins_where_it_is_better_by_more_than_noise():
    x, y = bright_and_dark(24), labels(24)
    auto, score, surrogate = attacked(NoisyHalved(), x, y, steps=6, selection_draws=16).values()
    by = surrogate.last_loss - score.last_loss
    assert 0 < auto.surrogate_won.sum() < 24
    assert (by[auto.surrogate_won] > 0).all() and not auto.surrogate_won[by < 0].any()
    assert (auto.best_loss >= score.best_loss - 1e-6).all()


def test_zero_gradients_are_those_of_the_score_whatever_the_surrogate_makes_up_for():
    x, y = bright_and_dark(24), labels(24)
    found = attacked(Halved(), x, y, steps=6)
    expected = torch.where(bright(x), 1.0, 0.0)
    assert torch.equal(found["auto"].zero_gradients, expected)
    assert torch.equal(found["score"].zero_gradients, expected)
    assert found["surrogate"].zero_gradients.isnan().all()
    for which in ("auto", "surrogate"):
        assert torch.equal(found[which].surrogate_zero_gradients, torch.zeros(24))
    assert found["score"].surrogate_zero_gradients is None
    assert found["score"].surrogate_won is None and found["surrogate"].surrogate_won is None


def test_a_useless_surrogate_wins_nothing_and_costs_no_loss():
    class Flat(Wavy):
        has_surrogate = True

        def _surrogate_score(self, x, noise):
            return 0 * x.sum(dim=(1, 2, 3))

    x, y = images(12), labels(12)
    found = attacked(Flat(), x, y, steps=5)
    assert not found["auto"].surrogate_won.any()
    assert torch.equal(found["auto"].images, found["score"].images)
    assert torch.equal(found["auto"].surrogate_zero_gradients, torch.ones(12))


def test_every_pass_of_both_is_counted_and_told():
    told = []
    found = PGD(LInf(0.05), PGDSettings(steps=3, restarts=2)).run(
        Halved(), images(2), labels(2), progress=lambda done, total, note="": told.append((done, total))
    )
    assert told == [(i, 12) for i in range(1, 13)]
    assert found.gradients == 12
    assert found.forwards == (3 + 1) * 2 + (2 * 3 + 1) * 2  # BPDA asks for the score besides the surrogate


@pytest.mark.parametrize("detector", [Wavy(), NoisyWavy(), Linear()], ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("keep", ["best", "last"])
def test_without_a_surrogate_all_settings_are_one_attack_to_the_bit(detector, keep):
    x, y = images(6), labels(6)
    found = attacked(detector, x, y, steps=5, restarts=2, keep=keep)
    for which in ("auto", "surrogate"):
        for field in dataclasses.fields(AttackResult):
            mine, theirs = getattr(found[which], field.name), getattr(found["score"], field.name)
            assert mine is theirs or mine == theirs if not isinstance(mine, torch.Tensor) else torch.equal(mine, theirs)
        attack = PGD(LInf(0.05), PGDSettings(differentiate=which))
        assert attack.settled(detector).describe()["differentiate"] == "score"
        assert attack.describe()["differentiate"] == which, "settling makes another attack"


@pytest.mark.parametrize("which", FOLLOWED)
def test_with_a_surrogate_the_record_says_which_gradient_was_followed(which):
    attack = PGD(LInf(0.05), PGDSettings(differentiate=which))
    assert attack.settled(Halved()).describe()["differentiate"] == which


def test_a_setting_may_give_one_detector_its_surrogate():
    detector = Wavy()
    detector.has_surrogate = True
    assert PGD(LInf(0.05)).settled(detector).describe()["differentiate"] == "auto"


class Saturated(Wavy):
    """An exponential of the honest score that underflows to a constant; the surrogate is its exponent."""

    has_surrogate = True
    surrogate_is_monotone = True

    def _score(self, x, noise):
        return torch.exp(300 * (super()._score(x, noise) - 2))

    def _surrogate_score(self, x, noise):
        return Wavy._score(self, x, noise)


def test_a_monotone_surrogate_is_followed_alone_and_finds_what_the_score_would():
    x, y = images(12, low=0.1, high=0.9), labels(12)
    found = attacked(Saturated(), x, y, steps=6)
    assert torch.equal(found["auto"].images, found["surrogate"].images) and found["auto"].surrogate_won is None
    assert (found["auto"].gradients, found["auto"].forwards) == (6, 7), "one pass serves value and gradient"
    detector = Saturated()
    best = [y * detector.score(found[which].images, noise=source(12)) for which in ("auto", "score")]
    assert bool((best[0] >= best[1]).all())
    surrogate = y * detector.surrogate_score(found["auto"].images, noise=source(12))
    assert torch.allclose(surrogate, found["auto"].best_loss), "candidates are told apart where the score underflows"
