"""Nineteen ways to get a detector wrong, and who speaks of each: the gate, or the signs in its record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bench_fakes as fakes
import pytest
import torch
import zoo
from torch import Tensor
from torch.nn import functional as F

import attacks
from attacks.result import AttackResult
from attacks.threat import LInf
from bench.cell import gate
from bench.cell.plain_noise import noise_won, rose
from bench.errors import CellError
from bench.report.signs import GAIN_SHARE, NOISE_WON_SHARE
from detectors.base import Detector
from detectors.noise import NoiseSeed

SIDE = 32
CPU, THREAT = torch.device("cpu"), LInf(2 / 255)
TEST = fakes.image_set(6, 6, side=SIDE)
X, Y = TEST.pixels(), TEST.labels.float()
true = zoo.honest


def made(value: Callable[[Tensor], Any], **declared: Any) -> Detector:
    return zoo.made(value, SIDE, **declared)


def in_place(x: Tensor) -> Tensor:
    x.sub_(0.1)
    return true(x)


def min_max(x: Tensor) -> Tensor:
    score = true(x)
    return (score - score.min()) / (score.max() - score.min() + 1e-9)


def normalised_by_the_batch(x: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, training=True).square().mean(dim=(1, 2, 3)) + true(x)


REFUSED: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "one column for each image": (lambda x: true(x)[:, None], r"a tensor of shape \(4, 1\)"),
    "one number for the batch": (lambda x: true(x).mean(), r"a tensor of shape \(\)"),
    "an array": (lambda x: true(x).detach().numpy(), "its score is ndarray"),
    "no graph": (lambda x: true(x.detach()), "no gradient with respect to the image"),
    "half precision": (lambda x: true(x.half().to(x.dtype)), r"gradient is wrong by \d+ %"),
    "fp16 on the way back alone": (lambda x: true(x + (x.half().to(x) - x).detach()), r"gradient is wrong by \d+ %"),
    "statistics of the batch": (normalised_by_the_batch, "other images of its batch"),
    "minimum and maximum of the batch": (min_max, "other images of its batch"),
    "dropout left on": (lambda x: true(F.dropout(x, 0.1, training=True)), "another score at another call"),
    "its input overwritten": (in_place, "another score at another call"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_the_gate_refuses(name: str) -> None:
    value, sentence = REFUSED[name]
    with pytest.raises(CellError, match=sentence):
        gate.check(made(value), TEST, CPU, THREAT)


def attacked(detector: Detector) -> AttackResult:
    attack = attacks.get("pgd-linf", image_size=SIDE, epsilon=THREAT.epsilon, steps=10)
    noise, selection = (NoiseSeed(0).source(purpose, TEST.ids) for purpose in ("attack", "selection"))
    return attack.run(detector, X, Y, noise=noise, selection=selection)


def signs(detector: Detector) -> dict[str, bool]:
    """What a record would be flagged for."""
    found = attacked(detector)
    won = noise_won(detector, THREAT, X, Y, found.images, NoiseSeed(0).source("plain-noise", TEST.ids))
    return {
        "zero": float(found.zero_gradients.mean()) > 0.1,
        "noise": float(won.double().mean()) > NOISE_WON_SHARE,
        "gain": float(rose(found.clean_loss, found.best_loss).double().mean()) < GAIN_SHARE,
    }


# Their gradients are zero and autograd says so, or there is nothing to find: the gate leaves them to the record.
FLAGGED: dict[str, tuple[Callable[[Tensor], Any], set[str]]] = {
    "whole grey levels": (lambda x: true((x * 255).round() / 255), {"zero", "noise", "gain"}),
    "bytes": (lambda x: true((x * 255).byte().to(x.dtype) / 255) + 0 * zoo.brightness(x), {"zero", "noise", "gain"}),
    "steps": (lambda x: (true(x) * 1e4).floor(), {"zero", "noise", "gain"}),
    "a constant": (lambda x: 0 * true(x) + 1, {"zero", "gain"}),
    "clipped": (lambda x: (50 * true(x)).clamp(0, 1), {"zero", "gain"}),
    "a sigmoid at its end": (lambda x: torch.sigmoid(1e5 * true(x)), {"zero", "gain"}),
}


@pytest.mark.parametrize("name", FLAGGED)
def test_the_record_is_flagged(name: str) -> None:
    value, expected = FLAGGED[name]
    assert {sign for sign, raised in signs(made(value)).items() if raised} == expected


@pytest.mark.parametrize("name", ["clipped", "a sigmoid at its end", "a constant"])
def test_the_gate_refuses_nobody_for_a_gradient_of_zero_where_nothing_moves(name: str) -> None:
    gate.check(made(FLAGGED[name][0]), TEST, CPU, THREAT)


HONEST: dict[str, Callable[[Tensor], Any]] = {
    "as it should be": true,
    "reversed": lambda x: -true(x),  # its clean AUC speaks for itself
    "far from zero": lambda x: 100 * true(x) + 1e3,
    "a logarithm": lambda x: true(x).log(),
    "a maximum": lambda x: zoo.features(x).square().mean(dim=1).flatten(1).amax(dim=1),
}


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_one_is_neither_refused_nor_flagged(name: str) -> None:
    detector = made(HONEST[name])
    gate.check(detector, TEST, CPU, THREAT)
    assert not any(signs(detector).values())


def test_a_score_that_is_no_number_or_raises_is_left_to_the_cell() -> None:
    nan = made(lambda x: true(x) / 0 * 0)
    assert gate.check(nan, TEST, CPU, THREAT).describe()["remark"] == "its score is not finite"
    with pytest.raises(ZeroDivisionError):
        gate.check(made(lambda x: 1 / 0), TEST, CPU, THREAT)
