import dataclasses
import math

import numpy as np
import pytest
import torch
from attack_fakes import images, saturated_images, source
from scipy import stats

from attacks.errors import AttackError, ThreatModelError
from attacks.threat import L2, LInf, ScaledL2, parse_epsilon, scaled_l2_epsilon, threat_model

THREATS = [LInf(2 / 255), LInf(0.3), LInf(1.0), L2(0.2), L2(3.0)]


def numpy_distance(threat, x_adv, x):
    """A second implementation, in float64."""
    change = (x_adv.double() - x.double()).flatten(1).numpy()
    return np.abs(change).max(1) if threat.norm == "linf" else np.sqrt((change**2).sum(1))


@pytest.mark.parametrize("threat", THREATS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_projection_of_anything_is_in_the_ball_and_the_box(threat, dtype):
    x = saturated_images(300, seed=1).to(dtype)
    scale = torch.logspace(-4, 3, 300, dtype=dtype)[:, None, None, None]
    x_adv = threat.project(x + scale * torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=dtype), x)
    assert (numpy_distance(threat, x_adv, x) <= threat.epsilon * (1 + 1e-6) + 1e-7).all()
    assert float(x_adv.min()) >= 0 and float(x_adv.max()) <= 1
    threat.assert_inside(x_adv, x)


@pytest.mark.parametrize("threat", THREATS, ids=repr)
def test_projection_leaves_what_is_inside(threat):
    x = images(50, low=0.3, high=0.7)
    start = threat.project(x + 0.5 * threat.epsilon * threat.steepest_step(torch.randn_like(x).sign(), 1.0), x)
    torch.testing.assert_close(threat.project(start, x), start, rtol=0, atol=1e-7)
    torch.testing.assert_close(threat.project(x, x), x, rtol=0, atol=0)


def test_projection_is_onto_the_ball_around_the_original_image_then_the_box():
    x = saturated_images(20)
    far = x + 5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    change = (far - x).double().numpy()
    linf = np.clip(x.double().numpy() + np.clip(change, -0.1, 0.1), 0, 1)
    np.testing.assert_allclose(LInf(0.1).project(far, x).numpy(), linf, atol=1e-6)
    length = np.sqrt((change**2).sum((1, 2, 3), keepdims=True))
    l2 = np.clip(x.double().numpy() + change * np.minimum(1, 0.7 / length), 0, 1)
    np.testing.assert_allclose(L2(0.7).project(far, x).numpy(), l2, atol=1e-6)


@pytest.mark.parametrize("threat", THREATS, ids=repr)
def test_what_is_just_outside_is_refused(threat):
    x = images(4, low=0.45, high=0.55)
    unit = threat.steepest_step(torch.ones_like(x), 1.0)
    edge = min(threat.epsilon, 0.4 if threat.norm == "linf" else 2.0)
    threat = type(threat)(edge)
    threat.assert_inside(x + edge * unit, x)
    with pytest.raises(ThreatModelError, match="outside"):
        threat.assert_inside(x + (edge * 1.001) * unit, x)


def test_range_is_exact():
    x = torch.zeros(1, 3, 8, 8)
    with pytest.raises(ThreatModelError, match="outside"):
        LInf(0.1).assert_inside(x - 1e-12, x)


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (lambda x: x * torch.nan, "not finite"),
        (lambda x: x + torch.inf, "not finite"),
        (lambda x: x[:1], "must be"),
        (lambda x: x.double(), "must be"),
        (lambda x: x[:, :, :4], "must be"),
    ],
)
def test_what_is_no_such_batch_is_refused(bad, text):
    x = images(2)
    for threat in (LInf(0.5), L2(5.0)):
        with pytest.raises(ThreatModelError, match=text):
            threat.assert_inside(bad(x), x)


def test_steepest_step_maximises_a_linear_objective():
    gradient = torch.randn(30, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    # Hoelder: the best gain of a step of length s is s |g|_1 (l-inf) and s |g|_2 (l2).
    for threat, dual in ((LInf(0.1), 1), (L2(0.1), 2)):
        step = threat.steepest_step(gradient, 0.03)
        gain = (step * gradient).flatten(1).sum(1)
        torch.testing.assert_close(gain, 0.03 * torch.linalg.vector_norm(gradient.flatten(1), dual, dim=1))
        torch.testing.assert_close(threat.distance(step, torch.zeros_like(step)), torch.full((30,), 0.03))


@pytest.mark.parametrize("threat", [LInf(0.1), L2(0.1)], ids=repr)
@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e-20, 1e20, 1e37])
def test_tiny_and_huge_gradients_step_as_far_as_any(threat, scale):
    gradient = torch.ones(2, 3, 8, 8) * scale
    step = threat.steepest_step(gradient, 0.1)
    torch.testing.assert_close(threat.distance(step, torch.zeros_like(step)), torch.full((2,), 0.1))


@pytest.mark.parametrize("threat", [LInf(0.1), L2(0.1)], ids=repr)
def test_no_gradient_no_step(threat):
    gradient = torch.zeros(2, 3, 8, 8)
    gradient[1] = 1
    step = threat.steepest_step(gradient, 0.1)
    assert torch.equal(step[0], torch.zeros(3, 8, 8))
    assert (step[1] != 0).all()


def test_l2_random_start_is_uniform_in_the_ball():
    x = torch.full((600, 3, 8, 8), 0.5)
    d = x[0].numel()
    change = (L2(0.3).random_start(x, source(600)) - x).double()
    radius = change.flatten(1).norm(dim=1).numpy()
    # In a uniform ball (r / eps)^d is uniform on [0, 1], and a coordinate of the direction has variance 1 / d.
    assert stats.kstest((radius / 0.3) ** d, "uniform").pvalue > 1e-3
    direction = (change.flatten(1).numpy() / radius[:, None]) * math.sqrt(d)
    assert np.abs(direction.mean(0)).max() < 5 / math.sqrt(600)
    assert np.allclose((direction**2).mean(0), 1, atol=5 * math.sqrt(2 / 600))


def test_linf_random_start_is_uniform_in_the_ball():
    x = torch.full((20, 3, 8, 8), 0.5)
    change = (LInf(0.1).random_start(x, source(20)) - x).flatten().numpy()
    assert stats.kstest((change / 0.1 + 1) / 2, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("threat", THREATS, ids=repr)
def test_random_starts_are_inside_belong_to_the_image_and_differ_by_draw(threat):
    x = saturated_images(6)
    start = threat.random_start(x, source(6))
    threat.assert_inside(start, x)
    assert torch.equal(threat.random_start(x[2:4], source(6).pick([2, 3])), start[2:4])
    assert not torch.equal(threat.random_start(x, source(6).sub(1)), start)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2/255", 2 / 255),
        (" 8 / 255 ", 8 / 255),
        ("0", 0.0),
        ("0/255", 0.0),
        ("0.0078", 0.0078),
        (".5", 0.5),
        ("1e-2", 0.01),
        ("1", 1.0),
        ("0.5/255", 0.5 / 255),
    ],
)
def test_epsilons_that_are_understood(text, value):
    assert parse_epsilon(text) == value


@pytest.mark.parametrize("text", ["2", "8", "255/255.0e-1"])
def test_epsilons_that_look_like_grey_levels_are_refused(text):
    with pytest.raises(ThreatModelError, match=r"0-255.*/255"):
        parse_epsilon(text)


NONSENSE = ["-0", "-1", "abc", "nan", "inf", "", "2/0", "0/0", "2/255/3", "1_0", "1e999", "2/-255"]


@pytest.mark.parametrize("text", NONSENSE)
def test_nonsense_epsilons_are_refused(text):
    for norm in ("linf", "l2"):
        with pytest.raises(ThreatModelError, match="epsilon"):
            parse_epsilon(text, norm=norm)


@pytest.mark.parametrize("epsilon", [-1e-300, -0.1, math.nan, math.inf])
@pytest.mark.parametrize("cls", [LInf, L2])
def test_threat_models_refuse_nonsense(cls, epsilon):
    with pytest.raises(AttackError, match="epsilon"):
        cls(epsilon)


def test_l2_epsilon_may_exceed_one_but_not_the_diameter_of_the_range():
    assert parse_epsilon("3", norm="l2") == 3
    assert L2(13.8).at(8) == L2(13.8)  # the diameter is sqrt(192) = 13.856
    with pytest.raises(ThreatModelError, match=r"13\.9"):
        L2(13.9).at(8)


def test_default_l2_epsilon_has_equal_energy_per_pixel_at_every_side():
    assert scaled_l2_epsilon(256) == 0.2
    assert scaled_l2_epsilon(128) == pytest.approx(0.1)
    assert ScaledL2().at(64) == L2(0.05)
    energy = {side: scaled_l2_epsilon(side) ** 2 / (3 * side**2) for side in (32, 128, 256)}
    assert len({round(e, 15) for e in energy.values()}) == 1


def test_default_threat_models():
    assert threat_model("linf") == LInf(2 / 255)
    assert threat_model("l2") == ScaledL2(0.2)
    with pytest.raises(ThreatModelError, match="linf"):
        threat_model("l1")


def test_whole_and_decimal_epsilons_are_the_same_cell():
    assert repr(LInf(1).epsilon) == "1.0" and repr(L2(-0.0).epsilon) == "0.0"
    with pytest.raises(dataclasses.FrozenInstanceError):
        LInf(1).epsilon = 0.5
