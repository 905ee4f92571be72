"""Auto-PGD: its schedule, its optimum, and beside PGD."""

import itertools

import pytest
import torch
from attack_fakes import (
    Fake,
    Flat,
    Linear,
    NaNWhereDark,
    NoisyWavy,
    Saturated,
    Tent,
    Wavy,
    images,
    labels,
    optimum_of_linear,
    saturated_images,
    source,
)

from attacks import L2, LInf, get
from attacks.apgd import APGDSettings, _StepRule, looks
from attacks.errors import AttackError

BALLS = {"apgd-linf": LInf(0.05), "apgd-l2": L2(0.3)}


def test_the_step_is_looked_at_when_the_paper_says():
    """100 iterations: 0.22, then intervals of 0.19, 0.16, ... down to 0.06 (Croce & Hein 2020, section 3.1)."""
    assert looks(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert looks(1) == [1] and looks(3) == [1, 2, 3]


def scripted(values, until, steps=100, epsilon=0.1):
    """The rule after it has looked at iterates 0 to `until`, whose pixels are their numbers, their gradients half of
    one more, and their values `values`, (B, steps + 1): itself, and what it said at the last."""
    values = torch.as_tensor(values, dtype=torch.float64)
    rule = _StepRule(len(values), epsilon, steps, values)
    for step in range(until + 1):
        current = torch.full((len(values), 3, 1, 1), float(step), dtype=torch.float64)
        start, gradient = rule.look(step, current, current + 0.5, values[:, step])
    assert torch.equal(gradient, start + 0.5), "the gradient is that of where the next step starts"
    return rule.size.div(epsilon).tolist(), start[:, 0, 0, 0].tolist(), rule.best[:, 0, 0, 0].tolist()


def test_the_first_step_is_twice_epsilon_and_stays_so_until_it_is_looked_at():
    falling = torch.arange(0, -101, -1)[None]
    assert scripted(falling, 0)[0] == scripted(falling, 21)[0] == [2]
    assert scripted(falling, 22)[0] == scripted(falling, 40)[0] == [1] and scripted(falling, 41)[0] == [0.5]


def test_condition_1_the_step_is_halved_where_fewer_than_three_quarters_of_the_steps_rose():
    """Croce & Hein 2020, section 3.1: of 22 steps 17 are enough and 16 are not; of the next 19, 15 and 14."""

    def rises_then_falls(*parts):
        changes = [1.0 if step < up else -0.01 for up, count in parts for step in range(count)]
        return list(itertools.accumulate(changes, initial=0.0))

    values = [
        rises_then_falls((22, 22), (19, 19)),
        rises_then_falls((17, 22), (15, 19)),
        rises_then_falls((16, 22), (15, 19)),
        rises_then_falls((17, 22), (14, 19)),
        rises_then_falls((16, 22), (14, 19)),
    ]
    size, start, best = scripted(values, 22)
    assert size == [2, 2, 1, 2, 1]
    assert start == [22, 22, 16, 22, 16], "halved, an image goes back to its best iterate, and only then"
    assert best == [22, 17, 16, 17, 16]
    size, start, best = scripted(values, 41)
    assert size == [2, 2, 1, 1, 0.5]
    assert start == [41, 41, 41, 36, 36] and best == [41, 37, 37, 36, 36]


def test_condition_2_the_step_is_halved_where_neither_it_nor_the_best_has_changed():
    """All but one of its steps rise, and none beyond the first iterate. Where the step had been halved the time before,
    the rule waits for the next one."""
    values = [100.0, *range(22), *range(19), *range(16), *range(13)]  # steps 1 to 22, to 41, to 57, to 70
    assert [scripted([values], at)[0] for at in (21, 22, 41, 57, 70)] == [[2], [1], [1], [0.5], [0.5]]
    assert [scripted([values], at)[1] for at in (22, 41, 57, 70)] == [[0], [41], [0], [70]]


class Bowl(Fake):
    """A(x) = -|x - c|^2 with c close by: a step of twice epsilon jumps over it. It remembers what it was asked."""

    def __init__(self, centre):
        super().__init__()
        self.centre, self.seen = centre, []

    def _score(self, x, noise):
        if x.requires_grad:
            self.seen.append(x.detach().clone())
        return -(x - self.centre).square().flatten(1).sum(1)


def test_the_first_move_is_cut_to_the_ball_and_the_next_keeps_a_quarter_of_it():
    """Equation 1 by hand: x + eps; then z = x - eps, and x + eps + 0.75 (z - x - eps) + 0.25 eps = x - eps / 4."""
    x, epsilon = torch.full((1, 3, 8, 8), 0.5), 0.1
    detector = Bowl(x + 0.01)
    get("apgd-linf", epsilon=epsilon, steps=10).run(detector, x, torch.ones(1))
    moved = torch.stack([(seen - x) / epsilon for seen in detector.seen])
    for step, where in enumerate((0, 1, -0.25)):
        torch.testing.assert_close(moved[step], torch.full_like(x, where), rtol=0, atol=1e-5)


def test_its_first_step_crosses_the_whole_ball():
    detector, x, y = Linear(), images(4, low=0.4, high=0.6), labels(4)
    up = 0.05 * detector.weight.sign() * y[:, None, None, None]
    found = get("apgd-linf", epsilon=0.05, steps=1).run(detector, x, y, start=x - up)
    torch.testing.assert_close(found.images, x + up)


@pytest.mark.parametrize("pictures", [images, saturated_images])
def test_on_a_linear_score_it_reaches_the_optimum_of_the_l_inf_ball(pictures):
    detector, x, y = Linear(), pictures(6), labels(6)
    found = get("apgd-linf", epsilon=0.05, steps=10).run(detector, x, y)
    optimum = optimum_of_linear(detector, x, y, LInf(0.05))
    torch.testing.assert_close(found.best_loss.double(), optimum, rtol=1e-5, atol=1e-5)


def test_on_a_linear_score_it_reaches_the_optimum_of_the_l2_ball():
    detector, x, y = Linear(), images(6, low=0.4, high=0.6), labels(6)  # far from the bounds of [0, 1]
    found = get("apgd-l2", epsilon=0.3, steps=20).run(detector, x, y)
    optimum = y * detector.score(x) + 0.3 * detector.weight.norm()
    torch.testing.assert_close(found.best_loss, optimum, rtol=1e-4, atol=0)


@pytest.mark.parametrize("threat", [LInf(0.05), L2(0.3), L2(3.0)], ids=repr)
def test_in_a_ball_cut_by_the_range_it_reaches_the_optimum(threat):
    detector, x, y = Linear(), saturated_images(6), labels(6)
    name = "apgd-linf" if isinstance(threat, LInf) else "apgd-l2"
    found = get(name, epsilon=threat.epsilon, steps=100).run(detector, x, y)
    most = optimum_of_linear(detector, x, y, threat) - found.clean_loss
    assert (found.best_loss - found.clean_loss >= 0.999 * most).all()


@pytest.mark.parametrize("name", BALLS)
def test_on_a_rough_score_it_is_not_behind_pgd_at_equal_gradients(name):
    x, y, epsilon = images(12), labels(12), BALLS[name].epsilon
    gained = []
    for attack in (name, name.replace("apgd", "pgd")):
        found = get(attack, epsilon=epsilon, steps=60).run(Wavy(), x, y)
        gained.append((found.best_loss - found.clean_loss).mean())
    assert gained[0] >= 0.98 * gained[1]


def test_a_step_too_long_is_halved_until_the_top_is_found():
    detector = Tent()
    x = images(4, low=0.45, high=0.49)
    found = get("apgd-linf", epsilon=0.2, steps=60).run(detector, x, torch.ones(4))
    assert (found.best_loss > -1e-3).all()


@pytest.mark.parametrize("name", BALLS)
def test_more_starts_never_find_less(name):
    x, y, epsilon = images(6), labels(6), 4 * BALLS[name].epsilon  # several waves wide
    losses = [
        get(name, epsilon=epsilon, steps=10, restarts=n).run(Wavy(), x, y, noise=source(6)).best_loss for n in (1, 2, 5)
    ]
    assert (losses[0] <= losses[1]).all() and (losses[1] <= losses[2]).all() and (losses[2] > losses[0]).any()


def test_the_best_iterate_is_what_is_returned_and_its_loss_is_true():
    x, y = images(6), labels(6)
    found = get("apgd-linf", epsilon=0.05, steps=15, restarts=3).run(Wavy(), x, y)
    torch.testing.assert_close(found.best_loss, y * Wavy().score(found.images))
    assert (found.best_loss >= found.clean_loss).all() and found.gradients == 45


def test_a_surrogate_is_followed_where_the_score_has_no_gradient_and_the_score_compares():
    class Steep(Saturated):
        def _score(self, x, noise):
            return torch.floor(4 * Linear._score(self, x, noise))

    class WithGraph(Steep):
        def _score(self, x, noise):
            return super()._score(x, noise) + 0 * x.flatten(1).sum(1)

    x, y = images(6), labels(6)
    found = get("apgd-linf", epsilon=0.05, steps=10).run(WithGraph(), x, y)
    assert found.surrogate_won is not None and found.surrogate_won.all()
    assert (found.best_loss > found.clean_loss + 10).all()
    torch.testing.assert_close(found.best_loss, y * WithGraph().score(found.images))


def test_a_flat_score_gives_back_the_clean_image_and_says_that_there_was_no_gradient():
    x, y = images(3), labels(3)
    found = get("apgd-linf", epsilon=0.05, steps=5).run(Flat(), x, y)
    assert torch.equal(found.images, x) and (found.zero_gradients == 1).all()


def test_a_gradient_that_is_not_finite_is_counted_and_the_rest_of_it_followed():
    x, y = images(8), labels(8)
    found = get("apgd-linf", epsilon=0.05, steps=5).run(NaNWhereDark(), x, y)
    dark = x[:, 2, -1, -1] < 0.5
    assert (found.non_finite_gradients[dark] > 0).all() and (found.best_loss > found.clean_loss).all()


def test_under_noise_the_schedule_compares_draws_that_stay_the_same():
    detector, x, y = NoisyWavy(), images(2), labels(2)
    get("apgd-linf", epsilon=0.05, steps=6, eot=2, schedule_draws=3, selection_draws=1).run(
        detector, x, y, noise=source(2), selection=source(2, purpose="selection")
    )
    of_gradients = {noise.draw for with_graph, noise, _ in detector.seen if with_graph}
    of_schedule = [noise.draw for with_graph, noise, _ in detector.seen if not with_graph and -3 in noise.draw]
    assert len(of_gradients) == 6 * 2, "every gradient draws its own noise"
    assert len(of_schedule) == 7 * 3 and len(set(of_schedule)) == 3


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"steps": 0}, "steps"),
        ({"restarts": True}, "restarts"),
        ({"eot": 1.5}, "eot"),
        ({"differentiate": "maps"}, "mean-map"),
    ],
)
def test_settings_that_make_no_sense_are_sentences(settings, text):
    with pytest.raises(AttackError, match=text):
        APGDSettings(**settings)
