"""The paper's tables: copied faithfully, never completed by zeros, and beside the right records only."""

import io
from pathlib import Path

import numpy as np
import pytest
from fake_records import make_failed, make_record, with_auc
from rich.console import Console

from bench.errors import UnknownNameError
from bench.records.record import Record, Revisions
from bench.report.paper import render
from bench.report.paper.reproduce import Row, reproduce, sensitivity
from bench.report.paper.tables import AVERAGE, RECIPES, paper_rows, recipe_of


def averages(table: str) -> dict[tuple[str, str], Row]:
    return {(r.detector, r.norm): r for r in reproduce(table, []).rows if r.category == AVERAGE}


def measured(clean: float = 90.0, robust: float = 50.0, table: str = "table2", **fields: object) -> Record:
    recipe = RECIPES[table]
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


def test_every_table_has_all_its_cells_under_registry_names() -> None:
    for table, recipe in RECIPES.items():
        rows = [r for r in paper_rows(recipe) if r.category != AVERAGE]
        expected = {(c, d, t.norm) for c in recipe.categories for d in recipe.detectors for t in recipe.threats}
        assert {(r.category, r.detector, r.norm) for r in rows} == expected, table
        assert len(rows) == len(expected)
    names = {r.category for t in ("table2", "table14") for r in paper_rows(RECIPES[t])}
    assert {"metal_nut", "airplane", "automobile"} <= names


def test_numbers_are_the_papers() -> None:
    rows = {(r.category, r.detector): r for r in paper_rows(RECIPES["table2"])}
    assert (rows["grid", "freerad"].clean, rows["grid", "freerad"].robust) == (100.0, 99.8)
    assert (rows["zipper", "fastflow"].clean, rows["zipper", "fastflow"].robust) == (99.6, 17.5)
    assert rows["carpet", "ocr-gan"].robust == 0.0  # printed as 0, and zero it is


def test_fastflows_rows_do_not_average_to_what_is_printed() -> None:
    linf, l2 = averages("table2")["fastflow", "linf"], averages("table3")["fastflow", "l2"]
    assert (linf.paper_clean, round(linf.computed_clean or 0, 1)) == (98.5, 96.4)
    assert (linf.paper_robust, round(linf.computed_robust or 0, 1)) == (2.3, 2.7)
    assert (l2.paper_robust, round(l2.computed_robust or 0, 1)) == (9.9, 10.3)
    flagged = {key for t in RECIPES for key, row in averages(t).items() if row.disagrees}
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


def test_the_protocols_own_steps_are_shown_and_others_only_in_the_sensitivity_table() -> None:
    records = [measured(robust=70.0, steps=10, written="2026"), measured(robust=50.0), measured(robust=45.0, steps=200)]
    row = next(r for r in reproduce("table2", records).rows if (r.category, r.detector) == ("carpet", "freerad"))
    assert row.measured_robust is not None and row.measured_robust.value == pytest.approx(50.0)
    moved = sensitivity("table2", [*records, measured(category="grid")])
    assert list(moved["steps"]) == [10, 40, 200] and list(moved["robust_auc"]) == pytest.approx([70, 50, 45])
    assert sensitivity("table2", records[:1]).empty


def test_stale_partial_and_failed_cells_are_marked() -> None:
    records = [measured(category="grid"), measured(category="tile", full_run=False)]
    fields = {"dataset": "mvtec", "preset": "paper", "protocol": "paper", "image_size": 256, "detector": "freerad"}
    records.append(make_failed(category="wood", **fields))
    found = reproduce("table2", records, revisions=Revisions(detectors={"freerad": 2}))
    status = {r.category: r.status for r in found.rows if r.detector == "freerad"}
    assert (status["grid"], status["tile"], status["wood"], status["carpet"]) == (" ‡", " †‡", " x‡", "")
    assert ("wood", "freerad") in {(c, d) for c, d, _ in found.missing}


def test_table14_uses_the_native_radius_and_shows_the_scaled_one_beside_it() -> None:
    l2 = {"table": "table14", "norm": "l2", "attack": "pgd-l2", "category": "cat", "detector": "cfa"}
    found = reproduce("table14", [measured(robust=5.0, epsilon=0.2, **l2), measured(robust=55.0, epsilon=0.025, **l2)])
    row = next(r for r in found.rows if (r.category, r.detector, r.norm) == ("cat", "cfa", "l2"))
    assert row.measured_robust is not None and row.measured_robust.value == pytest.approx(5.0)
    assert row.also_robust is not None and row.also_robust.value == pytest.approx(55.0)
    assert any("--epsilon 0.025" in c for c in found.commands()) and any(
        "--epsilon 0.2 " in c for c in found.commands()
    )


def test_at_another_size_l2_scales_with_the_side_and_linf_stays() -> None:
    assert recipe_of("table3").at_size(128, preset="quick", protocol="quick").threats[0].epsilon == pytest.approx(0.1)
    assert recipe_of("table14").at_size(32, preset="quick", protocol="paper").threats == recipe_of("table14").threats
    quick = recipe_of("table2").at_size(128, preset="quick", protocol="quick")
    assert quick.threats[0].epsilon == 2 / 255
    assert "Ours: preset quick, protocol quick, 128 pixels, linf 2/255" in quick.title
    record = measured(preset="quick", protocol="quick", image_size=128)
    assert any(r.measured_robust for r in reproduce("table2", [record], recipe=quick).rows)


def test_the_commands_name_what_is_missing_and_nothing_else() -> None:
    recipe = RECIPES["table1"]
    assert len(reproduce("table1", []).commands()) == 1
    done = [measured(table="table1", detector=d) for d in recipe.detectors if d != "spade"]
    (command,) = reproduce("table1", done).commands()
    assert "--detectors spade " in command and "--categories toothbrush" in command and "--epsilon 2/255" in command
    everything = [*done, measured(table="table1", detector="spade")]
    assert reproduce("table1", everything).commands() == []


def test_the_commands_leave_out_detectors_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.report.paper.reproduce.registry.names", lambda: ("spade",))
    found = reproduce("table1", [])
    (command,) = found.commands()
    assert "--detectors spade " in command
    assert found.absent() == ["cfa", "cflow", "fastflow", "ocr-gan"]


@pytest.mark.parametrize("table", sorted(RECIPES))
def test_every_table_fits_80_columns_and_can_be_written(tmp_path: Path, table: str) -> None:
    recipe = RECIPES[table]
    records = [
        measured(
            table=table,
            category=c,
            detector=d,
            norm=t.norm,
            attack=t.attack,
            epsilon=t.epsilon,
            clean=100.0,
            robust=100.0,
            full_run=False,
        )
        for c in recipe.categories[:2]
        for d in recipe.detectors
        for t in recipe.threats
    ]
    found = reproduce(table, records, revisions=Revisions(detectors=dict.fromkeys(recipe.detectors, 2)))
    stream = io.StringIO()
    Console(file=stream, width=80).print(render.terminal(found))
    assert "…" not in stream.getvalue() and "100.0 †‡" in stream.getvalue()
    assert [p.name for p in render.write(found, tmp_path)] == [f"{table}.csv", f"{table}.md"]


def test_a_table_that_did_not_survive_is_an_error_that_names_the_others() -> None:
    with pytest.raises(UnknownNameError, match="table1"):
        reproduce("table7", [])
