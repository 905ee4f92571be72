"""Another author's code costs its own rows alone, whatever it does; what runs in a process of its own is in
test_workers.py."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import pytest
import torch
from bench_fakes import on
from torch import Tensor

from bench.records import store
from detectors import registry
from detectors.base import Progress
from detectors.brightness import Brightness
from detectors.noise import Noise

Command = Callable[..., Any]
Register = Callable[..., None]


class EndsInItsFit(fakes.Fake):
    name = "ends-in-its-fit"

    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        sys.exit(0)


class EndsInItsScore(fakes.Fake):
    name = "ends-in-its-score"

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        sys.exit(0)


class WordlessError(Exception):
    def __str__(self) -> str:
        raise ValueError("no")


class FailsWithoutWords(fakes.Fake):
    name = "fails-without-words"

    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        torch.set_default_dtype(torch.float64)
        os.chdir("/")
        raise WordlessError


class FailsAsAGenerator(fakes.Fake):
    name = "fails-as-a-generator"

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        raise GeneratorExit


class EndsWhenBuilt(fakes.Fake):
    name = "ends-when-built"

    def __init__(self, settings: Any, image_size: int) -> None:
        sys.exit(0)


class Unbuildable(fakes.Fake):
    name = "unbuildable"

    def __init__(self, settings: Any, image_size: int) -> None:
        raise KeyError("what")


class Evasive(fakes.Fake):
    name = "evasive"

    @property
    def is_stochastic(self) -> bool:
        raise KeyError("ask later")


@pytest.mark.usefixtures("no_plots")
def test_a_detector_that_ends_python_has_a_row_of_its_own_that_failed(
    command: Command, folder: Path, tmp_path: Path, register: Register
) -> None:
    register(EndsInItsFit, EndsInItsScore)
    places = ("--out", tmp_path / "out", "--cache", tmp_path / "cache", "--steps", 2)
    said = command(*on(folder, *places, names="ends-in-its-fit,ends-in-its-score,brightness"))
    assert said.code == 2 and "Traceback" not in said.out + said.err
    found, _ = store.read_all(tmp_path / "out" / "records")
    assert {(r.detector_name, r.ok) for r in found} == {
        ("ends-in-its-fit", False),
        ("ends-in-its-score", False),
        ("brightness", True),
    }
    assert all("called sys.exit (0)" in record.reason for record in found if not record.ok)


@pytest.mark.usefixtures("no_plots")
def test_odd_exceptions_and_a_changed_dtype_cost_no_other_row(
    command: Command, folder: Path, tmp_path: Path, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(FailsWithoutWords, FailsAsAGenerator)
    monkeypatch.chdir(tmp_path)
    places = ("--out", "out", "--cache", "cache", "--steps", 2, "--categories", "bolt", "--workers", 1)
    said = command(*on(folder, *places, names="fails-without-words,fails-as-a-generator,mean-image"))
    assert said.code == 2 and "Traceback" not in said.out + said.err
    found, _ = store.read_all(tmp_path / "out" / "records")
    assert {r.detector_name for r in found if r.ok} == {"mean-image"} and len(found) == 3
    assert torch.get_default_dtype() == torch.float32 and Path.cwd() == tmp_path


@pytest.mark.parametrize("name", ["ends-in-its-fit", "ends-in-its-score", "ends-when-built"])
def test_so_it_is_when_pictures_are_scored(
    command: Command, folder: Path, tmp_path: Path, register: Register, name: str
) -> None:
    register(EndsInItsFit, EndsInItsScore, EndsWhenBuilt)
    where = ("--dataset", "folder", "--data-root", folder, "--category", "bolt", "--image-size", 32)
    picture = folder / "bolt/test/good/000.png"
    said = command("score", picture, "--detector", name, *where, "--cache", tmp_path / "cache")
    assert said.code == 2 and name in said.err and "Traceback" not in said.err
    assert "--verbose" not in said.err, "score has no such option"


@pytest.mark.parametrize("stranger", [EndsWhenBuilt, Unbuildable, Evasive])
def test_one_that_cannot_be_built_is_left_out_of_all_and_is_an_error_where_it_is_asked_for(
    command: Command,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    stranger: type[fakes.Fake],
) -> None:
    registry.names()
    monkeypatch.setattr(registry, "_REGISTRY", {"brightness": Brightness, stranger.name: stranger})
    monkeypatch.setattr("detectors.registry.importlib.import_module", lambda name: sys.modules[name])
    said = command(*on(folder, "--dry-run", names="all"))
    assert said.code == 0 and "brightness" in said.out and stranger.name not in said.out
    assert f"{stranger.name} cannot be built" in caplog.text and "goes on without it" in caplog.text
    said = command(*on(folder, "--dry-run", names=stranger.name))
    assert said.code == 2 and f"{stranger.name} cannot be built" in said.err
