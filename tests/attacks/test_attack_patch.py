"""A square of any pixels: where it goes, what it shows, and that nothing else is changed."""

import math

import pytest
import torch
from attack_fakes import Fake, Flat, Linear, NoisyWavy, PureNoise, Saturated, Wavy, images, labels, source

from attacks import PGD, LInf, Patch, get
from attacks.errors import AttackError, ThreatModelError
from attacks.patch import PatchAttack, step_sizes

BIG = 16


def pictures(count, side=BIG, seed=0, low=0.0, high=1.0):
    x = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))
    return low + (high - low) * x


def best_square(weight, x, y, side):
    """The largest gain of <y w, x'> over all squares and pixels, and where: by brute force."""
    signed = y * weight
    gain = torch.where(signed > 0, signed * (1 - x), -signed * x).sum(0)
    places = [(i, j) for i in range(x.shape[-2] - side + 1) for j in range(x.shape[-1] - side + 1)]
    sums = [float(gain[i : i + side, j : j + side].sum()) for i, j in places]
    most = max(range(len(sums)), key=sums.__getitem__)
    return sums[most], places[most]


class Bump(Fake):
    """A(x): the sum of squares within a window, which hides from gradients: its slope at a black image is 0."""

    def __init__(self, top, left, side, image_size=BIG):
        super().__init__(image_size)
        self.window = (slice(None), slice(None), slice(top, top + side), slice(left, left + side))

    def _score(self, x, noise):
        return x[self.window].square().flatten(1).sum(1)


# -- on a linear score ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0.1, 0.25, 0.5, 1.0])
def test_on_a_linear_score_it_reaches_the_best_square_and_the_best_pixels(epsilon):
    detector, x, y = Linear(image_size=BIG), pictures(6), labels(6)
    found = get("patch", epsilon=epsilon).run(detector, x, y, noise=source(6))
    side = max(round(epsilon * BIG), 1)
    for row in range(6):
        most, (top, left) = best_square(detector.weight.detach(), x[row], y[row], side)
        gained = float(found.best_loss[row] - found.clean_loss[row])
        assert gained == pytest.approx(most, rel=1e-4)
        expected = x[row].clone()
        window = (slice(None), slice(top, top + side), slice(left, left + side))
        expected[window] = (y[row] * detector.weight[window] > 0).float()
        torch.testing.assert_close(found.images[row], expected)


def test_it_reaches_the_best_pixels_by_steps_alone_too():
    """The least of this score is no corner of the box, and the most not the corner that the first gradient names."""
    x = pictures(2)

    class Curved(Linear):
        """Rises with the pixels' distance from 0.37, each to its own degree."""

        def _score(self, x, noise):
            return ((x - 0.37).abs() * self.weight.abs()).flatten(1).sum(1)

    curved = Curved(image_size=BIG)
    found = get("patch", epsilon=1.0, squares=1).run(curved, x, torch.ones(2), noise=source(2))
    best = curved.score(torch.ones_like(x))
    assert (found.best_loss >= 0.95 * best).all()
    lowest = get("patch", epsilon=1.0, squares=1, steps=80).run(curved, x, -torch.ones(2), noise=source(2))
    assert (-lowest.best_loss <= 0.05 * curved.score(x)).all(), "0.37 everywhere is the least there is"


# -- what it may ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("detector_class", [Linear, Wavy, Saturated, Flat, NoisyWavy])
@pytest.mark.parametrize("epsilon", [0.01, 0.3, 1.0])
def test_nothing_but_one_square_is_changed(detector_class, epsilon):
    x, y = images(4), labels(4)
    attack = get("patch", epsilon=epsilon, steps=5)
    found = attack.run(detector_class(), x, y, noise=source(4))
    side = max(round(8 * epsilon), 1)
    for before, after in zip(x, found.images, strict=True):
        rows, columns = (after != before).any(0).nonzero().unbind(1)
        if len(rows):
            assert int(rows.max() - rows.min()) < side and int(columns.max() - columns.min()) < side
    assert not found.reprojected.any() and found.images.min() >= 0 and found.images.max() <= 1
    attack.threat.assert_inside(found.images, x)


def test_the_threat_model_measures_the_smallest_square_and_keeps_the_fullest_one():
    threat, x = Patch(0.25), torch.full((4, 3, 8, 8), 0.5)
    changed = x.clone()
    changed[1, 0, 7, 7] = 0.6
    changed[2, :, 3:5, 2:4] = 1
    changed[3, 1, 0:2, 0:3] = 1
    assert (threat.distance(changed, x) * 8).tolist() == [0, 1, 2, 3]
    assert threat.inside(changed, x).tolist() == [True, True, True, False]
    with pytest.raises(ThreatModelError, match=r"threat model patch with epsilon 0\.25"):
        threat.assert_inside(changed, x)
    back = threat.project(changed, x)
    assert torch.equal(back[:3], changed[:3]) and threat.inside(back, x).all()
    assert int((back[3] != x[3]).sum()) == 4
    far = threat.project(changed + 3, x)
    threat.assert_inside(far, x)
    assert not threat.inside(changed * torch.nan, x).any() and not threat.inside(changed * 3, x)[2]


@pytest.mark.parametrize(("epsilon", "side"), [(0.1, 26), (0.5, 128), (1.0, 256), (1e-9, 1)])
def test_a_share_of_the_side_in_pixels(epsilon, side):
    assert Patch(epsilon).side(256) == side


def test_random_squares_are_inside_and_everywhere():
    threat, x = Patch(0.25), torch.full((1000, 3, 8, 8), 2.0)
    start = threat.random_start(x, source(1000))
    corners = {tuple((row != 2).any(0).nonzero()[0].tolist()) for row in start}
    assert corners == {(i, j) for i in range(7) for j in range(7)}
    x = images(3)
    threat.assert_inside(threat.random_start(x, source(3)), x)


def test_pgd_in_the_threat_model_stays_inside():
    x, y, threat = images(3), labels(3), Patch(0.4)
    found = PGD(threat).run(Linear(), x, y)
    threat.assert_inside(found.images, x)
    assert (found.best_loss > found.clean_loss).all()


# -- the search -------------------------------------------------------------------------------------------------------


def test_where_the_gradient_says_nothing_the_grid_finds_the_place():
    """A black image: the score is flat there, and only what is put in the window shows that it matters."""
    x = torch.zeros(2, 3, BIG, BIG)
    for top, left in ((0, 0), (12, 0), (9, 12)):
        detector = Bump(top, left, 4)
        found = get("patch", epsilon=0.25).run(detector, x, torch.ones(2))
        assert (found.best_loss >= 0.5 * detector.score(torch.ones_like(x))).all()
        assert found.zero_gradients.max() < 1


def test_steps_add_to_what_the_best_square_of_one_colour_does():
    detector, x, y = Wavy(image_size=BIG), pictures(4), labels(4)
    few = get("patch", epsilon=0.3, steps=1, squares=1).run(detector, x, y, noise=source(4))
    many = get("patch", epsilon=0.3, steps=40, squares=1).run(detector, x, y, noise=source(4))
    # Each pixel of a channel adds at most |w|, at sin = 1 or -1, which [0, 1] holds.
    window = 5
    most = torch.nn.functional.avg_pool2d(detector.weight.abs().sum(0)[None, None], window, 1).max() * window**2 * 2
    assert (many.best_loss > few.best_loss).all() and (many.best_loss - many.clean_loss <= most).all()
    assert (many.gain > 0).all() and many.late_gain is not None


def test_it_falls_along_a_surrogate_and_a_flat_score_gives_back_the_clean_image():
    x, y = images(3), labels(3)

    class Monotone(Saturated):
        surrogate_is_monotone = True

    assert (get("patch", epsilon=0.3).run(Monotone(), x, y).best_loss > (y * Linear().score(x))).all()
    both = get("patch", epsilon=0.3, steps=4)
    assert both.follows(Saturated()) == "auto" and both.run(Saturated(), x, y).surrogate_won is not None
    assert torch.equal(get("patch").run(Flat(), x, y).images, x)


def test_its_budget_is_what_it_says():
    x, y = images(2), labels(2)
    attack = get("patch", squares=2, steps=7, positions=3, eot=3)
    for detector in (Linear(), NoisyWavy()):
        found = attack.run(detector, x, y)
        assert found.gradients == attack.gradients(is_stochastic=detector.is_stochastic)
    # A clean pass, the places' gradient, 2 + 9 * 3 places, and three climbs of 7 steps and an end.
    assert attack.run(Linear(), x, y).forwards == 1 + 1 + (2 + 27) + 3 * 8
    assert attack.with_draws(4).settings.eot == 12


@pytest.mark.parametrize("steps", [1, 5, 20, 40, 400])
def test_steps_fall_from_a_quarter_or_from_what_reaches_across_a_pixels_range(steps):
    for sizes, first in (
        (step_sizes(steps), 0.25),
        (step_sizes(steps, first=2 / steps), min(0.25, max(2 / steps, 0.01))),
    ):
        assert len(sizes) == steps and sizes[0] == pytest.approx(first) and sizes == sorted(sizes, reverse=True)
        assert sizes[-1] == pytest.approx(0.01) or steps == 1
        assert sum(sizes) >= 1 or steps < 8


def test_an_images_result_does_not_depend_on_its_neighbours():
    x, y, noise = images(4), labels(4), source(4)
    attack = get("patch", epsilon=0.3, steps=8)
    for detector in (Wavy(), NoisyWavy()):
        together = attack.run(detector, x, y, noise=noise).images
        for row in range(4):
            alone = attack.run(detector, x[row : row + 1], y[row : row + 1], noise=noise.pick([row])).images
            torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=0)


def test_an_image_that_has_enough_is_asked_no_more():
    asked = []

    class Counting(Linear):
        def _score(self, x, noise):
            asked.append(len(x))
            return super()._score(x, noise)

    x, y = images(4), labels(4)
    attack = get("patch", epsilon=0.3, steps=5)
    enough = torch.tensor([-math.inf, -math.inf, math.inf, math.inf])
    found = attack.run(Counting(), x, y, noise=source(4), enough=enough)
    assert found.had_enough.tolist() == [True, True, False, False] and torch.equal(found.images[:2], x[:2])
    assert found.gradients_spent.tolist() == [0, 0, 16, 16]
    whole = attack.run(Linear(), x, y, noise=source(4))
    torch.testing.assert_close(found.images[2:], whole.images[2:])
    assert attack.run(Counting(), x, y, enough=torch.full((4,), -math.inf)).had_enough.all()


def test_luck_with_noise_is_no_gain_but_averaging_finds_what_is_there():
    x, y = images(8), labels(8)
    found = get("patch", steps=4, squares=1).run(PureNoise(), x, y, noise=source(8))
    assert abs(float((found.best_loss - found.clean_loss).mean())) < 0.6  # of a deviation of 1, over 8 images' 16 draws

    class NoisyLinear(Linear):
        is_stochastic = True

        def _score(self, x, noise):
            return super()._score(x + 0.2 * noise.normal(x.shape[1:], stream="fake", like=x), noise)

    noisy, plain = NoisyLinear(), Linear()
    found = get("patch", epsilon=0.5, steps=10).run(noisy, x, y, noise=source(8))
    best = [best_square(plain.weight.detach(), x[row], y[row], 4)[0] for row in range(8)]
    gained = y * (plain.score(found.images) - plain.score(x))
    assert (gained >= 0.95 * torch.tensor(best)).all()


@pytest.mark.parametrize("epsilon", [1.01, 26, "8"])
def test_shares_that_there_are_not_are_sentences(epsilon):
    with pytest.raises(AttackError, match="its side as a share of the image's"):
        get("patch", epsilon=epsilon)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"positions": 0}, "positions"),
        ({"squares": 0}, "squares"),
        ({"steps": 1.5}, "steps"),
        ({"eot": True}, "eot"),
        ({"search_draws": 0}, "search_draws"),
        ({"selection_draws": 0}, "selection_draws"),
        ({"differentiate": "mean"}, "differentiate"),
    ],
)
def test_settings_that_make_no_sense_are_sentences(settings, text):
    with pytest.raises(AttackError, match=text):
        get("patch", **settings)


def test_another_threat_model_is_refused():
    with pytest.raises(AttackError, match="takes the threat model Patch"):
        PatchAttack(LInf(0.1))(Linear(), images(2), labels(2))
