"""PGD's randomness: fresh at every gradient, common where candidates are compared, and each image's own."""

import numpy as np
import pytest
import torch
from attack_fakes import (
    Fake,
    Linear,
    NaNWhereDark,
    NoisyWavy,
    PureNoise,
    Wavy,
    images,
    labels,
    saturated_images,
    source,
)

from attacks import L2, PGD, LInf
from attacks.pgd import PGDSettings


def pgd(threat, **settings):
    return PGD(threat, PGDSettings(**settings))


def test_no_two_gradients_see_the_same_noise():
    detector = NoisyWavy()
    attack = pgd(LInf(0.1), steps=6, restarts=2, eot=3)
    attack.run(detector, images(2), labels(2), noise=source(2))
    drawn = [z.item() for under_gradient, _, z in detector.seen if under_gradient]
    assert len(drawn) == len(set(drawn)) == 6 * 2 * 3


def test_an_attack_nests_its_draws_inside_those_it_was_given():
    # An ensemble gives each of its members noise.sub(member): they must not all see the same numbers.
    drawn = []
    for member in range(2):
        detector = NoisyWavy()
        pgd(LInf(0.1), steps=3).run(detector, images(2), labels(2), noise=source(2).sub(member))
        drawn += [z.item() for under_gradient, _, z in detector.seen if under_gradient]
    assert len(set(drawn)) == 6


def test_candidates_are_compared_on_common_draws_of_the_selection_source_alone():
    detector, noise, selection = NoisyWavy(), source(2), source(2, purpose="selection")
    verdict = source(2, purpose="verdict")
    pgd(LInf(0.1), steps=10, restarts=2, selection_draws=3).run(
        detector, images(2), labels(2), noise=noise, selection=selection
    )
    assert {n.key for under_gradient, n, _ in detector.seen if under_gradient} == {noise.key}
    compared = [z.item() for _, n, z in detector.seen if n.key == selection.key]
    # Clean, and of both restarts the iterates 2, 4, 6, 8 and 10: each on the same three draws.
    assert len(compared) == (1 + 2 * 5) * 3 and len(set(compared)) == 3
    assert compared == compared[:3] * 11
    assert {n.key for _, n, _ in detector.seen} == {noise.key, selection.key}
    drawn = {z.item() for _, _, z in detector.seen}
    probe = images(2)
    foreseen = {
        verdict.at(*draw).normal(probe.shape[1:], stream="fake", like=probe)[0, 0, 0, 0].item()
        for draw in [(d,) for d in range(30)] + [n.draw for _, n, _ in detector.seen]
    }
    assert not drawn & foreseen


def test_a_score_of_pure_noise_offers_nothing_to_select():
    x, y = images(50), labels(50)
    result = pgd(LInf(0.1), steps=10, restarts=5).run(PureNoise(), x, y, noise=source(50))
    # On common draws all candidates are equal; on each step's own noise the luckiest of 50 would win by two sigma.
    assert torch.equal(result.best_loss, result.clean_loss) and torch.equal(result.images, x)
    assert (result.trace.amax(0) > result.clean_loss).float().mean() > 0.9


def test_selected_luck_does_not_pass_the_verdict():
    class RandomSlope(Fake):
        """<z, x> with a fresh z in each forward pass: no image is better than another."""

        is_stochastic = True

        def _score(self, x, noise):
            return (x * noise.normal(x.shape[1:], stream="fake", like=x)).flatten(1).sum(1)

    detector, x, y, verdict = RandomSlope(), images(200), labels(200), source(200, purpose="verdict")
    adversarial = pgd(LInf(0.1), steps=10, eot=2)(detector, x, y, noise=source(200))
    gains = [
        y * (detector.score(adversarial, noise=verdict.sub(d)) - detector.score(x, noise=verdict.sub(d)))
        for d in range(5)
    ]
    gain = torch.stack(gains)
    assert abs(gain.mean() / gain.std()) < 4 / np.sqrt(gain.numel())


def test_eot_and_momentum_help_against_noise():
    class Drowned(Linear):
        """<w + 6 z, x>: the useful slope drowns in a random one."""

        is_stochastic = True

        def _score(self, x, noise):
            return ((self.weight + 6 * noise.normal(x.shape[1:], stream="fake", like=x)) * x).flatten(1).sum(1)

    detector, x, y = Drowned(), images(20), labels(20)

    def gain(**settings):
        change = pgd(L2(0.2), steps=10, keep="last", **settings)(detector, x, y, noise=source(20)) - x
        return (y[:, None, None, None] * detector.weight.detach() * change).flatten(1).sum(1).mean()

    assert gain(eot=20) > 1.5 * gain(eot=1) > 0
    # What the steps before have learned is not thrown away: no gradient more, and a better direction.
    assert gain(momentum=0.75) > 1.05 * gain()


def test_stochastic_losses_are_comparable_means_over_the_selection_draws():
    detector, x, y, selection = NoisyWavy(), images(10), labels(10), source(10, purpose="selection")
    for keep in ("best", "last"):
        result = pgd(LInf(0.1), steps=10, keep=keep, selection_draws=4).run(
            detector, x, y, noise=source(10), selection=selection
        )

        def mean(z):
            return torch.stack([y * detector.score(z, noise=selection.sub(d)) for d in range(4)]).mean(0)

        torch.testing.assert_close(result.clean_loss, mean(x))
        torch.testing.assert_close(result.best_loss if keep == "best" else result.last_loss, mean(result.images))
        assert (result.best_loss >= result.last_loss).all() and (result.best_loss >= result.clean_loss).all()


def test_the_same_noise_repeats_an_attack_and_none_does_not():
    detector, x, y = NoisyWavy(), images(4), labels(4)
    attack = pgd(LInf(0.1), steps=3)
    assert torch.equal(attack(detector, x, y, noise=source(4)), attack(detector, x, y, noise=source(4)))
    assert not torch.equal(attack(detector, x, y, noise=source(4)), attack(detector, x, y, noise=source(4, seed=1)))
    assert not torch.equal(attack(detector, x, y), attack(detector, x, y))


# -- the batch --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("detector", [Wavy(), NoisyWavy(), NaNWhereDark()], ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("threat", [LInf(0.1), L2(0.5)], ids=repr)
def test_neighbours_order_and_splits_of_the_batch_change_nothing(detector, threat):
    x, y, noise, selection = saturated_images(7), labels(7), source(7), source(7, purpose="selection")
    attack = pgd(threat, steps=6, restarts=2, random_start=True)

    def run(indices):
        sources = {"noise": noise.pick(indices), "selection": selection.pick(indices)}
        return attack.run(detector, x[indices], y[indices], **sources)

    whole = run(list(range(7)))
    order = [3, 0, 6, 5, 1, 4, 2]
    for parts in ([[i] for i in range(7)], [[0, 1, 2, 3], [4, 5, 6]], [order]):
        for part in parts:
            result = run(part)
            for field in ("images", "clean_loss", "last_loss", "best_loss", "zero_gradients", "non_finite_gradients"):
                assert torch.equal(getattr(result, field), getattr(whole, field)[part]), field
            assert torch.equal(result.trace, whole.trace[:, part])
