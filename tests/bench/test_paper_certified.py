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
from bench.records.certificate import Certificate
from bench.report.paper import certified
from bench.report.paper.certified import CertifiedRow
from bench.report.paper.tables import PAPER_SIZE, recipe_of


def measured(row: CertifiedRow) -> float | None:
    return 61.5 if row.category == "grid" else None


def test_the_surviving_figures_are_these() -> None:
    assert certified.rows() == (
        CertifiedRow("grid", "freerad", 0.25, 0.2, 98.2),
        CertifiedRow("bottle", "freerad", 0.25, None, 12.4),  # its radius is unreadable, and no zero
    )


def test_what_was_measured_stands_beside_them() -> None:
    grid, bottle = certified.rows(measured)
    assert grid.difference == pytest.approx(61.5 - 98.2) and bottle.difference is None
    line = certified.frame((grid, bottle)).iloc[0]
    assert (line.paper_certified, line.measured_certified) == (98.2, 61.5)
    assert certified.frame((grid, bottle)).iloc[1].isna().tolist() == [False, False, False, True, False, True, True]


def certificate(category: str, normals: int = 10, **more: Any) -> Certificate:
    table = make_table(radii=(0.0, 0.2), normals=normals)
    made = make_certificate(table, detector="freerad", category=category, preset="paper", **({"sigma": 0.25} | more))
    return replace(made, claim=replace(made.claim, dataset="mvtec", image_size=PAPER_SIZE))


def test_our_certificates_of_these_cells_are_what_was_measured() -> None:
    few, many = certificate("grid"), certificate("grid", normals=20)
    others = [certificate("grid", normals=30, **more) for more in ({"sigma": 0.1}, {"p": 0.9}, {"rule": "paper"})]
    others += [certificate("grid", normals=30, full_run=False), make_certificate(detector="freerad", category="grid")]
    grid, bottle = certified.rows(certified.of_certificates([many, few, *others, certificate("bottle")]))
    assert grid.ours == many.at(0.2)["auc"] and bottle.ours is None  # at a radius that nobody can read
    assert certified.rows(certified.of_certificates(others))[0].ours is None


def test_the_command_makes_what_is_missing_and_the_papers_own() -> None:
    first, second = certified.commands(certified.rows())
    assert first.startswith("python -m bench certify --dataset mvtec --data-root DIR --categories grid,bottle ")
    assert "--detectors freerad --sigma 0.25 --radii 0,0.2 --samples 10000 --preset paper" in first
    assert second == f"{first} --rule paper"
    (of_bottle, _) = certified.commands(certified.rows(measured))
    assert "--categories bottle --detectors freerad --sigma 0.25 --radii 0 " in of_bottle
    assert certified.commands(certified.rows(lambda row: 50.0)) == []


def test_the_files_say_that_the_papers_rule_is_uncertified(tmp_path: Path) -> None:
    paths = certified.write(certified.rows(), tmp_path)
    assert [path.name for path in paths] == ["table6.csv", "table6.md"]
    text = paths[1].read_text()
    assert "no certificates" in text and "uncertified" in text and "| grid | freerad | 0.25 | 0.2 | 98.2 |" in text
    assert "python -m bench certify" in text and "| ? | 12.4 |" in text


@pytest.mark.parametrize("width", [30, 60, 80, 120])
def test_it_fits_the_terminal(width: int) -> None:
    console = Console(width=width, file=(shown := io.StringIO()))
    console.print(certified.terminal(certified.rows(measured), width))
    said = shown.getvalue()
    assert "98.2" in said and "61.5" in said and "not run" in said
    assert max(map(len, said.splitlines())) <= width


def test_a_table_that_is_none_is_told_the_nearest() -> None:
    with pytest.raises(BenchError, match="table6"):
        recipe_of("table66")
