"""Best of N: the definition, by enumeration; and that records state it, or have it computed when they are read."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from fake_records import make_record, make_scores, write_record

from bench.errors import CellError, RecordError
from bench.metrics import ranking
from bench.metrics.best_of import best_of
from bench.metrics.intervals import score_interval
from bench.records import recount, store
from bench.records.schema import content_sha256
from bench.report.noise_worth import noise_estimate

LABELS = np.array([1, 1, 1, -1, -1])


def by_enumeration(scores: np.ndarray, resubmissions: int, tie: float) -> float:
    """The worst of each choice of draws of each image, every pair of choices as likely as any other."""
    choices = [list(chosen) for chosen in combinations(range(len(scores)), resubmissions)]
    pairs = [
        (low > high) + tie * (low == high)
        for normal in np.flatnonzero(LABELS == 1)
        for anomaly in np.flatnonzero(LABELS == -1)
        for high in (scores[chosen, normal].max() for chosen in choices)
        for low in [scores[chosen, anomaly].min() for chosen in choices]
    ]
    return 100 * float(np.mean(pairs))


@pytest.mark.parametrize("resubmissions", [1, 2, 4, 5])
@pytest.mark.parametrize("decimals", [8, 0])
def test_it_is_the_expectation_over_every_choice_of_draws(resubmissions: int, decimals: int) -> None:
    scores = np.random.default_rng(resubmissions).normal(size=(5, 5)).round(decimals)
    scores[:, LABELS == -1] += 1
    found = best_of(scores, LABELS, resubmissions)
    assert found is not None and found["resubmissions"] == resubmissions
    assert found["auc"] == pytest.approx(by_enumeration(scores, resubmissions, 0.5))
    assert found["strict_auc"] == pytest.approx(by_enumeration(scores, resubmissions, 0.0))
    assert found["low"] <= found["auc"] <= found["high"]


def test_of_as_many_draws_it_is_the_auc_of_the_extremes() -> None:
    scores = make_scores(draws=10, robust_shift=2.0)
    extremes = np.where(scores.labels == 1, scores.robust.max(axis=0), scores.robust.min(axis=0))
    found = best_of(scores.robust, scores.labels)
    assert found is not None and found["auc"] == pytest.approx(ranking.auc(extremes, scores.labels))
    plain = score_interval(found["auc"], 20, 30)
    assert found["low"] <= plain.low + 1e-9 and found["high"] >= plain.high - 1e-9


def test_one_submission_is_the_mean_over_draws_and_more_are_never_better_for_the_defender() -> None:
    scores = make_scores(draws=20, robust_shift=1.0)
    found = [best_of(scores.robust, scores.labels, n) for n in (1, 2, 5, 10, 20)]
    aucs = [one["auc"] for one in found if one is not None]
    # Images draw independently of each other: which draws share a number hardly moves the mean.
    assert aucs[0] == pytest.approx(ranking.auc(scores.robust, scores.labels).mean(), abs=0.1)
    assert aucs == sorted(aucs, reverse=True) and aucs[-1] < aucs[0] - 5


def test_noise_that_is_not_there_is_worth_nothing() -> None:
    scores = make_scores(robust_shift=1.0)
    found = best_of(scores.robust.repeat(12, axis=0), scores.labels)
    assert found is not None and found["auc"] == pytest.approx(ranking.auc(scores.robust[0], scores.labels))


def test_few_draws_have_none_and_nan_is_refused() -> None:
    scores = make_scores(draws=9)
    assert best_of(scores.robust, scores.labels) is None
    assert best_of(scores.robust[0], scores.labels) is None
    with pytest.raises(CellError, match="NaN"):
        best_of(np.full((10, 50), np.nan), scores.labels)


def test_infinite_scores_have_ranks() -> None:
    found = best_of(np.array([[0.0, 1.0, -np.inf, np.inf, np.inf]]), LABELS, 1)
    assert found is not None and found["auc"] == 100


def changed_file(path: Path, **results: object) -> Path:
    document = json.loads(path.read_text())
    document["results"] |= results
    for name in [name for name, value in results.items() if value is None]:
        del document["results"][name]
    document["content_sha256"] = content_sha256(document)
    path.write_text(json.dumps(document))
    return path


def test_a_record_states_it_and_is_refused_where_it_is_not_that_of_its_scores(tmp_path: Path) -> None:
    record = write_record(tmp_path, make_scores(draws=10))
    assert record.path is not None and record.recounted == {}
    stated = record.noise_figures("best_of")
    assert stated == record.results["best_of"] and stated["auc"] < record.results["robust"]["auc"]
    path = changed_file(record.path, best_of={**stated, "auc": stated["auc"] + 1})
    with pytest.raises(RecordError, match=r"results\.best_of\.auc is .*run the cell again"):
        store.read(path)
    with pytest.raises(RecordError, match=r"results\.best_of"):
        store.read(changed_file(record.path, best_of={}))


def test_one_draw_bears_no_best_of_out(tmp_path: Path) -> None:
    record = write_record(tmp_path, make_scores())
    assert record.path is not None and "best_of" not in record.results and record.noise_figures("best_of") == {}
    with pytest.raises(RecordError, match=r"results\.best_of"):
        store.read(changed_file(record.path, best_of={"resubmissions": 10, "auc": 1.0}))


def test_an_older_record_is_believed_without_it_and_has_it_all_the_same(tmp_path: Path) -> None:
    scores = make_scores(draws=10)
    record = write_record(tmp_path, scores)
    assert record.path is not None
    older = store.read(changed_file(record.path, best_of=None))
    assert "best_of" not in older.results
    assert older.noise_figures("best_of") == record.results["best_of"]
    assert json.loads(older.to_json()) == json.loads(record.path.read_text()), "it is written as it was"
    assert noise_estimate(older, "best_of") == noise_estimate(record, "best_of") is not None


def test_under_strict_a_tie_is_lost_here_too() -> None:
    scores = make_scores(draws=10)
    collapsed = type(scores)(scores.images, scores.labels, scores.clean, np.zeros_like(scores.robust))
    quick, strict = (noise_estimate(make_record(collapsed, protocol=p), "best_of") for p in ("quick", "strict"))
    assert quick is not None and strict is not None and (quick.value, strict.value) == (pytest.approx(50), 0)
    assert recount.figures(collapsed, None)["best_of"]["auc"] == pytest.approx(50)


@pytest.mark.parametrize("odd", [None, [], {"auc": "1"}, {"auc": 50.0}, {"auc": True, "low": 0, "high": 1}])
def test_what_a_stranger_states_of_known_noise_is_a_figure_or_nothing(odd: object) -> None:
    record = make_record()
    record.results["known_noise"] = odd
    assert noise_estimate(record, "known_noise") is None
    record.results["known_noise"] = {"auc": 12.0, "low": 8, "high": 20.5}
    assert noise_estimate(record, "known_noise") == (12, 8, 20.5)


@pytest.mark.parametrize("name", ["best_of", "known_noise"])
def test_a_figure_out_of_its_range_is_refused(tmp_path: Path, name: str) -> None:
    record = write_record(tmp_path, make_scores(draws=10))
    assert record.path is not None
    with pytest.raises(RecordError, match=rf"results\.{name}\.\* should lie in \[0, 100\]"):
        store.read(changed_file(record.path, **{name: {"auc": 101.0, "low": 0.0, "high": 1.0}}))
