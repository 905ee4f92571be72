"""Bad input: one sentence that says what is wrong and what to do, exit code 2, no traceback, and nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import numpy as np
import pytest
import torch
from PIL import Image

import detectors
from bench import records
from detectors import checkpoint

Command = Callable[..., Any]
Register = Callable[..., None]

pytestmark = pytest.mark.usefixtures("no_plots")


@pytest.fixture
def safe(command: Command, tmp_path: Path, folder: Path, register: Register) -> Callable[..., str]:
    """Runs a command that must fail, among results that must survive it. Returns its sentence."""
    register(fakes.Fake)
    keep = ("--out", tmp_path / "out", "--cache", tmp_path / "cache")
    good = ("run", "--dataset", "folder", "--data-root", folder, "--image-size", 32, "--detectors", "fake", *keep)
    assert command(*good, "--steps", 2, "--categories", "bolt").code == 0

    def call(*words: object, keeps: bool = True) -> str:
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        said = command(*words, *(keep if keeps else ()))
        after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        assert said.code == 2
        assert after == before
        lines = said.err.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("Error: "), said.err
        assert "Traceback" not in said.err + said.out
        assert lines[0].endswith((".", "?", ")")) and len(lines[0]) > 40
        return lines[0]

    return call


def on(root: Path, *more: object, names: str = "fake") -> tuple[object, ...]:
    return ("run", "--detectors", names, "--dataset", "folder", "--data-root", root, "--image-size", 32, *more)


# -- data -------------------------------------------------------------------------------------------------------------


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
    assert [(r.category, r.ok) for r in records.read_all(tmp_path / "o" / "records")[0]] == [("nut", True)]


# -- names and numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (("--detectors", "brightnes"), "brightness"),
        (("--attack", "pgd-lin"), "pgd-linf"),
        (("--attack", "pgd-lin", "--epsilon", "2/255"), "pgd-linf"),
        (("--categories", "bolts"), "bolt"),
        (("--categories", "bolt,nutt"), "nut"),
        (("--preset", "qick"), "quick"),
        (("--protocol", "papr"), "paper"),
        (("--set", "fakes.knob=1"), "fake"),
        (("--set", "fake.knop=1"), "knob"),
        (("--set", "fake.knob@bold=1"), "bolt"),
    ],
)
def test_an_unknown_name_comes_with_the_nearest_one(
    safe: Callable[..., str], folder: Path, words: tuple[str, ...], near: str
) -> None:
    assert f"did you mean {near!r}" in safe(*on(folder, *words))


def test_an_unknown_dataset_table_checkpoint_or_list(safe: Callable[..., str], folder: Path, tmp_path: Path) -> None:
    assert "did you mean 'folder'" in safe("run", "--dataset", "foldr")
    assert "did you mean 'table2'" in safe("reproduce", "tabel2", keeps=False)
    picture = folder / "bolt/test/good/000.png"
    assert "shipped checkpoint" in safe("score", picture, "--checkpoint", "freerad-elpv-momo-quick", keeps=False)
    assert "detectors, attacks, datasets or presets" in safe("list", "colours", keeps=False)


@pytest.mark.parametrize(
    "words",
    [
        ("--epsilon", "2"), ("--epsilon", "8,2/255"), ("--epsilon", "255"), ("--attack", "all", "--epsilon", "2"),
        ("--attack", "pgd-l2", "--epsilon", "500"), ("--step-size", "2"),
    ],
)  # fmt: skip
def test_an_epsilon_that_looks_like_a_0_to_255_value(
    safe: Callable[..., str], folder: Path, words: tuple[str, ...]
) -> None:
    sentence = safe(*on(folder, *words))
    assert "255" in sentence and "[0, 1]" in sentence


@pytest.mark.parametrize(
    "words",
    [
        ("--epsilon", "abc"), ("--epsilon", "-1"), ("--epsilon", "0"), ("--epsilon", "1/0"), ("--epsilon", "nan"),
        ("--step-size", "0"), ("--steps", "0"), ("--steps", "many"), ("--limit", "0"), ("--batch-size", "0"),
        ("--image-size", "1"), ("--image-size", "1000000"), ("--device", "cuda:77"), ("--device", "gpu"),
        ("--set", "knob=1"), ("--set", "fake.knob=1.5"), ("--detectors", ","), ("--attack", ""), ("--no-such-option",),
    ],
)  # fmt: skip
def test_a_number_or_option_that_makes_no_sense(
    safe: Callable[..., str], folder: Path, words: tuple[str, ...]
) -> None:
    safe(*on(folder, *words))


def test_folders_that_cannot_be_written_are_found_before_any_fit(
    safe: Callable[..., str], folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    fits = fakes.Fake.fits
    for words in (("--out", tmp_path / "file"), ("--cache", tmp_path / "file" / "deeper")):
        other = ("--cache", tmp_path / "cache") if words[0] == "--out" else ("--out", tmp_path / "out")
        assert "file" in safe(*on(folder, "--seed", 5, *words, *other), keeps=False)
    assert fakes.Fake.fits == fits


# -- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.fixture
def fitted_ae(tmp_path: Path) -> Path:
    ae = detectors.create("ae", image_size=32, epochs=1).fit(torch.rand(8, 3, 32, 32), seed=0)
    return ae.save(tmp_path / "ae.safetensors")


def described(path: Path, **changes: Any) -> None:
    where = checkpoint.description_path(path)
    where.write_text(json.dumps(json.loads(where.read_text()) | changes))


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def with_setting(path: Path, **changes: Any) -> None:
    settings = checkpoint.read_description(path)["settings"]
    described(path, settings=settings | changes)


@pytest.mark.parametrize(
    "tamper",
    [
        flipped,
        lambda path: path.unlink(),
        lambda path: checkpoint.description_path(path).unlink(),
        lambda path: checkpoint.description_path(path).write_text("{"),
        lambda path: with_setting(path, channels=16),  # another architecture
        lambda path: with_setting(path, levels="three"),
        lambda path: with_setting(path, channels=-1),
        lambda path: with_setting(path, colour=1),
        lambda path: described(path, detector="brightness"),
        lambda path: described(path, detector="nothing"),
        lambda path: described(path, image_size="all"),
        lambda path: described(path, revision=99),
    ],
)
def test_a_checkpoint_that_was_tampered_with_or_is_of_another_architecture(
    safe: Callable[..., str], folder: Path, fitted_ae: Path, tamper: Callable[[Path], Any], command: Command
) -> None:
    picture = folder / "bolt/test/good/000.png"
    assert command("score", picture, "--checkpoint", fitted_ae).code == 0
    tamper(fitted_ae)
    safe("score", picture, "--checkpoint", fitted_ae, keeps=False)


def test_a_picture_to_score_that_cannot_be_read(
    safe: Callable[..., str], folder: Path, tmp_path: Path, fitted_ae: Path
) -> None:
    (tmp_path / "text.png").write_text("no picture")
    good = folder / "bolt/test/good/000.png"
    for path in (tmp_path / "text.png", tmp_path / "nowhere.png", tmp_path):
        sentence = safe("score", good, path, "--checkpoint", fitted_ae, keeps=False)
        assert str(path) in sentence
    assert "--draws" in safe("score", good, "--checkpoint", fitted_ae, "--draws", 0, keeps=False)


def test_a_picture_is_looked_at_before_a_detector_is_fitted(
    safe: Callable[..., str], folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("no picture")
    fits = fakes.Fake.fits
    words = ("--detector", "fake", "--dataset", "folder", "--data-root", folder, "--category", "nut")
    safe("score", tmp_path / "text.png", *words, "--cache", tmp_path / "cache", keeps=False)
    assert fakes.Fake.fits == fits


def test_no_weights_and_no_network(
    safe: Callable[..., str], folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RADBENCH_WEIGHTS_DIR", raising=False)
    monkeypatch.setattr("detectors._weights._from_lite0_package", lambda reference: None)
    monkeypatch.setattr("detectors._weights._hub_file", lambda name, local_only: None)
    sentence = safe(*on(folder, names="fake,spade"))
    assert "tf_efficientnet_lite0" in sentence and "RADBENCH_WEIGHTS_DIR" in sentence
    monkeypatch.setenv("RADBENCH_WEIGHTS_DIR", str(tmp_path / "nowhere"))
    assert "RADBENCH_WEIGHTS_DIR" in safe(*on(folder, names="spade"))


# -- while it runs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [28, 122, 30, 5], ids=["full", "quota", "read-only", "broken"])
def test_a_disk_that_refuses(
    command: Command, folder: Path, tmp_path: Path, register: Register, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    register(fakes.Fake)
    words = on(folder, "--steps", 1, "--out", tmp_path / "out", "--cache", tmp_path / "cache")
    assert command(*words, "--categories", "bolt").code == 0
    before = fakes.documents(tmp_path / "out")

    def refuse(descriptor: int) -> None:
        raise OSError(number, "It does not want to")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", refuse)
        for command_line in (words, ("fit", *words[1:7], "--fit-seed", 3, "--cache", tmp_path / "cache")):
            said = command(*command_line)
            assert said.code == 2 and "same command again" in said.err and "Traceback" not in said.err
            assert len(said.err.strip().splitlines()) == 1
    assert fakes.documents(tmp_path / "out") == before
    assert not list(tmp_path.rglob("*.tmp"))
    assert command(*words).code == 0
    assert len(fakes.documents(tmp_path / "out")) == 2


def test_scores_that_are_no_numbers_fail_their_cell_and_the_run_goes_on(
    command: Command, folder: Path, tmp_path: Path, register: Register
) -> None:
    register(fakes.NotANumber, fakes.Broken, fakes.Fake)
    names = "not-a-number,broken,fake"
    said = command(*on(folder, "--out", tmp_path / "o", "--cache", tmp_path / "c", "--steps", 1, names=names))
    assert said.code == 2 and "Traceback" not in said.out + said.err
    flat = " ".join(said.out.split())
    assert "not finite numbers" in flat and "ZeroDivisionError" in flat
    found = {(r.detector_name, r.category): r.ok for r in records.read_all(tmp_path / "o" / "records")[0]}
    assert sum(found.values()) == 2 and len(found) == 6 and found["fake", "nut"]


def test_too_few_images_fail_the_detectors_that_need_more(
    command: Command, tmp_path: Path, register: Register
) -> None:
    register(fakes.Fake)
    data = fakes.write_folder(tmp_path / "data", train=3, test=2)
    fakes.Fake.min_normals, minimum = 5, fakes.Fake.min_normals
    try:
        said = command(
            *on(data, "--steps", 1, "--out", tmp_path / "o", "--cache", tmp_path / "c", names="brightness,fake,spade")
        )
    finally:
        fakes.Fake.min_normals = minimum
    assert said.code == 2
    reasons = {r.detector_name: r.reason for r in records.read_all(tmp_path / "o" / "records")[0]}
    assert reasons["brightness"] == "" and "at least 5" in reasons["fake"] and "neighbours" in reasons["spade"]


def test_a_setting_that_is_to_be_chosen_on_too_few_images_fails_its_cell(
    command: Command, tmp_path: Path, register: Register
) -> None:
    register(fakes.Fake)
    data = fakes.write_folder(tmp_path / "data", train=12, test=2)
    small = ("--set", "freerad.work_size=16", "--set", "freerad.unet.channels=8", "--set", "freerad.map_images=1")
    words = ("--steps", 1, *small, "--set", "freerad.training.iterations=1", "--set", "freerad.training.batch_size=1")
    said = command(*on(data, *words, "--out", tmp_path / "o", "--cache", tmp_path / "c", names="freerad,fake"))
    assert said.code == 2
    reasons = {r.detector_name: r.reason for r in records.read_all(tmp_path / "o" / "records")[0]}
    assert reasons["fake"] == "" and "--set freerad.k=100" in reasons["freerad"]
