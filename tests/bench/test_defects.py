"""Figures for each kind of defect: from the score table to defects.csv, and tables from before there were kinds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_records import make_scores, write_record
from published_trees import mvtec_loco

from bench.errors import RecordError
from bench.metrics import intervals, ranking
from bench.records.score_table import Scores, parse_scores, render_scores
from bench.records.store import read_all, read_scores
from bench.report import defects, write

# Three normals; two cracks that the attack brings below all of them, two holes that it hardly moves.
IDS = ("a", "b", "c", "d", "e", "f", "g")
KINDS = ("good", "good", "good", "crack", "hole", "crack", "hole")
LABELS = np.array([1, 1, 1, -1, -1, -1, -1])
CLEAN = np.array([[0.0, 1.0, 2.0, 5.0, 3.0, 6.0, 1.5]])
ROBUST = np.array([[2.0, 3.0, 4.0, 1.0, 5.0, 0.0, 2.5]])


def scores(*, kinds: tuple[str, ...] = KINDS, draws: int = 1, ids: tuple[str, ...] = IDS) -> Scores:
    return Scores(ids, LABELS, CLEAN.repeat(draws, 0), ROBUST.repeat(draws, 0), kinds)


def frame(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "defects.csv", dtype={"category": str})


def test_each_kind_stands_against_all_normals() -> None:
    found = defects.estimates(scores(), KINDS)
    assert list(found) == ["crack", "hole"]
    (cracks, normals, clean, robust) = found["crack"]
    assert (cracks, normals, clean.value, robust.value) == (2, 3, 100.0, 0.0)
    assert clean.low < 100 and robust.high > 0, "an interval that is not empty at the edge"
    (_, _, clean, robust) = found["hole"]
    assert clean.value == pytest.approx(100 * 5 / 6) and robust.value == pytest.approx(100 * 4 / 6)


@pytest.mark.parametrize("draws", [1, 4])
def test_kinds_weighted_by_their_images_are_the_whole(draws: int) -> None:
    drawn = make_scores(draws=draws, normals=20, anomalies=30)
    kinds = tuple("good" if label == 1 else ("x", "y", "z")[i % 3] for i, label in enumerate(drawn.labels))
    found = defects.estimates(drawn, kinds)
    for which, values in ((2, drawn.clean), (3, drawn.robust)):
        whole = sum(one[0] * one[which].value for one in found.values()) / 30  # type: ignore[union-attr]
        assert whole == pytest.approx(ranking.mean_single_draw_auc(values, drawn.labels).mean)
    rows = np.array([kind in ("good", "y") for kind in kinds])
    assert found["y"][3] == intervals.mean_single_draw_interval(drawn.robust[:, rows], drawn.labels[rows])


def test_a_table_carries_the_kinds_and_comes_back() -> None:
    before = scores(draws=2, kinds=("good", "good", "good", 'a,"b"', "zwei\nZeilen", "=1", "ü"))
    text = render_scores(before)
    assert text.splitlines()[0] == "image,label,defect,draw,clean,robust"
    after = parse_scores(text)
    assert after.defects == before.defects and after.images == before.images
    assert (after.clean == before.clean).all() and (after.robust == before.robust).all()


def test_a_table_without_kinds_reads_as_before() -> None:
    text = render_scores(scores(kinds=()))
    assert text.splitlines()[:2] == ["image,label,draw,clean,robust", "a,1,0,0.0,2.0"]
    assert parse_scores(text).defects == ()


@pytest.mark.parametrize(
    ("line", "other"),
    [
        ("d,-1,crack,1", "d,-1,hole,1"),  # another kind in another draw
        ("d,-1,crack,1", "d,-1,1"),
        ("a,1,good,1", "a,1,crack,1"),
    ],
)
def test_a_table_that_contradicts_itself_does_not_count(line: str, other: str) -> None:
    text = render_scores(scores(draws=2))
    assert line in text
    with pytest.raises(RecordError, match="run the cell again"):
        parse_scores(text.replace(line, other))


def test_normals_are_good_and_nothing_else_is() -> None:
    text = render_scores(scores()).replace(",crack,", ",good,")
    with pytest.raises(RecordError, match="good of normal images"):
        parse_scores(text)
    with pytest.raises(ValueError, match="kind of defect"):
        scores(kinds=("good",) * 7)


def test_what_the_attack_hides_first_stands_first(tmp_path: Path) -> None:
    records = [write_record(tmp_path, scores(), detector=name) for name in ("ae", "cfa")]
    paths = write.write(records, tmp_path)
    assert [path.name for path in paths[-2:]] == ["defects.csv", "defects.md"]
    found = frame(tmp_path)
    assert found[["detector", "defect", "anomalies", "normals"]].to_numpy().tolist() == [
        [name, kind, 2, 3] for name in ("ae", "cfa") for kind in ("crack", "hole")
    ]
    assert found["clean_auc"].tolist()[:2] == [100.0, pytest.approx(500 / 6)]
    assert found["robust_auc"].tolist()[:2] == [0.0, pytest.approx(400 / 6)]
    assert found["lost"].tolist()[:2] == [100.0, pytest.approx(100 / 6)]
    assert (found["robust_low"] <= found["robust_auc"]).all() and (found["robust_auc"] <= found["robust_high"]).all()
    page = (tmp_path / "defects.md").read_text()
    assert page.index("| AE | crack | 2 |") < page.index("| AE | hole | 2 |") < page.index("| CFA | crack |")


def test_several_fits_are_one_line_and_their_mean(tmp_path: Path) -> None:
    moved = Scores(IDS, LABELS, CLEAN, ROBUST + 4 * (np.array(KINDS) == "crack"), KINDS)
    records = [write_record(tmp_path, found, fit_seed=seed) for seed, found in enumerate((scores(), moved))]
    write.write(records, tmp_path)
    found = frame(tmp_path).set_index("defect")
    assert len(found) == 2
    assert found.loc["crack", "robust_auc"] == pytest.approx((0 + 100 * 5.5 / 6) / 2)


@pytest.mark.parametrize("kinds", [(), ("good",) * 3 + ("crack",) * 4])
def test_one_kind_or_none_leaves_no_file(kinds: tuple[str, ...], tmp_path: Path) -> None:
    for name in write.OF_DEFECTS:
        (tmp_path / name).write_text("of records that are there no more")
    paths = write.write([write_record(tmp_path, scores(kinds=kinds))], tmp_path)
    assert len(paths) == 3 and not any((tmp_path / name).exists() for name in write.OF_DEFECTS)


def test_older_tables_of_folders_have_the_kind_in_their_names(tmp_path: Path) -> None:
    ids = tuple(f"test/{kind}/{name}.png" for kind, name in zip(KINDS, IDS, strict=True))
    old = scores(kinds=(), ids=ids)
    write.write([write_record(tmp_path, old, dataset="folder")], tmp_path)
    assert frame(tmp_path)["defect"].tolist() == ["crack", "hole"]
    record = write_record(tmp_path / "other", old, dataset="elpv")
    assert defects.kinds_of(record, old) == (), "of another data set nobody knows what its ids mean"


def test_what_a_stranger_calls_a_kind_is_escaped(tmp_path: Path) -> None:
    kinds = ("good", "good", "good", "=1+1", "<b>|x", "=1+1", "<b>|x")
    write.write([write_record(tmp_path, scores(kinds=kinds))], tmp_path)
    page = (tmp_path / "defects.md").read_text()
    assert "<b>" not in page and "&lt;b&gt;&#124;x" in page
    assert set(frame(tmp_path)["defect"]) == {"'=1+1", "<b>|x"}


@pytest.mark.usefixtures("no_plots")
def test_a_run_on_loco_tells_logical_from_structural_defects(command: Callable[..., Any], tmp_path: Path) -> None:
    """From the data set through fit, attack and record to the table."""
    mvtec_loco(tmp_path / "data", times=6)
    where = ("--dataset", "mvtec-loco", "--data-root", tmp_path / "data", "--image-size", 16)
    folders = ("--out", tmp_path / "out", "--cache", tmp_path / "cache")
    said = command("run", *where, "--detectors", "brightness", "--steps", 2, "--device", "cpu", *folders)
    assert said.code == 0 and said.err == ""
    ((record,), problems) = read_all(tmp_path / "out/records")
    assert not problems and "MVTec LOCO AD" in record.licence
    assert set(read_scores(record).defects) == {"good", "logical_anomalies", "structural_anomalies"}
    write.write([record], tmp_path / "out")
    found = frame(tmp_path / "out")
    assert sorted(found["defect"]) == ["logical_anomalies", "structural_anomalies"]
    assert found["robust_auc"].is_monotonic_increasing and (found["anomalies"] == 12).all()
