"""Declared Lipschitz constants: those of this package are the smallest that hold, and liars are found out."""

from __future__ import annotations

import math

import pytest
import torch
import zoo
from detector_pictures import anomalous_pictures, normal_pictures

from detectors import contract, registry
from detectors.base import Detector
from detectors.contract.lipschitz import check_lipschitz, distance
from detectors.errors import ContractError
from detectors.noise import NoiseSeed

SIDE = 16
NORMALS = normal_pictures(8, SIDE, seed=1)
IMAGES = torch.cat([normal_pictures(2, SIDE, seed=2), anomalous_pictures(2, SIDE, seed=3)])


def shares(detector: Detector) -> dict[str, float]:
    return check_lipschitz(contract.Subject.of(detector, IMAGES, [1, 1, -1, -1]).everywhere("score"))


@pytest.mark.parametrize("name", ["brightness", "mean-image"])
def test_no_smaller_constant_would_do(name: str) -> None:
    """Some pair of images needs nearly all of it, and none more."""
    found = shares(registry.create(name, image_size=SIDE).fit(NORMALS, seed=0))
    assert found.keys() == {"linf", "l2"}
    assert 0.99 < found["l2"] <= 1
    assert (0.99 if name == "brightness" else 0.9) < found["linf"] <= 1


def test_the_order_of_files_is_moved_by_no_picture() -> None:
    names = [f"{i:03}.png" for i in range(len(NORMALS))]
    detector = registry.create("file-order", image_size=SIDE).fit(NORMALS, seed=0, names=names)
    assert detector.lipschitz("linf") == detector.lipschitz("l2") == 0
    noise = NoiseSeed(0).source("test", names[: len(IMAGES)])
    assert torch.equal(detector.score(IMAGES, noise=noise), detector.score(1 - IMAGES, noise=noise))


def test_most_detectors_declare_none() -> None:
    declared = {
        name
        for name in registry.names()
        if registry.get(name).lipschitz is not Detector.lipschitz and registry.is_ours(registry.get(name))
    }
    assert declared == {"brightness", "mean-image", "file-order"}
    assert shares(zoo.fitted(zoo.Smooth, SIDE)) == {}


@pytest.mark.parametrize("constant", [math.nan, math.inf, -1.0, True, "1"])
def test_what_is_no_constant_is_a_sentence(constant: object) -> None:
    class Odd(zoo.Smooth):
        def lipschitz(self, norm: str) -> float | None:
            return constant if norm == "l2" else None  # type: ignore[return-value]

    with pytest.raises(ContractError, match=r"its lipschitz\('l2'\) is .*; return a number of at least 0, or None"):
        shares(zoo.fitted(Odd, SIDE))


def test_a_constant_of_zero_is_broken_by_whatever_moves() -> None:
    class Still(zoo.Smooth):
        def lipschitz(self, norm: str) -> float | None:
            return 0.0

    with pytest.raises(ContractError, match="moves by inf times what"):
        shares(zoo.fitted(Still, SIDE))


def test_the_true_constants_of_a_linear_score_are_needed_whole() -> None:
    found = shares(zoo.fitted(zoo.Steady, SIDE))
    assert found["l2"] == pytest.approx(1, abs=1e-6) and found["linf"] == pytest.approx(1, abs=1e-6)


def test_distances_are_those_of_the_norms() -> None:
    a, b = torch.zeros(2, 3, 2, 2), torch.zeros(2, 3, 2, 2)
    b[0, 0], b[1, 2, 1, 1] = 0.5, -3.0
    assert distance(a, b, "linf").tolist() == [0.5, 3.0] and distance(a, b, "l2").tolist() == [1.0, 3.0]
