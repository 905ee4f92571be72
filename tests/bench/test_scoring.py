"""`bench score`: a fitted detector on a user's own pictures."""

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
from bench.data.images import read_rgb_tensor

Command = Callable[..., Any]
Register = Callable[..., None]


def pictures(folder: Path) -> list[Path]:
    return [folder / "bolt/test/good/000.png", folder / "bolt/test/blot/000.png", folder / "nut/test/good/001.png"]


@pytest.fixture
def on_data(tmp_path: Path) -> tuple[Path, tuple[object, ...]]:
    """Enough normals for a threshold, and the words that name them."""
    data = fakes.write_folder(tmp_path / "many", train=100)
    words = ("--dataset", "folder", "--data-root", data, "--category", "bolt", "--image-size", 32)
    return data, (*words, "--cache", tmp_path / "cache", "--device", "cpu")


def test_scores_are_those_of_the_detector_on_the_prepared_picture(
    command: Command, folder: Path, tmp_path: Path
) -> None:
    ae = detectors.create("ae", image_size=32, epochs=2).fit(torch.rand(8, 3, 32, 32), seed=0)
    path = ae.save(tmp_path / "ae.safetensors")
    said = command("score", *pictures(folder), "--checkpoint", path, "--json")
    found = json.loads(said.out)
    images = torch.stack([read_rgb_tensor(p, 32) for p in pictures(folder)]).float() / 255
    np.testing.assert_allclose([p["score"] for p in found["pictures"]], ae.score(images).numpy(), rtol=1e-6)
    assert [p["picture"] for p in found["pictures"]] == [str(p) for p in pictures(folder)]
    assert [p["spread"] for p in found["pictures"]] == [0, 0, 0]
    assert found["detector"] == "ae" and found["threshold"] is None and "anomalous" not in found["pictures"][0]


def test_json_is_nothing_but_json_even_where_the_detector_is_fitted_first(
    command: Command, on_data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.cli.progress.QUIET_SECONDS", 0.0)  # the fit would chatter at every step
    data, words = on_data
    said = command("score", *pictures(data)[:2], "--detector", "ae", "--json", *words)
    assert said.code == 0
    assert {"detector", "threshold", "pictures"} == json.loads(said.out).keys()
    assert "fitting ae on bolt" in said.err


def test_a_picture_above_the_threshold_of_the_held_out_normals_is_called_anomalous(
    command: Command, on_data: Any, tmp_path: Path
) -> None:
    data, words = on_data
    Image.new("RGB", (50, 40), (255, 255, 255)).save(tmp_path / "white.png")
    files = (data / "bolt/test/good/000.png", tmp_path / "white.png")
    said = command("score", *files, "--detector", "brightness", "--json", *words)
    found = json.loads(said.out)
    assert [p["anomalous"] for p in found["pictures"]] == [p["score"] > found["threshold"] for p in found["pictures"]]
    assert found["pictures"][1]["anomalous"]
    table = command("score", *files, "--detector", "brightness", *words)
    assert "ANOMALOUS" in table.out and "10 held-out normal" in " ".join(table.out.split())
    assert "cached checkpoint" in " ".join(table.out.split())
    assert all(len(line) <= 80 for line in table.out.splitlines())


def test_a_random_detector_is_scored_on_fresh_noise_and_its_spread_shown(
    command: Command, folder: Path, register: Register, tmp_path: Path
) -> None:
    register(fakes.Noisy)
    noisy = fakes.Noisy(fakes.FakeSettings(), 32).fit(torch.rand(4, 3, 32, 32), seed=0)
    path = noisy.save(tmp_path / "noisy.safetensors")
    words = ("score", *pictures(folder), "--checkpoint", path, "--json", "--draws", 20)
    first, second = (json.loads(command(*words).out)["pictures"] for _ in range(2))
    assert all(0.005 < p["spread"] < 0.05 for p in first)
    assert [p["score"] for p in first] != [p["score"] for p in second]


def test_a_score_that_is_no_number_is_an_error_and_no_json(
    command: Command, folder: Path, register: Register, tmp_path: Path
) -> None:
    register(fakes.NotANumber)
    odd = fakes.NotANumber(fakes.FakeSettings(), 32).fit(torch.rand(4, 3, 32, 32), seed=0)
    said = command("score", *pictures(folder), "--checkpoint", odd.save(tmp_path / "nan.safetensors"), "--json")
    assert (said.code, said.out) == (2, "") and "no finite number" in said.err
    assert str(pictures(folder)[0]) in said.err and str(pictures(folder)[1]) not in said.err


def test_a_picture_may_have_any_name(command: Command, folder: Path, tmp_path: Path) -> None:
    ae = detectors.create("ae", image_size=32, epochs=1).fit(torch.rand(8, 3, 32, 32), seed=0)
    path = ae.save(tmp_path / "ae.safetensors")
    hostile = tmp_path / "[red]a\x1b[2J\nb\udcff.png"
    hostile.write_bytes(pictures(folder)[0].read_bytes())
    table = command("score", hostile, "--checkpoint", path)
    assert table.code == 0 and "\x1b" not in table.out and "[red]" in table.out
    assert json.loads(command("score", hostile, "--checkpoint", path, "--json").out)["pictures"][0]["score"] > 0


def test_the_image_size_of_a_fit_can_be_asked_for(command: Command, on_data: Any) -> None:
    data, words = on_data
    small = [24 if word == 32 else word for word in words]
    for chosen in (words, small):
        assert command("score", pictures(data)[0], "--detector", "brightness", *chosen).code == 0
    assert len(list((data.parent / "cache").rglob("*.safetensors"))) == 2


def test_a_cache_that_cannot_be_written_is_a_sentence(command: Command, folder: Path, tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    words = ("--dataset", "folder", "--data-root", folder, "--category", "bolt", "--detector", "brightness")
    said = command("score", pictures(folder)[0], *words, "--image-size", 32, "--cache", in_the_way / "cache")
    assert said.code == 2 and "Traceback" not in said.err and str(in_the_way) in "".join(said.err.split("\n"))
