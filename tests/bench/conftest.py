"""What tests of the runner and the command line share."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import certify_fakes
import pytest
import torch

from bench.cell import attack, known_code
from bench.cli import commands, summary
from bench.report import certificate_plots
from bench.report.site import sources
from detectors import registry


@pytest.fixture(autouse=True)
def detectors_are_asked_for_anew() -> Iterator[None]:
    """What is installed is remembered until pages are made; a test that changes the registry leaves no memory of it."""
    sources.forget()
    yield
    sources.forget()


@dataclass(frozen=True)
class Said:
    """What a command left on the terminal, and its exit code."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Said]]:
    """Runs `python -m bench ...` in this process, 80 columns wide."""
    monkeypatch.setenv("COLUMNS", "80")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # and so one process: others would not know the fakes
    was_deterministic, level = torch.are_deterministic_algorithms_enabled(), logging.getLogger("bench").level

    def call(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["python -m bench", *map(str, words)])
        capsys.readouterr()
        code = 0
        try:
            commands.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    yield call
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(was_deterministic)
    logging.getLogger("bench").setLevel(level)


@pytest.fixture
def attacked_again(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each call of `attack_to_the_end` in a cell got."""
    counts: list[int] = []
    original = attack.attack_to_the_end

    def counted(*given: Any) -> Any:
        counts.append(len(given[3]))
        return original(*given)

    monkeypatch.setattr(attack, "attack_to_the_end", counted)
    return counts


@pytest.fixture
def safe(
    command: Callable[..., Said], tmp_path: Path, folder: Path, register: Callable[..., None]
) -> Callable[..., str]:
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


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaderboards and plots, which take seconds, are left out."""
    monkeypatch.setattr(summary, "write_results", lambda *anything, **more: [])
    monkeypatch.setattr(summary, "DrawingReporter", lambda reporter, out: reporter)


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes detectors known by their names until the test is over."""

    def add(*classes: type[fakes.Fake]) -> None:
        registry.names()
        for cls in classes:
            monkeypatch.setitem(registry._REGISTRY, cls.name, cls)
            cls.fits = cls.scores = 0

    return add


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of two small categories, not to be changed."""
    return fakes.write_folder(tmp_path_factory.mktemp("pictures"), ("bolt", "nut"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As in a process with OMP_NUM_THREADS=1: sums in the same order, so the same bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fakes.write_folder(tmp_path_factory.mktemp("small"), ("bolt",), train=120, test=8, side=certify_fakes.SIDE)


@pytest.fixture
def certify(
    command: Callable[..., Said],
    register: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    small: Path,
    tmp_path: Path,
) -> Callable[..., Said]:
    """Runs `certify` on a small folder with few samples; what it is told replaces the usual options."""
    register(fakes.Linear, *certify_fakes.DETECTORS, fakes.NotANumber)
    # As if they were ours, whose samples are kept.
    monkeypatch.setattr(known_code, "KNOWN", (*known_code.KNOWN, "zoo", certify_fakes.__name__))
    monkeypatch.setattr(certificate_plots, "write_all", lambda *_: [])  # seconds; test_certificate_report draws

    def call(*more: object, names: str = "linear") -> Said:
        usual: dict[str, object] = {
            "--detectors": names,
            "--dataset": "folder",
            "--data-root": small,
            "--image-size": certify_fakes.SIDE,
            "--sigma": certify_fakes.SIGMA,
            "--samples": 500,
            "--radii": ",".join(map(str, certify_fakes.RADII)),
            "--out": tmp_path / "out",
            "--cache": tmp_path / "cache",
        }
        kept = (word for name, value in usual.items() if name not in more for word in (name, value))
        return command("certify", *kept, *more)

    return call
