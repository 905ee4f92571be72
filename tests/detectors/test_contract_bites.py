"""Broken detectors fail the contract's cases: each of these bugs would make a robustness number a lie."""

from __future__ import annotations

import pytest
import torch
import zoo
from detector_pictures import anomalous_pictures, normal_pictures

from detectors import contract
from detectors.contract import gradients
from detectors.errors import ContractError

SIZE = 16
NORMALS = normal_pictures(8, SIZE, seed=1)
IMAGES = torch.cat([normal_pictures(3, SIZE, seed=2), anomalous_pictures(2, SIZE, seed=3)])
LABELS = (1, 1, 1, -1, -1)
CASES = {case.name: case for case in contract.CASES}
CLOSELY = [fault for fault in zoo.FAULTS if fault.case]


def subject(cls: type[zoo.Fake]) -> contract.Subject:
    detector = cls(zoo.FakeSettings(), SIZE).fit(NORMALS, seed=0)
    return contract.Subject.of(detector, IMAGES.clone(), LABELS, normals=NORMALS)


@pytest.mark.parametrize("case", contract.CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("kind", zoo.THOROUGHLY_HONEST, ids=lambda cls: cls.__name__)
def test_honest_detectors_pass_every_case(kind: type[zoo.Fake], case: contract.Case) -> None:
    case(subject(kind))


@pytest.mark.parametrize("fault", CLOSELY, ids=str)
def test_a_broken_detector_fails_its_case(fault: zoo.Fault) -> None:
    with pytest.raises(ContractError, match=fault.sentence):
        CASES[fault.case](subject(fault.detector))


@pytest.mark.parametrize("fault", zoo.FAULTS, ids=str)
def test_a_broken_detector_is_caught_by_the_thorough_check(fault: zoo.Fault) -> None:
    detector = fault.detector(zoo.FakeSettings(), SIZE).fit(NORMALS, seed=0)
    with pytest.raises(ContractError):
        contract.check(detector, IMAGES.clone(), LABELS, thorough=True, normals=NORMALS)


def test_every_case_is_there_for_some_fault() -> None:
    assert {fault.case for fault in CLOSELY} == CASES.keys() - {"quick_look"}


def test_differences_alone_would_let_a_cut_in_float32_pass() -> None:
    for place in subject(zoo.CutInFloat32).places("score").values():
        gradients.check_derivative(place, gradients.STRICT)


def test_an_auc_below_the_floor_is_noticed() -> None:
    detector = zoo.Smooth(zoo.FakeSettings(), SIZE).fit(NORMALS, seed=0)
    normals, anomalies = normal_pictures(6, SIZE, seed=2), anomalous_pictures(6, SIZE, seed=3)
    contract.check_floor(detector, normals, anomalies, 90)
    with pytest.raises(ContractError, match=r"AUC of \S+ is below 90"):
        contract.check_floor(detector, anomalies, normals, 90)


def test_the_auc_is_scikit_learns() -> None:
    from sklearn.metrics import roc_auc_score

    detector = zoo.made(lambda x: (8 * x.mean(dim=(1, 2, 3))).round(), SIZE)  # with ties
    images, labels = torch.rand(40, 3, SIZE, SIZE) * torch.rand(40, 1, 1, 1), [0] * 25 + [1] * 15
    expected = 100 * roc_auc_score(labels, detector.score(images).numpy())
    assert contract.fits.auc(detector, images[:25], images[25:]) == pytest.approx(expected)


# -- as a stranger's test file has it ---------------------------------------------------------------------------------


def test_pytest_has_a_case_for_each_question_and_fits_once() -> None:
    fits = []

    def fitted() -> zoo.Fake:
        fits.append(1)
        return zoo.Smooth(zoo.FakeSettings(), SIZE).fit(NORMALS, seed=0)

    with_fit = contract.pytest_cases(fitted, IMAGES, LABELS, normals=NORMALS)
    (mark,) = with_fit.pytestmark
    assert [mark.kwargs["ids"](case) for case in mark.args[1]] == list(CASES)
    assert not fits, "nothing is fitted while tests are collected"
    for case in mark.args[1]:
        with_fit(case)
    assert len(fits) == 1
    (mark,) = contract.pytest_cases(fitted, IMAGES).pytestmark
    assert [case.name for case in mark.args[1]] == [name for name in CASES if name != "fit_repeats_itself"]


def test_the_example_of_the_module_works_as_it_stands() -> None:
    said = contract.__doc__ or ""
    lines = [line[4:] for line in said.splitlines() if line.startswith("    ") or not line]
    copied = "\n".join(lines).replace("from my_package import MyDetector", "from zoo import Smooth as MyDetector")
    there: dict[str, object] = {}
    exec(copied, there)
    test = there["test_contract"]
    (mark,) = test.pytestmark  # type: ignore[attr-defined]
    for case in mark.args[1]:
        test(case)  # type: ignore[operator]
