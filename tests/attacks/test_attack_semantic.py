"""Turns and hues: what they do to a picture, and that the worst of them is found."""

import colorsys
import math

import pytest
import torch
from attack_fakes import Fake, Flat, Linear, PureNoise, Wavy, images, labels, source
from torchvision.transforms.functional import adjust_hue

from attacks import LInf, SemanticRange, get
from attacks.errors import AttackError, ThreatModelError
from attacks.image_changes import rehued, turned
from attacks.semantic import Semantic
from attacks.threat import How


def pictures(count=2, height=24, width=24, seed=0):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


class Towards(Fake):
    """A(x) = -|x - target|^2: the best change is the one that makes the target."""

    def __init__(self, target):
        super().__init__(target.shape[-1])
        self.register_buffer("target", target)

    def _score(self, x, noise):
        return -(x - self.target).square().flatten(1).sum(1)


# -- what they do -----------------------------------------------------------------------------------------------------


def test_no_turn_and_no_shift_is_the_identity_to_the_bit():
    for x in (pictures(), images(3), pictures(2, 20, 30)):
        nothing = torch.zeros(len(x))
        assert torch.equal(turned(x, nothing), x) and torch.equal(rehued(x, nothing), x)
        threat = SemanticRange(1.0)
        assert torch.equal(threat.transformed(x, How(torch.zeros(len(x), 2), source(len(x)))), x)


def test_a_quarter_turn_is_counter_clockwise_and_half_a_turn_turns_any_shape():
    x = pictures(3)
    for turns in (1, 2, 3):
        found = turned(x, torch.full((3,), 90.0 * turns))
        torch.testing.assert_close(found, torch.rot90(x, turns, (2, 3)), atol=1e-4, rtol=0)
    wide = pictures(2, 16, 40)
    torch.testing.assert_close(turned(wide, torch.full((2,), 180.0)), wide.flip(2, 3), atol=1e-4, rtol=0)


def test_a_small_turn_moves_what_is_off_the_centre_along_a_circle():
    side, angle = 65, 7.0
    rows, columns = torch.meshgrid(*[torch.arange(side, dtype=torch.float64) - (side - 1) / 2] * 2, indexing="ij")
    blob = torch.exp(-((rows - 3) ** 2 + (columns - 18) ** 2) / 8).expand(1, 3, -1, -1)
    found = turned(blob, torch.tensor([angle]))[0, 0]
    at = [float((found * axis).sum() / found.sum()) for axis in (rows, columns)]
    radians = math.radians(angle)  # rows count downwards
    assert at[0] == pytest.approx(3 * math.cos(radians) - 18 * math.sin(radians), abs=0.02)
    assert at[1] == pytest.approx(18 * math.cos(radians) + 3 * math.sin(radians), abs=0.02)


def test_a_turn_brings_in_no_black_corners_and_no_new_colours():
    x = 0.4 + 0.2 * pictures()
    found = turned(x, torch.tensor([30.0, -13.0]))
    assert float(found.min()) >= float(x.min()) - 1e-6 and float(found.max()) <= float(x.max()) + 1e-6
    plain = torch.full_like(x, 0.25)
    torch.testing.assert_close(turned(plain, torch.tensor([30.0, 5.0])), plain)


@pytest.mark.parametrize("shift", [-0.5, -0.3, -0.01, 0.05, 1 / 3, 0.5])
def test_a_shift_of_the_hue_is_colorsys_and_torchvisions(shift):
    x = images(2)
    found = rehued(x, torch.full((2,), shift))
    torch.testing.assert_close(found, adjust_hue(x, shift), atol=1e-5, rtol=0)
    for place in ((0, 0), (3, 5), (7, 7)):
        hue, *others = colorsys.rgb_to_hsv(*x[1, :, place[0], place[1]].tolist())
        expected = colorsys.hsv_to_rgb((hue + shift) % 1, *others)
        assert found[1, :, place[0], place[1]].tolist() == pytest.approx(expected, abs=1e-5)


def test_each_image_has_its_own_shift_and_grey_has_none():
    x = images(3)
    x[1] = x[1, :1]
    found = rehued(x, torch.tensor([0.1, 0.4, -0.2]))
    for row, shift in ((0, 0.1), (2, -0.2)):
        torch.testing.assert_close(found[row : row + 1], rehued(x[row : row + 1], torch.tensor([shift])))
    assert torch.equal(found[1], x[1])
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    assert rehued(red, torch.tensor([1 / 3])).flatten().tolist() == pytest.approx([0, 1, 0], abs=1e-6)


# -- the attack -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("angle", "hue"), [(4.3, -0.061), (-7.9, 0.03), (9.0, 0.0), (-0.4, 0.15)])
def test_it_finds_the_change_that_a_score_is_worst_at(angle, hue):
    blob = torch.exp(-((torch.linspace(-1, 1, 24)[:, None] - 0.3) ** 2 + torch.linspace(-1, 1, 24) ** 2) * 6)
    x = 0.2 + 0.6 * blob * torch.tensor([1.0, 0.6, 0.1]).view(3, 1, 1)
    x = x + 0.1 * torch.sin(torch.arange(24) / 2) * torch.tensor([0.3, 1.0, 0.5]).view(3, 1, 1)
    x = x.clamp(0, 1)[None]
    threat = SemanticRange(0.3)  # turns by 9 degrees, hues by 0.15
    target = threat.transformed(x, How(torch.tensor([[angle, hue]]), source(1)))
    found = get("semantic", epsilon=0.3, refinements=5).run(Towards(target[0]), x, torch.ones(1), noise=source(1))
    assert found.transformation[0, 0].item() == pytest.approx(angle, abs=0.1)
    assert found.transformation[0, 1].item() == pytest.approx(hue, abs=0.003)


def test_it_never_finds_less_than_its_grid_and_more_strength_than_less():
    """The grid of a strength holds that of half of it where it has twice the intervals."""
    x, y, detector = images(4), labels(4), Wavy()
    clean = y * detector.score(x)
    weak = get("semantic", epsilon=0.2, angles=5, hues=3, refinements=0).run(detector, x, y)
    strong = get("semantic", epsilon=0.4, angles=9, hues=5, refinements=0).run(detector, x, y)
    finer = get("semantic", epsilon=0.4, angles=9, hues=5).run(detector, x, y)
    assert (weak.best_loss >= clean).all()
    assert (strong.best_loss >= weak.best_loss - 1e-5).all() and (finer.best_loss >= strong.best_loss).all()
    assert (finer.best_loss > strong.best_loss).any()
    torch.testing.assert_close(finer.best_loss, y * detector.score(finer.images))


def test_of_grey_images_hues_are_left_out():
    asked = []

    class Counting(Linear):
        def _score(self, x, noise):
            asked.append(len(x))
            return super()._score(x, noise)

    x, y = images(3), labels(3)
    x[1:] = x[1:, :1]
    found = get("semantic", angles=5, hues=5, refinements=0).run(Counting(), x, y)
    assert not found.transformation[1:, 1].any() and found.forwards == len(asked)
    assert sum(asked) == 3 + 24 + 2 * 4, "one clean pass; 24 points of the coloured image, 4 of each grey one"
    grey = x.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    still = get("semantic", angles=1, hues=5).run(Linear(), grey, y)
    assert torch.equal(still.images, grey), "there is nothing to do"


def test_what_has_one_point_on_an_axis_does_not_move_along_it():
    x, y = images(3), labels(3)
    assert not get("semantic", hues=1).run(Wavy(), x, y).transformation[:, 1].any()
    assert not get("semantic", angles=1).run(Wavy(), x, y).transformation[:, 0].any()


def test_where_nothing_helps_the_clean_image_stays_to_the_bit():
    x, y = images(2), labels(2)
    found = get("semantic", angles=3, hues=3, refinements=1).run(Flat(), x, y)
    assert torch.equal(found.images, x) and not found.transformation.any()
    assert found.gradients == 0 and found.zero_gradients.isnan().all()


def test_an_images_result_does_not_depend_on_its_neighbours():
    x, y, noise = images(4), labels(4), source(4)
    x[1] = x[1, :1]
    attack = get("semantic", epsilon=0.5, angles=5, hues=3)
    together = attack.run(Wavy(), x, y, noise=noise)
    for row in range(4):
        alone = attack.run(Wavy(), x[row : row + 1], y[row : row + 1], noise=noise.pick([row]))
        assert torch.equal(alone.transformation[0], together.transformation[row])
        torch.testing.assert_close(alone.images[0], together.images[row])


def test_an_image_that_has_enough_is_asked_no_more():
    x, y = images(4), labels(4)
    attack = get("semantic", angles=5, hues=3)
    enough = torch.tensor([-math.inf, math.inf, -math.inf, math.inf])
    found, whole = attack.run(Linear(), x, y, enough=enough), attack.run(Linear(), x, y)
    assert found.had_enough.tolist() == [True, False, True, False]
    assert torch.equal(found.images[::2], x[::2])
    torch.testing.assert_close(found.images[1::2], whole.images[1::2])


def test_luck_with_noise_is_no_gain():
    x, y = images(6), labels(6)
    found = get("semantic", angles=5, hues=3).run(PureNoise(), x, y, noise=source(6))
    assert sum(torch.equal(a, b) for a, b in zip(found.images, x, strict=True)) >= 4


# -- the threat model -------------------------------------------------------------------------------------------------


def test_the_threat_model_knows_what_was_done_and_how_far_it_may_go():
    threat, x = SemanticRange(0.1), pictures()
    how = How(torch.tensor([[3.0, -0.05], [-1.0, 0.02]]), source(2))
    done = threat.transformed(x, how)
    assert threat.inside(done, x, how).all() and not threat.inside((done + 1e-3).clamp(0, 1), x, how).any()
    assert SemanticRange(0.05).inside(done, x, how).tolist() == [False, True]
    assert not threat.inside(done, x, How(how.parameters + 0.01, source(2))).any(), "another turn"
    with pytest.raises(ThreatModelError, match="say what it did"):
        threat.assert_inside(done, x)
    assert threat.meaning == "a turn by at most 3 degrees, a shift of the hue by at most 18"
    assert SemanticRange(1).allowed(torch.tensor([[50.0, -2.0]])).tolist() == [[30.0, -0.5]]


@pytest.mark.parametrize("epsilon", [1.5, 5, "30"])
def test_strengths_that_there_are_not_are_sentences(epsilon):
    with pytest.raises(AttackError, match="a strength of at most 1"):
        get("semantic", epsilon=epsilon)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"angles": 0}, "angles"),
        ({"angles": 4}, "angles of semantic must be an odd number"),
        ({"hues": 2}, "hues of semantic must be an odd number.*got 2"),
        ({"hues": True}, "hues"),
        ({"refinements": -1}, "refinements"),
        ({"search_draws": 0}, "search_draws"),
        ({"selection_draws": 0}, "selection_draws"),
    ],
)
def test_settings_that_make_no_sense_are_sentences(settings, text):
    with pytest.raises(AttackError, match=text):
        get("semantic", **settings)


def test_another_threat_model_is_refused():
    with pytest.raises(AttackError, match="takes the threat model SemanticRange"):
        Semantic(LInf(0.1))(Linear(), images(2), labels(2))
