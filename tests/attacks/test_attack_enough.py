"""`enough`: an attack that stops on an image whose best candidate is good enough, and leaves the others alone."""

import math

import pytest
import torch
from attack_fakes import SIDE, Linear, NoisyWavy, Wavy

from attacks.errors import AttackError
from attacks.pgd import PGD, PGDSettings
from attacks.threat import LInf

ATTACK = PGD(LInf(0.05), PGDSettings(steps=12))


def images(count: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    return x, torch.tensor([1.0, -1.0] * (count // 2))


@pytest.mark.parametrize("settings", [{}, {"random_start": True}, {"restarts": 3}], ids=str)
def test_infinity_is_never_enough(settings):
    x, y = images()
    attack = PGD(LInf(0.05), PGDSettings(steps=12, **settings))
    whole, limited = (attack.run(Wavy(), x, y, enough=e) for e in (None, torch.full((8,), math.inf)))
    if not settings:  # else every run draws its own starts
        assert torch.equal(whole.images, limited.images) and torch.equal(whole.best_loss, limited.best_loss)
    assert not limited.had_enough.any() and whole.had_enough is None
    assert (limited.gradients_spent == 12 * attack.settings.restarts).all()


def test_an_image_stops_where_it_has_enough_and_the_others_go_on_to_the_same_end():
    x, y = images()
    whole = ATTACK.run(Wavy(), x, y)
    enough = torch.full((8,), math.inf)
    enough[::2] = (whole.clean_loss + 0.6 * (whole.best_loss - whole.clean_loss))[::2]
    found = ATTACK.run(Wavy(), x, y, enough=enough)
    assert found.had_enough.tolist() == [True, False] * 4
    assert (found.best_loss > enough)[::2].all() and (found.best_loss <= whole.best_loss)[::2].all()
    torch.testing.assert_close(found.images[1::2], whole.images[1::2], atol=0, rtol=0)
    torch.testing.assert_close(found.best_loss[1::2], whole.best_loss[1::2])
    assert (found.gradients_spent[::2] < 12).all() and (found.gradients_spent[1::2] == 12).all()
    # What is returned is what the loss was measured on.
    torch.testing.assert_close(y * Wavy().score(found.images), found.best_loss)


def test_an_image_that_has_enough_from_the_start_costs_no_gradient_and_stays_clean():
    x, y = images()
    found = ATTACK.run(Wavy(), x, y, enough=torch.full((8,), -math.inf))
    assert found.had_enough.all() and not found.gradients_spent.any() and found.gradients == 0
    assert torch.equal(found.images, x) or (found.best_loss >= found.clean_loss).all()
    assert not found.zero_gradients.any(), "no step was taken, so none had a zero gradient"


def test_enough_is_measured_in_what_the_attack_compares():
    class Saturated(Linear):
        """tanh of a large number, with its argument as the surrogate."""

        has_surrogate = surrogate_is_monotone = True

        def _score(self, x, noise):
            return torch.tanh(100 * super()._score(x, noise))

        def _surrogate_score(self, x, noise):
            return super()._score(x, noise)

    x, y = images()
    detector = Saturated()
    compared = ATTACK.compared_loss(detector, x, y, None)
    torch.testing.assert_close(compared, y * Linear().score(x))
    found = ATTACK.run(detector, x, y, enough=compared + 0.5)
    assert found.had_enough.all() and (found.best_loss > compared + 0.5).all()


@pytest.mark.parametrize(
    ("attack", "detector"),
    [(ATTACK, NoisyWavy()), (PGD(LInf(0.05), PGDSettings(keep="last")), Wavy())],
    ids=["stochastic", "last iterate"],
)
def test_where_it_would_change_the_figure_it_is_refused(attack, detector):
    x, y = images()
    with pytest.raises(AttackError, match="cannot stop early"):
        attack.run(detector, x, y, enough=torch.zeros(8))


@pytest.mark.parametrize("enough", [torch.zeros(3), torch.full((8,), math.nan)], ids=["shape", "NaN"])
def test_it_is_one_number_per_image(enough):
    x, y = images()
    with pytest.raises(AttackError, match="one loss per image"):
        ATTACK.run(Wavy(), x, y, enough=enough)


def test_an_attack_that_says_that_it_can_stop_says_where():
    class Silent(PGD):
        def _run(self, *inputs, enough=None, **sources):
            return super()._run(*inputs, **sources)

    x, y = images()
    with pytest.raises(AttackError, match="had_enough"):
        Silent(LInf(0.05), PGDSettings(steps=2)).run(Wavy(), x, y, enough=torch.zeros(8))
