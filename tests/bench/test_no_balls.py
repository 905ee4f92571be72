"""Attacks whose threat model is no ball, from the command line to the table: nothing there speaks of a ball."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import pytest
import torch

import attacks
from bench import text
from bench.cell import gate
from bench.cell.attack import Draws, run_cell
from bench.cell.results import indicators
from bench.metrics import ranking
from bench.plan import plan as planning
from bench.records import store
from bench.report import leaderboard, plots
from bench.report.caveats import failure_flags
from bench.report.security_curves import security_curve_figure
from detectors import registry

Command = Callable[..., Any]
Register = Callable[..., None]
CPU = torch.device("cpu")
TITLES = {
    "corruptions": "folder: corruptions, severity 3",
    "semantic": "folder: semantic, strength 0.1",
    "patch": "folder: patch, a square of 0.1 of the side",
}


def words(root: Path, out: Path, attack: str, *more: object) -> tuple[object, ...]:
    found = ("run", "--detectors", "brightness", "--dataset", "folder", "--data-root", root)
    found = (
        *found,
        "--categories",
        "bolt",
        "--image-size",
        32,
        "--attack",
        attack,
        "--out",
        out / "out",
        "--cache",
        out / "cache",
    )
    return (*found, "--device", "cpu", *more)


def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "write_all", lambda *given, **named: ([], []))
    monkeypatch.setattr(plots, "write_histogram", lambda *given, **named: [])


@pytest.mark.parametrize("attack", TITLES)
def test_a_run_ends_with_a_table_that_says_what_was_done(
    command: Command, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: str
) -> None:
    if attack != "corruptions":  # once is enough of what takes longest
        without_plots(monkeypatch)
    said = command(*words(folder, tmp_path, attack, "--complete"))
    flat = " ".join(said.out.split())
    assert said.code == 0 and said.err == ""
    assert TITLES[attack] in flat and "epsilon" not in flat and "norm" not in flat.replace("normal", "")
    found, problems = store.read_all(tmp_path / "out" / "records")
    assert len(found) == 1 and not problems and all(record.ok for record in found)
    for record in found:
        assert failure_flags(record) == []
        assert record.indicators["noise_won_share"] is None, "noise of no ball's size"
        assert record.robust is not None and record.clean is not None and record.robust.auc <= record.clean.auc
        assert ("transformations" in record.indicators) == (attack != "patch")
        assert (record.indicators["gain_share"] is None) == (attack != "patch")
    (board,) = leaderboard.build(found)
    assert board.title == TITLES[attack]
    axes = security_curve_figure(found).axes[0]
    assert axes.get_xlabel() == text.size_text(attack)


def test_severities_are_a_sweep_in_which_no_robust_auc_rises(
    command: Command, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_plots(monkeypatch)
    assert command(*words(folder, tmp_path, "corruptions", "--epsilon", "1,3,5")).code == 0
    found, _ = store.read_all(tmp_path / "out" / "records")
    found.sort(key=lambda record: record.epsilon)
    assert [record.epsilon for record in found] == [1, 3, 5]
    robust = [record.robust.auc for record in found if record.robust is not None]
    assert robust == sorted(robust, reverse=True) and len(robust) == 3


@pytest.mark.parametrize(
    ("attack", "epsilon", "sentence"),
    [
        ("corruptions", "2/255", "--epsilon: The epsilon of corruptions is a severity, a whole number from 1 to 5"),
        ("corruptions", "6", "a severity, a whole number from 1 to 5"),
        ("semantic", "2", "a strength of at most 1"),
        ("patch", "26", "its side as a share of the image's"),
        ("patch,corruptions", "0.5", "belong to one norm"),
        ("corruptions,pgd-linf", "0.5", "belong to one norm"),
    ],
)
def test_sizes_that_make_no_sense_are_sentences(
    command: Command, folder: Path, tmp_path: Path, attack: str, epsilon: str, sentence: str
) -> None:
    said = command(*words(folder, tmp_path, attack, "--epsilon", epsilon))
    assert said.code != 0 and sentence in " ".join((said.out + said.err).split())
    said = command(*words(folder, tmp_path, "corruptions", "--steps", 3))
    assert said.code != 0 and "steps" in said.err and "Traceback" not in said.err


def test_which_corruption_was_the_worst_is_in_the_record_of_images_attacked_to_the_end() -> None:
    test, held_out = fakes.image_set(4, 4, side=32), fakes.image_set(4, 0, side=32)
    detector = registry.get("brightness")(registry.get("brightness").settings_for("quick", 32), 32)
    detector.fit(held_out.pixels(), seed=0)
    for early_stop in (False, True):
        attack = attacks.get("corruptions", image_size=32, epsilon=5)
        outcome = run_cell(
            detector,
            attack,
            test,
            held_out,
            Draws(10, 0),
            batch_size=3,
            device=CPU,
            tick=lambda done, what: None,
            early_stop=early_stop,
        )
        told = indicators(outcome).get("transformations")
        if early_stop and outcome.had_enough is not None and outcome.had_enough.all():
            assert told is None
        else:
            assert told is not None and sum(told.values()) == pytest.approx(1, abs=1e-3)
            assert told["brightness"] + told["contrast"] >= 0.5


@pytest.mark.parametrize("attack", TITLES)
def test_an_early_stop_changes_no_figure_of_pairs(attack: str) -> None:
    test, held_out = fakes.image_set(8, 8, side=32), fakes.image_set(4, 0, side=32)
    detector = registry.get("mean-image")(registry.get("mean-image").settings_for("quick", 32), 32)
    detector.fit(held_out.pixels(), seed=0)
    labels = test.labels.numpy().astype("int64")
    found = []
    for early_stop in (False, True):
        outcome = run_cell(
            detector,
            attacks.get(attack, image_size=32),
            test,
            held_out,
            Draws(10, 0),
            batch_size=5,
            device=CPU,
            tick=lambda done, what: None,
            early_stop=early_stop,
        )
        found.append([figure(outcome.robust[0], labels) for figure in (ranking.auc, ranking.strict_auc)])
    assert found[0] == found[1]


def test_the_gate_looks_at_gradients_in_a_ball_of_its_own() -> None:
    test = fakes.image_set(4, 4, side=32)
    detector = registry.get("mean-image")(registry.get("mean-image").settings_for("quick", 32), 32)
    detector.fit(fakes.image_set(8, 0, side=32).pixels(), seed=0)
    balls = ["pgd-linf", *TITLES]
    found = [gate.check(detector, test, CPU, attacks.get(name, image_size=32).threat) for name in balls]
    assert all(passed.describe() == found[0].describe() for passed in found)


@pytest.mark.parametrize(
    ("norm", "epsilon", "long", "short"),
    [
        ("linf", 2 / 255, "pgd at l-inf epsilon 2/255", "l-inf 2/255"),
        ("l2", 0.1, "pgd at l2 epsilon 0.1", "l2 0.1"),
        ("corruptions", 3.0, "pgd, severity 3", "severity 3"),
        ("semantic", 0.25, "pgd, strength 0.25", "strength 0.25"),
        ("patch", 0.1, "pgd, a square of 0.1 of the side", "a square of 0.1 of the side"),
        ("l{1}", 0.5, "pgd at l{1} epsilon 0.5", "l{1} 0.5"),  # a stranger's record
    ],
)
def test_how_far_an_attack_may_go_in_words(norm: str, epsilon: float, long: str, short: str) -> None:
    assert text.attack_text("pgd", epsilon, norm) == long
    assert text.threat_text(epsilon, norm, short=True) == short


def test_a_short_climb_of_a_patch_is_told_by_the_option_that_was_given(tmp_path: Path, folder: Path) -> None:
    plan = planning.make(fakes.config(tmp_path, folder, "brightness", attacks=("patch",), steps=3))
    (limit,) = [text for text in plan.limits_of("brightness", "bolt") if "gradients" in text]
    assert limit.startswith("--steps: ")
