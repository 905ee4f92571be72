"""Ordinary bad luck: odd files beside the data, options given twice, terminals without a dagger, shared process ids."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bench import files
from bench.data import registry as datasets
from bench.data.images import header_of, read_bytes, read_image
from bench.errors import DataError
from bench.records.paths import distinct_name
from detectors.checkpoint import write_atomically

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without named pipes")
def test_a_named_pipe_that_looks_like_a_picture_is_a_sentence_and_no_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "000.png")
    with pytest.raises(DataError, match=r"000\.png is no ordinary file"):
        read_bytes(tmp_path / "000.png")


def test_a_file_larger_than_any_picture_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.data.images.MAX_BYTES", 1 << 20)
    (tmp_path / "large.png").write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(DataError, match="larger than 1 MiB"):
        read_bytes(tmp_path / "large.png")


@pytest.mark.parametrize("compressed", [True, False])
def test_text_in_a_png_does_not_count(compressed: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    text, stream = PngInfo(), io.BytesIO()
    text.add_text("history", "of a microscope " * 200_000, zip=compressed)
    Image.fromarray(pixels).save(stream, "PNG", pnginfo=text)
    np.testing.assert_array_equal(np.asarray(read_image(stream.getvalue())), pixels)
    assert header_of(stream.getvalue()) is not None


@pytest.mark.parametrize("cut", [9, 20, 60])
def test_a_png_that_is_cut_anywhere_is_damaged_and_nothing_else(cut: int) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((40, 40, 3), dtype=np.uint8)).save(stream, "PNG")
    with pytest.raises(DataError, match=r"damaged|is not a PNG"):
        read_image(stream.getvalue()[:cut])


def test_what_systems_leave_beside_the_data_is_no_category(tmp_path: Path) -> None:
    root = fakes.write_folder(tmp_path / "data", ("bolt",), train=2, test=1)
    for name in ("lost+found", "__MACOSX", "@eaDir"):
        (root / name / "train" / "good").mkdir(parents=True)
        (root / "bolt" / "test" / name).mkdir()
        (root / "bolt" / "test" / name / "000.png").write_bytes(b"no picture")
    locked = root / "private"
    locked.mkdir(mode=0)
    try:
        dataset = datasets.get("folder", root)
        assert dataset.categories() == ("bolt",)
        dataset.validate("bolt")
        assert {sample.defect for sample in dataset.split("bolt").test} == {"good", "blot"}
    finally:
        locked.chmod(0o700)


def test_different_names_never_share_a_file() -> None:
    names = ["螺丝", "瓶子", "part A", "part_A", "part-A", "x" * 60, "x" * 61, "x" * 62, "", "_", ".", "con", "_con"]
    found = [distinct_name(name) for name in names]
    assert len({name.casefold() for name in found}) >= len(names) - 1 and len(set(found)) == len(names)
    assert distinct_name("elpv-mono-quick") == "elpv-mono-quick"
    assert all(len(name) <= 60 and name == distinct_name(name) for name in found)


def test_categories_with_names_beyond_ascii_export_a_checkpoint_each(
    tmp_path: Path, command: Any, register: Any
) -> None:
    register(fakes.Fake)
    root = fakes.write_folder(tmp_path / "data", ("螺丝", "瓶子"), train=4, test=1)
    words = ("fit", "--detectors", "fake", "--dataset", "folder", "--data-root", root, "--image-size", fakes.SIDE)
    said = command(*words, "--cache", tmp_path / "cache", "--export", tmp_path / "out")
    assert said.code == 0 and len(list((tmp_path / "out").glob("*.safetensors"))) == 2


def test_no_assert_does_work() -> None:
    """`python -O` strips them: what they call would not happen."""
    wrong = []
    for package in ("bench", "attacks", "detectors"):
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Assert):
                    called = [n for n in ast.walk(node.test) if isinstance(n, ast.Call)]
                    names = {n.func.id if isinstance(n.func, ast.Name) else "?" for n in called}
                    if names - {"isinstance"}:
                        wrong.append(f"{path.relative_to(REPOSITORY)}:{node.lineno}")
    assert not wrong


def test_an_option_that_is_given_twice_is_an_error(command: Any) -> None:
    said = command("run", "--detectors", "spade", "--detectors", "ae", "--dry-run")
    assert said.code == 2 and "--detectors is given 2 times" in said.err
    assert command("list", "presets").code == 0


def test_a_terminal_that_knows_ascii_alone_gets_its_table() -> None:
    words = [
        sys.executable,
        "-c",
        "from bench.cli import shell; import typer; app = typer.Typer()\n"
        "@app.command()\ndef f(): print('\\u2020 \\u00b1')\nraise SystemExit(shell.run(app))",
    ]
    asked = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(words, env=asked, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout == "? ?\n", done.stderr


def test_a_file_is_written_through_no_link_and_leaves_nothing_behind(tmp_path: Path) -> None:
    treasure = tmp_path / "treasure"
    treasure.write_text("untouched")
    (tmp_path / f".file.{os.getpid()}.tmp").symlink_to(treasure)
    write_atomically(tmp_path / "file", b"content")
    assert treasure.read_text() == "untouched" and (tmp_path / "file").read_bytes() == b"content"
    assert len(list(tmp_path.iterdir())) == 3
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert (tmp_path / "file").stat().st_mode == plain.stat().st_mode, "as readable as any other file"


def test_what_a_killed_process_left_a_day_ago_is_removed(tmp_path: Path) -> None:
    old, new, other = tmp_path / "a" / ".x.0123.tmp", tmp_path / ".y.4567.tmp", tmp_path / "mine.tmp"
    old.parent.mkdir()
    for path in (old, new, other):
        path.write_bytes(b"half")
    for path in (old, other):
        os.utime(path, (time.time() - 2 * files.ABANDONED_SECONDS,) * 2)
    files.check_writable(tmp_path)
    assert not old.exists() and new.exists() and other.exists()
    assert not (tmp_path / ".writable").exists()
