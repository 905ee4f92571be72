"""The best known attack: the lowest figure of the same fit on the same images, in this ball or in a smaller one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fake_records import make_failed, make_record, make_scores

from bench.records.record import Record, Revisions
from bench.report import best_known, leaderboard, write

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


def test_whose_attack_it_was_is_escaped() -> None:
    other = make_record(STRONG, protocol="<b>", attack="<script>alert(1)</script>", epsilon=1 / 255)
    texts = write.texts([ranked(), other])
    assert "<script>" not in texts["leaderboard.md"] and "&lt;script&gt;" in texts["leaderboard.md"]
    assert r"\textless{}script" in texts["leaderboard.tex"]
