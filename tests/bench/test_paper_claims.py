"""Claims of the paper, judged on made-up figures: yes and no only where the intervals leave no other answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from bench.metrics.intervals import Estimate, score_interval
from bench.report.paper import claims
from bench.report.paper.arms import Arm, Row, Threat
from bench.report.paper.claims import Finding, difference
from bench.report.paper.printed import AVERAGE
from bench.report.paper.tables import recipe_of

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
        (60.0, (70.0, None), 0.0, "no"),  # whatever the other one has
        (60.0, (10.0, None), 60.0, "no"),
        (60.0, (59.0, None), 0.0, "not measured"),
    ],
)
def test_a_lead_is_over_the_best_of_the_others(
    robust: float | None, others: tuple[float | None, ...], least: float, holds: str
) -> None:
    rows = [row("grid", robust=robust), *(row("grid", f"d{n}", robust=r) for n, r in enumerate(others))]
    assert claims.leads("robust", least)(rows).holds == holds


def test_the_best_of_the_others_may_be_one_whose_value_is_not_the_highest() -> None:
    wide = [
        row("grid", robust=60.0),
        row("grid", "cfa", robust=50.0, half=1.0),
        row("grid", "pls", robust=49.0, half=30.0),
    ]
    assert claims.leads("robust")(wide[:2]).holds == "yes"
    assert claims.leads("robust")(wide) == Finding("undecided", "grid: +10.0")
    arms = over_k("pill", {"k 25": 60.0, "k 50": 50.0}) + over_k("pill", {"k 100": 49.0}, half=30.0)
    assert claims.highest("k 25", "clean")(arms[:2]).holds == "yes"
    assert claims.highest("k 25", "clean")(arms) == Finding("undecided", "pill: +10.0")


def test_a_lead_that_surely_fails_somewhere_needs_no_other_cell() -> None:
    rows = [row("grid", robust=20.0), row("grid", "cfa", robust=30.0), row("tile"), row("tile", "cfa", robust=5.0)]
    assert claims.leads("robust")(rows) == Finding("no", "grid: -10.0, others not run")
    assert claims.leads("robust")(rows[2:]).holds == "not measured"
    average = [row(AVERAGE, robust=20.0), row(AVERAGE, "cfa", robust=30.0), row(AVERAGE, "spade")]
    assert claims.leads("robust", averages=True)([*rows, *average]).holds == "no"
    assert claims.leads("robust", averages=True)([*rows, average[0], average[2]]).holds == "not measured"
    named = claims.leads("robust", over=("cfa", "spade"))
    assert named(rows[:2]).holds == "no"
    assert named([row("grid", robust=40.0), rows[1]]).holds == "not measured"  # SPADE has no row at all


def test_a_table_of_one_category_is_its_own_average() -> None:
    one = [row("grid", robust=60.0), row("grid", "cfa", robust=10.0)]
    two = [row("tile", robust=70.0), row("tile", "cfa", robust=10.0)]
    averaged = claims.leads("robust", 45.0, averages=True)
    assert averaged(one) == Finding("yes", "grid: +50.0")
    assert averaged([*one, *two]).holds == "not measured"
    assert averaged([*one, *two, row(AVERAGE, robust=65.0), row(AVERAGE, "cfa", robust=10.0)]).holds == "yes"
    assert averaged([*one, *two, row(AVERAGE, robust=65.0), row(AVERAGE, "cfa")]).holds == "not measured"
    assert averaged([*one, row("tile"), row("tile", "cfa"), row(AVERAGE), row(AVERAGE, "cfa")]).holds == "not measured"


def test_a_lead_is_asked_of_every_category_and_of_every_attack_on_its_own() -> None:
    both = [row("grid", robust=60.0), row("grid", "cfa", robust=10.0), row("tile", robust=20.0)]
    both.append(row("tile", "cfa", robust=30.0))
    found = claims.leads("robust")(both)
    assert found == Finding("no", "grid: +50.0; tile: -10.0")
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
    [
        ((0.0, 40.0), "yes"),
        ((2.5, 40.0), "yes"),
        ((3.5, 40.0), "undecided"),  # by its value it would be "yes"
        ((30.0, 40.0), "no"),
        ((0.0, None), "not measured"),
        ((30.0, None), "not measured"),  # what was not run may be lower
    ],
)
def test_a_fall_to_nothing(values: Sequence[float | None], holds: str) -> None:
    rows = [row("toothbrush", f"d{n}", robust=value) for n, value in enumerate(values)]
    assert claims.falls_to(5.0)(rows).holds == holds
    assert claims.falls_to(5.0)([*rows, row("tile", "d0", robust=50.0)]).holds == "no"
    assert claims.falls_to(5.0)([*rows, row("tile", "d0")]).holds == ("no" if holds == "no" else "not measured")


def test_a_zero_is_as_low_as_zero_even_on_the_papers_few_images() -> None:
    def zero(normals: int, anomalies: int) -> Row:
        return row("toothbrush", measured_robust=score_interval(0.0, normals, anomalies))

    (claim,) = recipe_of("table1").claims
    assert "15 %" in claim.sentence
    assert [claim.judge([zero(*images)]).holds for images in ((60, 60), (12, 30), (3, 3))] == [
        "yes",
        "yes",
        "undecided",
    ]


@pytest.mark.parametrize(
    ("averaged", "half", "holds"),
    [
        (48.0, 1.0, "yes"),
        (40.0, 2.0, "no"),
        (45.0, 2.0, "undecided"),
        (46.0, 20.0, "undecided"),  # 4 points, give or take 28
        (51.0, 1.0, "undecided"),  # rises, not surely
        (60.0, 2.0, "no"),
    ],
)
def test_what_averaging_gradients_costs(averaged: float, half: float, holds: str) -> None:
    eot = replace(LINF, eot=20)
    rows = [row(AVERAGE, robust=50.0, half=half), row(AVERAGE, robust=averaged, half=half, threat=eot)]
    rows += [row(AVERAGE, robust=90.0, threat=L2), row(AVERAGE, robust=10.0, threat=replace(L2, eot=20))]
    judge = claims.falls_by(4.5, norm="linf")
    assert judge(rows) == Finding(holds, f"from 50.0 to {averaged:.1f}")  # type: ignore[arg-type]
    assert judge(rows[:1]).holds == "not measured"
    assert judge([replace(r, category="grid") for r in rows]) == judge(rows)  # one category is its own average
    of_two = [replace(r, category=category) for category in ("grid", "tile") for r in rows]
    assert judge(of_two).holds == "not measured"
    assert judge([*of_two, *rows]) == judge(rows)


def over_k(category: str, values: dict[str, float | None], half: float = 2.0) -> list[Row]:
    return [row(category, clean=value, robust=value, half=half, label=label) for label, value in values.items()]


def test_the_highest_arm_and_the_rise_of_one_over_another() -> None:
    rows = over_k("capsule", {"k 25": 90.0, "k 50": 80.0}) + over_k("pill", {"k 25": 95.0, "k 50": 85.0})
    assert claims.highest("k 25", "clean")(rows).holds == "yes"
    assert claims.rises("robust", from_label="k 50", to_label="k 25")(rows).holds == "yes"
    assert claims.rises("robust", from_label="k 25", to_label="k 50")(rows).holds == "no"
    half_run = rows[:2] + over_k("pill", {"k 25": None, "k 50": 85.0})
    assert claims.rises("robust", from_label="k 25", to_label="k 50")(half_run).holds == "no"
    assert claims.rises("robust", from_label="k 50", to_label="k 25")(half_run).holds == "not measured"
    assert claims.highest("k 50", "clean")(half_run).holds == "no"
    assert claims.highest("k 25", "clean")(half_run).holds == "not measured"
    assert claims.highest("k 75", "clean")(rows).holds == "not measured"
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
    part = apart[:2] + over_k("pill", {"k 25": 80.0, "k 50": None})
    assert claims.best_differs("clean")(part).holds == claims.best_differs("clean")(apart[:3]).holds == "not measured"


def test_the_best_arm_differs_only_where_none_may_be_the_best_everywhere() -> None:
    judge = claims.best_differs("clean")
    mono, poly = {"k 25": 90.0, "k 300": 60.0}, {"k 25": 80.0, "k 300": 80.5}
    either = over_k("mono", mono, half=5.0) + over_k("poly", poly, half=5.0)
    assert judge(either) == Finding("undecided", "mono k 25, poly k 300")  # 25 may be the best on both
    # The best by value is the same, but not surely.
    close = over_k("mono", {"k 25": 90.0, "k 300": 60.0}) + over_k("poly", {"k 25": 80.5, "k 300": 80.0})
    assert judge(close) == Finding("undecided", "mono k 25, poly k 25")
    # Each of the first two is surely beaten somewhere, the third is not.
    third = {"mono": {"a": 90.0, "b": 60.0, "c": 89.0}, "poly": {"a": 60.0, "b": 90.0, "c": 89.0}}
    assert judge([r for category, values in third.items() for r in over_k(category, values)]).holds == "undecided"
    beaten = {"mono": {"a": 90.0, "b": 60.0, "c": 80.0}, "poly": {"a": 60.0, "b": 90.0, "c": 80.0}}
    assert judge([r for category, values in beaten.items() for r in over_k(category, values)]).holds == "yes"


def test_whether_choices_differ() -> None:
    def chosen(*values: int | None) -> list[Row]:
        return [row(f"c{n}", clean=50.0, chosen=value) for n, value in enumerate(values)]

    assert claims.choices_differ()(chosen(50, 100)).holds == "yes"
    assert claims.choices_differ()(chosen(50, 50)).holds == "undecided"
    assert claims.choices_differ()(chosen(50, None)).holds == claims.choices_differ()(chosen(50)).holds
    assert claims.choices_differ()(chosen(50)).holds == "not measured"


def test_whether_time_grows_with_the_steps() -> None:
    steps = {"1 step": 1, "0.5k": 50, "k": 100}

    def timed(*seconds: float | None) -> list[Row]:
        return [row("wood", label=label, seconds=s) for label, s in zip(steps, seconds, strict=True)]

    judge = claims.grows_linearly(steps.__getitem__, within=2.0)
    assert judge(timed(0.01, 0.5, 1.0)) == Finding("yes", "wood x100 at x100 steps, from 1 step to k")
    assert judge(timed(0.01, 0.1, 0.2)).holds == "no"
    assert judge(timed(0.01, 0.02, 1.0)).holds == "yes"  # the first and the last are compared
    assert judge(timed(0.01, None, 0.2)) == Finding("no", "wood x20 at x100 steps, from 1 step to k, others not run")
    for part in ((0.01, None, 1.0), (None, 0.5, 1.0), (0.01, 0.5, None), (0.0, 0.5, 1.0)):
        assert judge(timed(*part)).holds == "not measured"
    assert judge(timed(0.01, 0.5, 1.0)[:1]).holds == judge([]).holds == "not measured"


def as_printed(table: str) -> list[Row]:
    """The rows of a measurement that found exactly what the paper prints; None where it is unreadable."""
    recipe = recipe_of(table)
    threats = {threat.norm: threat for threat in recipe.threats}
    return [
        row(cell.category, cell.detector, clean=cell.clean, robust=cell.robust, half=0.0, threat=threats[cell.norm])
        for cell in recipe.printed()
    ]


@pytest.mark.parametrize("table", ["table1", "table2", "table3", "table14"])
def test_the_papers_own_numbers_satisfy_what_it_says_of_them(table: str) -> None:
    rows = as_printed(table)
    unreadable = {(r.category, r.norm) for r in rows if r.measured_robust is None}
    assert unreadable == {"table3": {("carpet", "l2")}, "table14": {("bird", "linf")}}.get(table, set())
    readable = [r for r in rows if (r.category, r.norm) not in unreadable]
    found = {claim.sentence: claim.judge(readable) for claim in recipe_of(table).claims}
    assert found and all(finding.holds == "yes" for finding in found.values()), found


def test_claims_on_numbers_say_what_is_judged() -> None:
    judged = {
        claim.sentence for table in ("table3", "table4", "table5", "table11") for claim in recipe_of(table).claims
    }
    assert all("judged" in sentence or "at least" in sentence for sentence in judged)
    assert any("at least 27.6" in sentence for sentence in judged)
