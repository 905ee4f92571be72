"""What is left of a stochastic detector whose noise is no secret."""

from __future__ import annotations

from typing import Any

import bench_fakes as fakes
import numpy as np
import pytest
import torch
from torch import Tensor

import attacks
from attacks.known_noise import with_known_noise
from bench.cell.attack import Draws, run_cell
from bench.cell.attacking import Attacking
from bench.cell.known_noise import known_noise
from bench.cell.results import figures
from bench.metrics import ranking
from detectors.noise import Noise, NoiseSeed

SIDE, EPSILON = 16, 0.02
CPU = torch.device("cpu")


class Drowned(fakes.Noisy):
    """<w + 9 z, x>: whoever does not know z can follow w alone."""

    name = "drowned"

    def slope(self, x: Tensor, noise: Noise) -> Tensor:
        return fakes.linear_weights(SIDE).to(x) + 9 * noise.normal(x.shape[1:], stream="slope", like=x)

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return (self.slope(x, noise) * (x - 0.5)).sum(dim=(1, 2, 3))


def attack(**settings: int) -> attacks.Attack:
    small = {"iterations": 10, "mean_draws": 2, "selection_draws": 4}
    return attacks.get("autoattack-rand-linf", image_size=SIDE, epsilon=EPSILON, **(small | settings))


def attacking(batch_size: int = 5) -> Attacking:
    return Attacking(fakes.fitted(Drowned, SIDE), fakes.image_set(12, 12, side=SIDE), Draws(4, 0), CPU, batch_size)


def test_it_is_the_closed_form_of_a_slope_that_is_known() -> None:
    """Of <v, x> the worst image of the ball and the box is that which goes to its border against the sign of v."""
    some = attacking()
    found = known_noise(some, attack(), some.test.pixels())
    source = NoiseSeed(0).source("known-noise", some.test.ids)
    x, y = some.test.pixels(), some.test.labels.float()[:, None, None, None]
    slope = some.detector.slope(x, source)  # type: ignore[operator]
    worst = (x + EPSILON * (y * slope).sign()).clamp(0, 1)
    labels = some.test.labels.numpy().astype(np.int64)
    expected, clean = ((slope * (images - 0.5)).sum(dim=(1, 2, 3)).double().numpy() for images in (worst, x))
    assert found is not None
    assert found["auc"] == pytest.approx(float(ranking.auc(expected, labels)), abs=1e-9)
    assert found["clean_auc"] == pytest.approx(float(ranking.auc(clean, labels)), abs=1e-9)
    assert found["gradients_per_image"] == 10


def test_it_is_in_the_record_and_far_below_what_noise_hides() -> None:
    test = fakes.image_set(12, 12, side=SIDE)
    outcome = run_cell(
        fakes.fitted(Drowned, SIDE),
        attack(),
        test,
        test.subset(range(11)),
        Draws(4, 0),
        batch_size=5,
        device=CPU,
        tick=lambda done, what: None,
    )
    found = figures(outcome, test.labels.numpy().astype(np.int64), test)
    assert found["known_noise"]["auc"] < found["robust"]["auc"] - 20


def test_an_image_that_was_found_without_knowing_the_noise_is_a_candidate() -> None:
    """So that a short attack on the known noise is never weaker than what the record has anyway."""
    some = attacking()
    source = NoiseSeed(0).source("known-noise", some.test.ids)
    y = some.test.labels.float()[:, None, None, None]
    x = some.test.pixels()
    worst = (x + EPSILON * (y * some.detector.slope(x, source)).sign()).clamp(0, 1)  # type: ignore[operator]
    known = known_noise(some, attack(iterations=1), worst)
    best = known_noise(some, attack(), x)
    assert known is not None and best is not None
    assert known["auc"] == pytest.approx(best["auc"], abs=1e-9)


class _Still(attacks.Attack):
    """Finds nothing: the clean images."""

    name, norm = "still", "linf"

    def _run(self, detector: Any, x: Tensor, y: Tensor, threat: Any, **how: Any) -> attacks.AttackResult:
        loss = self.compared_loss(detector, x, y, how["noise"])
        return attacks.AttackResult.without_gradients(
            x, loss, clean_loss=loss, trace=loss[None], forwards=1, enough=None
        )


class _Rand(_Still):
    def on_known_noise(self, detector: Any) -> tuple[attacks.Attack, ...]:
        return (_Still(self.threat),)


def test_what_the_attack_on_the_known_noise_did_not_find_itself_counts_where_it_is_better() -> None:
    """Beside an attack that finds nothing the candidates decide: of each image the worse of the clean one and of that
    which was found before."""
    some, stub = attacking(), _Rand(attacks.LInf(EPSILON))
    source = NoiseSeed(0).source("known-noise", some.test.ids)
    y, x = some.test.labels.float(), some.test.pixels()
    slope = some.detector.slope(x, source)  # type: ignore[operator]
    sign = y * torch.where(torch.arange(len(x)) % 3 > 0, 1.0, -1.0)  # every third image was led astray
    before = (x + EPSILON * sign[:, None, None, None] * slope.sign()).clamp(0, 1)
    losses = [y * some.detector.score(images, noise=source) for images in (x, before)]
    expected = (y * torch.maximum(*losses)).double().numpy()
    labels = some.test.labels.numpy().astype(np.int64)
    found, without = known_noise(some, stub, before), known_noise(some, stub, x)
    assert found is not None and without is not None
    assert found["auc"] == pytest.approx(float(ranking.auc(expected, labels)), abs=1e-9)
    assert found["auc"] < without["auc"] - 5 and without["auc"] == without["clean_auc"]


def test_batches_change_nothing() -> None:
    one, other = (known_noise(attacking(size), attack(), attacking().test.pixels()) for size in (5, 24))
    assert one == other


@pytest.mark.parametrize("name", ["pgd-linf", "autoattack-linf"])
def test_deterministic_detectors_and_other_attacks_have_none(name: str) -> None:
    detector: Any = fakes.fitted(fakes.Linear, SIDE)
    some = Attacking(detector, fakes.image_set(3, 3, side=SIDE), Draws(1, 0), CPU, 4)
    assert known_noise(some, attacks.get(name, image_size=SIDE), some.test.pixels()) is None


def test_the_noise_is_held_whatever_source_is_given() -> None:
    detector = fakes.fitted(Drowned, SIDE)
    x = fakes.image_set(2, 2, side=SIDE).pixels()
    held = with_known_noise(detector, NoiseSeed(0).source("known-noise", []))
    ids = ["a", "b", "c", "d"]
    one, other = (held.score(x, noise=NoiseSeed(7).source("attack", ids).sub(draw)) for draw in (1, 2))
    assert not held.is_stochastic and torch.equal(one, other)
    assert torch.equal(held.score(x[2:], noise=NoiseSeed(7).source("verdict", ids[2:])), one[2:])
    assert not torch.equal(detector.score(x, noise=NoiseSeed(7).source("attack", ids)), one)
    with pytest.raises(attacks.AttackError, match="source"):
        held.score(x)
