"""The paper's Table 6: two figures that survived, what is not claimed of them, and the command for ours."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_certificates import make_certificate, make_table
from rich.console import Console

from bench.errors import BenchError
from bench.metrics.intervals import Estimate
from bench.records.certificate import Certificate
from bench.report.paper import certified
from bench.report.paper.certified import CertifiedRow
from bench.report.paper.recipe import PAPER_SIZE
from bench.report.paper.tables import recipe_of


def measured(row: CertifiedRow) -> Estimate | None:
    return Estimate(61.5, 50.0, 70.0) if row.category == "grid" else None


def printed(measure: certified.Measured | None = None) -> dict[str, CertifiedRow]:
    return {row.category: row for row in certified.rows(measured=measure)}


def test_the_surviving_figures_are_these_and_the_others_are_lost() -> None:
    assert certified.rows() == (
        CertifiedRow("bottle", "freerad", 0.25, None, 12.4),  # its radius is unreadable, and no zero
        CertifiedRow("grid", "freerad", 0.25, 0.2, 98.2),
        CertifiedRow("toothbrush", "freerad", 0.25, 0.2, None),
        CertifiedRow("wood", "freerad", 0.25, 0.2, None),
    )


def test_what_was_measured_stands_beside_them() -> None:
    found = certified.rows(measured=measured)
    rows = {row.category: row for row in found}
    assert rows["grid"].difference == pytest.approx(61.5 - 98.2) and rows["bottle"].difference is None
    line = certified.frame(found).set_index("category").loc["grid"]
    assert (line.paper_certified, line.measured_certified, line.measured_low) == (98.2, 61.5, 50.0)
    assert certified.frame(found).set_index("category").loc["wood"].isna()["paper_certified"]
    assert certified.finding(found).holds == "no" and certified.finding(certified.rows()).holds == "not measured"


def test_on_other_data_the_radius_scales_with_the_side_and_nothing_is_printed() -> None:
    where = certified.CertifiedRecipe("elpv", ("mono",), "quick", "quick", 128)
    assert where.radius == pytest.approx(0.1) and "not the paper's data" in where.title
    (row,) = certified.rows(where)
    assert (row.radius, row.paper) == (pytest.approx(0.1), None)
    (command,) = where.commands([row])
    assert "--dataset elpv --categories mono" in command and "--radii 0,0.1 --samples 1000 --preset quick" in command


def certificate(category: str, normals: int = 10, **more: Any) -> Certificate:
    table = make_table(radii=(0.0, 0.2), normals=normals)
    made = make_certificate(table, detector="freerad", category=category, preset="paper", **({"sigma": 0.25} | more))
    return replace(made, claim=replace(made.claim, dataset="mvtec", image_size=PAPER_SIZE))


def test_our_certificates_of_these_cells_are_what_was_measured() -> None:
    few, many = certificate("grid"), certificate("grid", normals=20)
    others = [certificate("grid", normals=30, **more) for more in ({"sigma": 0.1}, {"p": 0.9}, {"rule": "paper"})]
    others += [certificate("grid", normals=30, full_run=False), make_certificate(detector="freerad", category="grid")]
    found = printed(certified.of_certificates([many, few, *others, certificate("bottle")]))
    grid, bottle = found["grid"], found["bottle"]
    assert grid.ours is not None and grid.ours.value == many.at(0.2)["auc"]
    assert bottle.ours is None  # at a radius that nobody can read
    assert printed(certified.of_certificates(others))["grid"].ours is None


def test_the_command_makes_what_is_missing_and_the_papers_own_from_the_same_samples() -> None:
    where = certified.CertifiedRecipe()
    (command,) = where.commands(certified.missing(certified.rows()))
    assert command.startswith(
        "python -m bench certify --dataset mvtec --data-root DIR --categories grid,toothbrush,wood "
    )
    assert "--detectors freerad --sigma 0.25 --radii 0,0.2 --samples 10000 --preset paper" in command
    assert command.endswith("--rule percentile,paper")
    (others,) = where.commands(certified.missing(certified.rows(measured=measured)))
    assert "--categories toothbrush,wood " in others
    assert where.commands(certified.missing(certified.rows(measured=lambda row: Estimate(50.0, 40.0, 60.0)))) == []


def test_the_files_say_that_the_papers_rule_is_uncertified(tmp_path: Path) -> None:
    paths = certified.write(certified.rows(), tmp_path)
    assert [path.name for path in paths] == ["table6.csv", "table6.md"]
    text = paths[1].read_text()
    assert "no certificates" in text and "uncertified" in text and "| grid | freerad | 0.25 | 0.2 | 98.2 |" in text
    assert "python -m bench certify" in text and "| ? | 12.4 |" in text


@pytest.mark.parametrize("width", [30, 60, 80, 120])
def test_it_fits_the_terminal(width: int) -> None:
    console = Console(width=width, file=(shown := io.StringIO()))
    console.print(certified.terminal(certified.rows(measured=measured), width))
    said = shown.getvalue()
    assert "98.2" in said and "61.5" in said and "not run" in said
    assert max(map(len, said.splitlines())) <= width


def test_a_table_that_is_none_is_told_the_nearest() -> None:
    with pytest.raises(BenchError, match="table6"):
        recipe_of("table66")
