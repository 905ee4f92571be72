"""Leaderboards: what is averaged, what is ranked, what may share a table, and what strangers cannot do to it."""

import dataclasses
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_certificates import make_certificate, make_table
from fake_records import make_failed, make_record, make_scores, with_auc
from rich.console import Console

from attacks.pgd import PGD
from bench import text as markup
from bench.errors import RecordError
from bench.records.record import Record, Revisions
from bench.report import caveats, grouping, leaderboard, write
from bench.report.leaderboard import Leaderboard


def cell(detector: str, category: str, robust: float, clean: float = 90.0, **fields: object) -> Record:
    return with_auc(make_record(detector=detector, category=category, **fields), clean=clean, robust=robust)


def only(records: list[Record], revisions: Revisions | None = None) -> Leaderboard:
    boards = leaderboard.build(records, revisions)
    assert len(boards) == 1
    return boards[0]


def test_rows_are_ranked_by_average_robust_auc() -> None:
    robust = {"ae": (10, 30), "cfa": (20, 60), "spade": (50, 0)}
    board = only([cell(d, c, r) for d, both in robust.items() for c, r in zip(("mono", "poly"), both, strict=True)])
    assert [row.name for row in board.rows] == ["cfa", "spade", "ae"]
    assert [row.robust.value for row in board.rows if row.robust] == pytest.approx([40, 25, 20])


def test_the_averages_interval_is_movers() -> None:
    records = [cell("ae", "mono", 100.0), cell("ae", "poly", 40.0)]
    found = only(records).rows[0].robust
    assert found is not None
    figures = [r.robust for r in records if r.robust]
    half = np.sqrt(sum((f.auc - f.low) ** 2 for f in figures)) / 2
    assert found.low == pytest.approx(70.0 - half)


def test_a_missing_category_leaves_a_dash_no_average_and_no_rank() -> None:
    board = only([cell("ae", "mono", 10), cell("ae", "poly", 10), cell("cfa", "mono", 99)])
    assert [row.name for row in board.rows] == ["ae", "cfa"]  # 99 on the easy half is no first place
    assert board.rows[1].robust is None
    average, mono, poly = (line for line in write.markdown(board).splitlines() if line.startswith("| CFA"))
    assert [line.count("–") for line in (average, mono, poly)] == [2, 0, 3] and " 0.0 " not in poly  # noqa: RUF001
    assert np.isnan(write.frame(board).loc["CFA", ("average", "robust", "value")])


def test_an_average_carries_the_marks_of_its_cells() -> None:
    whole = cell("ae", "mono", 10)
    board = only([whole, dataclasses.replace(cell("ae", "poly", 20), full_run=False, limits=["8 images"])])
    average, mono, poly = (line for line in write.markdown(board).splitlines() if line.startswith("| AE"))
    assert "†" not in mono and "†" in average and "†" in poly


def test_a_failed_cell_is_a_dash_with_its_reason() -> None:
    board = only([cell("ae", "mono", 10), make_failed("The scores are NaN.", detector="cfa", category="mono")])
    text = write.markdown(board)
    assert "CFA, mono: failed: The scores are NaN." in text
    assert board.rows[-1].name == "cfa" and board.rows[-1].robust is None


@pytest.mark.parametrize(
    "other",
    [
        {"epsilon": 4 / 255},
        {"preset": "paper"},
        {"protocol": "unheard"},
        {"attack": "apgd-linf"},
        {"dataset": "mvtec"},
        {"image_size": 64},
        {"changed": {"steps": 40}},
        {"keep": "best"},
        {"restarts": 5},
        {"norm": "l2"},
    ],
)
def test_what_cannot_be_compared_is_not_in_one_table(other: dict[str, object]) -> None:
    assert len(leaderboard.build([cell("ae", "mono", 10), cell("cfa", "mono", 10, **other)])) == 2


def test_eot_and_draws_follow_from_the_detector_and_share_a_table() -> None:
    averaged = {"steps": 30, "eot": 2, "eot_last": 6, "momentum": 0.9, "step_size": 1 / 255}
    stochastic = make_record(make_scores(draws=10), detector="freerad", **averaged)
    board = only([make_record(detector="ae"), stochastic])
    assert {row.name for row in board.rows} == {"ae", "freerad"}
    needed = "EOT draws at first 2, and at last 6, momentum where stochastic 0.9"
    assert any(needed in fact and "steps 20/30, step size 0.0009804/0.003922" in fact for fact in board.facts)
    assert board.claim == "PGD-20/30, upper bound"


def test_an_ensemble_for_stochastic_detectors_shares_the_table_of_that_for_the_others() -> None:
    board = only(
        [
            cell("ae", "mono", 30, attack="autoattack-linf", iterations=50, queries=1000),
            cell("freerad", "mono", 20, attack="autoattack-rand-linf", iterations=50, mean_draws=5),
        ]
    )
    assert [row.name for row in board.rows] == ["ae", "freerad"]
    assert board.title == "elpv: autoattack-linf at l-inf epsilon 2/255" and board.claim.startswith("AutoAttack")
    heading = " ".join(board.facts)
    assert "Attack autoattack-linf and autoattack-rand-linf" in heading
    assert "iterations 50" in heading and "queries of Square 1000" in heading and "draws in the mean 5" in heading


def test_the_robust_column_is_headed_by_the_attacks_title_and_a_stranger_by_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Uniform(PGD):
        title = "Uniform noise (l2)"

    assert caveats.claim([make_record(attack="unheard-linf")]) == "UNHEARD-20, upper bound"
    monkeypatch.setattr(caveats, "get_class", lambda name: Uniform)
    assert caveats.claim([make_record()]) == "Uniform noise, 20 steps, upper bound"


def test_a_curve_is_made_of_one_attack_at_several_radii() -> None:
    def key(**other: object) -> str:
        return grouping.curve_key(cell("ae", "mono", 10, **other))

    assert key() == key(epsilon=4 / 255) == key(eot=5) == key(momentum=0.9) == key(steps=30)
    others = key(restarts=5), key(keep="best"), key(random_start=True), key(changed={"step_size": 1e-4})
    assert len({key(), *others}) == 5


def test_the_marks_say_what_not_to_believe() -> None:
    rows = [
        cell("ae", "mono", 10, brightness=97.0),
        cell("cfa", "mono", 10, full_run=False),
        cell("spade", "mono", 10, detector_revision=1),
        cell("cflow", "mono", 10, fingerprint="0" * 64),
        cell("fastflow", "mono", 10, indicators={"zero_gradient_share": 0.4}),
        cell("pls", "mono", 99, clean=50.0),
    ]
    board = only(rows, Revisions(detectors={"spade": 2}))
    marks = {row.name: row.cells["mono"].marks for row in board.rows}
    assert marks == {
        "ae": (),
        "cfa": ("partial",),
        "spade": ("stale",),
        "cflow": ("other images",),
        "fastflow": ("indicator",),
        "pls": ("indicator",),
    }
    text = write.markdown(board)
    assert "### mono\\*\n" in text and "mean brightness alone" in text
    for needed in ("†", "‡", "§", "the gradient was zero in 40 %", "the attack raised the AUC"):
        assert needed in text


def test_the_strict_protocol_counts_ties_as_lost() -> None:
    scores = make_scores()
    collapsed = type(scores)(scores.images, scores.labels, scores.clean, np.zeros_like(scores.robust))
    for protocol, value in (("strict", 0.0), ("strict-lite", 0.0), ("quick", 50.0)):
        board = only([make_record(collapsed, protocol=protocol)])
        assert board.rows[0].robust is not None
        assert board.rows[0].robust.value == value
        assert board.rows[0].cells["mono"].marks == ("ties",)


def test_a_current_record_hides_a_stale_one_even_if_older() -> None:
    old = cell("ae", "mono", 80, detector_revision=1, written="2026-01-01")
    new = cell("ae", "mono", 20, detector_revision=2, written="2025-01-01")
    board = only([old, new], Revisions(detectors={"ae": 2}))
    assert board.rows[0].robust is not None and board.rows[0].robust.value == pytest.approx(20)
    assert "1 more record of the same cells is not shown" in write.markdown(board)


def test_of_one_seed_fitted_on_two_processors_the_latest_counts_not_the_unluckiest() -> None:
    here = cell("ae", "mono", 20, checkpoint="a" * 64, written="2025-01-01")
    there = cell("ae", "mono", 40, checkpoint="b" * 64, written="2026-01-01")
    stronger = cell("ae", "mono", 35, checkpoint="b" * 64, written="2025-06-01", steps=25)
    for records in ([here, there, stronger], [stronger, there, here]):
        (row,) = only(records).rows
        assert row.robust is not None and row.robust.value == pytest.approx(35)


def test_settings_that_compete_are_rows_and_settings_per_category_are_not() -> None:
    competing = only([cell("freerad", "mono", r, settings={"k": k, "width": 8}) for k, r in ((50, 30), (100, 60))])
    assert [row.label for row in competing.rows] == ["FreeRAD (k=100)", "FreeRAD (k=50)"]
    nested = [{"training": {"iterations": n, "batch_size": 2}} for n in (16000, 30000)]
    trained = only([cell("freerad", "mono", 50 + i, settings=s) for i, s in enumerate(nested)])
    found = [row.label for row in trained.rows]
    assert found == [f"FreeRAD (training.iterations={n})" for n in (30000, 16000)]
    chosen = [cell("freerad", c, 50, settings={"k": k}) for c, k in (("mono", 50), ("poly", 200))]
    assert [row.label for row in only(chosen).rows] == ["FreeRAD"]


def test_the_heading_says_what_was_done() -> None:
    facts = " ".join(only([make_record()]).facts)
    for needed in (
        "128x128",
        "20 normal and 30 anomalous",
        "at most 30 per class",
        "steps 20",
        "iterate kept last",
        "epsilon 2/255",
        "PGD-20, upper bound",
        "version 1",
        "not over training seeds",
    ):
        assert needed in facts


HOSTILE = '<script>alert(1)</script> | a_b $x$ \\input{/etc/passwd} & 100% #1 ~ ^ [l](http://e.vil) @you `c` "q"\n| new'


def test_what_strangers_write_stays_text_in_markdown() -> None:
    board = only([cell(HOSTILE, HOSTILE, 10.0), make_failed(HOSTILE, detector="cfa", category=HOSTILE)])
    text = write.markdown(board)
    assert "<script" not in text and "http:" not in text and "@you" not in text
    assert not re.search(r"(?<!\\)\]\(", text)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 4 and len({line.count("|") for line in table}) == 1


def test_what_strangers_write_stays_text_in_latex() -> None:
    board = only([cell(HOSTILE, HOSTILE, 10.0), make_failed(HOSTILE, detector="cfa", category=HOSTILE)])
    text = write.latex(board)
    assert r"\input" not in text and r"\textbackslash{}input\{/etc/passwd\}" in text
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert len(body) == 2
    for line in body:
        assert line.endswith(r" \\")
        assert len(re.findall(r"(?<!\\)&", line)) == 3
        assert not re.search(r"(?<!\\)[%#$_^~]", line)
        assert not line.startswith(("[", "*"))  # \\ would take them for its arguments
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


def test_other_scripts_stay_what_they_are_in_latex_and_it_says_what_compiles_them() -> None:
    latin, other = (write.latex(only([cell("ae", name, 10.0)])) for name in ("Größe", "螺丝"))
    assert "2/255, Größe." in latin and "lualatex" not in latin
    assert "2/255, 螺丝." in other and "?" not in other
    assert other.splitlines()[0].startswith("% Some names are not in Latin script: compile with xelatex or lualatex")


def test_a_formula_does_not_run_in_a_spreadsheet() -> None:
    assert [markup.escape_csv(t) for t in ("=1+1", "+1", "-1", "@a", "a=1")] == ["'=1+1", "'+1", "'-1", "'@a", "a=1"]
    assert markup.escape_csv("\t=1+1") == "'=1+1" and markup.escape_csv("\uff1d1+1") == "'\uff1d1+1"
    assert markup.escape_csv("a; =1+1;@b; c-d") == "a; '=1+1;'@b; c-d"  # where semicolons part cells


def test_the_csv_has_every_cell_with_its_exact_figures(tmp_path: Path) -> None:
    records = [make_record(), make_record(make_scores(seed=3), category="poly"), make_failed("=1+1", category="x")]
    paths = write.write(records, tmp_path)
    assert sorted(p.name for p in paths) == ["leaderboard.csv", "leaderboard.md", "leaderboard.tex"]
    table = pd.read_csv(tmp_path / "leaderboard.csv").set_index("category")
    for record in records[:2]:
        assert record.robust is not None
        assert table.loc[record.category, "robust_auc"] == record.robust.auc
        assert table.loc[record.category, "robust_low"] == record.robust.low
    assert table.loc["x", "status"] == "failed" and np.isnan(table.loc["x", "robust_auc"])
    assert table.loc["x", "reason"] == "'=1+1"


def test_no_records_make_files_that_say_so_and_a_bad_folder_a_sentence(tmp_path: Path) -> None:
    write.write([], tmp_path)
    assert "no records yet" in (tmp_path / "leaderboard.md").read_text()
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="Cannot use"):
        write.write([], tmp_path / "file" / "below")


def test_the_terminal_table_fits_80_columns_and_reads_no_markup() -> None:
    board = only([cell("[red]x[/red]", c, 10.0) for c in ("mono", "poly")])
    stream = io.StringIO()
    Console(file=stream, width=80).print(write.terminal(board))
    assert "[red]x[/red]" in stream.getvalue()
    assert "…" not in stream.getvalue() and max(map(len, stream.getvalue().splitlines())) <= 80


@pytest.mark.parametrize(
    ("epsilon", "norm", "text"),
    [
        (2 / 255, "linf", "2/255"),
        (0.5 / 255, "linf", "0.5/255"),
        (0.3 / 255, "linf", "0.00117647"),
        (0.0, "linf", "0"),
        (0.1, "l2", "0.1"),
        (1.0, "l2", "1"),
    ],
)
def test_epsilons_read_as_the_field_writes_them(epsilon: float, norm: str, text: str) -> None:
    assert markup.epsilon_text(epsilon, norm) == text


def test_a_weaker_attack_that_ran_later_never_hides_a_stronger_one() -> None:
    strong = cell("freerad", "mono", 40, eot=20, written="2026-01-01")
    weak = cell("freerad", "mono", 90, eot=1, written="2026-02-01")
    board = only([strong, weak])
    assert board.rows[0].robust is not None and board.rows[0].robust.value == pytest.approx(40)
    assert board.superseded == 1


def test_what_is_certified_in_the_same_ball_stands_beside() -> None:
    """Of the same fit, on the same test images; what is certified at a larger radius holds in the ball."""
    records = [make_record(detector=name, attack="pgd-l2", norm="l2", epsilon=0.2) for name in ("spade", "ae", "cfa")]
    table = make_table(normals=20, anomalies=30)
    certificates = [
        make_certificate(table),
        make_certificate(table, sigma=0.05),
        make_certificate(table, rule="paper"),
        make_certificate(make_table(normals=21, anomalies=30), detector="ae"),
        make_certificate(make_table(normals=20, anomalies=30, radii=(0.0, 0.1)), detector="cfa"),
    ]
    assert not leaderboard.build(records)[0].certified and "certified" not in write.markdown(
        leaderboard.build(records)[0]
    )
    (board,) = leaderboard.build(records, None, certificates)
    assert {label: (found.of, found.radius) for (label, _), found in board.certified.items()} == {"SPADE": (2, 0.25)}
    text = write.markdown(board)
    assert "certified AUC (guaranteed; of the smoothed detector)" in text and "confidence of at least 99.8 %" in text
    rows = {line.split(" | ")[0].strip("| "): line.rstrip(" |") for line in text.splitlines() if line.startswith("| ")}
    auc = certificates[0].at(0.25)["auc"]
    assert f"{auc:.1f} " in rows["SPADE"].rpartition(" | ")[2] and rows["AE"].endswith("| –")  # noqa: RUF001
    table = pd.read_csv(io.StringIO(write.texts(records, None, certificates)["leaderboard.csv"])).set_index("detector")
    assert table.loc["spade", "certified_auc"] == pytest.approx(auc)
    assert "sigma" in table.loc["spade", "certificate"] and pd.isna(table.loc["ae", "certified_auc"])
    for width in (60, 80, 100):
        stream = io.StringIO()
        Console(file=stream, width=width).print(write.terminal(board, width))
        assert max(map(len, stream.getvalue().splitlines())) <= width
        assert f"smoothed, certified: {auc:.1f}" in " ".join(stream.getvalue().split())
    (linf,) = leaderboard.build([make_record(detector="spade")], None, certificates)
    assert not linf.certified
    (older,) = leaderboard.build(records, Revisions(detectors={"spade": 2}), certificates)
    assert {found.marks for found in older.certified.values()} == {"‡"}
    other = [make_record(detector="spade", attack="pgd-l2", norm="l2", epsilon=0.2, settings={"k": 5})]
    assert not leaderboard.build(other, None, certificates)[0].certified


def test_where_ties_are_lost_the_certified_ones_are_too() -> None:
    table = make_table(normals=20, anomalies=30)
    flat = dataclasses.replace(table, lower=np.zeros_like(table.lower), upper=np.zeros_like(table.upper))
    for protocol, auc in (("quick", 50.0), ("strict-lite", 0.0)):
        record = make_record(detector="spade", attack="pgd-l2", norm="l2", epsilon=0.1, protocol=protocol)
        (board,) = leaderboard.build([record], None, [make_certificate(flat)])
        assert [(found.auc.value, found.marks) for found in board.certified.values()] == [(auc, "¶")]
