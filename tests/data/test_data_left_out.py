"""What lies in a folder and is not read is said, with its number and an example; what nobody misses is not."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import bench.data
from bench.errors import DataError

MakeFolder = Callable[..., Path]


def add(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / "train/good/000.png", root / name)


def sentences(root: Path) -> list[str]:
    return [finding.sentence for finding in bench.data.load("folder", root).findings("bolt")]


@pytest.mark.parametrize("masks", [0, 3])
def test_of_a_clean_folder_nothing_is_said(make_folder: MakeFolder, masks: int) -> None:
    root = make_folder(masks=masks)
    (root / "license.txt").write_text("text")
    (root / "train/good/Thumbs.db").write_bytes(b"x")
    (root / "test/good/._000.png").write_bytes(b"what macOS leaves")
    (root / "train/good/000.png").rename(root / "train/good/000.PNG")
    assert sentences(root) == []


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("train/good/a.gif", "test/good/b.pgm"), "2 files were left out (such as test/good/b.pgm): of their kinds"),
        (("test/good/sub/a.png",), "1 file was left out (test/good/sub/a.png): folders within"),
        (("test/abc.png",), "1 file was left out (test/abc.png): pictures directly in test/"),
        (
            ("train/abc.png", "train/b.jpg"),
            "2 files were left out (such as train/abc.png): pictures directly in train/",
        ),
        (("test/good/.a.png",), "1 file was left out (test/good/.a.png): hidden names"),
        (("train/bad/a.png",), "1 file was left out (train/bad/a.png): of train/ only train/good"),
        (("validation/good/a.png",), "1 file was left out (validation/good/a.png): only train/ and test/"),
        (("abc.png",), "1 file was left out (abc.png): pictures beside train/"),
    ],
)
def test_each_reason_has_a_line(make_folder: MakeFolder, names: tuple[str, ...], said: str) -> None:
    root = make_folder()
    add(root, *names)
    (found,) = sentences(root)
    assert found.startswith(said)


def test_what_was_left_out_is_also_said_of_a_category_that_is_refused(make_folder: MakeFolder) -> None:
    root = make_folder()
    (root / "train/good").rename(root / "train/ok")
    dataset = bench.data.load("folder", root)
    with pytest.raises(DataError):
        dataset.validate("bolt")
    (found,) = dataset.findings("bolt")
    assert "6 files were left out (such as train/ok/000.png)" in found.sentence


def test_folders_that_differ_in_case(make_folder: MakeFolder) -> None:
    root = make_folder()
    add(root, "test/Crack/000.png")
    if len(list((root / "test").iterdir())) < 3:
        pytest.skip("this file system knows no case")
    assert "Crack and crack" in sentences(root)[0]


def test_normals_in_a_folder_named_Good_are_never_a_kind_of_defect(make_folder: MakeFolder) -> None:  # noqa: N802
    root = make_folder()
    add(root, "test/GOOD/100.png")
    with pytest.raises(DataError, match="GOOD holds normal pictures only if its name is good"):
        bench.data.load("folder", root).validate("bolt")


def test_masks_of_another_ending_are_named_with_the_one_that_is_expected(make_folder: MakeFolder) -> None:
    root = make_folder(masks=3)
    for path in list((root / "ground_truth/crack").iterdir()):
        path.rename(path.with_name(path.name.replace("_mask", "_GT")))
    (found,) = sentences(root)
    assert "3 masks (such as ground_truth/crack/000_GT.png)" in found
    assert "all end in _GT.png, and _mask.png is expected: rename 003_GT.png to 003_mask.png" in found


def test_masks_that_lie_as_in_loco(make_folder: MakeFolder) -> None:
    root = make_folder()
    for number in range(3):
        place = root / f"ground_truth/crack/{number:03d}"
        place.mkdir(parents=True)
        Image.new("L", (12, 10), 255).save(place / "000.png")
    (found,) = sentences(root)
    assert "as in MVTec LOCO" in found and "ground_truth/crack/000_mask.png" in found


def test_masks_of_no_picture_and_of_a_lossy_kind(make_folder: MakeFolder) -> None:
    root = make_folder(masks=3)
    Image.new("L", (12, 10)).save(root / "ground_truth/crack/900_mask.png")
    assert "1 mask (ground_truth/crack/900_mask.png) belong to no picture: no anomalous picture" in sentences(root)[0]
    (root / "ground_truth/crack/900_mask.png").unlink()
    Image.new("L", (12, 10)).save(root / "ground_truth/crack/000_mask.jpg")
    assert "masks must be PNG, BMP or TIFF" in sentences(root)[0]
