"""ELPV, from the installed package: the split, the labels, and an unpacked copy."""

import os
import sys
from collections import Counter
from importlib import resources
from pathlib import Path

import pytest
import torch
from PIL import Image

import bench.data
from bench.data import NORMAL
from bench.data.elpv import GAP, TEST_BLOCKS
from bench.errors import DataError
from bench.metrics import intervals
from detectors.file_order import distances, running_number

# Training normals, test normals, test anomalies and matched pairs, counted in labels.csv by hand.
COUNTS = {"mono": (421, 130, 279, 86), "poly": (780, 77, 229, 77)}


def number(name: str) -> int:
    return int(name[-8:-4])


@pytest.mark.parametrize("category", COUNTS)
def test_the_split_is_disjoint_and_whole_blocks_are_train_or_test(category: str) -> None:
    split = bench.data.load("elpv")._split(category)
    train, test = ({number(sample.id) for sample in samples} for samples in (split.train, split.test))
    assert (len(split.train), len(split.normals), len(split.anomalies)) == COUNTS[category][:3]
    assert all(sample.label == NORMAL for sample in split.train)
    assert not {sample.group for sample in split.train} & {sample.group for sample in split.test}
    # Every cell of a test block, the certain ones, is there; and none of its neighbours is trained on.
    blocks = {first + i for first in TEST_BLOCKS[category] for i in range(60)}
    assert test <= blocks
    assert min(abs(a - b) for a in train for b in blocks) == GAP + 1


@pytest.mark.parametrize("category", COUNTS)
def test_a_group_is_a_block_of_sixty_file_numbers_in_a_run_of_one_type(category: str) -> None:
    split = bench.data.load("elpv")._split(category)
    for sample in split.train + split.test:
        first, last = (int(part) for part in sample.group.removeprefix("cells ").split("-"))
        assert first <= number(sample.id) <= last <= first + 59
    assert {s.group for s in split.test} == {f"cells {first}-{first + 59}" for first in TEST_BLOCKS[category]}


@pytest.mark.parametrize("category", COUNTS)
def test_file_order_tells_nothing_about_the_test_set(category: str) -> None:
    """By construction: from each block as many normals as anomalies."""
    dataset = bench.data.load("elpv")
    training = [running_number(name) for name in dataset.train_ids(category)]
    for per_class, pairs in ((60, 60), (None, COUNTS[category][3])):
        labels = dataset.test_labels(category, per_class=per_class)
        assert sorted(labels.values()) == [-1] * pairs + [1] * pairs
        scores = distances(list(labels), training).numpy()
        found = intervals.mean_single_draw_interval(scores, list(labels.values()))
        assert found.low < 50 < found.high and abs(found.value - 50) < 6


def test_the_labels_are_those_of_the_table() -> None:
    table = (resources.files("elpv_dataset") / "data" / "labels.csv").read_text().split()
    kind = {path: (float(p), cell) for path, p, cell in zip(table[::3], table[1::3], table[2::3], strict=True)}
    seen: Counter[tuple[float, str]] = Counter()
    for category in COUNTS:
        for sample in bench.data.load("elpv")._split(category).test:
            assert kind[sample.id] == (0.0 if sample.label == NORMAL else 1.0, category)
            seen[kind[sample.id]] += 1
    assert len(seen) == 4


def test_two_loads_choose_the_same_cells() -> None:
    one, two = (bench.data.load("elpv").test("mono", 16, per_class=3) for _ in range(2))
    assert one.ids == two.ids
    assert len(one) == 6
    assert torch.equal(one.images, two.images)
    assert one.masks is None


def copy_of_elpv(folder: Path, cells: int) -> Path:
    (folder / "images").mkdir()
    lines = []
    for index in range(1, cells + 1):
        Image.new("L", (8, 8), index % 256).save(folder / f"images/cell{index:04d}.png")
        probability = (1.0, 0.0, 0.0, 0.0, 0.3333333333333333)[index % 5]
        lines.append(f"images/cell{index:04d}.png  {probability}  mono\n")
    (folder / "labels.csv").write_text("".join(lines))
    return folder


def test_an_unpacked_copy_is_read_too_and_doubtful_cells_are_left_out(tmp_path: Path) -> None:
    dataset = bench.data.load("elpv", copy_of_elpv(tmp_path, 150))
    split = dataset._split("mono")
    # 60 cells of the first test block, then 15 that are too near to it, then 75 to train on.
    assert (len(split.train), len(split.normals), len(split.anomalies)) == (45, 36, 12)
    assert 4 not in [number(sample.id) % 5 for sample in split.train + split.test]


def test_too_few_cells_or_none_of_a_kind_are_refused(tmp_path: Path) -> None:
    dataset = bench.data.load("elpv", copy_of_elpv(tmp_path, 50))
    with pytest.raises(DataError, match="no normal training images"):
        dataset.validate("mono")
    with pytest.raises(DataError, match="poly"):
        dataset.validate("poly")


def test_a_malformed_table_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("images/a1.png 1.0 mono\nimages/b2.png mono\n")
    with pytest.raises(DataError, match=r"Line 2 of .*labels\.csv"):
        bench.data.load("elpv", tmp_path).validate("mono")


def test_a_missing_table_and_a_missing_package_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"labels\.csv"):
        bench.data.load("elpv", tmp_path).validate("mono")
    monkeypatch.setitem(sys.modules, "elpv_dataset", None)
    with pytest.raises(DataError, match="pip install elpv-dataset"):
        bench.data.load("elpv").validate("mono")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without named pipes")
def test_a_table_that_is_no_ordinary_file_or_has_gigabytes_is_a_sentence(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    os.mkfifo(table)
    with pytest.raises(DataError, match=r"labels\.csv cannot be read"):
        bench.data.load("elpv", tmp_path).validate("mono")
    table.unlink()
    with table.open("wb") as stream:
        stream.truncate(10 << 30)  # a hole: it takes no room
    with pytest.raises(DataError, match=r"labels\.csv cannot be read"):
        bench.data.load("elpv", tmp_path).validate("mono")
