"""The best known attack: the lowest figure of the same fit on the same images, in this ball or in a smaller one."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_records import make_failed, make_record, make_scores

from bench.records.record import Record, Revisions
from bench.report import best_known, leaderboard, tables, write
from bench.report.site import found as collected
from bench.report.site import index, names, pages
from bench.text import interval_text

WEAK, STRONG = make_scores(robust_shift=1.5), make_scores(robust_shift=-0.5)


def ranked(**fields: Any) -> Record:
    return make_record(WEAK, **fields)


def shown(*records: Record) -> dict[tuple[str, str], best_known.BestKnown]:
    """What stands on the board of the first record's protocol."""
    boards = leaderboard.build(records)
    (board,) = [b for b in boards if b.columns[0].protocol == records[0].protocol and "2/255" in b.threat]
    return dict(board.best_known)


def test_a_lower_figure_of_any_attack_stands_beside_the_ranked_one() -> None:
    other = make_record(STRONG, protocol="mine", attack="somebodys", epsilon=1 / 255)
    (found,) = shown(ranked(), other).values()
    assert other.robust is not None and found.robust.value == pytest.approx(other.robust.auc)
    assert found.attack == "somebodys at l-inf epsilon 1/255, mine"
    text = write.markdown(leaderboard.build([ranked(), other])[1])
    assert "best known" in text and "somebodys at l-inf epsilon 1/255" in text
    assert "Best known is the lowest robust AUC" in text
    table = pd.read_csv(io.StringIO(write.texts([ranked(), other])["leaderboard.csv"])).set_index("attack")
    assert table.loc["pgd-linf", "best_known_auc"] == pytest.approx(found.robust.value)
    assert table.loc["pgd-linf", "best_known_attack"] == found.attack and pd.isna(
        table.loc["somebodys", "best_known_auc"]
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"epsilon": 4 / 255},
        {"norm": "l2"},
        {"checkpoint": "d" * 64},
        {"detector_revision": 2},
        {"fingerprint": "e" * 64},
        {"category": "poly"},
        {"image_size": 64},
        {"settings": {"width": 16}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_is_of_another_thing_is_no_best_known(fields: dict[str, Any]) -> None:
    assert not shown(ranked(), make_record(STRONG, protocol="mine", **fields))


def test_what_was_measured_by_code_that_was_revised_since_is_known_no_longer() -> None:
    other = make_record(STRONG, protocol="mine", attack="somebodys")
    for revisions in (Revisions(attacks={"somebodys": 2}), Revisions(protocols={"mine": 7})):
        boards = leaderboard.build([ranked(), other], revisions)
        assert not any(board.best_known for board in boards if board.columns[0].protocol == "quick")
    assert shown(ranked(), other)


def test_a_failed_cell_is_no_best_known() -> None:
    assert not shown(ranked(), make_failed(protocol="mine"))


def test_other_pretrained_weights_are_another_detector() -> None:
    one = ranked()
    cell = make_record(STRONG, protocol="mine").cell
    cell = replace(cell, detector=replace(cell.detector, frozen={"backbone": "e" * 64}))
    assert not shown(one, replace(make_record(STRONG, protocol="mine"), cell=cell, key=cell.key))


def test_ties_are_counted_alike_in_both() -> None:
    """A record in which all is tied has an AUC of 50 and a strict one of 0: against an AUC that is 50, and no lower."""
    tied = replace(WEAK, robust=np.zeros_like(WEAK.robust))
    first = make_record(tied)
    assert first.robust is not None and (first.robust.auc, first.robust.strict_auc) == (50.0, 0.0)
    assert not shown(first, make_record(tied, protocol="strict"))
    # Under strict both count ties as lost, whatever the other's protocol ranks by.
    (found,) = shown(make_record(WEAK, protocol="strict"), make_record(tied, protocol="mine")).values()
    assert found.robust.value == 0.0


def test_what_is_not_lower_leaves_no_column() -> None:
    records = [ranked(), make_record(make_scores(robust_shift=2.0), protocol="mine", epsilon=1 / 255)]
    assert not shown(*records)
    assert "best known" not in "".join(map(write.markdown, leaderboard.build(records)))


def test_of_several_fits_it_is_the_mean_of_each_fits_lowest() -> None:
    own = [ranked(fit_seed=seed, checkpoint=str(seed) * 64) for seed in (0, 1)]
    other = make_record(STRONG, protocol="mine", fit_seed=1, checkpoint="1" * 64)
    (found,) = shown(*own, other).values()
    assert own[0].robust is not None and other.robust is not None
    assert found.robust.value == pytest.approx((own[0].robust.auc + other.robust.auc) / 2)


# -- wherever it stands, it is the same -------------------------------------------------------------------------------

LIES: tuple[dict[str, Any], ...] = (  # each goes lower, and none of them is of the same thing
    {"epsilon": 4 / 255},
    {"norm": "l2"},
    {"checkpoint": "d" * 64},
    {"fingerprint": "e" * 64},
    {"subset_sha256": "7" * 64},
    {"settings": {"width": 16}},
)


def test_leaderboard_csv_and_pages_say_the_same() -> None:
    lies = [make_record(make_scores(robust_shift=-3.0), protocol="mine", **fields) for fields in LIES]
    others = [make_record(STRONG, protocol="mine", category=c, epsilon=1 / 255) for c in ("mono", "poly")]
    records = [ranked(category="mono"), ranked(category="poly"), *others, *lies]
    (board,) = [b for b in leaderboard.build(records) if b.columns[0].protocol == "quick"]
    low = others[0].robust
    assert low is not None and {key: f"{one.robust.value:.1f}" for key, one in board.best_known.items()} == {
        ("AE", place): f"{low.auc:.1f}" for place in ("mono", "poly", "average")
    }
    header, rows = (lines := tables.tables(board)[0]).header, lines.rows
    average = board.best_known["AE", "average"]
    shown_text = f"{interval_text(*average.robust)} (pgd-linf at l-inf epsilon 1/255, mine)"
    assert rows[0][header.index(best_known.TITLE)] == shown_text

    everything = collected.of(records)
    shown_rows = {(r.place, r.protocol): r for r in index.rows(everything) if r.records[0].epsilon == 2 / 255}
    for place in ("mono", "poly", "average"):
        assert shown_rows[place, "quick"].best == board.best_known["AE", place]
    payload = index.payload(everything, index.rows(everything))
    (coded,) = [row for row in payload["rows"] if row[0] == everything.boards.index(board) and row[1] == 0]
    assert coded[9] == [[round(10 * v) for v in average.robust], payload["texts"].index(average.attack)]

    table = pd.read_csv(io.StringIO(write.texts(records)["leaderboard.csv"])).set_index("key")
    cells = {page.record.key: page for page in pages.cells(everything, frozenset())}
    for record in records[:2]:
        best = board.best_known["AE", record.category]
        assert table.loc[record.key, "best_known_auc"] == pytest.approx(best.robust.value)
        assert table.loc[record.key, "best_known_attack"] == best.attack
        assert cells[record.key].best == best
        assert f"{low.auc:.1f}" in cell_text(everything, record)


def cell_text(everything: collected.Found, record: Record) -> str:
    """What the page of its cell says of the best known attack."""
    (text,) = [page.text for page in pages.render(everything) if page.path == names.cell(record)]
    return text[text.index("Best known attack") :].partition("</p>")[0]


def test_of_a_record_that_none_goes_below_its_page_says_so() -> None:
    weak, strong = ranked(), make_record(STRONG, protocol="mine", epsilon=1 / 255)
    everything = collected.of([weak, strong])
    assert "this one: no record goes lower" in cell_text(everything, strong)
    assert names.cell(strong) in cell_text(everything, weak)


def test_an_average_is_known_where_every_category_has_a_figure() -> None:
    whole = [ranked(category=c) for c in ("mono", "poly")]
    other = make_record(STRONG, protocol="mine", category="mono", epsilon=1 / 255)
    (board,) = [b for b in leaderboard.build([*whole, other]) if b.columns[0].protocol == "quick"]
    low, own = other.robust, whole[1].robust
    assert low is not None and own is not None
    assert board.best_known["AE", "average"].robust.value == pytest.approx((low.auc + own.auc) / 2)
    half = [whole[0], ranked(category="poly", detector="spade"), ranked(category="mono", detector="spade"), other]
    (board,) = [b for b in leaderboard.build(half) if b.columns[0].protocol == "quick"]
    assert set(board.best_known) == {("AE", "mono")}


def test_whose_attack_it_was_is_escaped() -> None:
    other = make_record(STRONG, protocol="<b>", attack="<script>alert(1)</script>", epsilon=1 / 255)
    texts = write.texts([ranked(), other])
    assert "<script>" not in texts["leaderboard.md"] and "&lt;script&gt;" in texts["leaderboard.md"]
    assert r"\textless{}script" in texts["leaderboard.tex"]
