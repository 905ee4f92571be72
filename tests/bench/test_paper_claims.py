"""Claims of the paper, judged on made-up figures: yes and no only where the intervals leave no other answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from bench.metrics.intervals import Estimate
from bench.report.paper import claims
from bench.report.paper.arms import Arm, Row, Threat
from bench.report.paper.claims import Finding, difference
from bench.report.paper.printed import AVERAGE

LINF, L2 = Threat("pgd-linf", "linf", 2 / 255), Threat("pgd-l2", "l2", 0.2)


def near(value: float, half: float = 2.0) -> Estimate:
    return Estimate(value, value - half, value + half)


def row(
    category: str,
    detector: str = "freerad",
    *,
    clean: float | None = None,
    robust: float | None = None,
    half: float = 2.0,
    threat: Threat = LINF,
    label: str = "",
    **more: object,
) -> Row:
    def estimate(value: float | None) -> Estimate | None:
        return None if value is None else near(value, half)

    arm = Arm(detector, threat, (), label)
    return replace(Row(category, arm, measured_clean=estimate(clean), measured_robust=estimate(robust)), **more)  # type: ignore[arg-type]


def test_a_difference_has_the_interval_of_both() -> None:
    assert difference(near(60.0, 3.0), near(50.0, 4.0)) == pytest.approx((10.0, 5.0, 15.0))
    lopsided = difference(Estimate(1.0, 0.0, 4.0), Estimate(0.0, 0.0, 3.0))
    assert lopsided == pytest.approx((1.0, 1.0 - (1 + 9) ** 0.5, 4.0))


@pytest.mark.parametrize(
    ("robust", "others", "least", "holds"),
    [
        (60.0, (10.0, 20.0), 0.0, "yes"),
        (60.0, (10.0, 20.0), 30.0, "yes"),
        (60.0, (10.0, 20.0), 38.0, "undecided"),  # 40 points, give or take 2.8
        (60.0, (10.0, 20.0), 50.0, "no"),
        (20.0, (10.0, 60.0), 0.0, "no"),  # the best of the others counts
        (60.0, (10.0, None), 0.0, "not measured"),
        (None, (10.0, 20.0), 0.0, "not measured"),
    ],
)
def test_a_lead_is_over_the_best_of_the_others(
    robust: float | None, others: tuple[float | None, ...], least: float, holds: str
) -> None:
    rows = [row("grid", robust=robust), *(row("grid", f"d{n}", robust=r) for n, r in enumerate(others))]
    assert claims.leads("robust", least)(rows).holds == holds


def test_a_lead_is_asked_of_every_category_and_of_every_attack_on_its_own() -> None:
    both = [row("grid", robust=60.0), row("grid", "cfa", robust=10.0), row("tile", robust=20.0)]
    both.append(row("tile", "cfa", robust=30.0))
    found = claims.leads("robust")(both)
    assert found == Finding("no", "grid +50.0, tile -10.0")
    averages = [row(AVERAGE, robust=60.0), row(AVERAGE, "cfa", robust=10.0)]
    assert claims.leads("robust", averages=True)([*both, *averages]).holds == "yes"
    # Under another attack the other one is lower; only where attacks are compared across does that matter.
    stronger = replace(LINF, title="stronger")
    mixed = [row("grid", robust=15.0, threat=stronger), row("grid", "cfa", robust=10.0, threat=LINF)]
    assert claims.leads("robust")(mixed).holds == "not measured"
    assert claims.leads("robust", whatever_attacks=True)(mixed).holds == "yes"
    norms = [row("grid", robust=60.0), row("grid", "cfa", robust=10.0), row("grid", robust=5.0, threat=L2)]
    norms.append(row("grid", "cfa", robust=50.0, threat=L2))
    assert claims.leads("robust", whatever_attacks=True)(norms).holds == "no"


def test_only_the_named_others_are_led() -> None:
    rows = [row(AVERAGE, clean=80.0), row(AVERAGE, "cfa", clean=99.0), row(AVERAGE, "spade", clean=60.0)]
    assert claims.leads("clean", over=("spade",), averages=True)(rows).holds == "yes"
    assert claims.leads("clean", averages=True)(rows).holds == "no"


@pytest.mark.parametrize(
    ("values", "holds"),
    [((0.0, 40.0), "yes"), ((2.5, 40.0), "undecided"), ((30.0, 40.0), "no"), ((0.0, None), "not measured")],
)
def test_a_fall_to_nothing(values: Sequence[float | None], holds: str) -> None:
    rows = [row("toothbrush", f"d{n}", robust=value) for n, value in enumerate(values)]
    assert claims.falls_to(1.0)(rows).holds == holds
    assert claims.falls_to(1.0)([*rows, row("tile", "d0", robust=50.0)]).holds in ("no", "not measured")


@pytest.mark.parametrize(("averaged", "holds"), [(48.0, "yes"), (40.0, "no"), (45.0, "undecided")])
def test_what_averaging_gradients_costs(averaged: float, holds: str) -> None:
    eot = replace(LINF, eot=20)
    rows = [row(AVERAGE, robust=50.0), row(AVERAGE, robust=averaged, threat=eot)]
    rows += [row(AVERAGE, robust=90.0, threat=L2), row(AVERAGE, robust=10.0, threat=replace(L2, eot=20))]
    found = claims.falls_by(4.5, norm="linf")(rows)
    assert found.holds == holds and found.found == f"50.0 falls to {averaged:.1f}"
    assert claims.falls_by(4.5, norm="linf")(rows[:1]).holds == "not measured"


def over_k(category: str, values: dict[str, float | None], half: float = 2.0) -> list[Row]:
    return [row(category, clean=value, robust=value, half=half, label=label) for label, value in values.items()]


def test_the_highest_arm_and_the_rise_of_one_over_another() -> None:
    rows = over_k("capsule", {"k 25": 90.0, "k 50": 80.0}) + over_k("pill", {"k 25": 95.0, "k 50": 85.0})
    assert claims.highest("k 25", "clean")(rows).holds == "yes"
    assert claims.rises("robust", from_label="k 50", to_label="k 25")(rows).holds == "yes"
    assert claims.rises("robust", from_label="k 25", to_label="k 50")(rows).holds == "no"
    close = over_k("capsule", {"k 25": 90.0, "k 50": 89.0})
    assert claims.highest("k 25", "clean")(close).holds == "undecided"
    assert claims.highest("k 25", "clean")(over_k("pill", {"k 25": 90.0, "k 50": None})).holds == "not measured"


def test_whether_the_best_arm_differs() -> None:
    apart = over_k("capsule", {"k 25": 90.0, "k 50": 80.0}) + over_k("pill", {"k 25": 80.0, "k 50": 90.0})
    assert claims.best_differs("clean")(apart) == Finding("yes", "capsule k 25, pill k 50")
    within = over_k("capsule", {"k 25": 90.0, "k 50": 89.0}) + over_k("pill", {"k 25": 89.0, "k 50": 90.0})
    assert claims.best_differs("clean")(within).holds == "undecided"
    alike = over_k("capsule", {"k 25": 90.0, "k 50": 80.0}) + over_k("pill", {"k 25": 95.0, "k 50": 90.0})
    assert claims.best_differs("clean")(alike).holds == "no"
    assert claims.best_differs("clean")(apart[:2]).holds == "not measured"  # of one category nothing differs


def test_whether_choices_differ() -> None:
    def chosen(*values: int | None) -> list[Row]:
        return [row(f"c{n}", clean=50.0, chosen=value) for n, value in enumerate(values)]

    assert claims.choices_differ()(chosen(50, 100)).holds == "yes"
    assert claims.choices_differ()(chosen(50, 50)).holds == "no"
    assert claims.choices_differ()(chosen(50, None)).holds == claims.choices_differ()(chosen(50)).holds
    assert claims.choices_differ()(chosen(50)).holds == "not measured"


def test_whether_time_grows_with_the_steps() -> None:
    steps = {"1 step": 1, "0.5k": 50, "k": 100}

    def timed(*seconds: float | None) -> list[Row]:
        return [row("wood", label=label, seconds=s) for label, s in zip(steps, seconds, strict=True)]

    judge = claims.grows_linearly(steps.__getitem__, within=2.0)
    assert judge(timed(0.01, 0.5, 1.0)) == Finding("yes", "wood x100 at x100 steps")
    assert judge(timed(0.01, 0.1, 0.2)).holds == "no"
    assert judge(timed(0.01, None, 0.2)).holds == "not measured"
