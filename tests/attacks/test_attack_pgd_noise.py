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
    Tent,
    Wavy,
    images,
    labels,
    saturated_images,
    source,
)

from attacks import L2, PGD, LInf
from attacks.candidates import Significant
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
    # Clean, and of both restarts the iterates 8 and 10: each on the same three draws.
    assert len(compared) == (1 + 2 * 2) * 3 and len(set(compared)) == 3
    assert compared == compared[:3] * 5
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
    attack = pgd(LInf(0.1), steps=10, restarts=5)
    result = attack.run(PureNoise(), x, y, noise=source(50))
    # On common draws all candidates are equal, so the last iterate of the first restart stays; on each step's own noise
    # the luckiest of 50 would win by two sigma.
    assert torch.equal(result.best_loss, result.clean_loss) and torch.equal(result.last_loss, result.clean_loss)
    assert (result.trace.amax(0) > result.clean_loss).float().mean() > 0.9


def test_a_candidate_must_beat_the_last_iterate_by_more_than_the_noise_of_their_comparison():
    x = images(4)
    incumbent, challenger = torch.zeros_like(x), torch.ones_like(x)
    # Ahead on the mean of 16 draws by 3, 1, -3 standard errors, and of unknown noise where there is one draw.
    ahead = torch.cat([torch.ones(8), -torch.ones(8)])
    error = ahead.std() / 4
    losses = ahead[:, None] + error * torch.tensor([3.0, 1.0, -3.0, 0.0])
    losses[:, 3] = torch.nan
    chosen = Significant(incumbent, torch.zeros(16, 4), run=0)
    chosen.challenge(challenger, losses, run=1)
    assert chosen.run.tolist() == [1, 0, 0, 0]
    assert torch.equal(chosen.images[0], challenger[0]) and torch.equal(chosen.images[1:], incumbent[1:])
    torch.testing.assert_close(chosen.loss, torch.stack([losses[:, 0].mean(), *torch.zeros(3)]))
    single = Significant(incumbent, torch.zeros(1, 4), run=0)
    single.challenge(challenger, torch.full((1, 4), 9.0), run=1)
    assert single.run.tolist() == [0, 0, 0, 0]


def test_a_challenger_with_a_score_replaces_one_without():
    x = images(2)
    chosen = Significant(x, torch.full((4, 2), torch.nan), run=0)
    chosen.challenge(x + 1, torch.tensor([[1.0, torch.nan]] * 4), run=1)
    assert chosen.run.tolist() == [1, 0]


def test_a_clearly_better_iterate_on_the_way_is_kept():
    class NoisyTent(Tent):
        """A step too long jumps over the top and back, in noise that is the same for every candidate."""

        is_stochastic = True

        def _score(self, x, noise):
            return super()._score(x, noise) + noise.normal((), stream="fake", like=x)

    detector, x, y = NoisyTent(), torch.full((1, 3, 8, 8), 0.47), torch.ones(1)
    attacks = (pgd(LInf(0.2), keep=keep, steps=6, step_size=0.05) for keep in ("last", "best"))
    last, best = (attack.run(detector, x, y, noise=source(1)) for attack in attacks)
    torch.testing.assert_close(last.images, x)  # .47 .52 .47 .52 ...
    torch.testing.assert_close(best.images, torch.full_like(x, 0.52))
    assert best.best_loss.item() == pytest.approx(best.last_loss.item() + 0.01, abs=1e-5)


def test_the_number_of_draws_rises_evenly_from_the_first_step_to_the_last():
    detector = NoisyWavy()
    attack = pgd(LInf(0.1), steps=5, eot=2, eot_last=10)
    attack.run(detector, images(1), labels(1), noise=source(1))
    drawn = [n.draw for under_gradient, n, _ in detector.seen if under_gradient]
    steps = [draw[-2] for draw in drawn]
    assert [steps.count(step) for step in range(5)] == [2, 4, 6, 8, 10]
    assert attack.gradients(is_stochastic=True) == 30 and attack.gradients(is_stochastic=False) == 5
    more = attack.with_draws(4)
    assert [more.settings.draws_at(step) for step in range(5)] == [8, 16, 24, 32, 40]


def test_cosine_steps_fall_from_half_of_epsilon_to_a_fiftieth():
    threat = LInf(0.1)
    sizes = pgd(threat, steps=7, schedule="cosine").step_sizes(threat)
    t = np.arange(7) / 6
    np.testing.assert_allclose(sizes, 0.002 + 0.048 * (1 + np.cos(np.pi * t)) / 2)
    assert pgd(threat, steps=1, schedule="cosine").step_sizes(threat) == [pytest.approx(0.05)]
    assert pgd(threat, steps=4, schedule="cosine", step_size=0.001).step_sizes(threat) == [0.001] * 4


def test_what_concerns_noise_is_no_setting_of_a_deterministic_detector():
    settings = {"steps": 5, "stochastic_steps": 7, "eot": 2, "eot_last": 4, "momentum": 0.5, "schedule": "cosine"}
    attack = pgd(LInf(0.1), **settings)
    assert attack.settled(Wavy()).describe() == pgd(LInf(0.1), steps=5).settled(Wavy()).describe()
    noisy = attack.settled(NoisyWavy())
    assert noisy.settings.steps == 7 and noisy.describe()["step_size"] == pytest.approx(0.05)
    assert torch.equal(attack(Wavy(), images(3), labels(3)), pgd(LInf(0.1), steps=5)(Wavy(), images(3), labels(3)))


def test_averaging_beats_many_single_steps_at_equal_gradients():
    class Drowned(Linear):
        """<w + 12 z, x>: the useful slope drowns in a random one."""

        is_stochastic = True

        def _score(self, x, noise):
            return ((self.weight + 12 * noise.normal(x.shape[1:], stream="fake", like=x)) * x).flatten(1).sum(1)

    detector, x, y = Drowned(), images(20), labels(20)

    def gain(**settings):
        change = pgd(LInf(0.05), keep="last", **settings)(detector, x, y, noise=source(20)) - x
        return (y[:, None, None, None] * detector.weight.detach() * change).flatten(1).sum(1).mean()

    averaged = gain(steps=20, eot=1, eot_last=5, momentum=0.9, schedule="cosine")
    assert averaged > 1.2 * gain(steps=60) > 0


def test_gain_and_late_gain_are_measured_on_common_draws():
    detector, x, y, selection = NoisyWavy(), images(10), labels(10), source(10, purpose="selection")
    attack = pgd(LInf(0.1), steps=10, keep="last", selection_draws=4)
    result = attack.run(detector, x, y, noise=source(10), selection=selection)

    def mean(z):
        return torch.stack([y * detector.score(z, noise=selection.sub(d)) for d in range(4)]).mean(0)

    torch.testing.assert_close(result.gain, mean(result.images) - mean(x))
    late = result.late_gain  # of the last 2 of 10 steps: how the run stood before them is the rest
    torch.testing.assert_close(mean(result.images) - late, mean(x) + (result.gain - late))
    assert late.abs().mean() < result.gain.abs().mean()
    still = pgd(LInf(0.1), steps=10).run(PureNoise(), x, y, noise=source(10))
    assert not still.gain.any() and not still.late_gain.any()  # losses under each step's noise would differ


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
        assert (result.best_loss >= result.last_loss).all() and (result.best_loss >= result.clean_loss - 1e-6).any()


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
