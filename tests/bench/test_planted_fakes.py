"""Detectors planted to look robust: of each the indicator, or the gate, that must speak does, by name."""

from __future__ import annotations

from functools import cache

import bench_fakes as fakes
import pytest
import torch
import zoo

import attacks
import detectors
from attacks.base import Attack
from attacks.objective import loss_and_gradient
from bench.cell.attack import Draws, run_cell
from bench.cell.results import indicators
from bench.diagnosis import contract_cases, others
from bench.diagnosis.diagnosis import Diagnosis, diagnose
from bench.report.signs import Sign, of_record
from detectors.base import Detector
from detectors.noise import NoiseSeed

SIDE = 16
CPU = torch.device("cpu")
TEST = fakes.image_set(6, 6, side=SIDE)
HELD_OUT = fakes.image_set(12, 0, side=SIDE, seed=1)
GATE, CASES = "contract: the gate", "contract: broken cases"


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(others, "QUERIES", 150)


@cache
def sources() -> tuple[Detector, ...]:
    found = (detectors.get(name) for name in ("mean-image", "brightness"))
    return tuple(cls(cls.settings_for("quick", SIDE), SIDE).fit(HELD_OUT.pixels(), seed=0) for cls in found)


def pgd(**settings: object) -> Attack:
    usual = {"steps": 20, "stochastic_steps": 30, "eot": 2, "eot_last": 6, "momentum": 0.9, "schedule": "cosine"}
    return attacks.get("pgd-linf", image_size=SIDE, **usual | settings)


def diagnosed(detector: Detector, attack: Attack | None = None) -> Diagnosis:
    return diagnose(
        detector, attack or pgd(), TEST, HELD_OUT, sources(), category="all", seed=0, batch_size=12, device=CPU
    )


def names(signs: list[Sign] | tuple[Sign, ...]) -> set[str]:
    return {sign.name for sign in signs if sign.is_up}


# What must be up; more may be. The comment at each class says what is wrong with it.
PLANTED: dict[type[zoo.Fake], set[str]] = {
    zoo.NoGraph: {GATE, "the attack"},
    zoo.NoGradient: {GATE, "zero gradients", "gradients that are no slope", "plain noise does more", "ahead: Square"},
    zoo.RightDetached: {GATE, "gradients that are no slope", "ahead: transfer from mean-image"},
    zoo.Saturated: {"zero gradients", "images that the attack gained on"},
    zoo.Ties: {CASES, "zero gradients", "images that the attack gained on", "AUC at epsilon 1"},
    zoo.TiesInDisguise: {GATE, "gradients that are no slope", "images that the attack gained on"},
    zoo.DependsOnGradientMode: {"same image, other score"},
    zoo.BatchMean: {GATE, "same image, other score"},
    zoo.Counter: {GATE, "same image, other score"},
    zoo.NaNToZero: {"zero gradients", "plain noise does more", "ahead: noise", "share of the best known gain"},
    zoo.grey_levels(12): {GATE, "change in a tenth of the ball", "ahead: Square", "share of the best known gain"},
    zoo.grey_levels(64): {GATE, "change in a tenth of the ball", "ahead: Square", "share of the best known gain"},
    zoo.grey_levels(256): {GATE, "change in a tenth of the ball", "ahead: Square", "share of the best known gain"},
    zoo.FlatElsewhere: {"zero gradients", "gradients that are no slope"},
}


@pytest.mark.parametrize("fake", PLANTED, ids=lambda cls: cls.__name__)
def test_a_planted_fake_is_caught_by_name(fake: type[zoo.Fake]) -> None:
    zoo.FlatElsewhere.known = TEST.pixels()
    assert PLANTED[fake] <= names(diagnosed(zoo.fitted(fake, SIDE)).signs)


def test_half_of_a_gradient_points_45_degrees_away() -> None:
    """What `RightDetached` is planted for: an attack that follows a cosine of 0.7 gains, and not enough."""
    x, y, noise = TEST.pixels(), TEST.labels.float(), NoiseSeed(0).source("test", TEST.ids)
    cut, whole = (loss_and_gradient(zoo.fitted(c, SIDE), x, y, noise) for c in (zoo.RightDetached, zoo.Smooth))
    cosine = torch.nn.functional.cosine_similarity(cut.gradient.flatten(1), whole.gradient.flatten(1))
    torch.testing.assert_close(cosine, torch.full_like(cosine, 0.7), atol=0.05, rtol=0)


@pytest.mark.parametrize("fake", [zoo.ReseedsItself, zoo.ReseedsTheWorld])
def test_a_detector_that_seeds_itself_breaks_the_contract(fake: type[zoo.Fake]) -> None:
    found = list(contract_cases.signs(zoo.fitted(fake, SIDE), TEST, CPU, pgd()))
    assert CASES in names(found)
    assert "score_ignores_global_randomness" in found[1].sentence


def test_large_noise_asks_for_more_draws() -> None:
    outcome = run_cell(
        zoo.fitted(zoo.LargeNoise, SIDE),
        pgd(),
        TEST,
        HELD_OUT,
        Draws(10, 0),
        batch_size=12,
        device=CPU,
        tick=lambda done, what: None,
    )
    found = of_record(indicators(outcome), {"images": 4}, clean=None, robust=None, is_stochastic=True, keep="best")
    assert "gain of more noise draws" in names(found)


HONEST = (zoo.Fake, zoo.Smooth, zoo.Linear, zoo.Kinky, zoo.Exponential, zoo.FarAway, zoo.AdmittedCorner, zoo.MapMaximum)


@pytest.mark.parametrize("honest", HONEST, ids=lambda cls: cls.__name__)
def test_an_honest_fake_raises_nothing(honest: type[zoo.Fake]) -> None:
    found = diagnosed(zoo.fitted(honest, SIDE))
    assert not found.flags
    assert {sign.flag for sign in found.signs} >= {3, 4, 7, 8, 9, 10, 17, 18, 19, 20, 21, 22, 23, 24, 25}


def test_a_declared_surrogate_excuses_a_score_that_jumps_and_its_zero_gradient_stays_up() -> None:
    assert names(diagnosed(zoo.fitted(zoo.Declared, SIDE)).signs) == {"zero gradients"}


def test_a_baseline_that_sees_no_pixels_is_asked_for_its_contract_alone() -> None:
    found = diagnosed(zoo.fitted(zoo.Blind, SIDE))
    assert not found.flags and {sign.flag for sign in found.signs} <= {3, 9, 10, 17, 18}


@pytest.mark.parametrize("name", ["brightness", "mean-image", "ae"])
def test_a_detector_of_the_registry_raises_nothing_at_small_size(name: str) -> None:
    """The others, fitted at 128 pixels on ELPV: docs/flags.md."""
    cls = detectors.get(name)
    side = 32
    settings = cls.settings_for("quick", side)
    if name == "ae":
        settings = detectors.registry.override(settings, {"epochs": 4}, owner=name)
    normals = fakes.image_set(12, 0, side=side, seed=1)
    test = fakes.image_set(4, 4, side=side)
    found = diagnose(
        cls(settings, side).fit(normals.pixels(), seed=0),
        attacks.get("pgd-linf", image_size=side, steps=20),
        test,
        normals,
        (),
        category="all",
        seed=0,
        batch_size=12,
        device=CPU,
    )
    assert not found.flags
