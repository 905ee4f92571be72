"""`--force`, `--bpda` and `--eot`: what a user asks of the attacks, whichever they are, and what the records say."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import pytest
import torch
from test_surrogate_runs import Stairs

import attacks
from attacks.autoattack import OVERESTIMATES
from attacks.errors import AttackError
from bench.errors import BenchError
from bench.plan import cells, protocols
from bench.plan import plan as planning
from bench.plan.request import RunConfig
from bench.report import leaderboard, write
from bench.report.caveats import failure_flags
from detectors.noise import Noise

Command = Callable[..., Any]
Register = Callable[..., None]
STRICT = protocols.get("strict-lite").default_attacks
SHORT = {"iterations": 3, "starts": 1, "other_starts": 1, "queries": 10, "mean_draws": 2}


def run(**changes: Any) -> RunConfig:
    settings = changes.pop("attack_settings", {})
    usual = {"detectors": ("brightness",), "categories": ("mono",)}
    return dataclasses.replace(fakes.asked_for(**(usual | changes)), attack_settings=settings)


# -- --force ----------------------------------------------------------------------------------------------------------


def test_autoattack_on_a_stochastic_detector_is_refused_unless_asked_for_twice() -> None:
    asked = run(detectors=("freerad",), attacks=("autoattack-linf",))
    with pytest.raises(AttackError, match="use autoattack-rand-linf"):
        planning.make(asked)
    plan = planning.make(dataclasses.replace(asked, attack_settings={"force": True}))
    assert [attack.name for attack in plan.attacks_on("freerad")] == ["autoattack-linf"]
    both = planning.make(run(detectors=("freerad", "ae"), attacks=STRICT, attack_settings={"force": True}))
    assert [attack.name for attack in both.attacks_on("freerad")] == list(STRICT)
    assert [attack.name for attack in both.attacks_on("ae")] == ["autoattack-linf"], "rand is never forced"
    outline = planning.Outline.of(both).plan()
    assert outline.attacks_on("freerad")[0].settings.force, "in another process, too"


def test_a_forced_record_is_flagged_on_every_board_and_deterministic_ones_are_as_they_were(
    tmp_path: Path, folder: Path, register: Register
) -> None:
    register(fakes.Noisy, fakes.Linear)
    plain = dataclasses.replace(
        fakes.config(tmp_path, folder, "noisy", "linear", categories=("bolt",), attacks=STRICT, protocol="strict-lite"),
        attack_settings=SHORT,
    )
    before = {r.attack_name: r for r in fakes.run(plain).records}
    forced = fakes.run(dataclasses.replace(plain, attack_settings=SHORT | {"force": True}))
    assert forced.reused == 2 and len(forced.records) == 3, "only the forced cell is a new one"
    (record,) = (r for r in forced.records if r.key not in {known.key for known in before.values()})
    assert (record.detector_name, record.attack_name) == ("noisy", "autoattack-linf")
    assert record.ok, record.reason
    assert record.attack.settings["force"] is True and before["autoattack-linf"].attack.settings["force"] is False
    assert record.indicators["flags"] == [OVERESTIMATES] and OVERESTIMATES in failure_flags(record)
    assert all(OVERESTIMATES not in failure_flags(known) for known in before.values())
    (board,) = leaderboard.build([record, before["autoattack-linf"]])
    assert {row.name: "indicator" in row.marks for row in board.rows}["noisy"]
    assert f"Noisy, bolt: {OVERESTIMATES}" in write.markdown(board) and f": {OVERESTIMATES}" in write.latex(board)
    (board,) = leaderboard.build(forced.records)
    (noisy,) = (row for row in board.rows if row.name == "noisy")
    strongest = min((r for r in forced.records if r.detector_name == "noisy"), key=lambda r: r.results["robust"]["auc"])
    assert noisy.cells["bolt"].record.key == strongest.key


def test_force_changes_no_statement_and_no_key_of_what_is_not_forced() -> None:
    rules = protocols.get("strict")
    assert rules.stated({"force": True}) == {} and rules.stated({"force": True, "eot": 9}) == {"eot": 9}
    detector = fakes.fitted(fakes.Linear)
    plain, forced = (attacks.get("autoattack-linf", image_size=16, force=force) for force in (False, True))
    assert plain.settled(detector).describe() == forced.settled(detector).describe()
    assert forced.settings.force, "an attack never changes"
    config = run(attacks=("autoattack-linf",), protocol="strict", attack_settings={"force": True})
    assert cells._statement(config, rules, forced) == rules.statement


def test_force_needs_an_attack_that_it_is_for() -> None:
    with pytest.raises(
        BenchError, match=r"^--force is for autoattack-l2, autoattack-linf, and this run attacks with pgd"
    ):
        planning.make(run(attack_settings={"force": True}))


def test_the_command_line_forces(tmp_path: Path, folder: Path, command: Command, register: Register) -> None:
    register(fakes.Noisy)
    words = fakes.on(folder, "--dry-run", "--out", tmp_path / "o", "--cache", tmp_path / "c", names="noisy")
    refused = command(*words, "--attack", "autoattack-linf")
    assert refused.code == 2 and "use autoattack-rand-linf" in refused.err
    said = command(*words, "--attack", "autoattack-linf", "--force")
    assert said.code == 0 and said.err == "" and "2 cells" in said.out


# -- --bpda -----------------------------------------------------------------------------------------------------------


def test_bpda_is_another_word_for_the_surrogates_gradient(
    tmp_path: Path, folder: Path, command: Command, register: Register, no_plots: None
) -> None:
    register(Stairs)
    places = ("--out", tmp_path / "o", "--cache", tmp_path / "c")
    words = fakes.on(folder, "--categories", "bolt", "--steps", 1, *places, names="stairs")
    first = command(*words, "--bpda")
    assert first.code == 0 and first.err == ""
    assert '"differentiate": "surrogate"' in next((tmp_path / "o").glob("records/*/*/stairs--*.json")).read_text()
    assert "already there" in command(*words, "--gradient", "surrogate").out, "the same cell"
    for gradient in ("score", "auto", "map"):
        said = command(*words, "--bpda", "--gradient", gradient)
        assert said.code == 2 and f"--gradient says {gradient}; give one of them" in said.err
    assert command(*words, "--bpda", "--gradient", "surrogate").code == 0


def test_where_no_detector_has_a_surrogate_the_run_says_so(
    tmp_path: Path, folder: Path, command: Command, register: Register, caplog: pytest.LogCaptureFixture
) -> None:
    register(Stairs, fakes.Linear)
    places = ("--dry-run", "--out", tmp_path / "o", "--cache", tmp_path / "c")
    said = command(*fakes.on(folder, *places, "--bpda", names="linear"))
    assert said.code == 0 and any("No detector of this run declares a surrogate" in r.message for r in caplog.records)
    caplog.clear()
    assert command(*fakes.on(folder, *places, "--bpda", names="linear,stairs")).code == 0
    assert command(*fakes.on(folder, *places, names="linear")).code == 0
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_where_no_detector_has_a_map_the_run_says_so_and_goes_on(
    tmp_path: Path, folder: Path, command: Command, register: Register, caplog: pytest.LogCaptureFixture
) -> None:
    class Mapped(fakes.Linear):
        name = "mapped"
        has_map = True

        def _anomaly_map(self, x: torch.Tensor, noise: Noise) -> torch.Tensor:
            return x.mean(dim=1)

    register(Mapped, fakes.Linear)
    places = ("--gradient", "map", "--out", tmp_path / "o", "--cache", tmp_path / "c")
    said = command(*fakes.on(folder, *places, "--dry-run", names="linear"))
    assert said.code == 0 and any("No detector of this run has an anomaly map" in r.message for r in caplog.records)
    caplog.clear()
    assert command(*fakes.on(folder, *places, names="linear,mapped")).code == 0
    (told,) = [r.message for r in caplog.records if r.levelno >= logging.WARNING]
    assert told.startswith("These detectors of this run have no anomaly map (--gradient map): linear;")
    cells_found = [json.loads(path.read_text())["cell"] for path in (tmp_path / "o").glob("records/*/*/*.json")]
    followed = {(c["detector"]["name"], c["attack"]["differentiate"]) for c in cells_found}
    assert followed == {("linear", "score"), ("mapped", "map")}


def test_bpda_under_an_attack_without_a_choice_of_gradients_is_a_sentence() -> None:
    with pytest.raises(BenchError, match=r"^--gradient is for apgd-l2, .*attacks with square-linf; leave it out"):
        planning.make(run(attacks=("square-linf",), attack_settings={"differentiate": "surrogate"}))


# -- --eot ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attack", "protocol", "setting"),
    [
        ("pgd-linf", "quick", "eot"),
        ("pgd-l2", "quick", "eot"),
        ("apgd-linf", "quick", "eot"),
        ("autoattack-rand-linf", "strict-lite", "mean_draws"),
        ("autoattack-rand-l2", "strict", "mean_draws"),
    ],
)
def test_eot_is_what_each_attack_averages_over(attack: str, protocol: str, setting: str) -> None:
    plan = planning.make(run(detectors=("freerad",), attacks=(attack,), protocol=protocol, attack_settings={"eot": 25}))
    (made,) = plan.attacks_on("freerad")
    assert getattr(made.settings, setting) == 25
    steps = getattr(made.settings, "stochastic_steps", None) or getattr(made.settings, "iterations", None)
    per_run = made.budget(is_stochastic=True) / (3 if setting == "mean_draws" else 1)
    assert per_run == 25 * (steps or made.settings.steps), "25 gradients a step"
    assert plan.limits_of("freerad", "mono") == [], "more draws are no weaker attack"


def test_fewer_draws_than_the_protocols_are_no_full_run() -> None:
    asked = run(detectors=("freerad",), attacks=STRICT[1:], protocol="strict-lite", attack_settings={"eot": 2})
    (limit,) = planning.make(asked).limits_of("freerad", "mono")
    assert limit.startswith("--eot: 300 gradients for each image, fewer than the protocol's 750")
    as_it_is = dataclasses.replace(asked, attack_settings={"eot": 5})
    assert protocols.get("strict-lite").stated(as_it_is.attack_settings) == {}
    assert planning.make(as_it_is).limits_of("freerad", "mono") == []


def test_of_several_attacks_each_takes_what_it_has_and_what_none_has_is_a_sentence() -> None:
    asked = run(detectors=("freerad", "ae"), attacks=STRICT, protocol="strict-lite", attack_settings={"eot": 20})
    plan = planning.make(asked)
    assert plan.attacks_on("freerad")[0].settings.mean_draws == 20
    assert (
        plan.attacks_on("ae")[0].settings
        == attacks.get("autoattack-linf", iterations=50, starts=2, other_starts=1, queries=1000).settings
    )
    for attack in ("autoattack-linf", "square-linf"):
        with pytest.raises(
            BenchError, match=rf"^--eot is for .*autoattack-rand-linf.*, and this run attacks with {attack}"
        ):
            planning.make(dataclasses.replace(asked, detectors=("ae",), attacks=(attack,)))
