"""ELPV, from the installed package: the split, the labels, and an unpacked copy."""

import hashlib
import sys
from collections import Counter
from importlib import resources
from pathlib import Path

import pytest
import torch
from PIL import Image

import bench.data
from bench.data import NORMAL
from bench.errors import DataError

# Deitsch et al. 2019, Table 1 of the dataset: cells with probability 0 and 1
CELLS = {"mono": (588, 313), "poly": (920, 402)}


@pytest.mark.parametrize("category", CELLS)
def test_the_split_is_disjoint_and_leaves_no_certain_cell_out(category: str) -> None:
    split = bench.data.load("elpv")._split(category)
    train, test = ({sample.id for sample in samples} for samples in (split.train, split.test))
    normals, anomalies = CELLS[category]
    assert not train & test
    assert len(split.train) + len(split.normals) == normals
    assert len(split.anomalies) == anomalies
    assert len(split.normals) == round(0.3 * normals)
    assert all(sample.label == NORMAL for sample in split.train)


def test_the_labels_are_those_of_the_table() -> None:
    table = (resources.files("elpv_dataset") / "data" / "labels.csv").read_text().split()
    kind = {path: (float(p), cell) for path, p, cell in zip(table[::3], table[1::3], table[2::3], strict=True)}
    seen: Counter[tuple[float, str]] = Counter()
    for category in CELLS:
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


def test_the_held_out_normals_are_those_with_the_smallest_hash_of_seed_and_id() -> None:
    """The split is part of the benchmark: records name these cells."""
    table = (resources.files("elpv_dataset") / "data" / "labels.csv").read_text().splitlines()
    normals = [line.split()[0] for line in table if line.split()[1:] == ["0.0", "poly"]]
    by_hash = sorted(normals, key=lambda path: hashlib.sha256(f"0:{path}".encode()).hexdigest())
    split = bench.data.load("elpv")._split("poly")
    assert {sample.id for sample in split.normals} == set(by_hash[:276])
    assert {sample.id for sample in split.train} == set(by_hash[276:])


def copy_of_elpv(folder: Path, cells: int) -> Path:
    (folder / "images").mkdir()
    lines = []
    for number in range(cells):
        Image.new("L", (8, 8), number).save(folder / f"images/cell{number:04d}.png")
        probability = (0.0, 0.0, 0.0, 0.3333333333333333, 1.0)[number % 5]
        lines.append(f"images/cell{number:04d}.png  {probability}  mono\n")
    (folder / "labels.csv").write_text("".join(lines))
    return folder


def test_an_unpacked_copy_is_read_too_and_doubtful_cells_are_left_out(tmp_path: Path) -> None:
    dataset = bench.data.load("elpv", copy_of_elpv(tmp_path, 150))
    split = dataset._split("mono")
    assert (len(split.train), len(split.normals), len(split.anomalies)) == (30, 60, 30)
    numbers = [int(sample.id[-8:-4]) % 5 for sample in split.train + split.test]
    assert 3 not in numbers


def test_too_few_cells_or_none_of_a_kind_are_refused(tmp_path: Path) -> None:
    dataset = bench.data.load("elpv", copy_of_elpv(tmp_path, 50))
    with pytest.raises(DataError, match="no normal training images"):
        dataset.validate("mono")
    with pytest.raises(DataError, match="poly"):
        dataset.validate("poly")


def test_a_malformed_table_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("images/a.png 1.0 mono\nimages/b.png mono\n")
    with pytest.raises(DataError, match=r"Line 2 of .*labels\.csv"):
        bench.data.load("elpv", tmp_path).validate("mono")


def test_a_missing_table_and_a_missing_package_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"labels\.csv"):
        bench.data.load("elpv", tmp_path).validate("mono")
    monkeypatch.setitem(sys.modules, "elpv_dataset", None)
    with pytest.raises(DataError, match="pip install elpv-dataset"):
        bench.data.load("elpv").validate("mono")
