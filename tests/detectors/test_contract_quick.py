"""`contract.check`: what it lets pass, what it stops and with which sentence, and what it takes."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import torch
import zoo
from torch import Tensor

from attacks.threat import L2, LInf, ThreatModel
from detectors import contract
from detectors.contract import subject
from detectors.contract.ball import far_corners
from detectors.errors import ContractError, DetectorError
from detectors.noise import Noise, NoiseSeed

SIDE = 16
LABELS = torch.tensor([1, 1, 1, -1, -1, -1])
BALLS = {"linf": LInf(2 / 255), "l2": L2(0.1)}
each_ball = pytest.mark.parametrize("ball", BALLS.values(), ids=BALLS)
QUICKLY = [fault for fault in zoo.FAULTS if not fault.case]


def pictures(side: int = SIDE) -> Tensor:
    """Of 8 bits."""
    draws = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (len(LABELS), 3, side, side), generator=draws) / 255


def check(cls: type[zoo.Fake]) -> contract.Passed:
    return contract.check(zoo.fitted(cls, SIDE), pictures(), LABELS)


# -- what it lets pass ------------------------------------------------------------------------------------------------


@each_ball
@pytest.mark.parametrize("honest", zoo.HONEST, ids=lambda cls: cls.__name__)
def test_an_honest_detector_passes(honest: type[zoo.Fake], ball: ThreatModel) -> None:
    contract.check(zoo.fitted(honest, SIDE), pictures(), LABELS, ball=ball)


def test_flat_pictures_of_black_and_white_are_no_trap() -> None:
    flat = torch.zeros_like(pictures())
    flat[:, :, : SIDE // 2] = 1
    contract.check(zoo.fitted(zoo.Kinky, SIDE), flat, LABELS)


def test_it_says_what_it_looked_at() -> None:
    found = check(zoo.Exponential).describe()
    assert json.loads(json.dumps(found)) == found
    assert found["images"] == 4 and found["unaccounted"] < 0.01
    for which in ("score", "surrogate"):
        assert found[which]["gradient_error"] < 1e-4 and found[which]["float32_cosine"] > 0.9999
    for step in found["steps"].values():
        # A nearly linear score: the step keeps its promise, and no noise can do more.
        assert step["kept"] == pytest.approx(1, abs=0.1) and step["noise"] < 1 and step["beaten"] == 0
    assert check(zoo.Blind).describe() == {"images": 4, "remark": "it sees no pixels"}


def test_a_score_that_is_not_finite_is_left_to_whoever_asks() -> None:
    nan = zoo.made(lambda x: zoo.honest(x) / 0 * 0, SIDE)
    assert contract.check(nan, pictures(), LABELS).describe()["remark"] == "its score is not finite"
    with pytest.raises(ContractError, match="a score is not finite"):
        contract.check(nan, pictures(), LABELS, thorough=True)
    with pytest.raises(ZeroDivisionError):
        check(zoo.Broken)


# -- what it stops ----------------------------------------------------------------------------------------------------


@each_ball
@pytest.mark.parametrize("fault", QUICKLY, ids=str)
def test_what_is_broken_is_stopped_with_its_sentence(fault: zoo.Fault, ball: ThreatModel) -> None:
    with pytest.raises(ContractError, match=fault.sentence):
        contract.check(zoo.fitted(fault.detector, 32), pictures(32), LABELS, ball=ball)


@pytest.mark.parametrize("fault", QUICKLY, ids=str)
def test_it_is_stopped_without_labels_and_without_a_ball_too(fault: zoo.Fault) -> None:
    with pytest.raises(ContractError, match=fault.sentence):
        contract.check(zoo.fitted(fault.detector, 32), pictures(32)[:4])


def test_the_sentence_says_how_wrong_the_gradient_is() -> None:
    # Of 2 g only g is there: the missing half is half of the true gradient's size, up to the luck of three directions.
    with pytest.raises(ContractError, match=r"wrong by (2\d|3\d|4\d|5\d|6\d|7\d|8\d) %"):
        check(zoo.HalfDetached)
    with pytest.raises(ContractError, match=r"wrong by 100 %"):
        check(zoo.NoGradient)


def test_what_says_that_it_sees_no_pixels_must_not_see_one() -> None:
    """What is excused from a gradient is not attacked: whatever it sees would be robust."""

    class Rarely(zoo.Blind):
        """Sees what none of the pictures that are looked at has."""

        def value(self, x: Tensor, noise: Noise) -> Tensor:
            return super().value(x, noise) + (x == 0.5).any(dim=(1, 2, 3)).to(x)

    check(Rarely)
    rarely, x, noise = zoo.fitted(Rarely, SIDE), pictures(), NoiseSeed(0).source("blind", "abcdef")
    contract.check_blind(rarely, x, noise)
    x[2, 0, 3, 4] = 0.5
    with pytest.raises(ContractError, match="sees_pixels = False, which excuses it"):
        contract.check_blind(rarely, x, noise)


def test_a_surrogate_of_another_shape_is_stopped() -> None:
    class Column(zoo.Declared):
        def _surrogate_score(self, x: Tensor, noise: Noise) -> Tensor:
            return zoo.honest(x)[:, None]

    with pytest.raises(ContractError, match=r"its surrogate_score is a tensor of shape \(\d, 1\)"):
        check(Column)


# -- what it takes ----------------------------------------------------------------------------------------------------


def test_two_images_without_labels_are_enough() -> None:
    assert contract.check(zoo.fitted(zoo.Kinky, SIDE), pictures()[:2]).images == 2
    assert contract.check(zoo.fitted(zoo.Kinky, SIDE), pictures()).images == 4
    assert contract.check(zoo.fitted(zoo.Kinky, SIDE), pictures(), [1] * 6).images == 2


def test_its_own_ball_is_the_attacks() -> None:
    x, way = pictures(), torch.randn(6, 3, SIDE, SIDE)
    mine, theirs = contract.LInfBall(), LInf(2 / 255)
    assert mine.epsilon == theirs.epsilon
    assert torch.equal(mine.project(x + way, x), theirs.project(x + way, x))
    assert torch.equal(mine.steepest_step(way, 0.25), theirs.steepest_step(way, 0.25))


def test_far_corners_lie_in_their_ball_but_for_pixels_at_the_bounds() -> None:
    x = 0.2 + 0.6 * pictures(32)
    corners = far_corners(x, 0.1)
    driven = (corners == 0) | (corners == 1)
    assert 0.03 < float(driven.double().mean()) < 0.09
    torch.testing.assert_close((corners - x).abs()[~driven], torch.full_like(x, 0.1)[~driven])


def test_the_images_are_taken_from_each_label_in_turn() -> None:
    assert subject.chosen(torch.tensor([-1, -1, 1, -1, 1, 1])) == [2, 0, 4, 1]
    assert subject.chosen(torch.tensor([1, 1, 1])) == [0, 1]


@pytest.mark.parametrize(
    ("images", "labels", "sentence"),
    [
        (pictures() * 255, None, r"floats in \[0, 1\].* to 255; rescale"),
        (pictures() - 0.5, None, "rescale"),
        (pictures() / 0, None, "rescale"),
        ((pictures() * 255).to(torch.uint8), None, "torch.uint8"),
        (pictures()[:1], None, "two different images or more"),
        (pictures()[:0], None, "two different images or more"),
        (pictures(), LABELS[:4], "one number per image"),
        (pictures(), LABELS.clamp_min(0), r"of \[0, 1\]"),
        (pictures(8), LABELS, "built for 16x16 images"),
    ],
)
def test_what_nothing_can_be_asked_on_is_refused(images: Tensor, labels: Tensor | None, sentence: str) -> None:
    with pytest.raises(DetectorError, match=sentence) as refused:
        contract.check(zoo.fitted(zoo.Smooth, SIDE), images, labels)
    assert not isinstance(refused.value, ContractError)


def test_a_detector_that_is_not_fitted_is_refused() -> None:
    with pytest.raises(DetectorError, match="not fitted"):
        contract.check(zoo.Smooth(zoo.FakeSettings(), SIDE), pictures(), LABELS)


def test_it_stands_on_detectors_alone_and_asks_for_pytest_where_cases_are_made() -> None:
    for path in Path(contract.__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            roots = {name.partition(".")[0] for name in names}
            assert not roots & {"bench", "attacks", "sklearn"}, path
            assert "pytest" not in roots or node not in tree.body, path
