"""Groups of a folder's pictures, from a table or from names: errors of a table are said, subsets are matched."""

from collections.abc import Callable
from pathlib import Path

import pytest

import bench.data
from bench.data.base import Dataset
from bench.data.reading import Reading
from bench.errors import DataError

MakeFolder = Callable[..., Path]


def groups_of(dataset: Dataset) -> dict[str, str]:
    split = dataset.split("bolt")
    return {sample.id: sample.group for sample in split.train + split.test}


def names_in(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))


def write_table(root: Path, text: str) -> Path:
    (root / "groups.csv").write_bytes(text.encode())
    return root


def table_of(root: Path, group: Callable[[str], str]) -> str:
    return "file,group\n" + "".join(f"{name},{group(name)}\n" for name in names_in(root))


def test_a_table_gives_each_picture_its_group(make_folder: MakeFolder) -> None:
    root = make_folder()
    write_table(root, table_of(root, lambda name: f"lot {name[-5]}"))
    assert groups_of(bench.data.load("folder", root)) == {name: f"lot {name[-5]}" for name in names_in(root)}


@pytest.mark.parametrize(
    "spoken",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "".join(f'"{line.replace(",", chr(34) + "," + chr(34))}"\n' for line in text.splitlines()),
        lambda text: text.replace("/", "\\"),
        lambda text: text.replace("file,group", "File, Group"),
        lambda text: text + "\n\n",
    ],
    ids=["byte order mark", "CRLF", "quoted", "backslashes", "capitals", "empty lines"],
)
def test_a_table_may_come_from_any_program(make_folder: MakeFolder, spoken: Callable[[str], str]) -> None:
    root = make_folder()
    write_table(root, spoken(table_of(root, lambda name: "a" if "good" in name else "b")))
    assert set(groups_of(bench.data.load("folder", root)).values()) == {"a", "b"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (lambda text: text + "test/good/900.png,a\n", r"Line 15 of .*'test/good/900\.png', which is no picture"),
        (lambda text: text + "../other/000.png,a\n", r"no picture of the category"),
        (lambda text: text + "test/good/000.png,b\n", r"Line 15 of .*second time"),
        (lambda text: "\n".join(text.splitlines()[:-2]), r"no line for 2 of 13 pictures, such as train/good/004"),
        (lambda text: text.replace("file,group", "file;group"), r"first line .* must be file,group"),
        (lambda text: "", r"first line .* must be file,group"),
        (lambda text: text + 'test/good/000.png,"a\n', r"no CSV"),
        (lambda text: text + "test/good/000.png\n", r"Line 15 of .* 1 fields instead of 2"),
        (lambda text: text.replace("000.png,a", "000.png,a\0", 1), r"zero bytes"),
    ],
    ids=["unknown", "outside", "twice", "missing", "semicolon", "empty", "quote", "one field", "NUL"],
)
def test_what_is_wrong_with_a_table_is_said(make_folder: MakeFolder, text: Callable[[str], str], sentence: str) -> None:
    root = make_folder()
    write_table(root, text(table_of(root, lambda name: "a")))
    with pytest.raises(DataError, match=sentence):
        bench.data.load("folder", root).validate("bolt")


def test_a_table_of_another_encoding_is_refused(make_folder: MakeFolder) -> None:
    root = make_folder()
    (root / "groups.csv").write_bytes(table_of(root, lambda name: "Straße").encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        bench.data.load("folder", root).validate("bolt")


def test_a_pattern_finds_groups_in_names_and_wins_over_a_table(make_folder: MakeFolder) -> None:
    root = make_folder()
    write_table(root, table_of(root, lambda name: "of the table"))
    dataset = bench.data.load("folder", root, Reading(group_pattern=r"/00(\d)\.png"))
    assert groups_of(dataset) == {name: name[-5] for name in names_in(root)}


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [("lot(", "no regular expression"), ("lot", "has 0"), ("(a)(b)", "has 2"), ("(lot)", "matches no picture")],
)
def test_a_pattern_that_cannot_be_is_refused(make_folder: MakeFolder, pattern: str, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        bench.data.load("folder", make_folder(), Reading(group_pattern=pattern)).validate("bolt")


def test_other_data_sets_refuse_what_only_a_folder_takes(tmp_path: Path) -> None:
    for reading, option in ((Reading(group_pattern="(a)"), "--group-pattern"), (Reading(bit_depth=12), "--bit-depth")):
        for name in ("elpv", "cifar10", "fashion-mnist"):
            with pytest.raises(DataError, match=option):
                bench.data.load(name, tmp_path, reading)
    bench.data.load("mvtec", tmp_path, Reading(bit_depth=12))


def test_the_fingerprint_knows_groups_and_bit_depth(make_folder: MakeFolder) -> None:
    root = make_folder()
    readings = [Reading(), Reading(group_pattern=r"(\d)\.png"), Reading(group_pattern=r"(good)"), Reading(bit_depth=12)]
    assert len({bench.data.load("folder", root, reading).fingerprint("bolt") for reading in readings}) == 4


def test_a_subset_has_as_many_normals_as_anomalies_of_each_group(make_folder: MakeFolder) -> None:
    root = make_folder(train=2, good=40, crack=30)
    dataset = bench.data.load("folder", root, Reading(group_pattern=r"test/\w+/0(\d)"))
    assert dataset.is_matched("bolt")
    chosen = dataset.test("bolt", 8, per_class=20)
    tens = [[name[-6] for name in chosen.ids if kind in name] for kind in ("good", "crack")]
    assert sorted(tens[0]) == sorted(tens[1])
    assert set(tens[0]) == {"0", "1", "2"}, "of the group 3 there are no anomalies"


def test_too_few_pairs_leave_the_test_set_as_it_is(make_folder: MakeFolder) -> None:
    root = make_folder(good=9, crack=9)
    dataset = bench.data.load("folder", root, Reading(group_pattern=r"test/\w+/00(\d)"))
    assert not dataset.is_matched("bolt")
    assert len(dataset.test("bolt", 8)) == 18
