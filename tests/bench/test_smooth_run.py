"""A smoothed detector goes the way of every detector: fitted, asked by the gate, attacked, in a record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import detectors
from bench.records import store

Command = Callable[..., Any]
NAME = "smooth:mean-image"


def on(root: Path, out: Path, *more: object) -> tuple[object, ...]:
    words = ("run", "--detectors", NAME, "--dataset", "folder", "--data-root", root, "--image-size", 32)
    budget = ("--attack", "pgd-l2", "--steps", 3, "--categories", "bolt", "--set", f"{NAME}.samples=8")
    return (*words, *budget, "--out", out / "out", "--cache", out / "cache", "--device", "cpu", *more)


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize("rule", ["percentile", "exceedance"])
def test_it_is_fitted_asked_attacked_and_recorded(rule: str, command: Command, folder: Path, tmp_path: Path) -> None:
    said = command(*on(folder, tmp_path, "--set", f"{NAME}.p=0.9", "--set", f"{NAME}.rule={rule}"))
    assert said.code == 0 and said.err == ""
    (record,), problems = store.read_all(tmp_path / "out" / "records")
    assert record.ok and not problems and record.detector_name == NAME
    settings = record.detector.settings
    assert (settings["p"], settings["samples"], settings["rule"], settings["inner"]) == (0.9, 8, rule, {})
    assert record.detector.is_stochastic and record.cell.draws.verdict > 1
    assert record.clean is not None and record.robust is not None and record.robust.auc <= record.clean.auc
    (path,) = (tmp_path / "cache" / "checkpoints").rglob("*.safetensors")
    assert detectors.load(path).settings.rule == rule


def test_its_family_is_listed(command: Command) -> None:
    said = command("list", "detectors")
    assert "smooth:NAME" in said.out and "an l2 certificate" in " ".join(said.out.split())


@pytest.mark.parametrize(
    ("value", "sentence"),
    [("sigma=0", "sigma must be a number above 0"), ("p=1.0", "p must lie between 0 and 1"), ("samples=0", "samples")],
)
def test_a_setting_that_cannot_be_is_said_before_anything_is_fitted(
    value: str, sentence: str, command: Command, folder: Path, tmp_path: Path
) -> None:
    said = command(*on(folder, tmp_path, "--set", f"{NAME}.{value}"))
    assert said.code == 2 and sentence in " ".join((said.out + said.err).split())
    assert not (tmp_path / "cache").exists()
