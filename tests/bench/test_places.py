"""Where things lie: homes written as ~, a cache that others have filled and that is read-only, folders of pictures."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import numpy as np
import pytest
from bench_fakes import on
from PIL import Image

import bench
from bench import files
from bench.errors import BenchError, RecordError
from bench.plan.request import default_cache
from bench.run.shared_folder import shared_folder
from detectors import checkpoint
from detectors.errors import WeightsError
from detectors.parts import weights

Command = Callable[..., Any]
Register = Callable[..., None]
NOBODY = "~nobody-has-this-name/x"

pytestmark = pytest.mark.usefixtures("no_plots")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "home"
    place.mkdir()
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.chdir(tmp_path)
    return place


# -- ~ ----------------------------------------------------------------------------------------------------------------


def test_a_home_is_found_where_the_shell_leaves_it_alone(
    home: Path, folder: Path, command: Command, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(fakes.Fake)
    (home / "data").symlink_to(folder)
    words = ("--dataset=folder", "--data-root=~/data", "--detectors=fake", "--categories=bolt", "--image-size=32")
    assert command("run", *words, "--steps=1", "--out=~/out", "--cache=~/cache").code == 0
    assert (home / "out" / "records").is_dir() and (home / "cache" / "checkpoints").is_dir()
    assert command("fit", *words, "--cache=~/cache", "--export=~/export").code == 0
    assert list((home / "export").glob("*.safetensors"))
    assert command("report", "~/out").code == 0
    monkeypatch.setenv("RADBENCH_CACHE", "~/mine")
    assert default_cache() == home / "mine"
    assert command("score", "~/data/bolt/test", "--detector=fake", *words[:2], "--category=bolt", words[4]).code == 0
    assert (home / "mine").is_dir() and not Path("~").exists()


@pytest.mark.parametrize("option", ["--out", "--cache", "--data-root"])
def test_a_home_that_nobody_has_is_a_sentence(command: Command, folder: Path, option: str) -> None:
    said = command(*on(folder, option, NOBODY, names="brightness"))
    assert said.code == 2 and "names a home folder that is not there" in said.err


def test_homes_in_the_environment_and_from_python(
    home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RADBENCH_CACHE", NOBODY)
    with pytest.raises(BenchError, match="home folder"):
        default_cache()
    with pytest.raises(BenchError, match="home folder"):
        bench.test_images("folder", "bolt", data_root=NOBODY)
    (home / "weights").mkdir()
    monkeypatch.setenv("RADBENCH_WEIGHTS_DIR", "~/weights")
    assert weights._explicit_file("resnet18", None) is None  # looked into, and empty
    (home / "weights" / "resnet18.safetensors").write_bytes(b"")
    assert weights._explicit_file("resnet18", None) == home / "weights" / "resnet18.safetensors"
    monkeypatch.setenv("RADBENCH_WEIGHTS_DIR", NOBODY)
    with pytest.raises(WeightsError, match="does not exist"):
        weights._explicit_file("resnet18", None)


# -- a cache that cannot be written to --------------------------------------------------------------------------------


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Rights alone do not bind whoever may do everything, as tests often can."""
    really = os.open

    def lock(place: Path) -> None:
        def refuse(path: Any, flags: int, *more: Any, **options: Any) -> int:
            if flags & os.O_CREAT and Path(os.fsdecode(path)).is_relative_to(place):
                raise OSError(errno.EROFS, "Read-only file system", str(path))
            return really(path, flags, *more, **options)

        monkeypatch.setattr("os.open", refuse)

    return lock


def test_a_read_only_cache_will_do_where_nothing_has_to_be_fitted(
    tmp_path: Path, folder: Path, command: Command, register: Register, read_only: Callable[[Path], None]
) -> None:
    register(fakes.Fake, fakes.Linear)
    cache = tmp_path / "cache"
    assert command("fit", *on(folder)[1:], "--cache", cache).code == 0
    read_only(cache)
    before = sorted(cache.rglob("*"))
    words = on(folder, "--steps", 1, "--cache", cache, "--out")
    assert command(*words, tmp_path / "out").code == 0
    assert command("fit", *on(folder)[1:], "--cache", cache).code == 0
    picture = folder / "bolt/test/good/000.png"
    mine = ("--dataset", "folder", "--data-root", folder, "--category", "bolt", "--image-size", 32, "--cache", cache)
    assert command("score", picture, "--detector", "fake", *mine).code == 0
    refused = (
        (*on(folder, names="fake,linear"), "--cache", cache, "--out", tmp_path / "o"),
        ("fit", *on(folder, names="linear")[1:], "--cache", cache),
        ("score", picture, "--detector", "linear", *mine),
    )
    for words in refused:
        said = command(*words)
        assert said.code == 2 and "Read-only file system" in said.err and "Traceback" not in said.err, words
    assert fakes.Linear.fits == 0 and not (tmp_path / "o" / "records").exists(), "said before anything is computed"
    assert sorted(cache.rglob("*")) == before


def test_what_processes_share_lies_elsewhere_where_the_cache_is_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        raise RecordError("read-only")

    with shared_folder(tmp_path / "cache") as shared:
        assert shared.parent == tmp_path / "cache"
    monkeypatch.setattr(files, "check_writable", refuse)
    with shared_folder(tmp_path / "nowhere") as shared:
        assert shared.is_dir() and tmp_path not in shared.parents
    assert not shared.exists() and not (tmp_path / "nowhere").exists()


def test_a_folder_that_a_killed_fit_left_a_day_ago_is_removed(tmp_path: Path) -> None:
    old, new = (tmp_path / "checkpoints" / f".{name}{checkpoint.TEMPORARY}" for name in ("old", "new"))
    for place in (old, new):
        place.mkdir(parents=True)
        (place / "half.safetensors").write_bytes(b"half")
    os.utime(old, (time.time() - 2 * files.ABANDONED_SECONDS,) * 2)
    treasure = tmp_path / "treasure"
    treasure.mkdir()
    link = tmp_path / f".link{checkpoint.TEMPORARY}"
    link.symlink_to(treasure)
    os.utime(link, (0, 0), follow_symlinks=False)
    files.check_writable(tmp_path)
    assert not old.exists() and new.exists() and treasure.is_dir()


# -- folders of pictures ----------------------------------------------------------------------------------------------


def test_score_takes_a_folder_and_finds_pictures_in_folders_below(
    tmp_path: Path, folder: Path, command: Command
) -> None:
    parts = tmp_path / "parts"
    for name in ("b.png", "deep/deeper/c.jpg", "a.PNG", ".hidden/d.png", "@eaDir/e.png", "notes.txt"):
        (parts / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("txt"):
            (parts / name).write_text("no picture")
        else:
            Image.fromarray(np.full((9, 9, 3), 90, np.uint8)).save(parts / name)
    (parts / "round").symlink_to(parts)
    mine = ("--detector", "brightness", "--dataset", "folder", "--data-root", folder, "--category", "bolt")
    said = command("score", parts, *mine, "--image-size", 32, "--cache", tmp_path / "cache", "--json")
    assert said.code == 0, said.err
    found = [Path(row["picture"]).relative_to(parts).as_posix() for row in json.loads(said.out)["pictures"]]
    assert found == ["a.PNG", "b.png", "deep/deeper/c.jpg"]


def test_one_damaged_picture_in_a_folder_costs_no_other_one_its_score(
    tmp_path: Path, folder: Path, command: Command
) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    Image.fromarray(np.full((9, 9, 3), 90, np.uint8)).save(parts / "b.png")
    (parts / "a.png").write_bytes(b"")
    mine = ("--detector", "brightness", "--dataset", "folder", "--data-root", folder, "--category", "bolt")
    more = (*mine, "--image-size", 32, "--cache", tmp_path / "cache", "--json")
    said = command("score", parts, *more)
    assert said.code == 2 and "a.png" in said.err and "Traceback" not in said.err
    assert [Path(row["picture"]).name for row in json.loads(said.out)["pictures"]] == ["b.png"]
    said = command("score", parts / "a.png", *more)
    assert said.code == 2 and "a.png" in said.err and not said.out


def test_score_says_what_it_looked_for_in_a_folder_without_pictures(tmp_path: Path, command: Command) -> None:
    (tmp_path / "empty" / "deep").mkdir(parents=True)
    said = command("score", tmp_path / "empty", "--detector", "brightness", "--cache", tmp_path / "cache")
    assert said.code == 2 and "nor in one below" in said.err and ".png" in said.err
