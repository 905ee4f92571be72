"""Bad checkpoints, disks and scores: a sentence and exit code 2, and what is there already survives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import pytest
import torch
from bench_fakes import on

import detectors
from bench.records import store
from detectors import checkpoint

Command = Callable[..., Any]
Register = Callable[..., None]

pytestmark = pytest.mark.usefixtures("no_plots")


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
    found = {(r.detector_name, r.category): r.ok for r in store.read_all(tmp_path / "o" / "records")[0]}
    assert sum(found.values()) == 2 and len(found) == 6 and found["fake", "nut"]
