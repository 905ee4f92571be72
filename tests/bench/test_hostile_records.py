"""A record of a stranger's is a sentence that names the file, and costs no other record its row or its plots."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_records import make_failed, make_record, make_scores, write_record
from safetensors.numpy import save_file

from bench.errors import RecordError
from bench.records import limits, recount, store
from bench.records.cell import canonical_sha256
from bench.records.paths import EXAMPLES_SUFFIX, SCORES_SUFFIX, companion
from bench.records.record import Record, Revisions
from bench.records.schema import content_sha256
from bench.records.score_table import Scores
from bench.report import example_panel, folder, plots, write
from bench.run import costs


def forged(path: Path, **changes: Any) -> None:
    """Other entries at their places (`cell__attack__epsilon`), and the hashes that such content has."""
    document = json.loads(path.read_text())
    for place, value in changes.items():
        *steps, last = place.split("__")
        inner = document
        for step in steps:
            inner = inner[step]
        inner[last] = value
    document["key"] = canonical_sha256(document["cell"])
    document["content_sha256"] = content_sha256(document)
    path.write_text(json.dumps(document))


def nested(depth: int) -> Any:
    return {"a": nested(depth - 1)} if depth else 1


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Where the records of two categories lie; the second is to be spoilt."""
    good, bad = (write_record(tmp_path / "records", category=name) for name in ("good", "bad"))
    assert good.path is not None and bad.path is not None
    return good.path, bad.path


def refused(two: tuple[Path, Path]) -> str:
    """The sentence about the second record, when the first still counts and is in the table."""
    good, bad = two
    found, problems = store.read_all(good.parents[2])
    assert [record.path for record in found] == [good]
    assert len(problems) == 1 and str(bad.with_suffix("")) in problems[0]
    assert problems[0].endswith("run the cell again.")
    write.write(found, good.parents[3])
    assert "good" in (good.parents[3] / "leaderboard.md").read_text()
    return problems[0]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"cell__attack__epsilon": 10**400}, "cell.attack.epsilon is a whole number of 1329 bits"),
        ({"cell__attack__epsilon": 1e308}, "cell.attack.epsilon should lie in"),
        ({"cell__attack__epsilon": -1e-9}, "cell.attack.epsilon should lie in"),
        ({"cell__attack__steps": -(10**400)}, "cell.attack.steps is a whole number"),
        ({"cell__attack__steps": 1e308}, "cell.attack.steps should lie in"),
        ({"cell__protocol__name": "strict", "cell__subset__normals": 0}, "cell.subset.normals is 0 and its scores"),
        ({"cell__subset__anomalies": -30}, "cell.subset.anomalies should lie in"),
        ({"cell__image_size": 0}, "cell.image_size should lie in"),
        ({"cell__draws__verdict": 0}, "cell.draws.verdict should lie in"),
        ({"cell__draws__verdict": True}, "cell.draws.verdict should be of type int"),
        ({"cell__detector__settings": {"deep": nested(40)}}, "nested more than 32 deep"),
        ({"results__brightness__separability": 1e300}, "results.brightness.separability should lie in"),
        ({"results__pixel": {"auroc": -1}}, "results.pixel.* should lie in"),
        ({"indicators": {"more_draws": {"factor": 10**30}}}, "indicators.more_draws.factor is a whole number"),
        ({"seconds__total": -1}, "seconds.* should lie in"),
        ({"limits": ["8 images per class"]}, "full_run says one thing and limits another"),
        ({"full_run": False}, "full_run says one thing and limits another"),
        ({"status": "failed"}, "no scores, since the cell failed, but results"),
    ],
)
def test_sizes_and_ranges_are_looked_at(two: tuple[Path, Path], changes: dict[str, Any], sentence: str) -> None:
    forged(two[1], **changes)
    assert sentence in refused(two)


def test_our_own_records_lie_within_the_limits() -> None:
    for record in (make_record(), make_failed()):
        limits.check(json.loads(record.to_json()))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"[" * 500_000, "no JSON"),
        (b'{"a":' * 500_000, "no JSON"),
        (b'{"format": 2, "seed": 1, "seed": 2}', "two entries of one name"),
        (b'{"format": 2, "epsilon": ' + b"9" * 5000 + b"}", "no JSON"),
        (b'{"format": 2, "title": "\xff\xfe"}', "cannot be read"),
        (b'{"format": 2, "title": "\\ud800"}', "content_sha256"),
        (b" " * (limits.RECORD_BYTES + 1), "larger than 4 MiB"),
    ],
)
def test_what_is_no_record_is_a_sentence(two: tuple[Path, Path], content: bytes, sentence: str) -> None:
    two[1].write_bytes(content)
    assert sentence in refused(two)


@pytest.mark.parametrize("suffix", [".json", SCORES_SUFFIX])
def test_what_is_no_ordinary_file_is_not_waited_for(two: tuple[Path, Path], suffix: str) -> None:
    path = companion(two[1], suffix)
    path.unlink()
    path.mkdir()
    assert "no ordinary file" in refused(two)
    path.rmdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(path)
        assert "no ordinary file" in refused(two)


def test_a_score_file_of_gigabytes_is_not_read(two: tuple[Path, Path]) -> None:
    os.truncate(companion(two[1], SCORES_SUFFIX), 5 << 30)  # without a block on the disk
    assert "larger than 64 MiB" in refused(two)


@pytest.mark.parametrize("largest", [1e308, 1.7976931348623157e308])
def test_the_largest_scores_are_read_and_drawn(
    tmp_path: Path, largest: float, recwarn: pytest.WarningsRecorder
) -> None:
    labels = make_scores().labels
    extreme = np.where(labels == 1, -largest, largest)[None]
    scores = replace(make_scores(), clean=extreme, robust=-extreme)
    record = write_record(tmp_path / "records", scores)
    assert (record.results["clean"]["auc"], record.results["robust"]["auc"]) == (100.0, 0.0)
    assert plots.write_histogram(record, tmp_path)[0].is_file()
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


EXAMPLES = {
    "image": np.zeros((2, 3, 8, 8), np.uint8),
    "adversarial": np.zeros((2, 3, 8, 8), np.uint8),
    "labels": np.array([1, -1], np.int8),
    "perturbation": np.zeros((2, 3, 8, 8), np.float16),
}


@pytest.mark.parametrize(
    "changes",
    [
        {name: np.zeros((2, 3, 0, 0), value.dtype) for name, value in EXAMPLES.items() if value.ndim == 4},
        {name: value[:0] for name, value in EXAMPLES.items()},
        {"labels": np.array([3, 4], np.int8)},
        {"perturbation": np.full((2, 3, 8, 8), np.nan, np.float16)},
    ],
    ids=["side 0", "none", "labels", "NaN"],
)
def test_examples_that_cannot_be_shown_are_a_sentence(tmp_path: Path, changes: dict[str, Any]) -> None:
    save_file(EXAMPLES | changes, tmp_path / "examples.safetensors")
    with pytest.raises(RecordError, match=r"examples\.safetensors .*run the cell again"):
        example_panel.read_examples(tmp_path / "examples.safetensors")


def test_examples_that_cannot_be_shown_cost_nothing_else(tmp_path: Path, two: tuple[Path, Path]) -> None:
    save_file(EXAMPLES | {"labels": np.array([3, 4], np.int8)}, companion(two[1], EXAMPLES_SUFFIX))
    save_file(EXAMPLES, companion(two[0], EXAMPLES_SUFFIX))
    for _ in range(2):  # it is said each time
        written, problems = folder.write_results(tmp_path, Revisions())
        assert len(problems) == 1 and companion(two[1], EXAMPLES_SUFFIX).name in problems[0]
        names = {path.name.split("--")[0] for path in written}
        assert {"panel", "histogram", "heat-map", "security-curve", "leaderboard.md"} <= names


def test_a_plot_that_cannot_be_drawn_costs_no_other_one(
    tmp_path: Path, two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = plots.histogram_figure

    def broken(record: Record, scores: Scores) -> Any:
        if record.category == "bad":
            raise ValueError("whatever \x1b[2J")
        return honest(record, scores)

    monkeypatch.setattr(plots, "histogram_figure", broken)
    written, problems = folder.write_results(tmp_path, Revisions())
    assert len(problems) == 1 and "ValueError" in problems[0] and r"\x1b[2J" in problems[0]
    assert sum(path.name.startswith("histogram") for path in written) == 1


def test_a_record_that_no_check_has_thought_of_is_left_out_of_the_tables_alone(
    tmp_path: Path, two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = write.texts

    def broken(records: Sequence[Record], *others: Any) -> dict[str, str]:
        if any(record.category == "bad" for record in records):
            raise OverflowError("unheard of")
        return honest(records, *others)

    monkeypatch.setattr(write, "texts", broken)
    _, problems = folder.write_results(tmp_path, Revisions())
    assert len(problems) == 1 and str(two[1]) in problems[0] and "unheard of" in problems[0]
    assert "good" in (tmp_path / "leaderboard.md").read_text()


def test_a_certificate_that_no_check_has_thought_of_costs_its_column_alone(
    tmp_path: Path, two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = write.texts

    def broken(records: Sequence[Record], revisions: Revisions, certificates: Sequence[Any] = ()) -> dict[str, str]:
        if certificates:
            raise OverflowError("unheard of")
        return honest(records, revisions)

    monkeypatch.setattr(write, "texts", broken)
    monkeypatch.setattr(folder.certificate_store, "read_all", lambda place: (["one"], []))
    _, problems = folder.write_results(tmp_path, Revisions())
    (said,) = [p for p in problems if "column of certificates" in p]
    assert "unheard of" in said
    assert "good" in (tmp_path / "leaderboard.md").read_text()


@pytest.mark.parametrize("value", ["many", [1], {"a": 1}, True, -3, None])
def test_costs_are_not_estimated_from_nonsense(two: tuple[Path, Path], value: object) -> None:
    forged(two[0], indicators={"gradients_per_image": 20})
    if value != -3:  # which reading refuses
        forged(two[1], indicators={"gradients_per_image": value})
    assert len(costs.from_records(store.read_all(two[0].parents[2])[0], 1.0)) == 1


def test_figures_of_other_scores_are_not_believed_whatever_hashes_they_come_with(two: tuple[Path, Path]) -> None:
    """A whole forged pair but for one: figures of other scores than those beside them."""
    other = make_scores(robust_shift=2.0)
    forged(two[1], results={**json.loads(two[1].read_text())["results"], **recount.figures(other, None)})
    assert "its scores give" in refused(two)
    with pytest.raises(RecordError, match="its scores give"):
        store.write(make_record(other), make_scores(), two[0].parents[2])
