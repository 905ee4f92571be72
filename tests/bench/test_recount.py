"""No figure of a record is believed without the scores that it follows from."""

import json
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_records import make_failed, make_record, make_scores, write_record

from bench.errors import RecordError
from bench.records import paths, recount, store
from bench.records.record import Record
from bench.records.schema import content_sha256
from bench.records.score_table import Scores, ids_sha256, parse_scores, render_scores
from bench.report import write


def forged(record: Record, **results: object) -> Path:
    """The record's file with other results, and the hash that such content has."""
    assert record.path is not None
    document = json.loads(record.path.read_text())
    document["results"] |= results
    document["content_sha256"] = content_sha256(document)
    record.path.write_text(json.dumps(document))
    return record.path


def pairs_won(scores: Scores, *, attacked: set[int]) -> float:
    """The definition of an AUC, in per cent, averaged over draws: `attacked` names the labels that were attacked."""
    values = np.where(np.isin(scores.labels, list(attacked)), scores.robust, scores.clean)
    normals, anomalies = values[:, None, scores.labels == 1], values[:, scores.labels == -1, None]
    return 100 * float(np.mean((anomalies > normals) + 0.5 * (anomalies == normals)))


def test_the_figures_are_those_of_the_definitions() -> None:
    scores = make_scores(draws=3)
    found = recount.figures(scores, 1.0)
    assert found["clean"]["auc"] == pytest.approx(pairs_won(scores, attacked=set()))
    assert found["robust"]["auc"] == pytest.approx(pairs_won(scores, attacked={1, -1}))
    assert found["normals_only_auc"] == pytest.approx(pairs_won(scores, attacked={1}))
    assert found["anomalies_only_auc"] == pytest.approx(pairs_won(scores, attacked={-1}))
    right_before, right_after = ((values > 1.0) == (scores.labels == -1) for values in (scores.clean, scores.robust))
    assert found["robust_accuracy"] == pytest.approx(100 * right_after.mean())
    assert found["attack_success"] == pytest.approx(100 * (right_before & ~right_after).sum() / right_before.sum())
    alone = {"clean", "robust", "normals_only_auc", "anomalies_only_auc", "verdict_draws"}
    assert recount.figures(scores, None).keys() == alone


PARTS = ("auc", "low", "high", "sd", "strict_auc", "strict_low", "strict_high", "aupr", "fpr95")


@pytest.mark.parametrize("which", ["clean", "robust"])
@pytest.mark.parametrize("part", PARTS)
def test_a_changed_figure_is_named_with_both_values_even_if_the_hash_was_made_anew(
    tmp_path: Path, which: str, part: str
) -> None:
    record = write_record(tmp_path, make_scores(draws=2))
    true = record.results[which][part]
    false = true + (0.01 if true < 50 else -0.01)
    path = forged(record, **{which: {**record.results[which], part: false}})
    with pytest.raises(
        RecordError,
        match=rf"results\.{which}\.{part} is {re.escape(repr(false))} .* give "
        rf"{re.escape(repr(true))}.*run the cell again",
    ):
        store.read(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"normals_only_auc": 50.0},
        {"anomalies_only_auc": None},
        {"robust_accuracy": 100.0},
        {"attack_success": 0.0},
        {"attack_success": None},
        {"threshold": None},
        {"threshold": 0.0},
        {"threshold": "1"},
        {"threshold": 10**400},
        {"attack_success": 10**400},
        {"robust_accuracy": True},
        {"robust_accuracy": "60"},
    ],
    ids=lambda changes: f"{next(iter(changes))} {str(next(iter(changes.values())))[:9]}",
)
def test_a_figure_that_does_not_follow_from_the_scores_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    path = forged(write_record(tmp_path), **changes)
    with pytest.raises(RecordError, match=r"does not count: results\.\w+ .*run the cell again"):
        store.read(path)


def test_an_entry_beside_a_figure_does_not_stand_in_for_it(tmp_path: Path) -> None:
    record = write_record(tmp_path)
    other = {**record.results["robust"], "auc": 99.0}
    path = forged(record, robust=other, **{"robust.auc": record.results["robust"]["auc"]})
    with pytest.raises(RecordError, match=r"results\.robust\.auc is 99\.0"):
        store.read(path)


def test_the_last_bits_of_another_machine_are_no_forgery(tmp_path: Path) -> None:
    record = write_record(tmp_path)
    almost = {name: value * (1 + 1e-12) for name, value in record.results["robust"].items()}
    assert store.read(forged(record, robust=almost)).robust is not None


@pytest.mark.parametrize(
    ("cell_fields", "sentence"),
    [
        ({"normals": 21}, r"cell\.subset\.normals is 21 and its scores say 20"),
        ({"anomalies": 29}, r"cell\.subset\.anomalies is 29 and its scores say 30"),
        ({"subset_sha256": "0" * 64}, r"cell\.subset\.sha256 is '0000"),
        ({"draws": 10}, r"cell\.draws\.verdict is 10 and its scores have 1"),
    ],
)
def test_scores_of_other_images_or_draws_bear_no_record_out(
    tmp_path: Path, cell_fields: dict[str, object], sentence: str
) -> None:
    """Neither on its way to a file nor from one."""
    scores = make_scores()
    record = make_record(scores, **cell_fields)
    with pytest.raises(RecordError, match=sentence):
        store.write(record, scores, tmp_path)
    assert not list(tmp_path.rglob("*.*")), "something was written"
    good = write_record(tmp_path, scores)
    assert good.path is not None
    good.path.write_text(replace(record, scores_sha256=good.scores_sha256).to_json())
    with pytest.raises(RecordError, match=sentence):
        store.read(good.path)


def test_scores_that_were_changed_or_lost_take_the_record_with_them(tmp_path: Path) -> None:
    record = write_record(tmp_path)
    assert record.path is not None
    path = paths.companion(record.path, paths.SCORES_SUFFIX)
    text = path.read_text()
    path.write_text(text.replace("0,", "1,", 1))
    assert store.read_all(tmp_path)[0] == []
    path.unlink()
    found, problems = store.read_all(tmp_path)
    assert found == [] and "scores" in problems[0] and "run the cell again" in problems[0]
    assert store.find(tmp_path, record.cell) is None
    path.write_text(text)
    assert store.read_all(tmp_path) == ([record], [])


def test_a_robust_aupr_may_be_absent_where_it_is_not_kept_and_is_held_to_where_it_is_stated() -> None:
    """Records that are older than its absence state one."""
    scores = make_scores()
    robust = scores.robust.copy()
    robust[:, np.flatnonzero(scores.labels == -1)[:2]] = robust.min()
    tied = replace(scores, robust=robust)
    record = make_record(tied)
    cell = replace(record.cell, early_stop=True)
    found = recount.figures(tied, record.results.get("threshold"), complete=False)
    assert "aupr" not in found["robust"] and "aupr" in found["clean"]
    assert "aupr" in recount.figures(scores, None, complete=False)["robust"], "nobody ties"
    assert recount.figures(tied, None)["robust"].keys() - {"aupr"} == found["robust"].keys()
    results = {n: v for n, v in record.results.items() if n != "anomalies_only_auc"} | found
    recount.check(cell, results, tied)
    older = {**results, "robust": record.results["robust"]}
    recount.check(cell, older, tied)
    with pytest.raises(RecordError, match=r"results\.robust\.aupr is"):
        recount.check(cell, {**older, "robust": {**older["robust"], "aupr": 12.5}}, tied)
    with pytest.raises(RecordError, match=r"results\.robust\.aupr is not stated"):
        recount.check(record.cell, {**record.results, "robust": found["robust"]}, tied)


def test_an_edited_robust_auc_reaches_no_leaderboard(tmp_path: Path) -> None:
    record = write_record(tmp_path / "records")
    path = forged(record, robust={**record.results["robust"], "auc": 99.0})
    found, problems = store.read_all(tmp_path / "records")
    assert len(problems) == 1 and str(path) in problems[0]
    write.write(found, tmp_path)
    assert "99.0" not in (tmp_path / "leaderboard.md").read_text()


def test_a_failed_cell_needs_no_scores(tmp_path: Path) -> None:
    assert not store.read(store.write(make_failed(), None, tmp_path)).ok


def test_scores_that_are_no_numbers_bear_nothing_out() -> None:
    scores = make_scores()
    broken = replace(scores, robust=np.full_like(scores.robust, np.nan))
    record = make_record(scores)
    with pytest.raises(RecordError, match="no figure follows from its scores"):
        recount.check(record.cell, record.results, broken)


@pytest.mark.parametrize("line", ["a.png,1,999999999999,0.0,0.0", "a.png,7,0,0.0,0.0", f"a.png,{'9' * 40},0,0.0,0.0"])
def test_a_strangers_numbers_cost_neither_memory_nor_an_exception(line: str) -> None:
    table = render_scores(make_scores()) + line + "\n"
    with pytest.raises(RecordError, match="run the cell again"):
        parse_scores(table)


def test_a_cell_names_its_images_in_their_order() -> None:
    assert ids_sha256(["a", "b"]) == ids_sha256(iter(["a", "b"])) != ids_sha256(["b", "a"])
    assert len(ids_sha256(["bytes\udcff.png"])) == 64  # a name that is no UTF-8 is still a name


def test_reading_costs_milliseconds_a_record(tmp_path: Path) -> None:
    """100 records of the quick protocol's size, 120 images x 10 draws, in a few seconds."""
    scores = make_scores(normals=60, anomalies=60, draws=10)
    for seed in range(5):
        write_record(tmp_path, scores, seed=seed)
    started = time.process_time()
    found, problems = store.read_all(tmp_path)
    assert len(found) == 5 and problems == []
    assert time.process_time() - started < 5 * 0.2  # 0.02 s each on one thread; the rest is for a busy machine
