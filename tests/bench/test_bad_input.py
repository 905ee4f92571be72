"""Bad data: one sentence that says what is wrong and what to do, exit code 2, no traceback, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import numpy as np
import pytest
from bench_fakes import on
from PIL import Image

from bench.records import store

Command = Callable[..., Any]
Register = Callable[..., None]

pytestmark = pytest.mark.usefixtures("no_plots")


def test_a_missing_data_root(safe: Callable[..., str], tmp_path: Path) -> None:
    assert "--data-root" in safe(*on(tmp_path / "nowhere"))
    assert "--data-root" in safe("run", "--detectors", "fake", "--dataset", "folder")
    for dataset in ("mvtec", "cifar10", "fashion-mnist"):
        words = ("--dataset", dataset, "--data-root", tmp_path / "nowhere")
        assert "nowhere" in safe("run", "--detectors", "fake", *words)


def test_an_empty_data_root_and_one_that_is_a_file(safe: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("no folder")
    for dataset in ("folder", "mvtec", "cifar10", "fashion-mnist"):
        for root in ("empty", "file"):
            assert root in safe("run", "--detectors", "fake", "--dataset", dataset, "--data-root", tmp_path / root)


@pytest.mark.parametrize(
    ("gone", "named"), [("train/good", "train/good"), ("test/good", "test/good"), ("test/blot", "test/<defect>")]
)
def test_a_category_without_normals_or_without_anomalies(
    safe: Callable[..., str], tmp_path: Path, gone: str, named: str
) -> None:
    data = fakes.write_folder(tmp_path / "data", ("bolt", "nut"), train=3, test=2)
    for picture in (data / "nut" / gone).iterdir():
        picture.unlink()
    sentence = safe(*on(data))
    assert "nut" in sentence and named in sentence


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def thirty_two_bits(path: Path) -> None:
    Image.fromarray(np.zeros((32, 32), dtype=np.float32)).save(path, format="TIFF")


@pytest.mark.parametrize("place", ["train/good", "test/good", "test/blot"])
@pytest.mark.parametrize(
    "spoil",
    [truncated, thirty_two_bits, lambda path: path.write_bytes(b""), lambda path: path.write_text("no picture")],
    ids=["truncated", "32 bits", "empty", "text"],
)
def test_a_picture_that_cannot_be_read(
    safe: Callable[..., str], tmp_path: Path, spoil: Callable[[Path], Any], place: str
) -> None:
    data = fakes.write_folder(tmp_path / "data", train=4, test=2)
    spoil(data / "bolt" / place / "001.png")
    assert "001.png" in safe(*on(data))


def test_a_huge_picture(safe: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = fakes.write_folder(tmp_path / "data", train=4, test=2)
    Image.new("1", (600, 600)).save(data / "bolt/train/good/huge.png")
    monkeypatch.setattr("bench.data.images.MAX_PIXELS", 100_000)
    sentence = safe(*on(data))
    assert "huge.png" in sentence and "pixels" in sentence


def test_pictures_of_ordinary_kinds_just_work(command: Command, tmp_path: Path, register: Register) -> None:
    register(fakes.Fake)
    data = fakes.write_folder(tmp_path / "data", train=6, test=2)
    grey = np.arange(32 * 32).reshape(32, 32)
    place = data / "bolt/train/good"
    Image.fromarray((grey * 60).astype(np.uint16)).save(place / "16-bit.png")
    Image.fromarray((grey % 256).astype(np.uint8)).save(place / "grey.png")
    Image.fromarray((grey % 256).astype(np.uint8)).convert("P").save(place / "palette.png")
    Image.new("RGBA", (40, 20), (10, 20, 30, 40)).save(place / "rgba.png")
    Image.new("LA", (20, 40), (10, 20)).save(place / "grey-alpha.png")
    Image.new("CMYK", (40, 20)).save(place / "cmyk.jpg")
    Image.new("1", (40, 20)).save(place / "one-bit.bmp")
    Image.new("RGB", (3000, 2000)).save(place / "large.webp")
    said = command(*on(data, "--steps", 1, "--out", tmp_path / "o", "--cache", tmp_path / "c"))
    assert (said.code, said.err) == (0, "")


def test_a_damaged_category_does_not_cost_the_other_one(command: Command, tmp_path: Path, register: Register) -> None:
    register(fakes.Fake)
    data = fakes.write_folder(tmp_path / "data", ("bolt", "nut"), train=4, test=2)
    truncated(data / "bolt/test/good/001.png")
    said = command(*on(data, "--steps", 1, "--out", tmp_path / "o", "--cache", tmp_path / "c"))
    assert said.code == 2 and "001.png" in said.err and len(said.err.strip().splitlines()) == 1
    assert [(r.category, r.ok) for r in store.read_all(tmp_path / "o" / "records")[0]] == [("nut", True)]
