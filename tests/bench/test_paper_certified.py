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
from bench.records.record import Revisions
from bench.report.paper import certified, certified_render
from bench.report.paper.certified import CertifiedRow
from bench.report.paper.recipe import PAPER_SIZE
from bench.report.paper.tables import recipe_of
from bench.text import escape_markdown

QUICK = certified.CertifiedRecipe("elpv", ("mono",), "quick", "quick", 128, per_class=60)


def certificate(category: str, normals: int = 10, **more: Any) -> Certificate:
    """FreeRAD's, at the paper's size."""
    table = make_table(radii=(0.0, 0.2), normals=normals)
    told = {"detector": "freerad", "preset": "paper", "sigma": 0.25} | more
    made = make_certificate(table, category=category, **told)
    return replace(made, claim=replace(made.claim, dataset="mvtec", image_size=PAPER_SIZE))


def small(*limits: str, per_class: int | None = 60, limit: int | None = None, **more: Any) -> Certificate:
    """FreeRAD's, on ELPV at the preset quick."""
    told = {"sigma": 0.25, "samples": 1000, "detector": "freerad"} | more
    settings = told.pop("settings", {})
    made = make_certificate(make_table(radii=(0.0, 0.1)), **told)
    subset = replace(made.claim.subset, per_class=per_class, limit=limit)
    claim = replace(made.claim, subset=subset, detector=replace(made.claim.detector, settings=settings))
    return replace(made, claim=claim, key=claim.key, limits=list(limits), full_run=not limits)


def rows_of(*certificates: Certificate) -> dict[str, CertifiedRow]:
    return {row.category: row for row in certified.rows(certificates=certificates)}


def test_the_surviving_figures_are_these_and_the_others_are_lost() -> None:
    assert certified.rows() == (
        CertifiedRow("bottle", "freerad", 0.25, None, 12.4),  # its radius is unreadable, and no zero
        CertifiedRow("grid", "freerad", 0.25, 0.2, 98.2),
        CertifiedRow("toothbrush", "freerad", 0.25, 0.2, None),
        CertifiedRow("wood", "freerad", 0.25, 0.2, None),
    )


def test_what_was_measured_stands_beside_them() -> None:
    made = certificate("grid")
    found = certified.rows(certificates=[made])
    rows, auc = {row.category: row for row in found}, made.at(0.2)["auc"]
    assert rows["grid"].difference == pytest.approx(auc - 98.2) and rows["bottle"].difference is None
    line = certified_render.frame(found).set_index("category").loc["grid"]
    assert (line.paper_certified, line.measured_certified, line.measured_low) == (98.2, auc, made.at(0.2)["low"])
    assert certified_render.frame(found).set_index("category").loc["wood"].isna()["paper_certified"]
    assert certified.finding(found).holds != "not measured" and certified.finding(certified.rows()).found == ""
    assert certified.finding(certified.rows()).holds == "not measured"


def test_on_other_data_the_radius_scales_with_the_side_and_nothing_is_printed() -> None:
    where = certified.CertifiedRecipe("elpv", ("mono",), "quick", "quick", 128)
    assert where.radius == pytest.approx(0.1) and "not the paper's data" in where.title
    (row,) = certified.rows(where)
    assert (row.radius, row.paper) == (pytest.approx(0.1), None)
    (command,) = where.commands([row])
    assert "--dataset elpv --categories mono" in command and "--radii 0,0.1 --samples 1000 --preset quick" in command


def test_our_certificates_of_these_cells_are_what_was_measured() -> None:
    few, many = certificate("grid"), certificate("grid", normals=20)
    others = [certificate("grid", normals=30, **more) for more in ({"p": 0.9}, {"rule": "paper"}, {"detector": "ae"})]
    others += [make_certificate(detector="freerad", category="grid")]  # of another data set
    found = rows_of(many, few, *others, certificate("bottle"))
    grid, bottle = found["grid"], found["bottle"]
    assert grid.ours is not None and grid.ours.value == many.at(0.2)["auc"]
    assert bottle.ours is None  # at a radius that nobody can read
    assert rows_of(*others)["grid"].ours is None


def test_each_other_sigma_with_a_certificate_has_a_row_whose_paper_column_is_unreadable() -> None:
    ours = [certificate("grid", sigma=sigma) for sigma in (0.5, 0.1)] + [certificate("bottle", sigma=0.1)]
    found = certified.rows(certificates=ours)
    shown = [(row.category, row.sigma, row.radius, row.paper, row.ours is not None) for row in found]
    assert shown[:2] == [("bottle", 0.25, None, 12.4, False), ("bottle", 0.1, 0.2, None, True)]
    assert shown[2:5] == [
        ("grid", 0.25, 0.2, 98.2, False),
        ("grid", 0.1, 0.2, None, True),
        ("grid", 0.5, 0.2, None, True),
    ]
    assert certified.finding(found).holds == "not measured"  # the sentence is of sigma 0.25
    assert [row.category for row in certified.missing(found)] == ["grid", "toothbrush", "wood"]
    assert "| grid | freerad | 0.1 | 0.2 | ? |" in certified_render.markdown(found)


def test_what_was_made_with_other_settings_is_named_and_not_mixed_in() -> None:
    few = "--samples 1000: fewer than 10,000"
    told = {"given_noise": 0.25, "k": 50}
    both = [
        small("--set freerad.given_noise=0.25: not the preset's", few, settings=told),
        small("--set freerad.given_noise=0.25: not the preset's", few, settings=told, fit_seed=1),
        small("--set freerad.k=50: not the preset's", settings=told, sigma=0.1),
        small("--holdout 8: not the preset's"),
        replace(made := small(), claim=replace(made.claim, radii=[0.0], image_size=64)),
        small(rule="paper"),
    ]
    (row,) = certified.rows(QUICK, both)
    assert row.ours is None
    said = certified.others([*both, small(), small(detector="ae", p=0.9), small(category="poly", p=0.9)], QUICK)
    assert [sentence.removeprefix("1 certificate of freerad on mono ") for sentence in said] == [
        "(sigma 0.25) was made with --holdout 8 and is not mixed in.",
        "(sigma 0.25) was made with --image-size 64, --radii without 0.1 and is not mixed in.",
        "2 certificates of freerad on mono (sigma 0.25) were made with --match-noise and are not mixed in.",
        "(sigma 0.25) was made with --rule paper (uncertified) and is not mixed in.",
        "(sigma 0.1) was made with --set freerad.k=50 and is not mixed in.",
    ]
    assert all(escape_markdown(sentence) in certified_render.markdown((row,), QUICK, said) for sentence in said)


def test_only_certificates_on_the_test_images_of_the_protocol_count() -> None:
    of_all, of_quick, limited = small(per_class=None), small(), small("--limit 4: few", per_class=4, limit=4)
    (row,) = certified.rows(QUICK, [of_all])
    assert row.ours is None and "made with all test images" in certified.others([of_all], QUICK)[0]
    paper = replace(QUICK, protocol="paper", per_class=None)
    (row,) = certified.rows(paper, [of_quick])
    assert row.ours is None and "made with 60 test images a class" in certified.others([of_quick], paper)[0]
    for recipe, own in ((QUICK, of_quick), (paper, of_all), (QUICK, limited), (paper, limited)):
        (row,) = certified.rows(recipe, [own])
        assert row.ours is not None and not certified.others([own], recipe)


def test_less_than_the_recipe_asks_for_is_marked_and_still_missing() -> None:
    as_asked = small("--samples 1000: fewer than 10,000")
    for less in (
        small("--samples 100: fewer than 10,000", samples=100),
        small("--limit 4: few", per_class=4, limit=4),
        small("--alpha 0.1: above 0.001", samples=20_000, alpha=0.1),
    ):
        (row,) = found = certified.rows(QUICK, [less])
        assert row.status == " †" and certified.missing(found) == [row]
        assert certified.notes(found)[0].startswith("† less than a full certificate")
        (row,) = found = certified.rows(QUICK, [less, as_asked])
        assert row.status == "" and not certified.missing(found)
        assert row.ours is not None and row.ours.value == as_asked.at(0.1)["auc"]
        assert not [note for note in certified.notes(found) if note.startswith("†")]
    (row,) = certified.rows(QUICK, [small(revision=2)], Revisions({"freerad": 3}, {}, {}))
    assert row.status == " ‡"


def test_the_command_makes_what_is_missing_and_the_papers_own_from_the_same_samples() -> None:
    where = certified.CertifiedRecipe()
    (command,) = where.commands(certified.missing(certified.rows()))
    assert command.startswith(
        "python -m bench certify --dataset mvtec --data-root DIR --categories grid,toothbrush,wood "
    )
    assert "--detectors freerad --sigma 0.25 --radii 0,0.2 --samples 10000 --preset paper" in command
    assert command.endswith("--rule percentile,paper")
    (others,) = where.commands(certified.missing(certified.rows(certificates=[certificate("grid")])))
    assert "--categories toothbrush,wood " in others
    ours = [certificate(category) for category in certified.CATEGORIES]
    assert where.commands(certified.missing(certified.rows(certificates=ours))) == []


def test_the_files_say_that_the_papers_rule_is_uncertified(tmp_path: Path) -> None:
    paths = certified_render.write(certified.rows(), tmp_path)
    assert [path.name for path in paths] == ["table6.csv", "table6.md"]
    text = paths[1].read_text()
    assert "no certificates" in text and "uncertified" in text and "| grid | freerad | 0.25 | 0.2 | 98.2 |" in text
    assert "python -m bench certify" in text and "| ? | 12.4 |" in text


@pytest.mark.parametrize("width", [30, 60, 80, 120])
def test_it_fits_the_terminal(width: int) -> None:
    console = Console(width=width, file=(shown := io.StringIO()))
    console.print(certified_render.terminal(certified.rows(certificates=[made := certificate("grid")]), width))
    said = shown.getvalue()
    assert "98.2" in said and f"{made.at(0.2)['auc']:.1f}" in said and "not run" in said
    assert max(map(len, said.splitlines())) <= width


def test_a_table_that_is_none_is_told_the_nearest() -> None:
    with pytest.raises(BenchError, match="table6"):
        recipe_of("table66")


def test_a_certificate_below_the_claim_disproves_nothing_and_the_sentence_has_the_radius_that_is_judged() -> None:
    low, high = (
        [CertifiedRow("grid", "freerad", 0.25, 0.2, 98.2, Estimate(auc, auc - 1, auc + 1), " †")]
        for auc in (80.0, 99.5)
    )
    assert (certified.finding(low).holds, certified.finding(high).holds) == ("undecided", "yes")
    assert certified.finding(high).found.endswith("; cells marked † count")
    assert (
        "up to 0.2 can make" in certified.CertifiedRecipe().claim and "judged" not in certified.CertifiedRecipe().claim
    )
    assert "judged: of up to 0.1" in certified.CertifiedRecipe("mvtec", ("grid",), "quick", "quick", 128).claim


def test_a_cell_that_the_paper_does_not_have_is_not_an_unreadable_one() -> None:
    elsewhere = certified.CertifiedRecipe("elpv", ("mono",), "quick", "quick", 128)
    lines = [
        line
        for where in (certified.CertifiedRecipe(), elsewhere)
        for line in certified_render.markdown(certified.rows(where), where).splitlines()
        if line.startswith("| ") and " freerad " in line
    ]
    assert [line.count(" ? ") for line in lines] == [1, 0, 1, 1, 0]
