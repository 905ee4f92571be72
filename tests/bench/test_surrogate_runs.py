"""Surrogate gradients in a run: what the record says, which cells they concern, and what the leaderboard flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import pytest
from torch import Tensor

from bench.errors import BenchError
from bench.plan.request import RunConfig
from bench.report import leaderboard
from bench.report.caveats import failure_flags
from detectors.noise import Noise

Command = Callable[..., Any]
Register = Callable[..., None]


class Stairs(fakes.Linear):
    """<w, x> in steps, without a gradient; the surrogate is <w, x> itself."""

    name = "stairs"
    title = "Stairs"
    has_surrogate = True

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        smooth = super().value(x, noise)
        return 0 * smooth + (smooth / 2).round().detach()

    def _surrogate_score(self, x: Tensor, noise: Noise) -> Tensor:
        return fakes.Linear.value(self, x, noise)


def runs(root: Path, folder: Path, **changes: Any) -> Any:
    found = fakes.run(fakes.config(root, folder, "stairs", categories=("bolt",), epsilons=(0.05,), **changes))
    (record,) = found.records
    assert record.ok, record.reason
    return record


def test_the_record_says_which_gradient_was_followed_and_how_often_the_surrogate_won(
    tmp_path: Path, folder: Path, register: Register
) -> None:
    register(Stairs)
    auto, score, surrogate = (runs(tmp_path, folder, differentiate=g) for g in ("auto", "score", "surrogate"))
    assert [r.attack.settings["differentiate"] for r in (auto, score, surrogate)] == ["auto", "score", "surrogate"]
    assert len({r.key for r in (auto, score, surrogate)}) == 3
    assert auto.indicators["surrogate_won_share"] > 0.9 and auto.indicators["surrogate_zero_gradient_share"] == 0
    assert auto.indicators["zero_gradient_share"] == score.indicators["zero_gradient_share"] == 1
    assert surrogate.indicators["zero_gradient_share"] is None and "surrogate_won_share" not in surrogate.indicators
    assert "surrogate_won_share" not in score.indicators
    assert auto.robust.auc == surrogate.robust.auc < score.robust.auc == score.clean.auc
    (flag,) = [f for f in failure_flags(auto) if "zero" in f]
    assert "100 % of the steps" in flag and "surrogate's was followed" in flag
    assert any("surrogate" in limit for limit in score.limits) and not any("surrogate" in x for x in auto.limits)
    (board,) = leaderboard.build([auto, score])
    (row,) = board.rows
    assert row.cells["bolt"].record.key == auto.key, "a weaker attack must not hide a stronger one"
    assert any("score and surrogate" in fact and "Stairs" in fact for fact in board.facts)


def test_a_detector_without_a_surrogate_has_one_cell_whatever_is_asked_for(
    tmp_path: Path, folder: Path, register: Register
) -> None:
    register(fakes.Linear)
    run = fakes.config(tmp_path, folder, "linear", categories=("bolt",))
    (first,) = fakes.run(run).records
    assert first.attack.settings["differentiate"] == "score" and "surrogate_won_share" not in first.indicators
    for gradient in ("score", "surrogate"):
        found = fakes.run(dataclasses.replace(run, attack_settings={**run.attack_settings, "differentiate": gradient}))
        assert found.reused == 1 and found.records[0].key == first.key


def test_the_command_line_takes_a_word_of_each_gradient(
    command: Command, folder: Path, tmp_path: Path, register: Register, no_plots: None
) -> None:
    register(Stairs)
    places = ("--out", tmp_path / "o", "--cache", tmp_path / "c")
    words = fakes.on(folder, "--categories", "bolt", "--steps", 1, *places, names="stairs")
    assert command(*words, "--gradient", "surrogate").code == 0
    assert '"differentiate": "surrogate"' in next((tmp_path / "o").glob("records/*/*/stairs--*.json")).read_text()
    said = command(*words, "--gradient", "both")
    assert said.code == 2 and "auto, score, surrogate, map; got 'both'" in said.err


def test_another_word_is_refused() -> None:
    with pytest.raises(BenchError, match="--gradient"):
        RunConfig(detectors=("ae",), attack_settings={"differentiate": "both"})
