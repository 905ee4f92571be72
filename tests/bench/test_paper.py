"""The paper's tables: copied faithfully, never completed by zeros, and beside the right records only."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_records import make_failed, make_record, with_auc
from rich.console import Console

from bench.errors import UnknownNameError
from bench.records.record import Record, Revisions
from bench.report import budget
from bench.report.paper import render
from bench.report.paper.arms import Arm, Row
from bench.report.paper.claims import Finding
from bench.report.paper.measured import reproduce
from bench.report.paper.printed import AVERAGE
from bench.report.paper.recipe import Recipe
from bench.report.paper.sensitivity import sensitivity
from bench.report.paper.tables import RECIPES, recipe_of


def averages(table: str) -> dict[tuple[str, str], Row]:
    return {(r.detector, r.norm): r for r in reproduce(table, []).rows if r.category == AVERAGE}


def measured(clean: float = 90.0, robust: float = 50.0, table: str = "table2", **fields: object) -> Record:
    recipe = RECIPES.get(table, RECIPES["table2"])
    cell = {
        "dataset": recipe.dataset,
        "preset": "paper",
        "protocol": "paper",
        "image_size": recipe.image_size,
        "steps": 40,
        "detector": "freerad",
        "category": recipe.categories[0],
    } | fields
    return with_auc(make_record(**cell), clean=clean, robust=robust)


PRINTED = tuple(table for table, recipe in RECIPES.items() if not recipe.is_lost)
LOST = tuple(table for table in RECIPES if table not in PRINTED)


def test_every_table_has_all_its_cells_under_registry_names() -> None:
    assert PRINTED == ("table1", "table2", "table3", "table14")
    for table in PRINTED:
        recipe = RECIPES[table]
        rows = [r for r in recipe.printed() if r.category != AVERAGE]
        expected = {(c, d, t.norm) for c in recipe.categories for d in recipe.detectors for t in recipe.threats}
        assert {(r.category, r.detector, r.norm) for r in rows} == expected, table
        assert len(rows) == len(expected)
    names = {r.category for t in ("table2", "table14") for r in RECIPES[t].printed()}
    assert {"metal_nut", "airplane", "automobile"} <= names


def test_numbers_are_the_papers() -> None:
    rows = {(r.category, r.detector): r for r in RECIPES["table2"].printed()}
    assert (rows["grid", "freerad"].clean, rows["grid", "freerad"].robust) == (100.0, 99.8)
    assert (rows["zipper", "fastflow"].clean, rows["zipper", "fastflow"].robust) == (99.6, 17.5)
    assert rows["carpet", "ocr-gan"].robust == 0.0  # printed as 0, and zero it is


def test_fastflows_rows_do_not_average_to_what_is_printed() -> None:
    linf, l2 = averages("table2")["fastflow", "linf"], averages("table3")["fastflow", "l2"]
    assert (linf.paper_clean, round(linf.computed_clean or 0, 1)) == (98.5, 96.4)
    assert (linf.paper_robust, round(linf.computed_robust or 0, 1)) == (2.3, 2.7)
    assert (l2.paper_robust, round(l2.computed_robust or 0, 1)) == (9.9, 10.3)
    flagged = {key for t in PRINTED for key, row in averages(t).items() if row.disagrees}
    assert flagged == {("fastflow", "linf"), ("fastflow", "l2")}


def test_an_unreadable_cell_is_a_question_mark_and_no_zero() -> None:
    found = reproduce("table3", [])
    carpet = next(r for r in found.rows if (r.category, r.detector) == ("carpet", "ocr-gan"))
    assert carpet.paper_robust is None
    assert averages("table3")["ocr-gan", "l2"].computed_robust is None  # 14 rows do not average to a column of 15
    line = next(line for line in render.markdown(found).splitlines() if line.startswith("| carpet | ocr-gan"))
    assert "| ? |" in line and "0.0" not in line
    assert any("carpet is unreadable; the printed average implies about 19" in note for note in found.notes)
    table = render.frame(found).set_index(["category", "detector"])
    assert np.isnan(table.loc[("carpet", "ocr-gan"), "paper_robust"])


def test_birds_clean_auc_under_linf_repeats_that_under_l2() -> None:
    found = reproduce("table14", [])
    birds = {(r.detector, r.norm): r for r in found.rows if r.category == "bird"}
    assert birds["fastflow", "linf"].paper_clean == birds["fastflow", "l2"].paper_clean == 63.0
    assert birds["cfa", "linf"].paper_clean == 68.1
    assert birds["cfa", "linf"].paper_robust is None  # a robust AUC depends on the ball: nothing to take over
    assert sum("repeats the other norm's" in note for note in found.notes) == 2
    assert averages("table14")["fastflow", "linf"].computed_clean == pytest.approx(71.4, abs=0.05)


def test_measured_stands_beside_printed_beside_difference() -> None:
    found = reproduce("table2", [measured(clean=80.7, robust=60.5)])
    row = next(r for r in found.rows if (r.category, r.detector) == ("carpet", "freerad"))
    assert (row.paper_clean, row.paper_robust) == (82.7, 70.5)
    assert row.clean_difference == pytest.approx(-2.0)
    assert row.robust_difference == pytest.approx(-10.0)
    assert len(found.missing) == 15 * 6 - 1


@pytest.mark.parametrize(
    "other",
    [
        {"epsilon": 4 / 255},
        {"norm": "l2"},
        {"attack": "apgd-linf"},
        {"preset": "quick"},
        {"protocol": "quick"},
        {"image_size": 128},
        {"dataset": "visa"},
        {"category": "velvet"},
        {"detector": "ae"},
    ],
)
def test_a_record_of_something_else_does_not_fill_a_cell(other: dict[str, object]) -> None:
    found = reproduce("table2", [measured(**other)])
    assert all(r.measured_robust is None for r in found.rows)
    assert "not run" in render.markdown(found)


def test_an_average_needs_every_category() -> None:
    records = [measured(category=c, robust=40.0 + i) for i, c in enumerate(RECIPES["table2"].categories)]
    full = {r.detector: r for r in reproduce("table2", records).rows if r.category == AVERAGE}["freerad"]
    assert full.measured_robust is not None and full.measured_robust.value == pytest.approx(47.0)
    assert full.robust_difference == pytest.approx(47.0 - 80.5)
    part = {r.detector: r for r in reproduce("table2", records[:-1]).rows if r.category == AVERAGE}["freerad"]
    assert part.measured_robust is None


def test_the_protocols_own_steps_are_shown() -> None:
    records = [measured(robust=70.0, steps=10, written="2026"), measured(robust=50.0), measured(robust=45.0, steps=200)]
    row = next(r for r in reproduce("table2", records).rows if (r.category, r.detector) == ("carpet", "freerad"))
    assert row.measured_robust is not None and row.measured_robust.value == pytest.approx(50.0)


def test_stale_partial_and_failed_cells_are_marked() -> None:
    records = [measured(category="grid"), measured(category="tile", full_run=False)]
    fields = {"dataset": "mvtec", "preset": "paper", "protocol": "paper", "image_size": 256, "detector": "freerad"}
    records.append(make_failed(category="wood", **fields))
    found = reproduce("table2", records, revisions=Revisions(detectors={"freerad": 2}))
    status = {r.category: r.status for r in found.rows if r.detector == "freerad"}
    assert (status["grid"], status["tile"], status["wood"], status["carpet"]) == (" ‡", " †‡", " x‡", "")
    assert ("wood", "freerad") in {(c, arm.detector) for c, arm in found.missing}


def test_table14_uses_the_native_radius_and_shows_the_scaled_one_beside_it() -> None:
    l2 = {"table": "table14", "norm": "l2", "attack": "pgd-l2", "category": "cat", "detector": "cfa"}
    found = reproduce("table14", [measured(robust=5.0, epsilon=0.2, **l2), measured(robust=55.0, epsilon=0.025, **l2)])
    row = next(r for r in found.rows if (r.category, r.detector, r.norm) == ("cat", "cfa", "l2"))
    assert row.measured_robust is not None and row.measured_robust.value == pytest.approx(5.0)
    assert row.also_robust is not None and row.also_robust.value == pytest.approx(55.0)
    commands = [run.command() for run in found.runs()]
    assert any("--epsilon 0.025" in c for c in commands) and any("--epsilon 0.2 " in c for c in commands)


def test_at_another_size_l2_scales_with_the_side_and_linf_stays() -> None:
    assert recipe_of("table3").at_size(128, preset="quick", protocol="quick").threats[0].epsilon == pytest.approx(0.1)
    assert recipe_of("table14").at_size(32, preset="quick", protocol="paper").threats == recipe_of("table14").threats
    assert recipe_of("table5").at_size(128, preset="quick", protocol="quick").threats[-1].epsilon == pytest.approx(0.1)
    quick = recipe_of("table2").at_size(128, preset="quick", protocol="quick")
    assert quick.threats[0].epsilon == 2 / 255
    assert "Ours: preset quick, protocol quick, 128 pixels, l-inf 2/255" in quick.title
    record = measured(preset="quick", protocol="quick", image_size=128)
    assert any(r.measured_robust for r in reproduce("table2", [record], recipe=quick).rows)


def test_the_commands_name_what_is_missing_and_nothing_else() -> None:
    recipe = RECIPES["table1"]
    assert len(reproduce("table1", []).runs()) == 1
    done = [measured(table="table1", detector=d) for d in recipe.detectors if d != "spade"]
    (run,) = reproduce("table1", done).runs()
    command = run.command()
    assert "--detectors spade " in command and "--categories toothbrush" in command and "--epsilon 2/255" in command
    everything = [*done, measured(table="table1", detector="spade")]
    assert reproduce("table1", everything).runs() == []


def test_the_commands_leave_out_detectors_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.report.paper.measured.registry.names", lambda: ("spade",))
    found = reproduce("table1", [])
    (run,) = found.runs()
    assert run.detectors == ("spade",) and "--detectors spade " in run.command()
    assert found.absent() == ["cfa", "cflow", "fastflow", "ocr-gan"]


def of_arm(recipe: Recipe, category: str, arm: Arm, **fields: Any) -> Record:
    """The record that a run of a recipe's arm would leave."""
    threat, asked = arm.threat, dict(arm.threat.asked)
    gradient = asked.pop("differentiate", "score")
    gradient = "score" if arm.detector == "pls" else gradient  # it has no inner optimisation: its BPDA is its PGD
    held = [f"--set {arm.detector}.{name}={value}: not the preset's" for name, value in arm.settings]
    held += [f"--gradient {gradient}: the protocol follows the score's"] if gradient != "score" else []
    record = measured(
        table=recipe.table,
        dataset=recipe.dataset,
        preset=recipe.preset,
        image_size=recipe.image_size,
        protocol=recipe.protocol_of(threat),
        category=category,
        detector=arm.detector,
        norm=threat.norm,
        attack=threat.attack,
        epsilon=threat.epsilon,
        settings={"width": 1, **dict(arm.settings)},
        changed=asked,
        differentiate=gradient,
        full_run=not held,
        **asked,
        **fields,
    )
    return replace(record, limits=held)


def replace_epsilon(record: Record, epsilon: float) -> Record:
    return replace(record, cell=replace(record.cell, attack=replace(record.attack, epsilon=epsilon)))


@pytest.mark.parametrize("table", [*RECIPES, "sensitivity"])
def test_each_arm_is_filled_by_its_own_record_and_by_no_other_arms(table: str) -> None:
    recipe = sensitivity(("screw",)) if table == "sensitivity" else RECIPES[table]
    category = recipe.categories[0]
    for number, arm in enumerate(recipe.arms):
        record = of_arm(recipe, category, arm, robust=40.0 + number)
        also = [] if arm.threat.also is None else [replace_epsilon(record, arm.threat.also)]
        found = reproduce(table, [record, *also], recipe=recipe)
        filled = [r.arm for r in found.rows if r.category == category and r.measured_robust is not None]
        assert arm in filled
        assert (category, arm) not in found.missing or recipe.shows[-1] in ("k", "seconds")
        for other in (a for a in filled if a != arm):  # the same measurement under another name
            asked = dict(other.threat.asked)
            is_plain = other.detector == "pls" and asked.pop("differentiate", "surrogate") == "surrogate"
            assert other.settings == arm.settings and other.threat.norm == arm.threat.norm
            assert is_plain or all(record.attack.settings[name] == value for name, value in asked.items())
        assert not any("†" in r.status for r in found.rows)  # what the arm asks for makes it no lesser run


@pytest.mark.parametrize("table", [*RECIPES, "sensitivity"])
def test_every_missing_cell_is_in_a_run_and_the_runs_ask_for_what_the_arms_do(table: str) -> None:
    recipe = sensitivity(("screw",)) if table == "sensitivity" else RECIPES[table]
    found = reproduce(table, [], recipe=recipe)
    cells = {
        (c, str(run.threat), run.settings, d) for run in found.runs() for c in run.categories for d in run.detectors
    }
    for category, arm in found.missing:
        settings = tuple(f"{arm.detector}.{name}={value}" for name, value in arm.settings)
        assert (category, str(arm.threat), settings, arm.detector) in cells
    for run in found.runs():
        command = run.command()
        assert f"--attack {run.threat.attack} " in command and ("--bpda" in command) == run.threat.bpda
        assert ("--eot 20" in command) == (run.threat.eot == 20)
        assert all(f"--set {setting}" in command for setting in run.settings)
        assert ("--holdout 32" in command) == (table == "table7")


def test_what_another_table_asks_for_is_not_run_twice() -> None:
    first, second = reproduce("table10", []), reproduce("table11", [])
    shared = {first.place(*cell) for cell in first.missing}
    assert {c for run in second.runs(shared) for c in run.categories} == set()
    assert [run.epsilon for run in reproduce("table3", []).runs({first.place(*c) for c in first.missing})] == [0.2]
    of_table3 = reproduce("table3", [])
    fifth = reproduce("table5", []).runs({of_table3.place(*c) for c in of_table3.missing})
    assert [(run.threat.norm, run.threat.eot) for run in fifth] == [("linf", 1), ("linf", 20), ("l2", 20)]
    quick = [RECIPES[name].at_size(128, preset="quick", protocol="quick") for name in ("table3", "table5")]
    third, fifth_at_quick = (reproduce(recipe.table, [], recipe=recipe) for recipe in quick)
    # The protocol quick averages over draws, so that plain PGD is a run of its own.
    missing = fifth_at_quick.runs({third.place(*c) for c in third.missing})
    assert [(run.threat.norm, run.threat.eot) for run in missing] == [
        ("linf", 1), ("linf", 20), ("l2", 1), ("l2", 20)
    ]  # fmt: skip


def test_other_data_stand_under_a_heading_of_their_own_without_the_papers_numbers() -> None:
    recipe = RECIPES["table2"].on("elpv", ("mono", "poly")).at_size(128, preset="quick", protocol="quick")
    assert "elpv, which is not the paper's data" in recipe.title and "128 pixels" in recipe.title
    arm = recipe.arms[-1]
    found = reproduce(
        "table2", [of_arm(recipe, c, arm, clean=70.0, robust=25.0) for c in ("mono", "poly")], recipe=recipe
    )
    average = next(r for r in found.rows if r.category == AVERAGE and r.arm == arm)
    assert average.paper_robust is None and average.measured_robust is not None
    assert "paper" not in render.markdown(found).splitlines()[2]
    part = RECIPES["table2"].on("mvtec", ("screw",))
    rows = reproduce("table2", [], recipe=part).rows
    assert {r.category for r in rows} == {"screw"} and any(r.paper_robust == 87.6 for r in rows)
    assert part.is_papers and RECIPES["table2"].on("mvtec", RECIPES["table2"].categories) is RECIPES["table2"]


def test_records_of_another_size_or_protocol_are_named_and_not_mixed() -> None:
    others = [measured(preset="quick", protocol="quick", image_size=128, robust=float(n), seed=n) for n in (1, 2)]
    found = reproduce("table2", [*others, measured(category="grid", protocol="strict")])
    assert all(r.measured_robust is None for r in found.rows)
    assert any(
        n.startswith("2 records") and "--preset quick --protocol quick --image-size 128" in n for n in found.notes
    )
    assert any(n.startswith("1 record of") and "--protocol strict --image-size 256" in n for n in found.notes)
    elpv = measured(dataset="elpv", category="mono", preset="quick", protocol="quick", image_size=128)
    assert any("--dataset elpv --preset quick" in n for n in reproduce("table2", [elpv]).notes)
    # What a command promises to show, it shows: no other detector's records, and none of another attack or radius.
    small = {"preset": "quick", "protocol": "quick", "image_size": 128}
    for other in ({"detector": "ae"}, {"epsilon": 4 / 255}, {"norm": "l2", "attack": "pgd-l2", "epsilon": 0.1}):
        assert not any("not shown here" in note for note in reproduce("table2", [measured(**small, **other)]).notes)


def test_other_settings_and_options_fill_no_cell() -> None:
    """Records of Table 9's k and Table 5's draws lie in the same folder, and are other experiments."""
    arm = next(a for a in RECIPES["table3"].arms if a.detector == "freerad")
    ninth, fifth = RECIPES["table9"], RECIPES["table5"]
    of_k = [of_arm(ninth, "capsule", a) for a in ninth.arms]
    found = reproduce("table3", of_k)
    assert ("capsule", arm) in found.missing and all(r.measured_robust is None for r in found.rows)
    of_draws = [of_arm(fifth, "bottle", a) for a in fifth.arms if a.threat.eot]
    assert all(r.measured_robust is None for r in reproduce("table2", of_draws).rows)
    harder = measured(category="bottle", changed={"steps": 100}, steps=100)
    assert all(r.measured_robust is None for t in ("table2", "table5") for r in reproduce(t, [harder]).rows)
    swept = measured()
    swept = replace(swept, cell=replace(swept.cell, attack=replace(swept.attack, warm_from=[1 / 255])))
    assert all(r.measured_robust is None for r in reproduce("table2", [swept]).rows)


def test_what_is_less_than_was_asked_for_is_shown_and_still_run() -> None:
    arm = next(a for a in RECIPES["table2"].arms if a.detector == "freerad")
    short = replace(
        measured(category="grid", full_run=False),
        limits=["--set freerad.training.iterations=2000: not the preset's"],
    )
    few = replace(measured(category="tile", full_run=False), limits=["--limit 6: at most so many training normals"])
    found = reproduce("table2", [short, few])
    shown = {r.category: r.status for r in found.rows if r.measured_robust is not None}
    assert shown == {"grid": " †", "tile": " †"} and {("grid", arm), ("tile", arm)} <= set(found.missing)
    limited = reproduce("table2", [few], recipe=replace(RECIPES["table2"], limit=6))
    assert ("tile", arm) not in limited.missing
    old = reproduce("table2", [measured(category="grid")], revisions=Revisions(detectors={"freerad": 2}))
    assert ("grid", arm) in old.missing


def test_a_second_radius_that_is_missing_is_run() -> None:
    recipe = RECIPES["table14"]
    arm = next(a for a in recipe.arms if a.threat.also is not None)
    record = of_arm(recipe, "bird", arm)
    assert ("bird", arm) in reproduce("table14", [record]).missing
    both = reproduce("table14", [record, replace_epsilon(record, 0.025)])
    assert ("bird", arm) not in both.missing
    few = replace(replace_epsilon(record, 0.025), full_run=False, limits=["--limit 6: at most so many"])
    half = reproduce("table14", [record, few])
    assert ("bird", arm) in half.missing and "†" in next(
        r.status for r in half.rows if (r.category, r.arm) == ("bird", arm)
    )
    scaled = recipe.on("elpv", ("mono",)).at_size(128, preset="quick", protocol="quick")
    assert [(t.epsilon, t.also) for t in scaled.threats if t.norm == "l2"] == [(pytest.approx(0.8), pytest.approx(0.1))]


def test_arms_are_compared_on_the_fits_that_all_of_them_have() -> None:
    recipe = RECIPES["table4"]
    plain, bpda = (next(a for a in recipe.arms if a.detector == "apae" and a.threat.bpda is b) for b in (False, True))
    pgd = [of_arm(recipe, "grid", plain, robust=20.0 + n, fit_seed=n) for n in range(3)]
    alone = {r.arm: r for r in reproduce("table4", pgd).rows if r.category == "grid"}
    assert alone[plain].fits == 3 and alone[plain].measured_robust is not None
    assert alone[plain].measured_robust.value == pytest.approx(21.0)
    both = {r.arm: r for r in reproduce("table4", [*pgd, of_arm(recipe, "grid", bpda)]).rows if r.category == "grid"}
    assert both[plain].fits == 1 and both[plain].measured_robust is not None
    assert both[plain].measured_robust.value == pytest.approx(20.0)


def test_seconds_of_different_machines_are_not_compared() -> None:
    recipe = RECIPES["table11"]
    timed = [
        replace(
            of_arm(recipe, "toothbrush", arm),
            seconds={"verdict": 1.0},
            environment={"device": "cpu", "cpu": "Abacus", "threads": 2},
        )
        for arm in recipe.arms
    ]
    fast = replace(timed[0], written="2030", seconds={"verdict": 0.001}, environment={"device": "Some GPU"})
    found = reproduce("table11", [*timed[1:], fast])
    first = found.rows[0]
    assert first.seconds is None and first.arm in {arm for _, arm in found.missing}
    assert "Seconds on Abacus, 2 threads." in found.notes


def test_a_part_of_the_papers_categories_has_the_average_of_their_printed_rows() -> None:
    part = RECIPES["table2"].on("mvtec", ("screw", "grid"))
    records = [measured(category="screw", robust=40.0), measured(category="grid", robust=50.0)]
    found = reproduce("table2", records, recipe=part)
    average = next(r for r in found.rows if r.category == AVERAGE and r.detector == "freerad")
    assert average.paper_robust == pytest.approx((87.6 + 99.8) / 2)
    assert average.measured_robust is not None and average.measured_robust.value == pytest.approx(45.0)
    assert "of rows" not in render.markdown(found)
    one = reproduce("table2", records[:1], recipe=RECIPES["table2"].on("mvtec", ("screw",)))
    assert all(r.category != AVERAGE for r in one.rows)


def test_the_least_improvement_of_table_2_follows_from_the_printed_averages_and_not_from_their_rows() -> None:
    ours, best = (averages("table2")[name, "linf"] for name in ("freerad", "fastflow"))
    assert ours.paper_robust is not None and best.paper_robust is not None
    assert ours.computed_robust is not None and best.computed_robust is not None
    printed = f"{ours.paper_robust - best.paper_robust:.1f}"
    of_rows = f"{ours.computed_robust - best.computed_robust:.1f}"
    (note,) = RECIPES["table2"].notes
    assert note.startswith(f"{printed} is") and note.endswith(f"is {of_rows}.") and printed != of_rows


@pytest.mark.parametrize(("changes", "mark"), [({"full_run": False}, "†"), ({"detector_revision": 1}, "‡")])
def test_a_claim_names_the_marks_of_the_cells_that_it_rests_on(changes: dict[str, Any], mark: str) -> None:
    recipe = RECIPES["table1"]
    for marked in (changes, {}):
        cells = {"robust": 0.0, "table": "table1", "detector_revision": 2, **marked}
        records = [measured(**cells, detector=d) for d in recipe.detectors]
        found = reproduce("table1", records, revisions=Revisions(detectors=dict.fromkeys(recipe.detectors, 2)))
        ((_, finding),) = found.findings
        assert finding.holds == "yes" and (f"cells marked {mark} count" in finding.found) == bool(marked)
    ((_, finding),) = reproduce("table1", []).findings
    assert finding == Finding("not measured")


def test_fewer_fits_than_the_protocol_takes_are_less_than_a_full_run() -> None:
    recipe, asked = RECIPES["table1"], Revisions(fits=lambda protocol, detector: 2)
    first, second = ([measured(table="table1", detector=d, fit_seed=seed) for d in recipe.detectors] for seed in (0, 1))
    for records, marked in ((first, True), ([*first, *second], False)):
        found = reproduce("table1", records, revisions=asked)
        assert all(("†" in row.status) == marked for row in found.rows) and bool(found.missing) == marked


def test_the_commands_keep_what_limits_the_images() -> None:
    limited = replace(RECIPES["table1"], limit=4)
    assert all(run.command().endswith(" --limit 4") for run in reproduce("table1", [], recipe=limited).runs())


def test_an_average_is_no_better_than_its_cells() -> None:
    categories = RECIPES["table2"].categories
    records = [measured(category=c) for c in categories[1:]] + [measured(category=categories[0], full_run=False)]
    found = reproduce("table2", records)
    assert next(r for r in found.rows if r.category == AVERAGE and r.detector == "freerad").status == " †"


def test_table_5_says_by_how_much_averaging_lowers() -> None:
    recipe = RECIPES["table5"]
    records = [
        of_arm(recipe, c, a, robust=40.0 - 5 * (a.threat.eot == 20)) for c in recipe.categories for a in recipe.arms
    ]
    text = render.markdown(reproduce("table5", records))
    blocks = text.split("### ")[1:]
    assert len(blocks) == 4 and [b.count("-5.0 ") for b in blocks] == [0, 5, 0, 5]  # four categories and their average


def test_a_random_defence_is_attacked_by_strict_lite_under_strict_lite() -> None:
    recipe = RECIPES["table13"].at_size(128, preset="quick", protocol="strict-lite")
    assert {recipe.protocol_of(threat) for threat in recipe.threats} == {"strict-lite"}


def test_the_chosen_k_and_the_seconds_are_read_from_the_record() -> None:
    seventh = RECIPES["table7"]
    record = of_arm(seventh, "carpet", seventh.arms[0])
    assert ("carpet", seventh.arms[0]) in reproduce("table7", [record]).missing  # it does not say what was chosen
    told = replace(record, checkpoint={"chosen": {"setting": "k", "value": 50}})
    found = reproduce("table7", [told])
    assert found.rows[0].chosen == 50 and "50" in render.markdown(found).splitlines()[4]
    eleventh = RECIPES["table11"]
    of_one = [
        replace(of_arm(eleventh, "toothbrush", arm), seconds={"verdict": 0.1 * (1 + number) * 2 * 50})
        for number, arm in enumerate(eleventh.arms)
    ]
    rows = [r for r in reproduce("table11", of_one).rows if r.category == "toothbrush"]
    scale = [r.seconds / 0.1 for r in rows if r.seconds is not None]
    assert scale == pytest.approx([1, 2, 3, 4, 5, 6])
    assert "x6.0" in render.markdown(reproduce("table11", of_one))
    stated = [replace(record, seconds={"score": 0.25, **record.seconds}) for record in of_one]
    assert {r.seconds for r in reproduce("table11", stated).rows if r.category == "toothbrush"} == {0.25}
    assert budget.seconds_a_score(replace(of_one[0], seconds={})) is None
    assert budget.seconds_a_score(replace(of_one[0], seconds={"verdict": 0.0})) is None  # of a smaller ball's images


@pytest.mark.parametrize("table", [*sorted(RECIPES), "sensitivity"])
def test_every_table_fits_80_columns_and_can_be_written(tmp_path: Path, table: str) -> None:
    recipe = sensitivity(("metal_nut",)) if table == "sensitivity" else RECIPES[table]
    records = [
        replace(of_arm(recipe, c, arm, clean=100.0, robust=100.0), full_run=False, limits=["few"])
        for c in recipe.categories[:2]
        for arm in recipe.arms
    ]
    found = reproduce(table, records, recipe=recipe, revisions=Revisions(detectors=dict.fromkeys(recipe.detectors, 2)))
    for width in (80, 40):
        stream = io.StringIO()
        Console(file=stream, width=width).print(render.terminal(found, width))
        assert "…" not in stream.getvalue() and "†‡" in stream.getvalue()
        assert max(map(len, stream.getvalue().splitlines())) <= width
    assert [p.name for p in render.write(found, tmp_path)] == [f"{table}.csv", f"{table}.md"]


def test_a_lost_table_says_so_and_shows_no_zero() -> None:
    for table in LOST:
        found = reproduce(table, [])
        assert found.notes[0] == "The numbers of this table are lost in the paper's text."
        assert all(r.paper_clean is None and r.paper_robust is None for r in found.rows)
        text = render.markdown(found)
        assert "not run" in text and "| 0.0" not in text and "paper |" not in text
        assert all(finding.holds == "not measured" for _, finding in found.findings) and found.findings


def test_a_table_that_does_not_exist_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="table1"):
        reproduce("table15", [])
