"""What every attack's public call promises, shown on attacks that misbehave."""

import dataclasses
import random

import numpy as np
import pytest
import torch
from attack_fakes import Linear, NoisyWavy, Wavy, images, labels, source

from attacks import L2, PGD, LInf
from attacks.base import Attack, AttackResult
from attacks.errors import AttackError, ThreatModelError
from attacks.pgd import PGDSettings


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


@pytest.mark.parametrize("threat", [LInf(0.1), L2(0.2)], ids=repr)
@pytest.mark.parametrize("detector_class", [Wavy, NoisyWavy])
def test_an_attack_touches_nothing_but_returns_new_tensors(threat, detector_class):
    detector, x, y = detector_class(), images(3), labels(3)
    x.requires_grad_(True)
    before, weights = x.detach().clone(), {k: v.clone() for k, v in detector.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    result = PGD(threat, PGDSettings(steps=3, restarts=2)).run(detector, x, y)
    assert torch.equal(x, before) and x.grad is None and x.requires_grad
    assert all(torch.equal(v, weights[k]) for k, v in detector.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in detector.parameters())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all() and random.getstate() == states[2]
    for field in dataclasses.fields(result):
        value = getattr(result, field.name)
        assert value is None or isinstance(value, int) or not value.requires_grad
    assert result.images.dtype == x.dtype


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_callers_gradient_mode_changes_nothing(mode):
    attack, detector = PGD(LInf(0.1)), NoisyWavy()
    expected = attack(detector, images(2), labels(2), noise=source(2))
    with mode():
        found = attack(detector, images(2), labels(2), noise=source(2))
    assert torch.equal(found, expected)


def test_float64_stays_float64():
    x = images(2, dtype=torch.float64)
    result = PGD(L2(0.2)).run(Wavy(), x, labels(2))
    assert result.images.dtype == result.trace.dtype == result.best_loss.dtype == torch.float64


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
def test_inputs_that_are_no_images_are_sentences(x, text):
    with pytest.raises(AttackError, match=text):
        PGD(LInf(0.1))(Linear(), x, torch.ones(len(x)))


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
