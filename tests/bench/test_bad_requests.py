"""Requests that cannot be met: one sentence and exit code 2, for every cell of the plan, before any fit starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import pytest
from bench_fakes import on

Command = Callable[..., Any]
Register = Callable[..., None]

pytestmark = pytest.mark.usefixtures("no_plots")


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
        ("--epsilon", "2"),
        ("--epsilon", "8,2/255"),
        ("--epsilon", "255"),
        ("--attack", "all", "--epsilon", "2"),
        ("--attack", "pgd-l2", "--epsilon", "500"),
        ("--step-size", "2"),
    ],
)
def test_an_epsilon_that_looks_like_a_0_to_255_value(
    safe: Callable[..., str], folder: Path, words: tuple[str, ...]
) -> None:
    sentence = safe(*on(folder, *words))
    assert "255" in sentence and "[0, 1]" in sentence


@pytest.mark.parametrize(
    "words",
    [
        ("--epsilon", "abc"),
        ("--epsilon", "-1"),
        ("--epsilon", "-1/255"),
        ("--epsilon", "1/0"),
        ("--epsilon", "1/255", "--sweep"),
        ("--epsilon", "nan"),
        ("--step-size", "0"),
        ("--steps", "0"),
        ("--steps", "many"),
        ("--limit", "0"),
        ("--batch-size", "0"),
        ("--image-size", "1"),
        ("--image-size", "1000000"),
        ("--device", "cuda:77"),
        ("--device", "gpu"),
        ("--set", "knob=1"),
        ("--set", "fake.knob=1.5"),
        ("--detectors", ","),
        ("--attack", ""),
        ("--no-such-option",),
    ],
)
def test_a_number_or_option_that_makes_no_sense(safe: Callable[..., str], folder: Path, words: tuple[str, ...]) -> None:
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


# -- what a detector cannot take ---------------------------------------------------------------------------------------


@pytest.fixture
def unfitted(safe: Callable[..., str]) -> Callable[..., str]:
    """As `safe`; and no detector was fitted, not even those that could be."""

    def call(*words: object) -> str:
        fits = fakes.Fake.fits
        sentence = safe(*words, "--fit-seed", 5)
        assert fakes.Fake.fits == fits
        return sentence

    return call


def test_too_few_images_for_some_detectors(
    unfitted: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fakes.Fake, "min_normals", 7)
    data = fakes.write_folder(tmp_path / "data", ("bolt", "nut"), train=3, test=2)
    sentence = unfitted(*on(data, names="brightness,fake,spade"))
    assert "3 normal images of bolt" in sentence and "fake needs 7, spade needs 5" in sentence
    assert "brightness" not in sentence and "leave them out" in sentence


def test_a_bank_needs_as_many_images_as_its_settings_ask_for(unfitted: Callable[..., str], folder: Path) -> None:
    # 12 training images: a tenth is kept from the fit.
    sentence = unfitted(*on(folder, "--set", "spade.neighbours@nut=12", names="fake,spade"))
    assert "11 normal images of nut" in sentence and "1 more are kept" in sentence and "spade needs 12" in sentence
    assert "raise --limit 4" in unfitted(*on(folder, "--limit", 4, names="fake,spade"))


def test_a_setting_that_is_to_be_chosen_on_too_few_images(unfitted: Callable[..., str], folder: Path) -> None:
    assert "--set freerad.k=100" in unfitted(*on(folder, names="fake,freerad"))


@pytest.mark.parametrize(("side", "name"), [(33, "ae"), (35, "freerad")])
def test_an_image_size_that_a_method_cannot_take(
    unfitted: Callable[..., str], folder: Path, side: int, name: str
) -> None:
    words = ("--image-size", side, "--set", "freerad.k=50", "--set", f"freerad.work_size={side}")
    sentence = unfitted(*on(folder, *words[: 2 if name == "ae" else None], names=f"fake,{name}"))
    assert name in sentence and str(side) in sentence


def test_a_backbone_without_the_layers_asked_for(unfitted: Callable[..., str], folder: Path) -> None:
    words = ("--set", "spade.pixel_map=true", "--set", "spade.backbone=resnet18", "--set", "spade.weights=random")
    sentence = unfitted(*on(folder, *words, names="fake,spade"))
    assert "resnet18 has no layer 'blocks.1'; did you mean" in sentence
    assert "did you mean 'resnet18'" in unfitted(*on(folder, "--set", "spade.backbone=resnet81", names="fake,spade"))


def test_no_weights_and_no_network(
    safe: Callable[..., str], folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RADBENCH_WEIGHTS_DIR", raising=False)
    monkeypatch.setattr("detectors.parts.weights._from_lite0_package", lambda reference: None)
    monkeypatch.setattr("detectors.parts.weights._hub_file", lambda name, local_only: None)
    sentence = safe(*on(folder, names="fake,spade"))
    assert "tf_efficientnet_lite0" in sentence and "RADBENCH_WEIGHTS_DIR" in sentence
    monkeypatch.setenv("RADBENCH_WEIGHTS_DIR", str(tmp_path / "nowhere"))
    assert "RADBENCH_WEIGHTS_DIR" in safe(*on(folder, names="spade"))
