"""A folder in MVTec layout: what it gives, that nothing depends on where or how it lies, and what it refuses."""

import os
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import bench.data
from bench.data import ANOMALOUS, NORMAL, Dataset, ImageSet
from bench.errors import DataError, UnknownNameError

MakeFolder = Callable[..., Path]


@pytest.fixture(params=["folder", "mvtec"])
def load(request: pytest.FixtureRequest) -> Callable[[Path], Dataset]:
    return lambda root: bench.data.load(request.param, root)


def test_a_category_folder_is_one_category_of_its_name(make_folder: MakeFolder, load: Callable) -> None:
    assert load(make_folder("bolt")).categories() == ("bolt",)


def test_a_folder_of_categories_has_them_all_sorted(make_folder: MakeFolder, load: Callable) -> None:
    root = make_folder("nut").parent
    make_folder("bolt")
    (root / "notes").mkdir()
    assert load(root).categories() == ("bolt", "nut")


def test_train_and_test_hold_what_the_folders_hold(make_folder: MakeFolder, load: Callable) -> None:
    dataset = load(make_folder())
    train, test = dataset.train("bolt", 8), dataset.test("bolt", 8)
    assert train.ids == tuple(f"train/good/{number:03d}.png" for number in range(6))
    assert (train.labels == NORMAL).all()
    assert test.images.shape == (7, 3, 8, 8)
    assert test.images.dtype == torch.uint8
    assert test.labels.dtype == torch.int8
    assert test.ids == tuple(sorted(test.ids))
    assert test.defects == ("crack",) * 3 + ("good",) * 4
    assert test.labels.tolist() == [ANOMALOUS] * 3 + [NORMAL] * 4
    assert not set(train.ids) & set(test.ids)


def test_pixels_are_the_file_resized_by_pillow(make_folder: MakeFolder) -> None:
    root = make_folder()
    test = bench.data.load("folder", root).test("bolt", 8)
    for name, pixels in zip(test.ids, test.pixels(), strict=True):
        with Image.open(root / name) as image:
            expected = np.asarray(image.resize((8, 8), Image.Resampling.BILINEAR)) / np.float32(255)
        assert (pixels.permute(1, 2, 0).numpy() == expected).all()


def test_the_subset_is_nested_and_balanced(make_folder: MakeFolder) -> None:
    dataset = bench.data.load("folder", make_folder(good=9, crack=7))
    subsets = [dataset.test("bolt", 8, per_class=count) for count in (1, 3, 8, 100)]
    assert [(s.labels == NORMAL).sum().item() for s in subsets] == [1, 3, 8, 9]
    assert [(s.labels == ANOMALOUS).sum().item() for s in subsets] == [1, 3, 7, 7]
    for small, large in pairwise(subsets):
        assert set(small.ids) <= set(large.ids)
        rows = [large.ids.index(name) for name in small.ids]
        assert torch.equal(small.images, large.images[rows])
    assert set(dataset.train("bolt", 8, limit=2).ids) < set(dataset.train("bolt", 8, limit=4).ids)


def test_only_the_chosen_images_are_decoded(make_folder: MakeFolder) -> None:
    root = make_folder()
    dataset = bench.data.load("folder", root)
    (chosen,) = dataset.train("bolt", 8, limit=1).ids
    for path in (root / "train/good").iterdir():
        if path.name != Path(chosen).name:
            path.write_bytes(b"broken")
    assert dataset.train("bolt", 8, limit=1).ids == (chosen,)
    with pytest.raises(DataError, match="train/good"):
        dataset.train("bolt", 8)


def test_nothing_depends_on_the_order_or_the_place_of_the_files(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = make_folder(good=9, masks=3)
    before = bench.data.load("folder", root)
    moved = tmp_path / "elsewhere" / "bolt"
    shutil.copytree(root, moved)
    in_order = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: iter(sorted(in_order(path), reverse=True)))
    after = bench.data.load("folder", moved)
    assert before.fingerprint("bolt") == after.fingerprint("bolt")
    one, two = before.test("bolt", 8, per_class=3), after.test("bolt", 8, per_class=3)
    assert one.ids == two.ids
    assert torch.equal(one.images, two.images)


def flip_a_bit(root: Path) -> None:
    path = root / "test/crack/001.png"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


CHANGES = {
    "a byte": flip_a_bit,
    "a name": lambda root: (root / "train/good/000.png").rename(root / "train/good/999.png"),
    "a label": lambda root: (root / "test/crack/000.png").rename(root / "test/good/900.png"),
    "a missing file": lambda root: (root / "test/good/000.png").unlink(),
    "a mask": lambda root: Image.new("L", (12, 10)).save(root / "ground_truth/crack/000_mask.png"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_the_fingerprint_changes_with(change: Callable[[Path], object], make_folder: MakeFolder) -> None:
    root = make_folder(masks=3)
    before = bench.data.load("folder", root).fingerprint("bolt")
    change(root)
    assert bench.data.load("folder", root).fingerprint("bolt") != before


def test_the_fingerprint_ignores_files_that_are_not_used(make_folder: MakeFolder) -> None:
    root = make_folder()
    before = bench.data.load("folder", root).fingerprint("bolt")
    (root / "test/good/._000.png").write_bytes(b"what macOS leaves")
    (root / "readme.txt").write_text("hello")
    after = bench.data.load("folder", root)
    assert after.fingerprint("bolt") == before
    assert len(before) == 64


def test_masks_mark_the_defects_and_nothing_on_normals(make_folder: MakeFolder) -> None:
    dataset = bench.data.load("folder", make_folder(masks=3))
    test = dataset.test("bolt", 60)
    assert test.masks is not None
    assert test.masks.shape == (7, 60, 60)
    assert test.masks.dtype == torch.bool
    assert test.masks.sum(dim=(1, 2)).tolist() == [30, 30, 30, 0, 0, 0, 0]  # one of 12x10 pixels is 5x6 of 60x60
    assert test.masks[1, 6:12, 0:5].all()
    assert dataset.train("bolt", 60).masks is None


def test_partial_masks_count_as_none_and_a_remark_says_so(make_folder: MakeFolder) -> None:
    dataset = bench.data.load("folder", make_folder(masks=2))
    assert dataset.test("bolt", 8).masks is None
    assert dataset.test("bolt", 8, per_class=1).masks is None
    assert "1 of 3" in dataset.remark("bolt")


@pytest.mark.parametrize("masks", [0, 3])
def test_all_or_no_masks_need_no_remark(make_folder: MakeFolder, masks: int) -> None:
    assert bench.data.load("folder", make_folder(masks=masks)).remark("bolt") == ""


def test_a_subset_keeps_rows_together(make_folder: MakeFolder) -> None:
    test = bench.data.load("folder", make_folder(masks=3)).test("bolt", 8)
    assert test.masks is not None
    part = test.subset([5, 1])
    assert part.ids == (test.ids[5], test.ids[1])
    assert part.defects == ("good", "crack")
    assert torch.equal(part.images, test.images[[5, 1]])
    assert part.masks is not None
    assert torch.equal(part.masks, test.masks[[5, 1]])
    assert len(test.subset([])) == 0
    assert test.subset(test.labels == ANOMALOUS).ids == test.ids[:3]
    assert test.pixels([2]).max() <= 1


def test_an_image_set_has_as_many_labels_as_images() -> None:
    with pytest.raises(ValueError, match="equally many"):
        ImageSet(("a",), torch.zeros(1, 3, 2, 2), torch.ones(2), ("good",), None)


def test_a_missing_or_empty_root_is_refused(tmp_path: Path, load: Callable) -> None:
    with pytest.raises(DataError, match=r"no folder .*nowhere"):
        load(tmp_path / "nowhere").categories()
    with pytest.raises(DataError, match="MVTec layout"):
        load(tmp_path).categories()
    with pytest.raises(DataError, match="--data-root"):
        load(None)


@pytest.mark.parametrize(
    ("missing", "place"), [("train", "train/good"), ("good", "test/good"), ("crack", "test/<defect>")]
)
def test_a_category_without_one_of_its_parts_is_refused(
    make_folder: MakeFolder, load: Callable, missing: str, place: str
) -> None:
    root = make_folder(**{missing: 0})
    with pytest.raises(DataError, match=place):
        load(root).validate("bolt")
    shutil.rmtree(root / place.replace("<defect>", "crack"))
    with pytest.raises(DataError, match=place):
        load(root.parent).validate("bolt")


def test_an_unknown_category_offers_the_nearest(make_folder: MakeFolder) -> None:
    dataset = bench.data.load("folder", make_folder("bolt").parent)
    for use in (dataset.check_category, dataset.validate, dataset.fingerprint, dataset.remark):
        with pytest.raises(UnknownNameError, match="did you mean 'bolt'"):
            use("blot")


def test_a_limit_below_one_is_refused(make_folder: MakeFolder) -> None:
    with pytest.raises(DataError, match="At least one image"):
        bench.data.load("folder", make_folder()).test("bolt", 8, per_class=0)


@pytest.mark.skipif(os.name == "nt", reason="POSIX allows any bytes in a name")
def test_odd_file_names_are_carried(make_folder: MakeFolder) -> None:
    root = make_folder()
    (root / "train/good/000.png").rename(root / "train/good/Pru\u0308f ling.PNG")  # u and a separate umlaut
    (root / "train/good/001.png").rename(root / "train/good" / os.fsdecode(b"\xff.png"))
    dataset = bench.data.load("folder", root)
    assert "train/good/Pr\u00fcf ling.PNG" in dataset.train("bolt", 8).ids
    assert len(dataset.train("bolt", 8, limit=5)) == 5
    assert dataset.fingerprint("bolt")
