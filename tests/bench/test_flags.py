"""Every flag of docs/flags.md goes up where it must and stays down at its limit: none can fall silent unnoticed."""

from __future__ import annotations

from functools import cache
from typing import Any

import bench_fakes as fakes
import pytest
import torch
import zoo

import attacks
from bench.cell.attack import Draws
from bench.cell.attacking import Attacking
from bench.diagnosis import advice, others, sweep
from bench.diagnosis.diagnosis import diagnose
from bench.diagnosis.examined import Examined
from bench.records.schema import Figures
from bench.report.signs import of_record

SIDE = 16
CPU = torch.device("cpu")
TEST = fakes.image_set(5, 5, side=SIDE)
HELD_OUT = fakes.image_set(12, 0, side=SIDE, seed=1)


def area(auc: float, **changes: float) -> Figures:
    return Figures(**{"auc": auc, "low": auc, "high": auc} | changes)


def member(optimality: float, *, ahead_share: float = 0.0, gradients: int = 100, images: int = 60) -> dict[str, float]:
    return {"optimality": optimality, "ahead_share": ahead_share, "gradients": gradients, "attacked_images": images}


def test_a_black_box_is_judged_on_the_images_that_gradients_left_to_it() -> None:
    few = member(0.9, ahead_share=0.05, gradients=0, images=6)  # of 60: 3 of the 6 that it was left
    assert up_in_a_record({"members": [member(0.9), few]}) == {15}
    assert not up_in_a_record({"members": [member(0.9), few | {"attacked_images": 60}]})
    assert not up_in_a_record({"members": [member(0.9), few | {"attacked_images": 0}]})
    assert not up_in_a_record({"members": [member(0.9), few], "robust": area(0)})
    assert not up_in_a_record({"members": [member(0.9, images=10**400), few]}), "a stranger's number"


SPEAKS = {"factor": 4, "images": 6, "gain_share": 0.2, "held_share": 0.1}
# What a record says: where the flag is up, and at the last value that it bears.
OF_RECORDS: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {
    0: ({"flags": ["its author says so"]}, {"flags": []}),
    1: ({"zero_gradient_share": 0.11}, {"zero_gradient_share": 0.1}),
    2: ({"surrogate_zero_gradient_share": 0.11}, {"surrogate_zero_gradient_share": 0.1, "zero_gradient_share": 1}),
    3: ({"nonfinite_gradient_share": 0.001}, {"nonfinite_gradient_share": 0}),
    4: ({"late_gain_share": 0.11}, {"late_gain_share": 0.1}),
    5: ({"last_worse_than_best_share": 0.51, "keep": "last"}, {"last_worse_than_best_share": 0.5, "keep": "last"}),
    6: ({"more_draws": SPEAKS | {"speaks": True}}, {"more_draws": SPEAKS | {"speaks": False}}),
    7: ({"noise_won_share": 0.11}, {"noise_won_share": 0.1}),
    8: ({"gain_share": 0.49}, {"gain_share": 0.5}),
    9: ({"clean": area(60), "robust": area(61.1)}, {"clean": area(60), "robust": area(61)}),
    10: ({"clean": area(45, high=49.9)}, {"clean": area(45, high=50)}),
    11: ({"gate": {}}, {"gate": {"images": 4}}),
    12: ({"gate": {"remark": "it sees no pixels"}}, {"gate": {"images": 4}}),
    13: ({"own_gradient": SPEAKS | {"speaks": True}}, {"own_gradient": SPEAKS | {"speaks": False}}),
    14: ({"selection_held": SPEAKS | {"speaks": True}}, {"selection_held": SPEAKS | {"speaks": False}}),
    15: (
        {"members": [member(0.9), member(0.5, ahead_share=0.11, gradients=0)]},
        {"members": [member(0.9, ahead_share=0.5), member(0.5, ahead_share=0.1, gradients=0)]},
    ),
    16: ({"members": [member(0.79), member(0.7)]}, {"members": [member(0.8), member(0.1)]}),
    27: ({"auc_rise": 0.51}, {"auc_rise": 0.5}),
}


def up_in_a_record(stated: dict[str, Any]) -> set[int]:
    told = {"gate": {"images": 4}, "clean": None, "robust": area(30), "keep": "best"} | stated
    indicators = {name: value for name, value in told.items() if name not in ("gate", "clean", "robust", "keep")}
    found = of_record(
        indicators,
        told["gate"],
        clean=told["clean"],
        robust=told["robust"],
        is_stochastic=False,
        keep=told["keep"],
    )
    return {sign.flag for sign in found if sign.is_up}


@pytest.mark.parametrize("flag", OF_RECORDS)
def test_a_records_flag_is_up_beyond_its_limit_and_down_at_it(flag: int) -> None:
    beyond, at = OF_RECORDS[flag]
    assert up_in_a_record(beyond) == {flag}
    assert flag not in up_in_a_record(at)


@pytest.mark.parametrize("flag", [4, 7, 8, 15, 16])
def test_where_nothing_is_left_there_is_nothing_to_overestimate(flag: int) -> None:
    assert up_in_a_record(OF_RECORDS[flag][0] | {"robust": area(0)}) == set()


class Scripted(Examined):
    """Whose AUCs are given, in the order in which they are asked for."""

    areas: list[float]

    def area(self, losses: torch.Tensor) -> float:
        return self.areas.pop(0)


@pytest.mark.parametrize(
    ("areas", "up"),
    [
        ([90, 80, 70, 60, 50, 40, 0], set()),
        ([90, 80, 70, 72, 50, 40, 0], set()),  # by 2 points, which a pair or two are
        ([90, 80, 70, 72.1, 50, 40, 0], {21}),
        ([90, 92.1, 70, 60, 50, 40, 0], {21}),
        ([90, 80, 70, 60, 50, 40, 5], set()),
        ([90, 80, 70, 60, 50, 40, 5.1], {22}),
        ([90, 80, 70, 60, 50, 3, 5.1], {21, 22}),
    ],
)
def test_the_signs_of_other_radii(areas: list[float], up: set[int]) -> None:
    attack = attacks.get("pgd-linf", image_size=SIDE, steps=1)
    attacking = Attacking(zoo.fitted(zoo.Linear, SIDE), TEST, Draws(1, 0), CPU, 10)
    scripted = Scripted(attacking, attack, TEST.pixels())
    object.__setattr__(scripted, "areas", list(areas))
    assert {sign.flag for sign in sweep.signs(scripted, lambda what: None, {}) if sign.is_up} == up
    assert scripted.areas == []


# Who raises what is asked of a detector and its attack; `pgd` is the attack, with so many steps.
DIAGNOSED: dict[int, tuple[type[zoo.Fake], dict[str, Any]]] = {
    17: (zoo.RightDetached, {}),
    18: (zoo.DependsOnGradientMode, {}),
    19: (zoo.grey_levels(64), {}),
    20: (zoo.RightDetached, {}),
    22: (zoo.Ties, {}),
    23: (zoo.RightDetached, {}),
    24: (zoo.Smooth, {"steps": 1, "step_size": 1e-4}),
    25: (zoo.Smooth, {"steps": 1, "step_size": 1e-4}),
    26: (zoo.NoGraph, {}),
}


@cache
def up_in_a_diagnosis(cls: type[zoo.Fake], settings: tuple[tuple[str, Any], ...]) -> frozenset[int]:
    attack = attacks.get("pgd-linf", image_size=SIDE, **{"steps": 20} | dict(settings))
    source = zoo.fitted(zoo.Smooth, SIDE)
    found = diagnose(
        zoo.fitted(cls, SIDE), attack, TEST, HELD_OUT, (source,), category="all", seed=0, batch_size=10, device=CPU
    )
    return frozenset(sign.flag for sign in found.signs if sign.is_up)


@pytest.mark.parametrize("flag", DIAGNOSED)
def test_a_flag_of_the_diagnosis_goes_up(flag: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(others, "QUERIES", 40)
    cls, settings = DIAGNOSED[flag]
    assert flag in up_in_a_diagnosis(cls, tuple(settings.items()))
    assert not up_in_a_diagnosis(zoo.Linear, ()), "and none of an honest one"


def test_no_flag_is_without_a_test_that_sees_it_up() -> None:
    assert {*OF_RECORDS, *DIAGNOSED, 21} == advice.BY_FLAG.keys()
