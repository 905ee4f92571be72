"""Looking at the data: each kind of finding on a folder that was spoilt in one way, and silence on a clean one; what a
run then says, refuses and writes down."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import numpy as np
import pytest
import torch
from bench_fakes import on
from fake_records import make_record, with_auc
from PIL import Image

from bench.cell import pictures
from bench.data import registry as datasets
from bench.data.base import NORMAL, Dataset
from bench.data.reading import Reading
from bench.errors import DataError
from bench.inspection import inspection
from bench.inspection.inspection import Inspection
from bench.plan import plan
from bench.records import store
from bench.records.record import Record
from bench.report import caveats, leaderboard
from bench.run import runner

Command = Callable[..., Any]
Register = Callable[..., None]


def look(root: Path, reading: Reading | None = None, dataset: str = "folder") -> Inspection:
    source: Dataset = datasets.get(dataset, root, reading)
    (name,) = source.categories()
    return inspection.inspect(source, name, [source.train(name, fakes.SIDE)], source.test(name, fakes.SIDE))


def kinds(found: Inspection) -> list[str]:
    return [finding.kind for finding in found.findings]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return fakes.write_folder(tmp_path / "data", train=30, test=20)


def each(data: Path, place: str, change: Callable[[Path, np.ndarray], None]) -> None:
    """Change each picture below bolt/`place`."""
    for path in sorted((data / "bolt" / place).rglob("*.png")):
        with Image.open(path) as picture:
            pixels = np.asarray(picture)
        change(path, pixels)


def test_of_a_clean_folder_nothing_is_said(data: Path) -> None:
    found = look(data)
    assert found.line == "bolt: 30 training normals, 20 + 20 test pictures; nothing odd"
    assert (found.findings, found.remarks, found.refusals) == ((), [], [])


def test_training_pictures_in_the_test_set_are_refused_as_files_and_as_pixels(data: Path) -> None:
    folder = data / "bolt"
    shutil.copy(folder / "train/good/003.png", folder / "test/good/900.png")
    with Image.open(folder / "train/good/007.png") as picture:
        picture.save(folder / "test/good/901.bmp")
    found = look(data)
    assert kinds(found) == ["leak"]
    (sentence,) = found.refusals
    assert sentence.startswith(
        "2 test pictures are training pictures (such as test/good/900.png and train/good/003.png): take them out"
    )
    assert "--allow-leaks" in sentence
    with pytest.raises(DataError, match="bolt: 2 test pictures are training pictures"):
        found.check()


def test_a_picture_in_both_classes_is_refused_and_one_that_is_there_twice_is_not(data: Path) -> None:
    folder = data / "bolt"
    shutil.copy(folder / "test/good/001.png", folder / "test/good/801.png")
    found = look(data)
    assert kinds(found) == ["duplicates"] and found.refusals == []
    assert found.remarks[0].startswith("1 test picture there twice (test/good/801.png and test/good/001.png)")
    shutil.copy(folder / "test/good/001.png", folder / "test/blot/801.png")
    found = look(data)
    assert kinds(found) == ["leak", "duplicates"]
    assert "(test/blot/801.png and test/good/001.png)" in found.refusals[0]


def test_a_near_duplicate_is_a_remark(data: Path) -> None:
    with Image.open(data / "bolt/train/good/005.png") as picture:
        picture.save(data / "bolt/test/good/900.jpg", quality=90)
    found = look(data)
    assert "near-duplicates" in kinds(found) and found.refusals == []
    assert "test/good/900.jpg and train/good/005.png" in " ".join(found.remarks)


def test_a_published_split_is_never_refused(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(data / "bolt/train/good/003.png", data / "bolt/test/good/900.png")
    monkeypatch.setattr(datasets.find("folder"), "is_mendable", False)
    found = look(data)
    assert kinds(found) == ["leak"] and found.refusals == []
    assert "--allow-leaks" not in found.remarks[0]


def test_a_group_in_train_and_test_is_refused(data: Path) -> None:
    found = look(data, Reading(group_pattern=r"/(0\d)\d\.png"))
    assert found.findings[0].kind == "leak"
    assert found.refusals[0].startswith("2 groups in train and test (such as 00), with 40 of 40 test pictures")


def test_groups_that_match_no_pairs_are_a_remark(data: Path) -> None:
    found = look(data, Reading(group_pattern=r"test/(\w+)"))
    assert kinds(found) == ["groups", "groups"]
    assert "not matched by group" in found.remarks[0] and found.remarks[0].startswith("Only 0 normal test pictures")
    assert found.remarks[1].startswith("30 pictures of 70 (such as train/good/000.png) have no group")


def test_matched_groups_are_told(data: Path) -> None:
    assert "20 + 20 test pictures, matched by 20 groups" in look(data, Reading(group_pattern=r"test/\w+/(\d+)")).head


def brighter(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray((pixels.astype(int) + 90).clip(0, 255).astype(np.uint8)).save(path)


def darker(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray((pixels.astype(int) - 80).clip(0, 255).astype(np.uint8)).save(path)


def later(path: Path, pixels: np.ndarray) -> None:
    path.rename(path.with_name(f"{int(path.stem) + 500}.png"))


def larger(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).resize((48, 48)).save(path)


def as_bmp(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(path.with_suffix(".bmp"))
    path.unlink()


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (brighter, {"brightness"}),
        (darker, {"brightness"}),
        (later, {"file order"}),
        (larger, {"picture size", "file size"}),
        (as_bmp, {"file kind", "file size"}),
    ],
)
def test_what_separates_the_classes_without_a_look_is_said(
    data: Path, change: Callable[..., None], names: set[str]
) -> None:
    each(data, "test/blot", change)
    found = look(data)
    assert {finding.brief.split(" alone")[0] for finding in found.findings} == names
    assert {name for name, value in found.separability.items() if value > 90} == names
    assert found.refusals == []
    assert "LOOK: " in found.line and "alone separates the classes (AUC 100)" in found.line


def test_a_handful_of_pictures_separates_by_luck_and_is_not_accused(tmp_path: Path) -> None:
    data = fakes.write_folder(tmp_path, train=10, test=2)
    each(data, "test/blot", brighter)
    assert look(data).findings == ()


def to_16_bits(bits: int) -> Callable[[Path, np.ndarray], None]:
    def change(path: Path, pixels: np.ndarray) -> None:
        Image.fromarray((pixels[:, :, 0].astype(np.uint16) << (bits - 8)) + 3).save(path)

    return change


def test_twelve_bits_in_sixteen_are_said_first_and_read_with_a_depth(data: Path) -> None:
    before = datasets.get("folder", data).test("bolt", fakes.SIDE)
    each(data, "", to_16_bits(12))
    shutil.copy(data / "bolt/test/good/001.png", data / "bolt/test/good/801.png")
    found = look(data)
    assert kinds(found)[:1] == ["bit depth"]
    assert "71 16-bit pictures use values up to" in found.remarks[0] and "--bit-depth 12" in found.remarks[0]
    told = Reading(bit_depth=12)
    assert kinds(look(data, told)) == ["duplicates"]
    (data / "bolt/test/good/801.png").unlink()
    after = datasets.get("folder", data, told).test("bolt", fakes.SIDE)
    assert (after.images.int() - before.images.int()).abs().max() <= 1


def test_a_depth_scales_values_exactly(tmp_path: Path) -> None:
    from bench.data.images import read_image

    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(values).save(tmp_path / "ramp.png")
    read = np.asarray(read_image(tmp_path / "ramp.png", bits=12))[:, :, 0]
    assert (read == np.floor(values / 4095 * 255 + 0.5)).all()
    with pytest.raises(DataError, match=r"holds the value 4095, more than the 1023 of --bit-depth 10"):
        read_image(tmp_path / "ramp.png", bits=10)


def test_sixteen_full_bits_are_fine_and_a_depth_without_such_pictures_is_not(data: Path) -> None:
    assert look(data, Reading(bit_depth=12)).remarks == ["--bit-depth 12 changed nothing: no picture has 16 bits."]
    each(data, "", to_16_bits(16))
    assert look(data).findings == ()


def mask_each(data: Path, mask: np.ndarray) -> None:
    (data / "bolt/ground_truth/blot").mkdir(parents=True)
    for path in (data / "bolt/test/blot").iterdir():
        Image.fromarray(mask).save(data / "bolt/ground_truth/blot" / path.name)


def test_masks_that_mark_nothing_or_nearly_all(data: Path) -> None:
    mask = np.zeros((32, 32), np.uint8)
    mask[3, 4] = 1
    mask_each(data, mask)
    assert look(data).findings == ()
    Image.fromarray(mask * 0).save(data / "bolt/ground_truth/blot/004.png")
    assert look(data).remarks[0].startswith("1 of 20 masks mark nothing, being all black (test/blot/004.png)")
    shutil.rmtree(data / "bolt/ground_truth")
    mask_each(data, 255 - mask * 255)
    assert look(data).remarks[0].startswith("All 20 masks mark more than half of their picture")


def test_masks_of_another_size_are_said_where_only_some_are_there(data: Path) -> None:
    (data / "bolt/ground_truth/blot").mkdir(parents=True)
    Image.new("L", (16, 32), 255).save(data / "bolt/ground_truth/blot/000.png")
    assert look(data).remarks == ["1 mask of another size (test/blot/000.png): masks need the size of their picture."]


def test_strangers_file_names_cannot_break_a_line(data: Path) -> None:
    (data / "bolt/test/good/x\x1b[31m\n.gif").write_bytes(b"x")
    found = look(data)
    assert not any(ord(c) < 32 for text in [found.line, *found.remarks] for c in text)


# What a run makes of it.


@pytest.fixture
def leaky(data: Path) -> Path:
    shutil.copy(data / "bolt/train/good/003.png", data / "bolt/test/good/900.png")
    return data


@pytest.mark.usefixtures("no_plots")
def test_a_run_says_one_line_and_nothing_when_all_is_reused(
    command: Command, tmp_path: Path, data: Path, register: Register
) -> None:
    register(fakes.Fake)
    words = on(data, "--steps", 1, "--out", tmp_path / "o", "--cache", tmp_path / "c")
    said = command(*words)
    assert said.code == 0
    assert (
        " ".join(said.out.split()).count("bolt: 30 training normals (3 held out), 20 + 20 test pictures; nothing") == 1
    )
    assert "held out" not in command(*words).out


@pytest.mark.usefixtures("no_plots")
def test_a_run_refuses_leaks_unless_they_are_allowed_and_then_marks_them(
    command: Command, tmp_path: Path, leaky: Path, register: Register
) -> None:
    register(fakes.Fake)
    words = on(leaky, "--steps", 20, "--out", tmp_path / "o", "--cache", tmp_path / "c", "--image-size", 64)
    said = command(*words)
    assert said.code == 2 and "1 test picture is a training picture" in said.err and "--allow-leaks" in said.err
    assert store.read_all(tmp_path / "o/records")[0] == []
    assert command(*words, "--allow-leaks").code == 0
    ((record,), _) = store.read_all(tmp_path / "o/records")
    assert not record.full_run and any(limit.startswith("--allow-leaks: 1 test picture is") for limit in record.limits)
    assert record.remarks[0].startswith("1 test picture is a training picture")
    said = command(*words)
    assert said.code == 2, "a run without the option does not take that record over"
    assert command(*words, "--allow-leaks").out.count("already there") == 1


@pytest.mark.usefixtures("no_plots")
def test_allowing_leaks_where_there_are_none_changes_no_record(tmp_path: Path, data: Path, register: Register) -> None:
    register(fakes.Fake)
    fakes.run(fakes.config(tmp_path, data, "fake", allow_leaks=True))
    before = fakes.documents(tmp_path / "out")
    assert fakes.run(fakes.config(tmp_path, data, "fake")).reused == 1
    assert fakes.documents(tmp_path / "out") == before


def test_processes_send_what_they_saw_once(tmp_path: Path, data: Path) -> None:
    each(data, "test/blot", brighter)
    torch.set_num_threads(1)
    made = plan.make(fakes.config(tmp_path, data, "ae", "brightness"))
    shared, alone = fakes.Quiet(), fakes.Quiet()
    result = runner.run_plan(made, shared, workers=2)
    runner.run_plan(plan.make(dataclasses.replace(made.run, out=tmp_path / "alone")), alone)
    assert shared.seen == alone.seen and len(shared.seen) == 1
    (remark,) = {text for record in result.records for text in record.remarks}
    assert remark.startswith("Mean brightness alone separates")


def test_a_subset_that_was_matched_says_so(tmp_path: Path, data: Path) -> None:
    matched = fakes.config(tmp_path, data, "brightness", group_pattern=r"test/\w+/(\d+)")
    assert pictures.Category(plan.make(matched), "bolt").subset.matched == "group"
    plain = fakes.config(tmp_path, data, "brightness")
    assert "matched" not in pictures.Category(plan.make(plain), "bolt").subset.to_document()


def test_remarks_stand_under_a_leaderboard_once() -> None:
    remarked = [
        dataclasses.replace(make_record(detector=name), remarks=["Look here.", "And there."]) for name in ("ae", "cfa")
    ]
    (board,) = leaderboard.build(remarked)
    assert [note for note in board.notes() if note.startswith("mono: ")] == ["mono: And there.", "mono: Look here."]


def test_remarks_are_no_part_of_the_key_and_stay_with_the_record() -> None:
    record = make_record()
    remarked = dataclasses.replace(record, remarks=["Look here."])
    assert remarked.key == record.key
    assert Record.from_json(remarked.to_json()).remarks == ["Look here."]


def test_a_clean_auc_below_chance_is_said() -> None:
    record = make_record()
    assert not any("below 50" in flag for flag in caveats.failure_flags(with_auc(record, clean=45.0, robust=10.0)))
    flags = caveats.failure_flags(with_auc(record, clean=5.0, robust=1.0))
    assert "the clean AUC lies below 50: is higher more anomalous?" in flags


# bench inspect


def test_inspect_reports_a_clean_folder_at_80_columns(command: Command, data: Path) -> None:
    said = command("inspect", "--dataset", "folder", "--data-root", data, "--image-size", fakes.SIDE)
    assert (said.code, said.err) == (0, "")
    assert "Nothing odd." in said.out and "blot 20" in said.out
    assert max(map(len, said.out.splitlines())) <= 80


def test_inspect_exits_with_2_where_a_run_would_refuse(command: Command, leaky: Path) -> None:
    words = ("inspect", "--dataset", "folder", "--data-root", leaky, "--image-size", fakes.SIDE)
    said = command(*words)
    assert said.code == 2 and "REFUSED leak: 1 test picture is a training picture" in said.out
    (leaky / "bolt/test/good/900.png").write_bytes(b"no picture")
    said = command(*words)
    assert said.code == 2 and "a run would stop here" in said.out and "900.png" in " ".join(said.out.split())


def test_inspect_and_run_look_at_the_same_pixels(tmp_path: Path, data: Path) -> None:
    category = pictures.Category(plan.make(fakes.config(tmp_path, data, "brightness")), "bolt")
    assert category.inspection.separability == look(data).separability
    assert int((category.test.labels == NORMAL).sum()) == 20
