"""`bench diagnose`: its table, its exit codes and its JSON; and the numbers behind its signs, in closed form."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import numpy as np
import pytest
import torch
import zoo

import attacks
from attacks.autoattack import AutoAttackLInf, AutoAttackSettings
from attacks.threat import LInf
from bench.cell.attack import Draws
from bench.cell.attacking import Attacking
from bench.cell.in_turn import attack_all
from bench.cell.rivals import CLEARLY, is_clearly_ahead, optimality
from bench.cell.selection_held import selection_held
from bench.cli import exits
from bench.diagnosis import advice, others, steadiness, sweep
from bench.diagnosis.diagnosis import diagnose as diagnose_it
from bench.diagnosis.diagnosis import questions
from bench.diagnosis.examined import Examined
from bench.records.schema import Figures
from bench.report.signs import LATE_SHARE, of_record

Command = Callable[..., Any]
Register = Callable[..., None]
SIDE = 16
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(others, "QUERIES", 40)


def examined(cls: type[zoo.Fake], *, epsilon: float = 2 / 255, steps: int = 10) -> Examined:
    test = fakes.image_set(4, 4, side=SIDE)
    attack = attacks.get("pgd-linf", image_size=SIDE, epsilon=epsilon, steps=steps)
    attacking = Attacking(zoo.fitted(cls, SIDE), test, Draws(1, 0), CPU, 5)
    return Examined(attacking, attack, attacking.attacked(attack, range(8), None, lambda done: None, path=()).images)


# -- the numbers ------------------------------------------------------------------------------------------------------


def test_a_slope_changes_a_tenth_as_much_in_a_tenth_of_the_ball() -> None:
    sign = steadiness.unsteady_score(examined(zoo.Linear))
    assert sign.number == pytest.approx(0.1, abs=0.01) and not sign.is_up


def test_jumps_add_up_as_their_root() -> None:
    """Of N pixels that may cross a grey level a tenth does so in a tenth of the ball: 0.1 ** 0.5 = 0.32."""
    sign = steadiness.unsteady_score(examined(zoo.grey_levels(256), epsilon=2 / 255))
    assert 0.2 < (sign.number or 0) < 0.4 and sign.is_up


def test_a_constant_has_no_change_to_compare() -> None:
    assert steadiness.unsteady_score(examined(zoo.Constant)).number is None


def test_slopes_of_an_honest_score_are_its_gradient_and_half_of_one_is_not() -> None:
    assert steadiness.wrong_slopes(examined(zoo.Smooth)).number == 0
    assert steadiness.wrong_slopes(examined(zoo.HalfDetached)).number == 1


def test_the_share_of_the_best_known_gain_is_a_mean_over_images() -> None:
    clean, best = np.array([0.0, -2.0, 1.0, 5.0]), np.array([2.0, 2.0, 1.0, 6.0])
    own = np.array([1.0, 2.0, 0.0, np.nan])  # a half, all; no gain to be had; not attacked
    assert optimality(clean, own, best) == pytest.approx(0.75)
    assert optimality(clean, clean, best) == 0 and optimality(clean, best, best) == 1
    assert optimality(clean, np.full(4, np.nan), best) is None and optimality(clean, clean, clean) is None


def test_clearly_ahead_is_more_than_a_hair() -> None:
    clean, known = torch.zeros(4), torch.tensor([1.0, 1.0, 0.0, 1.0])
    found = torch.tensor([1 + CLEARLY / 2, 1 + 2 * CLEARLY, 1e-3, torch.nan])
    assert is_clearly_ahead(clean, known, found).tolist() == [False, True, True, False]


def test_a_selection_that_saw_what_was_not_there_is_told() -> None:
    random, labels = np.random.default_rng(0), np.repeat([1, -1], 6)
    clean = random.normal(size=(10, 12))
    honest = clean + labels * 0.5 + 0.05 * random.normal(size=(10, 12))
    held = selection_held(np.full(12, 0.5), clean, honest, labels, 16)
    assert held is not None and not held.speaks and held.held_share == pytest.approx(1, abs=0.1)
    lucky = selection_held(np.full(12, 1.5), clean, honest, labels, 16)
    assert lucky is not None and lucky.speaks and lucky.held_share == pytest.approx(1 / 3, abs=0.05)
    assert selection_held(np.full(12, 0.5), clean[:1], honest[:1], labels, 16) is None
    nothing = selection_held(np.zeros(12), clean, clean, labels, 16)
    assert nothing is not None and not nothing.speaks and nothing.held_share is None


def signs_of(robust: Figures | None = None, **indicators: Any) -> dict[int, bool]:
    found = of_record(indicators, {"images": 4}, clean=None, robust=robust, is_stochastic=True, keep="best")
    return {sign.flag: sign.is_up for sign in found}


def test_an_attack_that_climbs_evenly_to_its_last_step_has_not_converged() -> None:
    """It has a fifth of its gain in the last fifth of the steps: the rate of a tenth in the last tenth."""
    assert signs_of(late_gain_share=0.2)[4] and not signs_of(late_gain_share=LATE_SHARE)[4]
    assert not signs_of(Figures(auc=0.0, low=0.0, high=1.0), late_gain_share=0.2)[4], "nothing is left to overestimate"


def test_a_best_known_gain_that_is_lost_on_the_verdicts_draws_is_a_flag() -> None:
    assert signs_of(selection_held={"held_share": 0.3, "standard_errors": 9.0, "speaks": True})[14]
    assert not signs_of(selection_held={"held_share": 0.9, "standard_errors": 9.0, "speaks": False})[14]


# -- an ensemble's record ---------------------------------------------------------------------------------------------


def members_of(cls: type[zoo.Fake]) -> list[dict[str, Any]]:
    detector, test = zoo.fitted(cls, SIDE), fakes.image_set(6, 6, side=SIDE)
    attack = AutoAttackLInf(LInf(2 / 255), AutoAttackSettings(10, 2, 1, 200))
    return attack_all(Attacking(detector, test, Draws(1, 0), CPU, 12), attack, None, lambda done, what: None).members


def test_members_say_how_far_each_came_by_itself_and_a_black_box_that_beats_them_is_told() -> None:
    honest, masked = members_of(zoo.Linear), members_of(zoo.grey_levels(64))
    assert [row["gradients"] for row in honest] == [20, 0]
    assert honest[0]["optimality"] == 1 and honest[1]["ahead_share"] == 0 and "ahead_share" not in honest[0]
    assert masked[-1]["ahead_share"] > 0.5 and masked[0]["optimality"] < 0.8
    for rows, up in ((honest, False), (masked, True)):
        found = of_record(
            {"members": rows},
            {"images": 4},
            clean=None,
            robust=Figures(auc=30.0, low=20.0, high=40.0),
            is_stochastic=False,
            keep="best",
        )
        (sign,) = [sign for sign in found if sign.flag == 15]
        assert sign.is_up == up and sign.number == rows[-1]["ahead_share"]


# -- other radii, other attacks ---------------------------------------------------------------------------------------


def test_a_sweep_falls_to_zero_with_all_of_the_range() -> None:
    areas: dict[str, float] = {}
    rise, left = sweep.signs(examined(zoo.Smooth), lambda what: None, areas)
    assert next(iter(areas)) == "0" and list(areas)[-1] == "255/255" and len(areas) == len(sweep.PARTS) + 2
    assert list(areas.values()) == sorted(areas.values(), reverse=True)
    assert not rise.is_up and left.number == 0 and not left.is_up


def test_a_constant_is_no_masked_gradient_and_a_score_in_steps_is_one() -> None:
    def left(cls: type[zoo.Fake]) -> bool:
        return list(sweep.signs(examined(cls), lambda what: None, {}))[1].is_up

    assert not left(zoo.Constant) and left(zoo.Ties)


def test_an_attack_of_too_few_steps_is_beaten_by_a_longer_one() -> None:
    found = list(others.signs(examined(zoo.NarrowStairs, steps=1), (), lambda what: None))
    assert "ahead: 3 times the steps" in {sign.name for sign in found if sign.is_up}
    longer = others.with_more_steps(attacks.get("pgd-linf", image_size=SIDE, steps=7))
    assert longer is not None and longer.settings.steps == 21
    assert others.with_more_steps(attacks.get("noise-linf", image_size=SIDE)) is None


# -- the command ------------------------------------------------------------------------------------------------------


def diagnose(command: Command, folder: Path, tmp_path: Path, names: str, *more: object) -> Any:
    keep = ("--cache", tmp_path / "cache", "--out", tmp_path / "out.json")
    where = ("--dataset", "folder", "--data-root", folder, "--image-size", 32, "--categories", "bolt")
    return command("diagnose", "--detectors", names, *where, "--images", 3, *keep, *more)


def test_it_prints_a_table_and_writes_json_and_ends_with_0_where_nothing_is_up(
    command: Command, folder: Path, tmp_path: Path, register: Register
) -> None:
    register(fakes.Fake)
    said = diagnose(command, folder, tmp_path, "fake")
    assert said.code == 0, said.out + said.err
    assert max(map(len, said.out.splitlines())) <= 80
    for word in ("indicator", "limit", "verdict", "zero gradients", "ahead: Square", "AUC by epsilon: 0 "):
        assert word in said.out
    assert "FLAG" not in said.out
    (found,) = json.loads((tmp_path / "out.json").read_text())
    assert found["detector"] == "fake" and found["images"] == 6
    assert {"flag", "name", "number", "limit", "is_up", "sentence"} == found["signs"][0].keys()


def test_each_question_is_told() -> None:
    for cls in (zoo.MapMaximum, zoo.Declared, zoo.Blind):
        told: list[str] = []
        attack, detector = attacks.get("pgd-linf", image_size=SIDE, steps=2), zoo.fitted(cls, SIDE)
        test = fakes.image_set(3, 3, side=SIDE)
        sources = [zoo.fitted(zoo.Smooth, SIDE)]
        diagnose_it(
            detector, attack, test, test, sources, category="", seed=0, batch_size=6, device=CPU, tell=told.append
        )
        assert len(told) == questions(detector, attack, sources)


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        ("corruptions", "corruptions, severity 3,"),
        ("semantic", "semantic, strength 0.1,"),
        ("patch", "a square of 0.1 of the"),
    ],
)
def test_of_an_attack_without_a_ball_nothing_is_asked_that_needs_one(
    command: Command, folder: Path, tmp_path: Path, register: Register, attack: str, words: str
) -> None:
    register(fakes.Fake)
    said = diagnose(command, folder, tmp_path, "fake", "--attack", attack)
    assert words in said.out and "l-inf" not in said.out and "FLAG 26" not in said.out, said.out + said.err
    (found,) = json.loads((tmp_path / "out.json").read_text())
    assert found["norm"] == attack and found["areas"] == {}
    assert not {19, 21, 22, 23, 24, 25} & {sign["flag"] for sign in found["signs"]}
    assert {18, 20} <= {sign["flag"] for sign in found["signs"]}


def test_a_flag_is_an_exit_code_of_its_own_with_what_to_do(
    command: Command, folder: Path, tmp_path: Path, register: Register
) -> None:
    register(type("Stepped", (zoo.Ties,), {"name": "stepped"}))
    said = diagnose(command, folder, tmp_path, "stepped")
    assert said.code == exits.FLAGGED
    assert "FLAG 1" in said.out and advice.BY_FLAG[1].split(";")[0] in " ".join(said.out.split())


def test_a_detector_that_cannot_be_fitted_is_a_sentence_and_the_others_are_told(
    command: Command, folder: Path, tmp_path: Path, register: Register
) -> None:
    register(fakes.Fake, fakes.BrokenFit, fakes.Broken)
    said = diagnose(command, folder, tmp_path, "broken-fit,broken,fake")
    assert said.code == 2 and "broken-fit on bolt" in said.err
    assert "the attack could not be asked" in " ".join(said.out.split()) and "fake on bolt" in said.out


@pytest.mark.parametrize("words", [("--images", 1), ("--epsilon", "1/255,2/255"), ("--attack", "autoattack-rand-linf")])
def test_what_cannot_be_asked_is_a_sentence(
    command: Command, folder: Path, tmp_path: Path, register: Register, words: tuple[object, ...]
) -> None:
    register(fakes.Fake)
    where = ("--dataset", "folder", "--data-root", folder, "--image-size", 32, "--cache", tmp_path / "cache")
    said = command("diagnose", "--detectors", "fake", *where, *words)
    assert said.code == 2 and said.err.startswith("Error: ") and said.err.strip().endswith(".")
    assert not (tmp_path / "out.json").exists()


def test_pictures_that_leak_are_refused_as_a_run_refuses_them(
    command: Command, folder: Path, tmp_path: Path, cheap: None
) -> None:
    data = tmp_path / "leaking"
    shutil.copytree(folder, data)
    shutil.copy(data / "bolt/train/good/000.png", data / "bolt/test/good/000.png")
    said = diagnose(command, data, tmp_path, "brightness")
    assert said.code == 2 and "is a training picture" in said.err
    assert diagnose(command, data, tmp_path, "brightness", "--allow-leaks").code in (0, 3)
    (tmp_path / "out.json").unlink()
    (tmp_path / "out.json").mkdir()
    said = diagnose(command, folder, tmp_path, "brightness")
    assert said.code == 2 and "is a folder; name a file in it" in said.err


def test_every_flag_has_its_advice() -> None:
    text = (Path(__file__).parents[2] / "docs" / "flags.md").read_text(encoding="utf-8")
    numbered = {int(line.split(".")[0][4:]) for line in text.splitlines() if line.startswith("### ")}
    assert numbered == advice.BY_FLAG.keys() - {0}
