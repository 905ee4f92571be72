"""What every attack's public call promises: shown on attacks that misbehave, and asked of every registered one.

A new attack needs no row here: whatever `attacks.names()` lists is asked.
"""

import dataclasses
import random

import numpy as np
import pytest
import torch
from attack_fakes import (
    SIDE,
    Detached,
    Flat,
    Linear,
    NaNWhereDark,
    NoisyWavy,
    PureNoise,
    Saturated,
    Wavy,
    images,
    labels,
    saturated_images,
    source,
)

import attacks
from attacks import L2, PGD, LInf
from attacks.base import Attack
from attacks.errors import AttackError, GradientCutError, ThreatModelError
from attacks.registry import get_class
from attacks.result import AttackResult
from attacks.threat import How

EPSILON = {"linf": 0.03, "l2": 0.3, "corruptions": 3, "semantic": 0.5, "patch": 0.4}
registered = pytest.mark.parametrize("name", attacks.names())


class Double(Attack):
    """An attack that returns what it is told to."""

    name = "double"

    def __init__(self, threat, change):
        super().__init__(threat)
        self.change = change

    def _run(self, detector, x, y, threat, *, noise, selection, progress):
        zero = torch.zeros(len(x))
        return AttackResult(
            images=self.change(x),
            trace=zero[None],
            clean_loss=zero,
            last_loss=zero,
            best_loss=zero,
            zero_gradients=zero,
            non_finite_gradients=zero,
            reprojected=zero.bool(),
            forwards=7,
            gradients=0,
        )


# Where an attack has a setting of that name, and no test says otherwise: enough to see it work.
SMALL = {
    "steps": 12,
    "iterations": 12,
    "starts": 2,
    "queries": 60,
    "samples": 12,
    "eot": 2,
    "mean_draws": 2,
    "selection_draws": 6,
    "positions": 2,
    "angles": 5,
    "hues": 3,
}


def made(name, detector=None, **settings):
    """A registered attack in a small ball of its norm, with small budgets where none are given; a test with a detector
    of a kind that the attack is not for is skipped."""
    cls = get_class(name)
    if detector is not None and cls.for_stochastic not in (None, detector.is_stochastic):
        pytest.skip("it is for detectors of the other kind")
    known = {field.name for field in dataclasses.fields(cls.settings_class)}
    small = {key: value for key, value in SMALL.items() if key in known}
    return attacks.get(name, **{"image_size": SIDE, "epsilon": EPSILON[cls.norm]} | small | settings)


def assert_inside(attack, result, x, noise):
    """Its images are some that the threat model allows; where that is a set of transformations, by what it says."""
    how = None if result.transformation is None else How(result.transformation, noise)
    attack.threat.assert_inside(result.images, x, how)


def one_for(name):
    """A detector that the attack is for, one that draws noise if it may."""
    return Wavy() if get_class(name).for_stochastic is False else NoisyWavy()


@pytest.mark.parametrize("threat", [LInf(2 / 255), L2(0.2)], ids=repr)
def test_what_leaves_the_ball_is_brought_back_and_said_so(threat):
    def one_outside(x):
        out = x.clone()
        out[1] += 10
        return out

    detector, x, y = Linear(), images(3), labels(3)
    result = Double(threat, one_outside).run(detector, x, y)
    threat.assert_inside(result.images, x)
    assert result.reprojected.tolist() == [False, True, False]
    assert torch.equal(result.images[[0, 2]], x[[0, 2]])
    # The attack's own loss was that of an image outside: the true one takes its place.
    assert result.best_loss[1] == (y * detector.score(result.images))[1]
    assert result.best_loss[0] == 0
    assert result.forwards == 8


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda x: x * torch.nan, "not finite"),
        (lambda x: x + torch.inf, "not finite"),
        (lambda x: x[:1], "must be"),
        (lambda x: x.double(), "must be"),
        (lambda x: x.mean(1, keepdim=True), "must be"),
    ],
)
@pytest.mark.parametrize("threat", [LInf(0.1), L2(0.2)], ids=repr)
def test_what_is_no_such_batch_of_images_is_an_error(threat, change, text):
    with pytest.raises(ThreatModelError, match=text):
        Double(threat, change)(Linear(), images(2), labels(2))


def test_an_attack_that_steps_in_place_cannot_touch_the_clean_images():
    x = images(2)
    before = x.clone()
    result = Double(LInf(0.1), lambda x: x.add_(0.5))(Linear(), x, labels(2))
    assert torch.equal(x, before)
    LInf(0.1).assert_inside(result, before)


@registered
@pytest.mark.parametrize("detector_class", [Wavy, NoisyWavy])
def test_an_attack_touches_nothing_but_returns_new_tensors(name, detector_class):
    detector, x, y = detector_class(), images(3), labels(3)
    x.requires_grad_(True)
    before, weights = x.detach().clone(), {k: v.clone() for k, v in detector.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    result = made(name, detector).run(detector, x, y)
    assert torch.equal(x, before) and x.grad is None and x.requires_grad
    assert all(torch.equal(v, weights[k]) for k, v in detector.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in detector.parameters())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all() and random.getstate() == states[2]
    for field in dataclasses.fields(result):
        value = getattr(result, field.name)
        assert value is None or isinstance(value, int) or not value.requires_grad
    assert result.images.dtype == x.dtype


@registered
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_callers_gradient_mode_changes_nothing(name, mode):
    detector = one_for(name)
    attack = made(name)
    expected = attack(detector, images(2), labels(2), noise=source(2))
    with mode():
        found = attack(detector, images(2), labels(2), noise=source(2))
    assert torch.equal(found, expected)


@registered
def test_float64_stays_float64(name):
    x = images(2, dtype=torch.float64)
    result = made(name).run(one_for(name), x, labels(2))
    assert result.images.dtype == result.trace.dtype == result.best_loss.dtype == torch.float64


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a machine without a GPU")
@registered
def test_what_is_on_a_gpu_stays_there(name):
    result = made(name).run(one_for(name).cuda(), images(2).cuda(), labels(2))
    assert result.images.is_cuda and result.trace.is_cuda


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (images(2)[0], "shape"),
        (images(2)[:, :1], "shape"),
        (images(2)[:0], "shape"),
        ((images(2) * 255).byte(), "255"),
        (images(2).half(), "float32"),
        (images(2) * 255, "divide by 255"),
        (images(2) * 2 - 1, "normalisation"),
        (images(2) * torch.nan, r"\[0, 1\]"),
    ],
)
@registered
def test_inputs_that_are_no_images_are_sentences(name, x, text):
    with pytest.raises(AttackError, match=text):
        made(name)(Linear(), x, torch.ones(len(x)))


@pytest.mark.parametrize(
    ("y", "text"),
    [
        (torch.tensor([0, 1]), "1 - 2"),
        (torch.tensor([1.0, 0.5]), "1 - 2"),
        (torch.tensor([True, False]), "1 - 2"),
        (torch.tensor([1.0, torch.nan]), "1 - 2"),
        (torch.tensor([1]), "one label per image"),
        (torch.ones(2, 1), "one label per image"),
    ],
)
def test_inputs_that_are_no_labels_are_sentences(y, text):
    with pytest.raises(AttackError, match=text):
        PGD(LInf(0.1))(Linear(), images(2), y)


def test_noise_sources_must_fit_and_differ():
    with pytest.raises(AttackError, match="3 images"):
        PGD(LInf(0.1))(Linear(), images(2), labels(2), noise=source(3))
    with pytest.raises(AttackError, match="two purposes"):
        PGD(LInf(0.1)).run(Linear(), images(2), labels(2), noise=source(2), selection=source(2).sub(1))


def test_wrong_settings_are_refused():
    @dataclasses.dataclass(frozen=True)
    class Other:
        steps: int = 3

    with pytest.raises(AttackError, match="PGDSettings"):
        PGD(LInf(0.1), Other())


def test_public_calls_are_final():
    assert all(getattr(getattr(Attack, name), "__final__", False) for name in ("__call__", "run", "resolve"))


# -- what every registered attack keeps -------------------------------------------------------------------------------


@registered
@pytest.mark.parametrize("epsilon", [1e-6, 2 / 255, 0.9])
@pytest.mark.parametrize("detector_class", [Wavy, NoisyWavy, Saturated, Flat, PureNoise])
def test_a_registered_attack_stays_in_its_threat_model_and_in_the_pictures_range(name, detector_class, epsilon):
    x, noise = saturated_images(3), source(3)
    detector = detector_class()
    severities = {1e-6: 1, 2 / 255: 3, 0.9: 5}
    attack = made(name, detector, epsilon=severities[epsilon] if name == "corruptions" else epsilon)
    result = attack.run(detector, x, labels(3), noise=noise)
    assert_inside(attack, result, x, noise)
    assert not result.reprojected.any(), "it projects itself: what is moved afterwards has lost its loss"
    assert result.images.min() >= 0 and result.images.max() <= 1


@registered
def test_a_registered_attack_says_what_it_reached_and_is_never_worse_than_the_clean_image(name):
    detector, x, y = Wavy(), images(4), labels(4)
    result = made(name, detector).run(detector, x, y)
    reached = y * detector.score(result.images)
    assert torch.allclose(result.clean_loss, y * detector.score(x), atol=1e-4)
    assert torch.allclose(result.best_loss, reached, atol=1e-4)
    assert (result.best_loss >= result.clean_loss - 1e-6).all()
    assert result.trace.shape[1:] == result.best_loss.shape == (4,)


@registered
def test_a_registered_attack_moves_both_classes_where_there_is_something_to_gain(name):
    """Normals up and anomalies down; also under no_grad, where many call it."""
    detector, x, y = Linear(), images(4, low=0.4, high=0.6), labels(4)
    with torch.no_grad():
        result = made(name, detector).run(detector, x, y)
    assert (y * (detector.score(result.images) - detector.score(x)) > 0).all()
    if made(name).gradients(is_stochastic=False):
        assert result.gradients > 0 and not result.zero_gradients.any()


@registered
def test_a_registered_attack_repeats_itself_with_the_same_noise_and_alone(name):
    detector, x, y, noise = one_for(name), images(4), labels(4), source(4)
    attack = made(name)
    together = attack.run(detector, x, y, noise=noise)
    assert torch.equal(together.images, attack(detector, x, y, noise=noise))
    for detector in (d for d in (NoisyWavy(), Linear()) if attack.for_stochastic in (None, d.is_stochastic)):
        together = attack.run(detector, x, y, noise=noise).images
        rows = [2, 0]
        some = attack(detector, x[rows], y[rows], noise=noise.pick(rows))
        torch.testing.assert_close(some, together[rows], rtol=0, atol=1e-5)


@registered
def test_a_registered_attack_makes_no_picture_of_a_gradient_that_is_not_finite_and_counts_it(name):
    x = images(4)
    x[:2, 2, -1, -1], x[2:, 2, -1, -1] = 0.1, 0.9
    attack, noise = made(name, NaNWhereDark()), source(4)
    result = attack.run(NaNWhereDark(), x, labels(4), noise=noise)
    assert result.images.isfinite().all() and result.best_loss.isfinite().all()
    assert_inside(attack, result, x, noise)
    if attack.gradients(is_stochastic=False):
        assert (result.non_finite_gradients[:2] > 0).all()
        assert not result.non_finite_gradients[2:].any() or not attack.threat.is_ball  # a ball keeps bright ones bright


@registered
def test_a_registered_attack_refuses_a_score_without_a_gradient_where_it_needs_one(name):
    attack = made(name, Detached())
    if not attack.gradients(is_stochastic=False):
        pytest.skip("it follows no gradient")
    with pytest.raises(GradientCutError, match="no gradient with respect to the image"):
        attack(Detached(), images(2), labels(2))


@registered
@pytest.mark.parametrize("epsilon", [-0.1, "-1/255", float("nan"), float("inf"), 200.0])
def test_a_ball_that_is_none_is_a_sentence(name, epsilon):
    with pytest.raises(AttackError, match="epsilon"):
        made(name, epsilon=epsilon)


@registered
@pytest.mark.parametrize("detector_class", [Wavy, NoisyWavy, Saturated, NaNWhereDark])
def test_in_a_ball_of_no_radius_the_clean_images_come_back_to_the_last_bit(name, detector_class):
    detector, x, y = detector_class(), saturated_images(3), labels(3)
    attack = made(name, detector, epsilon=0)
    result = attack.run(detector, x, y, start=x)
    assert torch.equal(result.images, x) and result.images.data_ptr() != x.data_ptr()
    assert result.gradients == 0 and result.zero_gradients.isnan().all()
    assert torch.equal(result.best_loss, result.clean_loss) and not result.reprojected.any()
    assert attack.describe()["epsilon"] == 0
    if attack.can_stop and not detector.is_stochastic:
        limits = result.best_loss + torch.tensor([-1.0, 1.0, 0.0])
        assert attack.run(detector, x, y, enough=limits).had_enough.tolist() == [True, False, False]


@registered
def test_budgets_and_lengths_that_make_no_sense_are_sentences(name):
    cls = get_class(name)
    assert {*cls.budget_settings, *cls.length_settings} <= {f.name for f in dataclasses.fields(cls.settings_class)}
    for setting, wrong in [(s, v) for s in cls.budget_settings for v in (0, -1, 1.5)] + [
        (s, v) for s in cls.length_settings for v in (0.0, -0.1, float("nan"))
    ]:
        with pytest.raises(AttackError, match=setting):
            made(name, **{setting: wrong})
    with pytest.raises(AttackError, match="no setting 'nothing_of_this_name'"):
        made(name, nothing_of_this_name=1)


@registered
def test_an_attack_that_can_stop_does_and_says_where_and_another_refuses(name):
    attack, x, y = made(name), images(3), labels(3)
    enough = torch.tensor([-torch.inf, torch.inf, -torch.inf])
    if not attack.can_stop:
        with pytest.raises(AttackError, match="cannot stop early"):
            attack.run(Wavy(), x, y, enough=enough)
        return
    noise = source(3)
    result = attack.run(Wavy(), x, y, noise=noise, enough=enough)
    assert result.had_enough.tolist() == [True, False, True]
    assert_inside(attack, result, x, noise)
    with pytest.raises(AttackError, match="cannot stop early"):
        attack.run(NoisyWavy(), x, y, enough=enough)


def test_labels_of_bytes_and_switches_that_are_words_are_sentences():
    """A byte holds no -1, and PyTorch finds 255 equal to it: the attack on anomalies would go the wrong way."""
    with pytest.raises(AttackError, match="Labels"):
        PGD(LInf(0.1))(Linear(), images(2), labels(2).to(torch.uint8))
    with pytest.raises(AttackError, match="random_start must be True or False"):
        attacks.get("pgd-linf", random_start="no")
    with pytest.raises(AttackError, match="force must be True or False"):
        attacks.get("autoattack-l2", force="no")
