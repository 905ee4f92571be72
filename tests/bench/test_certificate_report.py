"""What certificates say together: tables, flags, the figure for a leaderboard, plots."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_certificates import make_certificate, make_table, with_auc
from fake_records import make_record, make_scores
from matplotlib.colors import to_rgb
from rich.console import Console

from bench.records.record import Record, Revisions
from bench.report import certificate_plots, certificate_tables
from bench.report.certificates import (
    Board,
    attacked,
    base_lines,
    boards,
    estimate,
    flags,
    label,
)
from bench.report.certified_column import certified_at
from bench.report.tables import certified_figure

ATTACKED = make_table(attacked=(0.1, 0.25))


@pytest.fixture
def many() -> list[Any]:
    return [
        make_certificate(ATTACKED),
        make_certificate(sigma=0.25),
        make_certificate(rule="paper"),
        make_certificate(make_table(speed=0.1), detector="brightness", rule="exact"),
        make_certificate(
            make_table(lost_from=0.25),
            detector="ae",
            samples=300,
            full_run=False,
            p=0.9,
            choice={"judged_on": "32 normals"},
        ),
        make_certificate(make_table(radii=(0.0, 2 / 255)), detector="brightness", rule="exact", norm="linf"),
    ]


def l2(found: list[Board]) -> Board:
    (board,) = [board for board in found if board.norm == "l2"]
    return board


def test_what_may_be_compared_is_one_board_and_the_best_comes_first(many: list[Any]) -> None:
    found = boards(many)
    assert [board.norm for board in found] == ["l2", "linf"]
    means = [np.mean([estimate(row, r).value for r in row.claim.radii]) for row in l2(found).rows[:-1]]
    assert means == sorted(means, reverse=True)
    assert l2(found).rows[-1].claim.smoothing.rule == "paper"  # last, however high


def test_other_test_images_are_another_board(many: list[Any]) -> None:
    other = make_certificate(make_table(normals=11))
    assert len(boards([*many, other])) == 3


def test_rows_say_what_they_are() -> None:
    assert label(make_certificate(sigma=0.05, p=0.25)) == "SPADE, sigma 0.05, p 0.25, N 10,000"
    assert label(make_certificate(rule="exact")) == "SPADE, exact"
    assert label(make_certificate(rule="exact", norm="linf")) == "SPADE, exact in l-inf"
    assert label(make_certificate(rule="paper", fit_seed=2)) == "SPADE, sigma 0.1, paper (uncertified), N 10,000, fit 2"
    assert label(make_certificate(), detector=False) == "sigma 0.1, p 0.5"


def test_marks_and_notes_say_what_a_reader_must_know(many: list[Any]) -> None:
    board = l2(boards(many, Revisions(detectors={"spade": 2})))
    marks = {label(row): board.marks(row) for row in board.rows}
    assert marks["BRIGHTNESS, exact"] == ""
    assert marks["AE, sigma 0.1, p 0.9, N 300"] == "†"
    assert marks["SPADE, sigma 0.1, paper (uncertified), N 10,000"] == "‡"
    notes = " ".join(board.notes())
    assert "300 samples show no bound of 45 % at 0.25" in notes
    assert "p was chosen on 32 normals" in notes
    assert "apgd-l2, 10 steps through 32 samples, judged on 1000 fresh ones" in notes


# -- attacked lies above certified ----------------------------------------------------------------------


def test_an_attack_within_its_bounds_is_no_flag() -> None:
    one = make_certificate(ATTACKED)
    assert [radius for radius, _ in attacked(one)] == [0.1, 0.25]
    assert not flags(one)


def test_images_beyond_their_bounds_are_a_flag_that_counts_them() -> None:
    """The attack has moved each by twice what is certified."""
    (flag, _) = flags(make_certificate(make_table(attacked=(0.1, 0.25), attack_gains=2.0)))
    assert "at radius 0.1 22 attacked images lie beyond" in flag and "one of the two is wrong" in flag


def test_an_attacked_auc_below_the_certified_one_is_a_flag_without_any_such_image() -> None:
    table = make_table(shift=1.0, attacked=(0.1,), attack_gains=1.0)
    wide = dataclasses.replace(table, attacked_low=table.attacked - 9, attacked_high=table.attacked + 9)
    honest = make_certificate(wide)
    assert not flags(honest)
    (flag,) = flags(with_auc(honest, 0.1, 99.0))
    assert "lies below the certified one, 99.0" in flag and "1000 samples" in flag


# -- for the leaderboard --------------------------------------------------------------------------------

MONO: dict[str, Any] = {"dataset": "elpv", "category": "mono", "preset": "quick"}


def test_the_best_certificate_at_a_radius_is_found_and_how_many_it_is_the_best_of(many: list[Any]) -> None:
    found = certified_at(many, 0.1, detector="spade", **MONO)
    assert found is not None
    assert found.auc == max(estimate(one, 0.1) for one in many[:2])
    assert (found.radius, found.of, found.alpha) == (0.1, 2, pytest.approx(0.002))  # the paper's rule is none
    exact = certified_at(many, 0.1, detector="brightness", **MONO)
    assert exact is not None and (exact.label, exact.alpha) == ("exact", 0.0)


def test_between_two_radii_what_holds_at_the_larger_one_counts(many: list[Any]) -> None:
    found = certified_at(many, 0.11, detector="spade", **MONO)
    assert found is not None and found.radius == 0.25
    assert certified_at(many, 0.26, detector="spade", **MONO) is None


@pytest.mark.parametrize(
    "other",
    [
        {"category": "poly"},
        {"dataset": "mvtec"},
        {"preset": "paper"},
        {"norm": "linf"},
        {"subset_sha256": "0"},
        {"fingerprint": "0"},
        {"image_size": 64},
    ],
)
def test_of_other_images_there_is_none(many: list[Any], other: dict[str, Any]) -> None:
    assert certified_at(many, 0.1, **({"detector": "spade"} | MONO | other)) is None


def test_beside_a_record_stands_what_is_certified_of_that_very_fit() -> None:
    """SPADE with one neighbour and with five has the same tensors."""
    one = make_certificate(settings={"k": 1}, frozen={"net": "1"})
    own = one.claim.detector
    assert certified_at([one], 0.1, **({"detector": own} | MONO)) is not None
    assert certified_at([one], 0.1, **({"detector": dataclasses.replace(own, title="other")} | MONO)) is not None
    others: list[dict[str, Any]] = [{"settings": {"k": 5}}, {"revision": 2}, {"frozen": {}}, {"checkpoint_sha256": "0"}]
    for other in others:
        assert certified_at([one], 0.1, **({"detector": dataclasses.replace(own, **other)} | MONO)) is None


def test_what_an_older_revision_is_certified_bears_its_mark() -> None:
    newer = Revisions(detectors={"spade": 2})
    found = certified_at([make_certificate()], 0.1, detector="spade", revisions=newer, **MONO)
    assert found is not None and found.marks == "‡"


def test_who_dares_more_does_not_stand_in_the_column() -> None:
    """A risk of 0.999 buys any AUC; one that is smaller than usual may stand there."""
    loose, careful = make_certificate(p=0.4, alpha=0.999), make_certificate(alpha=1e-4)
    assert certified_at([loose], 0.1, detector="spade", **MONO) is None
    found = certified_at([loose, careful], 0.1, detector="spade", **MONO)
    assert found is not None and (found.of, found.alpha) == (1, 1e-4)


def constant() -> Any:
    """Bounds of a score that is the same for all images, whatever is done to them."""
    table = make_table()
    flat = np.zeros_like(table.lower)
    return dataclasses.replace(table, scores=flat[0], lower=flat, upper=flat)


def test_a_constant_score_is_marked_stands_below_and_earns_nothing_where_ties_are_lost() -> None:
    flat, poor = make_certificate(constant(), detector="flat"), make_certificate(make_table(shift=0.3), detector="poor")
    assert [flat.at(r)["auc"] for r in flat.claim.radii] == [50.0] * 3
    assert [flat.at(r)["strict_auc"] for r in flat.claim.radii] == [0.0] * 3
    assert estimate(poor, 0.25).value < 50
    board = l2(boards([flat, poor]))
    assert [(label(row), board.marks(row)) for row in board.rows] == [
        ("POOR, sigma 0.1, p 0.5, N 10,000", ""),
        ("FLAT, sigma 0.1, p 0.5, N 10,000", "¶"),
    ]
    assert any("tie" in note for note in board.notes())
    half = certified_at([flat], 0.1, detector="flat", **MONO)
    lost = certified_at([flat], 0.1, detector="flat", ties_lost=True, **MONO)
    assert half is not None and (half.auc.value, half.marks) == (50.0, "¶")
    assert lost is not None and lost.auc.value == 0.0


def test_a_certificate_that_is_found_bears_its_marks(many: list[Any]) -> None:
    found = certified_at(many, 0.1, detector="ae", **MONO)
    assert found is not None and found.marks == "†"
    assert (found_full := certified_at(many, 0.1, detector="spade", **MONO)) is not None and found_full.marks == ""


# -- tables ---------------------------------------------------------------------------------------------


def test_the_markdown_has_certified_and_attacked_side_by_side(many: list[Any]) -> None:
    text = certificate_tables.markdown(l2(boards(many)))
    (row,) = [line for line in text.splitlines() if line.startswith("| SPADE, sigma 0.1, p 0.5")]
    assert f"(attacked {dict(attacked(many[0]))[0.1].value:.1f})" in row
    assert "upper ones of normals and lower ones of anomalies, hold together with a confidence of 99.9 %" in text


def test_where_no_image_is_bounded_there_is_no_interval() -> None:
    """The AUC is 0 whatever the test images."""
    lost = make_certificate(make_table(lost_from=0.25), samples=1000)
    text = certificate_tables.markdown(l2(boards([lost])))
    assert "| 0.0 |" in text and "0.0 [" not in text
    found = certified_at([lost], 0.25, detector="spade", **MONO)
    assert found is not None and certified_figure(found) == "0.0 (sigma 0.1, p 0.5)"


def test_the_csv_has_a_line_for_each_radius(many: list[Any]) -> None:
    rows = list(csv.DictReader(io.StringIO(certificate_tables.tidy(many))))
    assert len(rows) == 5 * 3 + 2
    assert float(rows[1]["auc"]) == many[0].at(0.1)["auc"] and rows[0]["attacked_auc"] == ""
    assert rows[-1]["sigma"] == "" and rows[-1]["norm"] == "linf"


@pytest.mark.parametrize("width", [30, 80])
def test_a_table_fits_its_terminal(many: list[Any], width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    for board in boards(many):
        console.print(certificate_tables.terminal(board, width))
    assert max(map(len, console.export_text().splitlines())) <= width


def test_strangers_names_are_harmless_in_tables(tmp_path: Path) -> None:
    evil = dataclasses.replace(make_certificate(), remarks=["x"])
    named = dataclasses.replace(evil.claim.detector, title="<script>|=cmd()\x1b[2J")
    evil = dataclasses.replace(evil, claim=dataclasses.replace(evil.claim, detector=named, category="=1+1"))
    (markdown, table) = certificate_tables.write([evil], tmp_path)
    text = markdown.read_text()
    assert "<script>" not in text and "\x1b" not in text and text.count("|=cmd") == 0
    assert next(csv.DictReader(io.StringIO(table.read_text())))["category"] == "'=1+1"


# -- plots ----------------------------------------------------------------------------------------------


def record(detector: str, epsilon: float, robust_shift: float, like: Any) -> Record:
    scores = make_scores(robust_shift=robust_shift)
    made = make_record(scores, detector=detector, norm="l2", attack="pgd-l2", epsilon=epsilon)
    subset = dataclasses.replace(made.cell.subset, sha256=like.claim.subset.sha256)
    return dataclasses.replace(made, cell=dataclasses.replace(made.cell, subset=subset))


def test_the_base_line_is_the_strongest_attack_on_the_same_images(many: list[Any]) -> None:
    strong, weak = (record("spade", 0.1, shift, many[0]) for shift in (0.0, 1.0))
    other = make_record(detector="spade", norm="l2", attack="pgd-l2", epsilon=0.1)
    assert strong.robust is not None and strong.clean is not None and weak.robust is not None
    assert strong.robust.auc < weak.robust.auc
    found = base_lines([strong, weak, other], many[0])
    assert found == {"spade": [(0.0, strong.clean.auc), (0.1, strong.robust.auc)]}


def test_the_figure_has_a_panel_for_each_sigma_and_a_line_for_each_row(many: list[Any]) -> None:
    base = base_lines([record("spade", 0.1, 0.0, many[0])], many[0])
    figure = certificate_plots.certified_figure(l2(boards(many)), base)
    first, second = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title() for axes in (first, second)] == ["noise sigma 0.1", "noise sigma 0.25"]

    def drawn(axes: Any) -> list[tuple[str, list[float]]]:
        return [(line.get_linestyle(), list(line.get_ydata())) for line in axes.get_lines()]

    certified = [estimate(many[0], radius).value for radius in many[0].claim.radii]
    under = [found.value for _, found in attacked(many[0])]
    exact = [estimate(many[3], radius).value for radius in many[3].claim.radii]
    assert ("-", certified) in drawn(first) and ("None", under) in drawn(first)
    assert ("--", exact) in drawn(first) and ("--", exact) in drawn(second)
    assert ("-", certified) not in drawn(second) or certified == [estimate(many[1], r).value for r in (0.0, 0.1, 0.25)]
    assert {text.get_text() for text in figure.legends[0].get_texts()} >= {
        "exact, without noise",
        "the same, attacked",
        "without noise, attacked",
        "the paper's rule (uncertified)",
    }


def test_no_learned_detector_is_drawn_in_a_baselines_grey() -> None:
    names = [*"abcdefg", "mean-image"]
    figure = certificate_plots.certified_figure(l2(boards([make_certificate(detector=name) for name in names])))
    drawn = {handle.get_label(): to_rgb(handle.get_color()) for handle in figure.legends[0].legend_handles[:8]}
    grey = {label for label, (red, green, blue) in drawn.items() if red == green == blue}
    assert grey == {"MEAN-IMAGE"} and len(set(drawn.values())) == 8


def test_exact_certificates_alone_are_drawn_without_noise(tmp_path: Path) -> None:
    paths = certificate_plots.write_all([make_certificate(rule="exact")], [], tmp_path)
    assert [path.suffix for path in paths] == [".png", ".pdf"] and all(path.stat().st_size > 1000 for path in paths)
