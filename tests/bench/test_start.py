"""Before anything is computed: others' packages called as ours are, Ctrl-C among imports, words that no file has."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench_fakes import on

import bench
from bench import files, packages
from bench.cli import shell
from bench.errors import BenchError
from bench.plan.request import Override, default_cache

REPOSITORY = Path(__file__).parents[2]
Command = Callable[..., Any]
# As setuptools installs from a folder: found last, behind what merely looks like a package.
EDITABLE = f"""
import runpy, sys
from importlib.machinery import PathFinder
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, [{str(REPOSITORY)!r}]) if path is None else None
sys.meta_path.append(Finder)
sys.argv = ["-m", "list", "presets"]
runpy.run_module("bench", run_name="__main__", alter_sys=True)
"""


def python(where: Path, *words: str, path: str = str(REPOSITORY)) -> subprocess.CompletedProcess[str]:
    """What a Python says that runs in a folder and finds the packages in `path`."""
    asked = {**os.environ, "PYTHONPATH": path, "COLUMNS": "200"}
    return subprocess.run([sys.executable, *words], cwd=where, env=asked, capture_output=True, text=True, check=False)


# -- others' packages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", packages.NAMES)
def test_a_folder_of_the_users_that_hides_a_package_is_named_with_what_to_do(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("raise RuntimeError('it must not even be imported')")
    said = python(tmp_path, "-m", "bench", "list", "presets")
    assert said.returncode == 2 and said.stdout == "" and len(said.stderr.splitlines()) == 1
    assert str(tmp_path / name) in said.stderr and "the command radbench" in said.stderr


def test_a_folder_without_an_init_hides_an_editable_install_and_is_named_too(tmp_path: Path) -> None:
    (tmp_path / "detectors").mkdir()
    (tmp_path / "detectors" / "mine.py").touch()
    said = python(tmp_path, "-S", "-c", EDITABLE, path="")  # -S: without what is installed here
    assert said.returncode == 2 and str(tmp_path / "detectors") in said.stderr and "radbench" in said.stderr
    assert "Traceback" not in said.stderr


def test_the_command_works_in_a_folder_that_has_its_own_detectors(tmp_path: Path) -> None:
    (tmp_path / "detectors").mkdir()
    (tmp_path / "detectors" / "__init__.py").touch()
    script = tmp_path / "bin" / "radbench"
    script.parent.mkdir()
    script.write_text("import sys\nfrom bench.cli import main\nsys.exit(main())\n")  # as pip writes it
    said = python(tmp_path, str(script), "list", "presets")
    assert said.returncode == 0 and said.stdout.startswith("name"), said.stderr


def test_from_python_it_is_an_import_error(tmp_path: Path) -> None:
    (tmp_path / "detectors.py").touch()
    said = python(tmp_path, "-c", "import bench\ntry: bench.fit\nexcept ImportError as error: print(error)")
    assert str(tmp_path / "detectors.py") in said.stdout and said.stderr == ""


def test_an_installed_package_of_that_name_is_to_be_uninstalled(tmp_path: Path) -> None:
    (tmp_path / "site" / "attacks").mkdir(parents=True)
    (tmp_path / "site" / "attacks" / "__init__.py").touch()
    path = os.pathsep.join([str(tmp_path / "site"), str(REPOSITORY)])
    said = python(tmp_path, "-m", "bench", "list", "presets", path=path)
    assert said.returncode == 2 and str(tmp_path / "site" / "attacks") in said.stderr
    assert "uninstall" in said.stderr and "the command radbench" not in said.stderr


def test_ours_are_not_foreign_and_parts_of_the_package_are_found_as_ever() -> None:
    assert packages.foreign() == ""
    assert bench.fit.__module__ == "bench.api" and "elpv" in bench.data.names()
    assert not hasattr(bench, "nothing")


# -- Ctrl-C and pipes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("swallowed", [False, True])
def test_ctrl_c_among_the_imports_is_a_sentence_also_where_a_module_swallows_it(
    tmp_path: Path, swallowed: bool
) -> None:
    hit = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(600)\n"
    text = f"try:\n{''.join(f'    {line}{chr(10)}' for line in hit.splitlines())}except BaseException: pass\n"
    (tmp_path / "torch.py").write_text(text if swallowed else hit)
    heard = "import signal, runpy\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"  # whatever shell this is
    said = python(tmp_path, "-c", heard + "runpy.run_module('bench', run_name='__main__')")
    assert said.returncode == shell.STOPPED == 130
    assert said.stderr.startswith("Error: Stopped") and len(said.stderr.splitlines()) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="a system without SIGPIPE")
def test_a_reader_that_has_gone_ends_the_command_without_a_word(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-m", "bench", "list", "presets"]
    done = subprocess.run(words, cwd=REPOSITORY, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert done.returncode == 128 + signal.SIGPIPE and done.stderr == b""


def test_code_that_ends_python_is_no_success(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.cli.summary.listing", lambda *_, **__: sys.exit(0))
    said = command("list", "presets")
    assert said.code == 2 and "called sys.exit" in said.err


# -- words and numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ["1" * 400, "-" + "1" * 400, "1e400", "inf", "nan", "1" * 5000])
def test_a_setting_of_any_length_is_a_number_or_a_sentence(number: str) -> None:
    with pytest.raises(BenchError, match=r"below 2\^63") as error:
        Override.parse(f"ae.latent={number}")
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    "words",
    [
        ("--seed", "1" * 400),
        ("--limit", "1" * 400),
        ("--steps", "9" * 4000),
        ("--workers", "1" * 400),
        ("--fit-seed", "-" + "1" * 400),
        ("--epsilon", "1" * 400),
        ("--step-size", "1e400"),
        ("--data-root", "~nobody-of-this-name/x"),
        ("--data-root", "x" * 5000),
        ("--data-root", "a\0b"),
        ("--detectors", "a\0b"),
        ("--categories", "x" * 5000),
    ],
)
@pytest.mark.usefixtures("no_plots")
def test_what_no_number_and_no_file_can_be_is_a_sentence(
    safe: Callable[..., str], folder: Path, words: tuple[str, str]
) -> None:
    assert len(safe(*on(folder, *words))) < 2100


@pytest.mark.parametrize("option", ["--cache", "--out"])
@pytest.mark.parametrize("place", ["/proc/x", "x" * 5000, "a\0b"])
@pytest.mark.usefixtures("no_plots")
def test_a_place_that_nothing_can_be_written_to_is_a_sentence(
    safe: Callable[..., str], folder: Path, tmp_path: Path, option: str, place: str
) -> None:
    if place == "/proc/x" and not Path("/proc").is_dir():
        pytest.skip("a system without /proc")
    other = {"--cache": ("--out", tmp_path / "out"), "--out": ("--cache", tmp_path / "cache")}[option]
    assert safe(*on(folder, option, place, *other), keeps=False)


def test_a_user_without_a_home_is_told_where_checkpoints_may_go_and_need_not_be(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RADBENCH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as where the system knows none
    with pytest.raises(BenchError, match=r"--cache DIR or RADBENCH_CACHE"):
        default_cache()
    said = command(*on(folder, names="brightness"), "--dry-run")
    assert said.code == 2 and "--cache DIR" in said.err
    assert command("inspect", "--dataset", "folder", "--data-root", folder, "--image-size", 32).code == 0


def test_a_refusal_of_the_system_is_a_sentence_with_the_place(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "locked"))

    monkeypatch.setattr("bench.cli.summary.listing", refuse)
    said = command("list", "presets")
    assert said.code == 2 and "locked (Permission denied)" in said.err and "Traceback" not in said.err
    assert len(files.sentence(OSError(36, "File name too long"), "x" * 5000)) < 500
