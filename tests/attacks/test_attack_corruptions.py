"""Corruptions: what each kind does at each severity, and that the worst of them is found."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from attack_fakes import Fake, Flat, Linear, PureNoise, Tent, Wavy, images, labels, source
from PIL import Image
from torch.nn.functional import conv2d, pad

from attacks import CorruptionsUpTo, LInf, get
from attacks.corruptions import Corruptions, CorruptionsSettings
from attacks.errors import AttackError, ThreatModelError
from attacks.image_changes import BLUR, BRIGHTNESS, CONTRAST, KINDS, NOISE, SEVERITIES, corrupted, signs
from attacks.result import AttackResult
from attacks.threat import How

EVERY = [(kind, severity, sign) for kind in KINDS for severity in range(1, 6) for sign in signs(kind)]


class Mean(Fake):
    """A(x) = mean(x)."""

    def _score(self, x, noise):
        return x.flatten(1).mean(1)


class Roughness(Fake):
    """A(x): the mean square of the differences of neighbours, which noise raises and blur lowers."""

    def _score(self, x, noise):
        return (x[..., 1:] - x[..., :-1]).square().flatten(1).mean(1)


def smooth(count, side=16):
    """Grey ramps between 0.3 and 0.7."""
    ramp = torch.linspace(0.3, 0.7, side)
    return (ramp + torch.linspace(-0.1, 0.1, count)[:, None, None, None]).expand(count, 3, side, side).clone()


# -- what each kind does ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "severity", "sign"), EVERY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_stay_images(kind, severity, sign, dtype):
    x = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=dtype)
    found = corrupted(x, kind, severity, sign, source(3))
    assert found.shape == x.shape and found.dtype == dtype
    assert float(found.min()) >= 0 and float(found.max()) <= 1 and not torch.equal(found, x)
    assert corrupted(x, kind, 0, sign, source(3)) is x


@pytest.mark.parametrize(("kind", "sign"), [(kind, sign) for kind in KINDS for sign in signs(kind)])
def test_a_higher_severity_goes_farther(kind, sign):
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.3
    away = [(corrupted(x, kind, s, sign, source(2)) - x).square().mean().item() for s in range(SEVERITIES + 1)]
    assert away == sorted(away) and len(set(away)) == len(away)


def test_noise_is_gaussian_of_the_printed_deviation_and_each_images_own():
    x = torch.full((2, 3, 64, 64), 0.5)
    for severity, sigma in enumerate(NOISE, start=1):
        change = corrupted(x, "noise", severity, 1, source(2)) - x
        assert change.std().item() == pytest.approx(sigma, rel=0.02) and abs(change.mean().item()) < sigma / 50
    assert not torch.equal(change[0], change[1])
    alone = corrupted(x[1:], "noise", 5, 1, source(2).pick([1])) - x[1:]
    assert torch.equal(alone[0], change[1])


def test_blur_is_a_gaussian_that_is_as_wide_on_the_object_at_every_size():
    x = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for severity, width in enumerate(BLUR, start=1):
        sigma = width / 2  # 128 pixels
        reach = math.ceil(4 * sigma)
        bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / sigma) ** 2)
        kernel = (bell[:, None] * bell / bell.sum() ** 2).expand(3, 1, -1, -1)
        expected = conv2d(pad(x, [reach] * 4, mode="reflect"), kernel, groups=3)
        torch.testing.assert_close(corrupted(x, "blur", severity, 1, source(1)), expected, atol=1e-6, rtol=0)


def test_brightness_and_contrast_are_their_formulas():
    x = images(2)
    mean = x.mean(dim=(2, 3), keepdim=True)
    for severity, (step, share) in enumerate(zip(BRIGHTNESS, CONTRAST, strict=True), start=1):
        for sign in (1, -1):
            torch.testing.assert_close(
                corrupted(x, "brightness", severity, sign, source(2)), (x + sign * step).clamp(0, 1)
            )
            spread = 1 / share if sign == 1 else share
            expected = (mean + spread * (x - mean)).clamp(0, 1)
            torch.testing.assert_close(corrupted(x, "contrast", severity, sign, source(2)), expected)


def test_jpeg_is_what_pillow_makes_of_the_picture(tmp_path):
    x = images(1)
    levels = (x[0] * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(levels).save(tmp_path / "a.jpg", quality=40, subsampling=2)
    expected = torch.from_numpy(np.array(Image.open(tmp_path / "a.jpg"))).permute(2, 0, 1) / 255
    torch.testing.assert_close(corrupted(x, "jpeg", 3, 1, source(1))[0], expected)


# -- the attack -------------------------------------------------------------------------------------------------------


def test_on_the_mean_brightness_it_finds_the_closed_form_optimum():
    x, y = images(4, low=0.2, high=0.8), labels(4)
    for severity, step in enumerate(BRIGHTNESS, start=1):
        found = get("corruptions", epsilon=severity, kinds=("brightness",)).run(Mean(), x, y, noise=source(4))
        best = (x + y[:, None, None, None] * step).clamp(0, 1)
        torch.testing.assert_close(found.images, best)
        assert found.transformation.tolist() == [[2, severity, sign] for sign in (1, -1, 1, -1)]
        of_all = get("corruptions", epsilon=severity).run(Mean(), x, y, noise=source(4))
        assert (of_all.best_loss >= found.best_loss).all()


def test_it_chooses_what_each_score_and_class_is_worst_at():
    """A smooth normal image is roughest with noise on it, a rough anomaly smoothest when it is blurred or flattened."""
    x, y = torch.cat([smooth(2, 32), torch.rand(2, 3, 32, 32)]), torch.tensor([1, 1, -1, -1])
    found = get("corruptions", epsilon=5).run(Roughness(32), x, y, noise=source(4))
    kinds = [KINDS[int(row[0])] for row in found.transformation]
    assert kinds[:2] == ["noise", "noise"] and set(kinds[2:]) <= {"blur", "contrast"}


@pytest.mark.parametrize("detector_class", [Mean, Roughness, Linear, Wavy, Tent])
def test_no_higher_severity_finds_less_and_none_less_than_any_single_corruption(detector_class):
    detector, x, y, noise = detector_class(), images(4), labels(4), source(4)
    before = y * detector.score(x)
    for severity in range(1, SEVERITIES + 1):
        loss = get("corruptions", epsilon=severity).run(detector, x, y, noise=noise).best_loss
        assert (loss >= before).all()
        of_severity = [corrupted(x, kind, s, sign, noise) for kind, s, sign in EVERY if s == severity]
        single = torch.stack([y * detector.score(one) for one in of_severity])
        torch.testing.assert_close(loss, torch.maximum(before, single.amax(dim=0)))
        before = loss


def test_where_nothing_helps_the_clean_image_stays_to_the_bit():
    x, y = images(3), labels(3)
    found = get("corruptions").run(Flat(), x, y)
    assert torch.equal(found.images, x) and not found.transformation.any()


def test_an_images_result_does_not_depend_on_its_neighbours():
    x, y, noise = images(5), labels(5), source(5)
    attack = get("corruptions", epsilon=5)
    together = attack.run(Wavy(), x, y, noise=noise)
    for row in range(5):
        alone = attack.run(Wavy(), x[row : row + 1], y[row : row + 1], noise=noise.pick([row]))
        assert torch.equal(alone.transformation[0], together.transformation[row])
        torch.testing.assert_close(alone.images[0], together.images[row])


def test_an_image_that_has_enough_is_asked_no_more():
    asked = []

    class Counting(Linear):
        def _score(self, x, noise):
            asked.append(len(x))
            return super()._score(x, noise)

    x, y = images(4), labels(4)
    enough = torch.tensor([-math.inf, -math.inf, math.inf, math.inf])
    found = get("corruptions").run(Counting(), x, y, noise=source(4), enough=enough)
    assert found.had_enough.tolist() == [True, True, False, False] and torch.equal(found.images[:2], x[:2])
    assert asked[0] == 4 and set(asked[1:]) == {2} and found.gradients == 0


def test_luck_with_noise_is_no_gain_and_a_gain_under_noise_is_found():
    x, y = images(6), labels(6)
    found = get("corruptions", epsilon=5).run(PureNoise(), x, y, noise=source(6))
    assert sum(torch.equal(a, b) for a, b in zip(found.images, x, strict=True)) >= 4  # by chance one in twenty is not

    class NoisyMean(Mean):
        is_stochastic = True

        def _score(self, x, noise):
            return super()._score(x, noise) + 0.05 * noise.normal((), stream="fake", like=x)

    found = get("corruptions", epsilon=5, kinds=["brightness"]).run(NoisyMean(), x, y, noise=source(6))
    assert found.transformation[:, 0].eq(2).all() and found.transformation[:, 2].tolist() == y.tolist()


def test_a_score_that_is_not_a_number_on_some_of_them_wins_nothing():
    class NaNWhereBright(Mean):
        def _score(self, x, noise):
            mean = super()._score(x, noise)
            return torch.where(mean > 0.75, torch.nan, mean)

    x, y = images(2, low=0.4, high=0.6), torch.ones(2)
    found = get("corruptions", epsilon=5).run(NaNWhereBright(), x, y)
    assert found.best_loss.isfinite().all() and (found.best_loss > 0.65).all()


# -- the threat model -------------------------------------------------------------------------------------------------


def test_the_threat_model_knows_what_was_done_and_what_was_not():
    threat, x, noise = CorruptionsUpTo(3), images(3), source(3)
    how = How(torch.tensor([[0.0, 3, 1], [2, 2, -1], [4, 1, 1]]), noise)
    done = threat.transformed(x, how)
    for row, (kind, severity, sign) in enumerate([("noise", 3, 1), ("brightness", 2, -1), ("jpeg", 1, 1)]):
        expected = corrupted(x[row : row + 1], kind, severity, sign, noise.pick([row]))[0]
        torch.testing.assert_close(done[row], expected)
    assert threat.inside(done, x, how).all()
    assert threat.inside(x, x, How(torch.zeros(3, 3), noise)).all(), "nothing done is allowed"
    assert not threat.inside(done + 1e-3, x, how).any()
    assert not threat.inside(done, x, How(how.parameters, source(3, seed=1)))[0], "another noise"
    assert CorruptionsUpTo(2).inside(done, x, how).tolist() == [False, True, True]
    for wrong in ([5.0, 1, 1], [0, 1, -1], [0, 1.5, 1], [torch.nan, 1, 1], [0, -1, 1], [1, 0, 1]):
        assert not threat.inside(x, x, How(torch.tensor([wrong] * 3), noise)).any()
    with pytest.raises(ThreatModelError, match="say what it did"):
        threat.inside(done, x)


class Cheat(Corruptions):
    """Says that it did a little and did a lot."""

    name = "cheat"

    def _run(self, detector, x, y, threat, *, noise, selection, progress, enough=None):
        loss = y * detector.score(x + 0.4)
        found = AttackResult.without_gradients(
            (x + 0.4).clamp(0, 1), loss, clean_loss=loss, trace=loss[None], forwards=1, enough=None
        )
        return found if self.settings.kinds == ("jpeg",) else self._claimed(found)

    def _claimed(self, found):
        said = torch.tensor([2.0, 4.0, 1.0]).expand(len(found.images), -1)
        return dataclasses.replace(found, transformation=said)


def test_an_attack_that_says_less_than_it_did_is_brought_back_to_what_it_may():
    x, y = images(2), torch.ones(2)
    found = Cheat(CorruptionsUpTo(2)).run(Mean(), x, y, noise=source(2))
    assert found.reprojected.all() and found.transformation.tolist() == [[2, 2, 1]] * 2
    torch.testing.assert_close(found.images, (x + BRIGHTNESS[1]).clamp(0, 1))
    torch.testing.assert_close(found.best_loss, Mean().score(found.images))
    with pytest.raises(ThreatModelError, match="say what it did"):
        Cheat(CorruptionsUpTo(2), CorruptionsSettings(kinds=("jpeg",)))(Mean(), x, y)


@pytest.mark.parametrize("epsilon", [0.5, 2.5, 6, 255, "3/2", "8"])
def test_severities_that_there_are_not_are_sentences(epsilon):
    with pytest.raises(AttackError, match="severity, a whole number from 1 to 5"):
        get("corruptions", epsilon=epsilon)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"kinds": ()}, "kinds"),
        ({"kinds": "noise"}, "in a tuple"),
        ({"kinds": ("fog",)}, "noise, blur, brightness, contrast, jpeg"),
        ({"kinds": 3}, "kinds"),
        ({"kinds": ([],)}, "kinds"),
        ({"search_draws": 0}, "search_draws"),
        ({"selection_draws": 1.5}, "selection_draws"),
    ],
)
def test_settings_that_make_no_sense_are_sentences(settings, text):
    with pytest.raises(AttackError, match=text):
        get("corruptions", **settings)


def test_other_threat_models_are_refused_and_it_refuses_the_attacks_of_balls():
    x, y = images(2), labels(2)
    with pytest.raises(AttackError, match="takes the threat model CorruptionsUpTo"):
        Corruptions(LInf(0.1))(Linear(), x, y)
    with pytest.raises(ThreatModelError, match="no ball"):
        type(get("pgd-linf"))(CorruptionsUpTo(3))(Linear(), x, y)
