"""Published data sets in their authors' layouts: what is listed, that masks lie where they belong, that nothing depends
on the place, and which sentence meets an archive of which a part is missing."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from published_trees import HEIGHT, TREES, WIDTH, mask, picture, visa, visa_rearranged

import bench.data
from bench.data import ANOMALOUS, NORMAL, Dataset
from bench.data.registry import find
from bench.errors import DataError, UnknownNameError
from bench.inspection.inspection import inspect

every = pytest.mark.parametrize("name", TREES)


def made(name: str, root: Path) -> tuple[Dataset, str]:
    """The data set read from a miniature tree, and a category of it."""
    make, category = TREES[name]
    make(root)
    return bench.data.load(name, root), category


# How many pictures each tree gives: train, sound and of each kind.
COUNTS = {
    "visa": (4, {"good": 3, "bent": 1, "melt": 1, "combined": 1}),
    "btad": (4, {"good": 3, "ko": 3}),
    "mvtec-loco": (4, {"good": 3, "logical_anomalies": 2, "structural_anomalies": 2}),
    "mvtec-3d": (4, {"good": 3, "crack": 2, "hole": 2}),
    "mvtec-ad-2": (4, {"good": 3, "bad": 3}),
    "dagm": (4, {"good": 3, "defective": 3}),
    "kolektor-sdd": (8, {"good": 4, "defective": 2}),
    "kolektor-sdd2": (4, {"good": 3, "defective": 2}),
    "robustad": (4, {"good": 4, "anomaly": 2}),
}
IDS = {
    "visa": "Data/Images/Anomaly/000.JPG",
    "btad": "test/ko/0000.bmp",
    "mvtec-loco": "test/logical_anomalies/000.png",
    "mvtec-3d": "test/crack/rgb/000.png",
    "mvtec-ad-2": "test_public/bad/000_regular.png",
    "dagm": "Test/0002.PNG",
    "kolektor-sdd": "kos01/Part1.jpg",
    "kolektor-sdd2": "test/10001.png",
    "robustad": "pcb_data_dir_test1/anomaly/0.png",
}


@every
def test_what_is_listed(name: str, tmp_path: Path) -> None:
    dataset, category = made(name, tmp_path)
    train, test = dataset.train(category, 8), dataset.test(category, 8)
    count, kinds = COUNTS[name]
    assert len(train) == count and (train.labels == NORMAL).all() and set(train.defects) == {"good"}
    assert Counter(test.defects) == kinds
    assert [label == NORMAL for label in test.labels.tolist()] == [kind == "good" for kind in test.defects]
    assert IDS[name] in test.ids and test.defects[test.ids.index(IDS[name])] != "good"
    assert not set(train.ids) & set(test.ids)
    assert category in dataset.categories() and list(dataset.categories()) == sorted(dataset.categories())


@every
def test_masks_mark_the_defects_and_nothing_else(name: str, tmp_path: Path) -> None:
    dataset, category = made(name, tmp_path)
    test = dataset.test(category, 60)
    assert test.masks is not None
    marked = test.masks.flatten(1).sum(dim=1)
    pixel = (60 // WIDTH) * (60 // HEIGHT)
    assert (marked[test.labels == NORMAL] == 0).all() and (marked[test.labels == ANOMALOUS] >= pixel).all()
    corner = test.masks[test.ids.index(IDS[name])]
    expected = {"dagm": 1, "kolektor-sdd": 1, "kolektor-sdd2": 1, "mvtec-ad-2": 1}.get(name, 0)
    column = 1 if name == "mvtec-ad-2" else 0
    assert corner[6 * expected : 6 * expected + 6, 5 * column : 5 * column + 5].all()


def test_masks_of_one_picture_are_united(tmp_path: Path) -> None:
    dataset, category = made("mvtec-loco", tmp_path)
    test = dataset.test(category, 60)
    assert test.masks is not None
    own = test.masks[test.ids.index("test/logical_anomalies/000.png")]
    expected = torch.zeros(60, 60, dtype=torch.bool)
    expected[:6, :5] = expected[54:, 55:] = True
    assert torch.equal(own, expected)
    before = dataset.fingerprint(category)
    mask(tmp_path / "pushpins/ground_truth/logical_anomalies/000/001.png", (5, 5))
    assert bench.data.load("mvtec-loco", tmp_path).fingerprint(category) != before


def test_masks_of_one_picture_must_be_of_one_size(tmp_path: Path) -> None:
    dataset, category = made("mvtec-loco", tmp_path)
    Image.new("L", (9, 9), 255).save(tmp_path / "pushpins/ground_truth/logical_anomalies/000/001.png")
    with pytest.raises(DataError, match=r"001\.png has 9x9 pixels and 000\.png beside it 12x10"):
        dataset.test(category, 8)


@every
def test_the_fingerprint_is_that_of_the_content_wherever_it_lies(name: str, tmp_path: Path) -> None:
    dataset, category = made(name, tmp_path / "one")
    before = dataset.fingerprint(category)
    shutil.copytree(tmp_path / "one", tmp_path / "other/place")
    moved = bench.data.load(name, tmp_path / "other/place")
    assert moved.fingerprint(category) == before
    where = Path(next(s.where for s in moved.split(category).test if s.id == IDS[name]))
    Image.new("RGB", (WIDTH, HEIGHT), (1, 2, 3)).save(where)
    assert bench.data.load(name, tmp_path / "other/place").fingerprint(category) != before


@every
def test_other_normals_are_not_fitted_on(name: str, tmp_path: Path) -> None:
    dataset, category = made(name, tmp_path)
    split = dataset.split(category)
    assert not [s.id for s in split.train + split.test if "validation" in s.id or "private" in s.id]
    assert all(sample.label == NORMAL for sample in split.train)


@every
def test_inspect_has_nothing_to_say_of_masks_and_groups(name: str, tmp_path: Path) -> None:
    dataset, category = made(name, tmp_path)
    seen = inspect(dataset, category, [dataset.train(category, 8)], dataset.test(category, 8))
    kinds = {finding.kind for finding in seen.findings}
    # A handful of commutators is too few to be matched; of most trees a single category is there.
    assert kinds & {"masks", "groups", "leak"} == ({"groups"} if name == "kolektor-sdd" else set())
    assert seen.refusals == []


@every
def test_a_root_without_it_says_where_it_is_had(name: str, tmp_path: Path) -> None:
    about = find(name).about
    assert about is not None
    with pytest.raises(DataError, match=f"get {about.title} from {about.home}"):
        bench.data.load(name, tmp_path / "nowhere").categories()
    (tmp_path / "something").mkdir()
    with pytest.raises(DataError, match=f"There is no {about.title} in .*--data-root needs the folder with"):
        bench.data.load(name, tmp_path).categories()


MISSING = {
    "visa: split": ("visa", "split_csv", r"1cls\.csv \(the one-class split\)"),
    "visa: picture": ("visa", "candle/Data/Images/Normal/0003.JPG", r"0003\.JPG \(which the split lists\)"),
    "visa: mask": ("visa", "candle/Data/Masks", r"000\.png \(the mask of candle/Data/Images/Anomaly/000\.JPG\)"),
    "btad: mask": (
        "btad",
        "BTech_Dataset_transformed/03/ground_truth/ko/0001.png",
        r"the mask of test/ko/0001\.bmp",
    ),
    "btad: train": ("btad", "BTech_Dataset_transformed/03/train", "normal training images"),
    "loco: masks": ("mvtec-loco", "pushpins/ground_truth", r"the mask of test/logical_anomalies/000\.png"),
    "loco: one picture's": (
        "mvtec-loco",
        "pushpins/ground_truth/structural_anomalies/001/000.png",
        r"the mask of test/structural_anomalies/001\.png",
    ),
    "loco: good": ("mvtec-loco", "pushpins/test/good", "normal test images"),
    "3d: rgb": ("mvtec-3d", "bagel/train/good/rgb", "normal training images"),
    "3d: gt": ("mvtec-3d", "bagel/test/hole/gt/001.png", r"the mask of test/hole/rgb/001\.png"),
    "ad 2: bad": ("mvtec-ad-2", "vial/test_public/bad", "the folders of defective test images"),
    "ad 2: mask": ("mvtec-ad-2", "vial/test_public/ground_truth", r"the mask of test_public/bad/000_regular\.png"),
    "dagm: labels": ("dagm", "Class1/Test/Label/Labels.txt", r"Labels\.txt \(the labels\)"),
    "dagm: picture": ("dagm", "Class1/Train/0002.PNG", r"0002\.PNG \(which Labels\.txt lists\)"),
    "dagm: mask": ("dagm", "Class1/Test/Label/0004_label.PNG", r"0004_label\.PNG \(the mask of 0004\.PNG\)"),
    "ksdd: mask": ("kolektor-sdd", "kos02/Part0_label.bmp", r"the mask of kos02/Part0\.jpg"),
    "ksdd2: mask": ("kolektor-sdd2", "train/10003_GT.png", r"the mask of train/10003\.png"),
    "ksdd2: test": ("kolektor-sdd2", "test", "half of the split"),
    "robustad: labels": ("robustad", "PCB/pcb_data_dir_test1/metadata.jsonl", "the labels"),
    "robustad: picture": ("robustad", "PCB/pcb_data_dir_train/normal/2.png", r"which metadata\.jsonl lists"),
    "robustad: mask": ("robustad", "PCB/pcb_data_dir_test1/masks/1.png", r"the mask of 1\.png"),
}


@pytest.mark.parametrize(("name", "place", "said"), MISSING.values(), ids=MISSING)
def test_what_is_missing_is_named_with_where_it_is_had(name: str, place: str, said: str, tmp_path: Path) -> None:
    dataset, category = made(name, tmp_path)
    path = tmp_path / place
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    about = find(name).about
    assert about is not None
    with pytest.raises(DataError, match=f"{said}.* not whole: unpack all of it again, from {about.home}"):
        dataset.validate(category)


@pytest.mark.parametrize(
    ("name", "table", "line"),
    [
        ("visa", "split_csv/1cls.csv", "candle,train,anomaly,candle/Data/Images/Normal/0000.JPG,"),
        ("visa", "split_csv/1cls.csv", "candle,test,normal,../secret.JPG,"),
        ("visa", "split_csv/1cls.csv", "candle,test"),
        ("visa", "candle/image_anno.csv", '"open'),
        ("dagm", "Class1/Test/Label/Labels.txt", "7\tyes\t0007.PNG"),
        ("robustad", "PCB/pcb_data_dir_test1/metadata.jsonl", "{"),
        ("robustad", "PCB/pcb_data_dir_test1/metadata.jsonl", '{"file_name": "normal/0.png", "label": 2}'),
        ("robustad", "PCB/pcb_data_dir_test1/metadata.jsonl", '{"file_name": "../../x.png", "label": 0}'),
        ("robustad", "PCB/pcb_data_dir_test1/metadata.jsonl", "[1]"),
    ],
)
def test_a_table_that_is_not_the_authors_is_refused(name: str, table: str, line: str, tmp_path: Path) -> None:
    dataset, category = made(name, tmp_path)
    with (tmp_path / table).open("a") as stream:
        stream.write(line + "\n")
    about = find(name).about
    assert about is not None
    with pytest.raises(DataError, match=f"from {about.home} again"):
        dataset.validate(category)


def test_the_table_decides_even_where_its_folders_are_mixed_up(tmp_path: Path) -> None:
    """A picture that no table lists is not read: VisA's few-shot splits leave some out."""
    dataset, category = made("visa", tmp_path)
    picture(tmp_path / "candle/Data/Images/Normal/0999.JPG")
    assert "Data/Images/Normal/0999.JPG" not in dataset.train_ids(category)
    assert len(dataset.train_ids(category)) == 4


def test_visa_rearranged_has_the_same_split_and_one_kind(tmp_path: Path) -> None:
    visa_rearranged(tmp_path)
    dataset = bench.data.load("visa", tmp_path)
    assert Counter(dataset.test("candle", 8).defects) == {"good": 3, "bad": 3}
    assert dataset.test("candle", 8).masks is not None
    one = bench.data.load("visa", tmp_path / "1cls/candle")
    assert one.categories() == ("candle",) and one.findings("candle") == ()


def test_visa_without_its_kinds_has_one(tmp_path: Path) -> None:
    dataset, category = made("visa", tmp_path)
    (tmp_path / "candle/image_anno.csv").unlink()
    assert Counter(dataset.test(category, 8).defects) == {"good": 3, "anomaly": 3}


def test_categories_that_are_not_there_are_said(tmp_path: Path) -> None:
    visa(tmp_path, "pcb4")
    visa(tmp_path, "cashew")
    dataset = bench.data.load("visa", tmp_path)
    assert dataset.categories() == ("cashew", "pcb4")
    (found,) = dataset.findings("pcb4")
    assert found.brief == "10 of 12 categories not there" and "candle" in found.sentence
    with pytest.raises(UnknownNameError, match="did you mean 'pcb4'"):
        dataset.check_category("pcb1x")


@pytest.mark.parametrize(
    ("name", "gone", "said"),
    [
        ("btad", "test/ko/0000.bmp", "1 mask without a picture (ko/0000)"),
        ("mvtec-loco", "test/logical_anomalies", "2 masks without a picture (such as logical_anomalies/000)"),
        ("mvtec-3d", "test/crack/rgb/000.png", "1 mask without a picture (crack/000)"),
        ("mvtec-ad-2", "test_public/bad/000_regular.png", "1 mask without a picture (bad/000_regular)"),
        ("kolektor-sdd", "kos01/Part1.jpg", "1 mask without a picture (kos01/Part1)"),
        ("kolektor-sdd2", "test/10001.png", "1 mask without a picture (test/10001)"),
    ],
)
def test_half_an_archive_is_known_by_masks_without_a_picture(name: str, gone: str, said: str, tmp_path: Path) -> None:
    """Else a figure would be of the rest, and nobody would know."""
    dataset, category = made(name, tmp_path)
    assert not [finding for finding in dataset.findings(category) if finding.kind == "masks"]
    (place,) = (path for path in tmp_path.rglob(gone.rpartition("/")[2]) if path.as_posix().endswith(gone))
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    (found,) = (f for f in bench.data.load(name, tmp_path).findings(category) if f.kind == "masks")
    assert said in found.sentence and "unpack all of it again" in found.sentence


@pytest.mark.parametrize("odd", ["x" * 5000, "a\0b", "a/" * 3000])
@pytest.mark.parametrize(("name", "table"), [("robustad", "metadata.jsonl"), ("visa", "1cls.csv")])
def test_a_table_may_name_what_no_system_can_have(name: str, table: str, odd: str, tmp_path: Path) -> None:
    _, category = made(name, tmp_path)
    for path in tmp_path.rglob(table):
        text = path.read_text()
        if name == "visa":
            path.write_text(text + f"candle,test,normal,candle/{odd}.JPG,\n")
        else:
            path.write_text(text + f'{{"file_name": {json.dumps(odd)}, "label": 0}}\n')
    with pytest.raises(DataError) as raised:
        bench.data.load(name, tmp_path).split(category)
    assert len(str(raised.value)) < 1000


def test_commutators_that_are_not_there_are_said(tmp_path: Path) -> None:
    dataset, category = made("kolektor-sdd", tmp_path)
    (found,) = (finding for finding in dataset.findings(category) if finding.kind == "left out")
    assert found.brief == "44 of 50 commutators not there" and "kos07" in found.sentence


def test_a_commutator_is_whole_and_tested_once(tmp_path: Path) -> None:
    dataset, _ = made("kolektor-sdd", tmp_path)
    assert dataset.categories() == ("fold-1", "fold-2", "fold-3")
    tested = []
    for category in dataset.categories():
        split = dataset.split(category)
        groups = [{sample.group for sample in part} for part in (split.train, split.test)]
        assert len(groups[0]) == 4 and len(groups[1]) == 2 and not groups[0] & groups[1]
        tested += [sample.id for sample in split.test]
    assert len(tested) == len(set(tested)) == 18


def test_enough_commutators_make_matched_test_subsets(tmp_path: Path) -> None:
    TREES["kolektor-sdd"][0](tmp_path, items=30)  # type: ignore[call-arg]
    dataset = bench.data.load("kolektor-sdd", tmp_path)
    assert dataset.is_matched("fold-2")
    assert Counter(dataset.test("fold-2", 8).defects) == {"good": 10, "defective": 10}


def test_each_test_part_of_robustad_is_a_category(tmp_path: Path) -> None:
    dataset, _ = made("robustad", tmp_path)
    assert dataset.categories() == tuple(f"PCB-test{number}" for number in range(6))
    assert {dataset.train_ids(category) for category in dataset.categories()} == {dataset.train_ids("PCB-test0")}
    assert dataset.remark("PCB-test5") == "Fitted on PCB's train part, tested on its part test5, one of 6."
    assert dataset.test("PCB-test5", 8).ids[0].startswith("pcb_data_dir_test5/")


@pytest.mark.parametrize("before", ["", "masks/", "PCB/pcb_data_dir_test1/masks/", "../data/masks/", "/home/author/"])
def test_robustad_finds_masks_whatever_folder_its_table_names(before: str, tmp_path: Path) -> None:
    dataset, category = made("robustad", tmp_path)
    table = tmp_path / "PCB/pcb_data_dir_test1/metadata.jsonl"
    table.write_text(table.read_text().replace("/home/author/PCB/", before))
    split = dataset.split(category)
    assert [Path(found.mask_where).relative_to(tmp_path).as_posix() for found in split.anomalies] == [
        "PCB/pcb_data_dir_test1/masks/0.png",
        "PCB/pcb_data_dir_test1/masks/1.png",
    ]


def test_robustad_without_masks_has_none(tmp_path: Path) -> None:
    dataset, category = made("robustad", tmp_path)
    table = tmp_path / "PCB/pcb_data_dir_test1/metadata.jsonl"
    table.write_text(table.read_text().replace('"/home/author/PCB/1.png"', "null"))
    assert dataset.test(category, 8).masks is None


def test_piled_bags_have_no_masks_even_where_their_table_names_some(tmp_path: Path) -> None:
    made("robustad", tmp_path)
    (tmp_path / "PCB").rename(tmp_path / "PiledBags")
    for part in ("train", "test1"):
        folder = tmp_path / f"PiledBags/pcb_data_dir_{part}"
        shutil.rmtree(folder / "masks")
        folder.rename(tmp_path / f"PiledBags/piled_bags_data_dir_{part}")
    test = bench.data.load("robustad", tmp_path).test("PiledBags-test1", 8)
    assert test.masks is None and Counter(test.defects) == {"good": 4, "anomaly": 2}


@pytest.mark.parametrize("name", ["dagm", "mvtec-ad-2", "mvtec-loco"])
def test_a_category_unpacked_into_a_folder_of_its_name_is_found(name: str, tmp_path: Path) -> None:
    """As programs do that unpack Class1.zip into Class1/."""
    dataset, category = made(name, tmp_path)
    before = dataset.fingerprint(category)
    (tmp_path / category).rename(tmp_path / "aside")
    (tmp_path / category).mkdir()
    (tmp_path / "aside").rename(tmp_path / category / category)
    for root in (tmp_path, tmp_path / category, tmp_path / category / category):
        assert bench.data.load(name, root).fingerprint(category) == before


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "I;16"])
def test_pictures_of_other_modes_are_read_as_everywhere(mode: str, tmp_path: Path) -> None:
    dataset, category = made("mvtec-3d", tmp_path)
    path = tmp_path / "bagel/test/hole/rgb/000.png"
    if mode == "I;16":
        Image.fromarray(np.full((HEIGHT, WIDTH), 51 * 257, dtype=np.uint16)).save(path)
    else:
        Image.new("L", (WIDTH, HEIGHT), 255).convert(mode).save(path)
    test = dataset.test(category, 8)
    expected = 51 if mode == "I;16" else 255
    assert (test.images[test.ids.index("test/hole/rgb/000.png")] == expected).all()


@pytest.mark.parametrize("mode", ["1", "P", "RGB", "I;16"])
def test_masks_of_other_modes_mark_the_same(mode: str, tmp_path: Path) -> None:
    dataset, category = made("mvtec-loco", tmp_path)
    path = tmp_path / "pushpins/ground_truth/logical_anomalies/000/001.png"
    pixels = np.zeros((HEIGHT, WIDTH), dtype=np.uint16 if mode == "I;16" else np.uint8)
    pixels[HEIGHT - 1, WIDTH - 1] = 255
    image = Image.fromarray(pixels)
    (image if mode == "I;16" else image.convert(mode)).save(path)
    test = dataset.test(category, 60)
    assert test.masks is not None
    assert int(test.masks[test.ids.index("test/logical_anomalies/000.png")].sum()) == 60


def test_a_folder_takes_extensions_of_any_case_and_odd_names(make_folder: Callable[..., Path]) -> None:
    root = make_folder(masks=3)
    for old, new in (("000", "A b.PNG"), ("001", "ü(1).Png"), ("002", "c.pnG")):
        (root / f"test/crack/{old}.png").rename(root / "test/crack" / new)
        (root / f"ground_truth/crack/{old}_mask.png").rename(root / f"ground_truth/crack/{Path(new).stem}_mask.PNG")
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "test/good/x.JPeG")
    dataset = bench.data.load("folder", root)
    test = dataset.test("bolt", 8)
    assert {"test/crack/A b.PNG", "test/crack/ü(1).Png", "test/crack/c.pnG", "test/good/x.JPeG"} <= set(test.ids)
    assert test.masks is not None and dataset.findings("bolt") == ()
