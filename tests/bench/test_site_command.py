"""`report --html`, and the pages that a run leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import pytest
from fake_records import write_record

from bench.report.site import build

Command = Callable[..., Any]
Register = Callable[..., None]


def test_report_html_makes_pages_and_nothing_else(command: Command, tmp_path: Path) -> None:
    write_record(tmp_path / "out" / "records")
    said = command("report", tmp_path / "out", "--html")
    assert said.code == 0 and str(tmp_path / "out" / "site" / "index.html") in said.out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"records", "site"}


def test_several_folders_become_one_site(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        write_record(tmp_path / name / "records", category=name)
    said = command("report", tmp_path / "a", tmp_path / "b", "--html", "--site", tmp_path / "pages")
    assert said.code == 0 and len(list((tmp_path / "pages" / "cells").glob("*.html"))) == 2
    monkeypatch.chdir(tmp_path)
    assert command("report", "a", "b", "--html").code == 0
    assert (tmp_path / "results" / "site" / "index.html").is_file()


def test_report_without_html_takes_several_folders(command: Command, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_record(tmp_path / name / "records", category=name)
    assert command("report", tmp_path / "a", tmp_path / "b").code == 0
    assert all((tmp_path / name / "leaderboard.md").is_file() for name in ("a", "b"))


def test_a_folder_without_records_is_a_sentence(command: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for words in (("--html",), ()):
        said = command("report", tmp_path / "empty", *words)
        assert said.code == 2 and "There is no folder" in said.err and "--out" in said.err
    assert not list((tmp_path / "empty").iterdir())


def test_a_folder_in_which_no_record_counts_is_a_sentence(command: Command, tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    said = command("report", tmp_path, "--html")
    assert said.code == 2 and "nothing to make pages of" in " ".join(said.err.split())
    (tmp_path / "records" / "old.json").write_text('{"format": 99, "key": "x", "cell": {}}')
    assert command("report", tmp_path, "--html").code == 2
    assert not (tmp_path / "site").exists()


def test_a_place_for_pages_needs_pages(command: Command, tmp_path: Path) -> None:
    write_record(tmp_path / "records")
    said = command("report", tmp_path, "--site", tmp_path / "pages")
    assert said.code == 2 and "add --html" in said.err


def test_a_damaged_record_is_told_and_costs_no_other_ones(command: Command, tmp_path: Path) -> None:
    write_record(tmp_path / "records", detector="ae")
    damaged = write_record(tmp_path / "records", detector="spade")
    assert damaged.path is not None
    damaged.path.write_text(damaged.path.read_text().replace('"ok"', '"failed"'))
    said = command("report", tmp_path, "--html")
    assert said.code == 0 and "does not count" in " ".join(said.out.split())
    assert len(list((tmp_path / "site" / "cells").glob("*.html"))) == 1


def run(root: Path, out: Path) -> tuple[object, ...]:
    words = ("run", "--detectors", "fake", "--dataset", "folder", "--data-root", root, "--image-size", 32)
    return (*words, "--steps", 2, "--out", out / "out", "--cache", out / "cache", "--device", "cpu", "--workers", 1)


def test_a_run_ends_with_pages(command: Command, folder: Path, tmp_path: Path, register: Register) -> None:
    register(fakes.Fake)
    said = command(*run(folder, tmp_path))
    assert said.code == 0, said.err
    page = tmp_path / "out" / "site" / "index.html"
    assert page.is_file() and f"Pages: {page}" in said.out
    assert len(list((tmp_path / "out" / "site" / "parts").glob("*.html"))) == 1


def test_pages_that_cannot_be_made_cost_no_record(
    command: Command, folder: Path, tmp_path: Path, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object, **__: object) -> None:
        raise ValueError("odd")

    register(fakes.Fake)
    monkeypatch.setattr(build, "build", breaks)
    said = command(*run(folder, tmp_path))
    assert said.code == 0 and "The pages could not be made (ValueError: odd)" in " ".join(said.out.split())
    assert list((tmp_path / "out" / "records").rglob("*.json"))
