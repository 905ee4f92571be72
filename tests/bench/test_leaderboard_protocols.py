"""Several protocols in one leaderboard: the strongest ranks, the others and all budgets stand beside it."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_records import make_record, make_scores, with_auc
from rich.console import Console

from bench.plan import protocols
from bench.records.record import Record
from bench.report import curves, grouping, leaderboard, members, plots, tables, write
from bench.report.leaderboard import Leaderboard

ATTACKS = {"strict": "autoattack-linf", "strict-lite": "autoattack-linf", "quick": "pgd-linf", "paper": "pgd-linf"}


def under(protocol: str, detector: str, robust: float, *, category: str = "mono", **fields: Any) -> Record:
    made = make_record(
        **{"attack": ATTACKS[protocol], "protocol": protocol, "detector": detector, "category": category} | fields
    )
    return with_auc(made, clean=90.0, robust=robust)


def only(records: list[Record]) -> Leaderboard:
    (board,) = leaderboard.build(records)
    return board


def lines(board: Leaderboard, start: str) -> list[list[str]]:
    """The cells of the Markdown lines that begin so."""
    found = [line for line in write.markdown(board).splitlines() if line.startswith(f"| {start}")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found]


def test_the_order_is_that_of_strength_and_each_attack_its_protocols_own() -> None:
    assert list(grouping.OWN_ATTACK) == ["strict", "strict-lite", "quick", "paper"]
    for protocol in protocols.PROTOCOLS:
        own = f"{grouping.OWN_ATTACK[protocol.name]}-linf"
        assert own in protocol.attacks and own in protocol.default_attacks


@pytest.mark.parametrize("given", [("quick", "strict"), ("paper", "strict-lite", "quick"), ("strict", "strict-lite")])
def test_the_strongest_protocol_ranks_and_the_others_stand_beside_it(given: tuple[str, ...]) -> None:
    """Where the weak attacks say the opposite."""
    strongest = min(given, key=list(ATTACKS).index)
    robust = {"ae": (10.0, 80.0), "cfa": (30.0, 60.0)}
    board = only([under(p, d, r[p != strongest]) for d, r in robust.items() for p in given])
    assert board.ranking == strongest and [column.protocol for column in board.columns] == sorted(
        given, key=list(ATTACKS).index
    )
    assert [row.name for row in board.rows] == ["cfa", "ae"]
    assert [row.robust.value for row in board.rows if row.robust] == [30, 10]
    header, (cfa,) = lines(board, "detector")[0], lines(board, "CFA")
    shown = {name.partition(":")[0]: cfa[place] for place, name in enumerate(header) if "robust AUC" in name}
    assert list(shown) == [column.protocol for column in board.columns]
    assert shown[strongest].startswith("30.0") and all(v.startswith("60.0") for p, v in shown.items() if p != strongest)
    assert board.title == f"elpv: {', '.join(shown)} at l-inf epsilon 2/255"


def test_strict_lite_is_never_called_strict() -> None:
    text = write.markdown(only([under("strict-lite", "ae", 10), under("quick", "ae", 20)]))
    assert "strict-lite" in text and "strict" not in text.replace("strict-lite", "")


def test_a_row_without_the_ranking_figure_stands_below_all_that_have_it_and_is_marked() -> None:
    board = only(
        [
            *(under("strict", "ae", 5), under("quick", "ae", 20)),
            *(under("quick", "cfa", 99), under("quick", "spade", 70), under("paper", "spade", 1)),
            under("paper", "cflow", 100),
        ]
    )
    assert [row.name for row in board.rows] == ["ae", "cfa", "spade", "cflow"]
    assert [row.ranked_by for row in board.rows] == ["strict", "quick", "quick", "paper"]
    (ae,), (cfa,) = lines(board, "AE"), lines(board, "CFA")
    assert ae[0] == "AE" and cfa[0] == r"CFA \~"
    assert cfa[1].startswith("90.0") and cfa[2] == "–", "its clean AUC is that of its own protocol"  # noqa: RUF001
    assert any(note.startswith("~ ranked, with its clean AUC, by a weaker protocol") for note in board.notes())
    frame = write.frame(board)
    assert np.isnan(frame.loc["CFA", ("mono", "robust", "value")])
    assert frame.loc["CFA", ("mono", "robust (quick)", "value")] == 99


def test_an_easy_category_ranks_nobody_whichever_protocol_it_was_run_under() -> None:
    """Strict on the easy half alone is no strict average; quick has both halves, and ranks."""
    both = [under("quick", d, r, category=c) for d, r in (("ae", 20), ("cfa", 40)) for c in ("mono", "poly")]
    board = only([*both, under("strict", "ae", 99)])
    assert board.ranking == "quick" and [row.name for row in board.rows] == ["cfa", "ae"]
    average, mono, poly = lines(board, "AE")
    assert average[2] == poly[2] == "–" and mono[2].startswith("99.0")  # noqa: RUF001
    assert not any("~" in row[0] for row in lines(board, ""))
    half = only([*both[:3], under("strict", "cfa", 1), under("strict", "cfa", 2, category="poly")])
    assert [row.name for row in half.rows] == ["cfa", "ae"] and half.rows[1].robust is not None


def test_other_attacks_settings_and_trials_have_leaderboards_of_their_own() -> None:
    full = [under("strict", "ae", 5), under("quick", "ae", 20)]
    others = [
        under("quick", "ae", 20, attack="square-linf"),
        under("strict", "ae", 20, attack="pgd-linf"),
        under("quick", "ae", 20, changed={"steps": 100}),
        under("quick", "ae", 20, epsilon=4 / 255),
        under("quick", "ae", 20, norm="l2"),
        under("quick", "ae", 20, image_size=64),
    ]
    trial = under("strict", "ae", 1)
    subset = dataclasses.replace(trial.cell.subset, limit=4, per_class=4)
    trial = dataclasses.replace(trial, cell=dataclasses.replace(trial.cell, subset=subset))
    boards = leaderboard.build([*others, trial, *full])
    assert len(boards) == 1 + len(others) + 1
    (main,) = (board for board in boards if len(board.columns) > 1)
    assert [row.robust.value for row in main.rows if row.robust] == [5], "a trial on four images ranks nothing"
    at_this_ball = [board for board in boards if board.threat == main.threat]
    assert at_this_ball[0] is main


def test_of_a_protocol_that_was_revised_the_newest_version_stands_beside_the_others() -> None:
    def version(record: Record, number: int) -> Record:
        protocol = dataclasses.replace(record.cell.protocol, version=number, statement=f"Version {number}.")
        return dataclasses.replace(record, cell=dataclasses.replace(record.cell, protocol=protocol))

    old = [version(under("quick", d, 90), 1) for d in ("ae", "cfa", "spade")]
    boards = leaderboard.build([*old, version(under("quick", "ae", 30), 2), under("strict", "ae", 10)])
    assert len(boards) == 2
    main = next(board for board in boards if len(board.columns) == 2)
    assert [row.name for row in main.rows] == ["ae"] and main.rows[0].standings["quick"].robust is not None
    assert main.rows[0].standings["quick"].robust.value == 30


def test_columns_say_how_many_images_and_other_data_are_marked() -> None:
    strict = under("strict", "ae", 5, scores=make_scores(normals=100, anomalies=150))
    quick = under("quick", "ae", 20, scores=make_scores(normals=60, anomalies=60))
    board = only([strict, quick])
    header = lines(board, "detector")[0]
    assert any("100 + 150 images" in name for name in header) and any("60 + 60 images" in name for name in header)
    assert board.rows[0].marks == (), "a subset of the same pictures is what the protocol says"
    elsewhere = under("quick", "cfa", 20, fingerprint="0" * 64)
    same = under("strict", "cfa", 5, scores=make_scores(normals=100, anomalies=150))
    moved = only([strict, quick, same, elsewhere])
    (cfa,) = (row for row in moved.rows if row.name == "cfa")
    assert "other images" in cfa.standings["quick"].marks and "other images" not in cfa.standings["strict"].marks


def test_every_figure_has_its_budget() -> None:
    spent = {"gradients_per_image": 750, "mean_gradients_per_image": 412.4, "forward_passes_per_image": 1530}
    board = only(
        [
            under("strict", "ae", 5, indicators=spent),
            under("strict", "ae", 5, category="poly", indicators=spent | {"mean_gradients_per_image": 212.4}),
            under(
                "strict",
                "freerad",
                4,
                attack="autoattack-rand-linf",
                indicators={"gradients_per_image": 6000} | {"forward_passes_per_image": 6101},
            ),
            under("quick", "ae", 50, indicators={"gradients_per_image": 20, "forward_passes_per_image": 21}),
        ]
    )
    header, (average, mono, poly) = lines(board, "detector")[0], lines(board, "AE")
    assert header.index("strict: budget") == 3 and header.index("quick: budget") == 5
    assert [row[3] for row in (average, mono, poly)] == [f"autoattack {n} + 1,530" for n in (312, 412, 212)]
    assert mono[5] == "pgd 20 + 21" and poly[5] == "–"  # noqa: RUF001
    assert lines(board, "FreeRAD")[1][3] == "autoattack-rand 6,000 + 6,101"
    assert any("AE: autoattack 312 + 1,530" in note for note in write.terminal_notes(board))


def test_the_csv_has_the_budget_and_what_noise_is_worth(tmp_path: Path) -> None:
    record = under("quick", "freerad", 40, scores=make_scores(draws=10), indicators={"gradients_per_image": 120})
    record.results["known_noise"] = {"auc": 12.0, "low": 8.0, "high": 20.0}
    write.write([record, under("quick", "ae", 20)], tmp_path)
    table = pd.read_csv(tmp_path / "leaderboard.csv").set_index("detector")
    assert table.loc["freerad", "gradients_per_image"] == 120
    assert table.loc["freerad", "best_of_auc"] == record.results["best_of"]["auc"]
    assert table.loc["freerad", "known_noise_high"] == 20 and np.isnan(table.loc["ae", "best_of_auc"])


def test_what_noise_is_worth_stands_beside_a_stochastic_row_and_no_other() -> None:
    noisy = [under("strict", "freerad", 40, category=c, scores=make_scores(draws=10)) for c in ("mono", "poly")]
    for record, known in zip(noisy, (10.0, 20.0), strict=True):
        record.results["known_noise"] = {"auc": known, "low": 5.0, "high": 30.0}
    calm = [under("strict", "ae", 20, category=c) for c in ("mono", "poly")]
    board = only([*noisy, *calm])
    header, average = lines(board, "detector")[0], lines(board, "FreeRAD")[0]
    assert header[3:5] == ["strict: best of 10", "strict: known noise"]
    assert average[3].startswith(f"{noisy[0].results['best_of']['auc']:.1f}") and average[4].startswith("15.0")
    assert all(row[3] == row[4] == "" for row in lines(board, "AE"))
    notes = board.notes()
    assert any(n.startswith("best of 10:") for n in notes) and any(n.startswith("known noise:") for n in notes)
    assert "best of 10" not in write.markdown(only(calm))
    behind = only([*calm, under("quick", "freerad", 40, scores=make_scores(draws=10))])
    assert [name for name in lines(behind, "detector")[0] if "best of 10" in name] == ["quick: best of 10"], "its own"
    stream = io.StringIO()
    Console(file=stream, width=80).print(write.terminal(board))
    assert "known noise: 10.0 [5.0, 30.0]" in stream.getvalue()


@pytest.mark.parametrize("width", [40, 80])
def test_a_terminal_names_the_other_protocols_beneath_the_figure_that_ranks(width: int) -> None:
    board = only([under(p, "ae", r) for p, r in (("strict", 5), ("quick", 20), ("paper", 100))])
    stream = io.StringIO()
    Console(file=stream, width=width).print(write.terminal(board, width))
    shown = stream.getvalue()
    assert max(map(len, shown.splitlines())) <= width and "…" not in shown
    assert "5.0 [" in shown and "quick: 20.0 [" in shown and "paper: 100.0 [" in shown


def test_the_heading_of_several_protocols_speaks_of_each_and_of_none_too_briefly() -> None:
    board = only([under(p, "ae", 5) for p in ATTACKS])
    text = write.markdown(board)
    for protocol in ATTACKS:
        assert f"Protocol {protocol} (version 1)" in text
    assert text.count("As printed.") == 4, "the statement comes last, and nothing is cut"
    assert "Ranked by the protocol strict;" in text


def test_in_latex_the_first_table_has_the_heading_and_the_notes() -> None:
    board = only([under(p, "ae", 5, category=c, full_run=False) for p in ("strict", "quick") for c in ("mono", "poly")])
    first, *others = write.latex(board).split(r"\end{table}")[:-1]
    assert len(others) == 2 and r"\dag{} not a full run" in first and "Protocol quick" in first
    assert all("Protocol" not in other and "not a full run" not in other for other in others)
    assert "average over 2 categories" in first and "2/255, poly." in others[1]


def test_each_protocol_has_its_heat_map_and_its_curve() -> None:
    board = only([under("strict", "ae", 5), under("quick", "ae", 20), under("quick", "cfa", 30)])
    shown = {}
    for column in board.columns:
        figure = plots.heat_map_figure(board, column)
        shown[column.protocol] = [text.get_text() for text in figure.axes[1].texts]
        assert column.protocol in figure.get_suptitle()
    assert shown == {"strict": ["5.0", "5.0"], "quick": ["20.0", "20.0", "30.0", "30.0"]}
    assert sorted(len(records) for records in curves.groups([board]).values()) == [1, 2]
    assert len({column.slug for column in board.columns}) == 2


# -- what each member of an ensemble did ------------------------------------------------------------------------------


def ensemble(*aucs: float | None, won: tuple[float, ...] = (0.5, 0.3, 0.2)) -> dict[str, Any]:
    attacks = [
        {"name": "apgd-linf", "differentiate": "score"},
        {"name": "apgd-linf", "differentiate": "map"},
        {"name": "square-linf"},
    ]
    stated = zip(attacks, aucs, won, strict=True)
    told = [
        {"attack": a, "attacked_images": 50, "won_share": w} | ({"robust_auc": v} if v is not None else {})
        for a, v, w in stated
    ]
    return {"members": told}


def test_the_table_of_members_says_what_was_left_after_each_and_what_it_won() -> None:
    board = only(
        [
            under("strict", "ae", 20, indicators=ensemble(30.0, 25.0, 20.0), fit_seed=0),
            under("strict", "ae", 24, indicators=ensemble(34.0, 29.0, 24.0, won=(0.7, 0.3, 0.0)), fit_seed=1),
            under("strict", "freerad", 10, indicators=ensemble(None, None, None)),
            under("quick", "ae", 60),
        ]
    )
    *_, table = tables.tables(board)
    assert table.heading.startswith("strict: robust AUC after each attack")
    names = ["apgd along the score", "apgd along the smooth maximum of the map", "square"]
    assert table.header == ["detector", "category", *names]
    assert table.rows == [
        ["AE", "mono", "32.0 (60 %)", "27.0 (30 %)", "22.0 (10 %)"],
        ["FreeRAD", "mono", "(50 %)", "(30 %)", "(20 %)"],
    ]
    assert r"32.0 (60 %)" in write.markdown(board) and r"32.0 (60 \%)" in write.latex(board)
    assert any("AE, mono: apgd along the score 32.0 (60 %)" in sentence for sentence in members.sentences(board))
    assert not members.sentences(only([under("quick", "ae", 60)]))


@pytest.mark.parametrize(
    "odd",
    [
        None,
        "x",
        [1],
        [{"attack": None, "won_share": 1}],
        [{"attack": {"name": "a"}, "won_share": "1"}],
        [{"attack": {"name": "a"}, "won_share": 7}],
        [{"won_share": 0.5}],
    ],
)
def test_what_a_stranger_states_of_members_is_left_out(odd: object) -> None:
    record = under("strict", "ae", 20, indicators={"members": odd})
    assert members.of_record(record) == () and "### strict" not in write.markdown(only([record]))


def test_members_of_one_name_are_told_apart_and_names_stay_text() -> None:
    again = [{"attack": {"name": "<b>|", "differentiate": [1]}, "won_share": 0.5, "robust_auc": 1e9}] * 2
    shares = members.of_record(under("strict", "ae", 20, indicators={"members": again}))
    assert [share.member for share in shares] == ["<b>|", "<b>| #2"] and shares[0].robust_auc is None
    assert "<b>" not in write.markdown(only([under("strict", "ae", 20, indicators={"members": again})]))
