"""A sweep over epsilon: each ball starts from what was found in the next smaller one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import pytest
import torch
from torch import Tensor

import attacks
from bench.cell import verdict
from bench.cell.attack import Draws, Outcome, run_cell
from bench.errors import BenchError
from bench.metrics import ranking
from bench.plan import plan as planning
from bench.plan.request import RunConfig
from bench.records.record import Record
from bench.records.store import read_scores
from bench.report import leaderboard
from bench.report.caveats import failure_flags
from bench.run import runner
from detectors.noise import Noise

RADII = (0.001, 0.002, 0.004, 0.008)


class Wavy(fakes.Linear):
    """Many local optima: an attack that starts elsewhere ends elsewhere."""

    name = "wavy"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        waves = (fakes.linear_weights(x.shape[-1]).to(x) * torch.sin(400 * x)).mean(dim=(1, 2, 3))
        return waves - 20 * x.mean(dim=(1, 2, 3))


class NoisyWavy(Wavy):
    """The same on a noisy image."""

    name = "noisy-wavy"
    is_stochastic = True

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return super().value(x + 5e-4 * noise.normal(x.shape[1:], stream="wavy", like=x), noise)


class Bright(fakes.Fake):
    """score = mean brightness, of which a large ball leaves nothing."""

    name = "bright"


def sweep(root: Path, data: Path, *detectors: str, **changes: Any) -> RunConfig:
    return fakes.config(
        root, data, *detectors, **({"epsilons": RADII, "sweep": True, "categories": ("bolt",)} | changes)
    )


def robust(records: list[Record]) -> list[float]:
    return [record.robust.auc for record in records if record.robust is not None]


def chain(
    detector: Any,
    *,
    early_stop: bool,
    warm: bool = True,
    attack: str = "pgd-linf",
    scale: float = 1,
    **settings: Any,
) -> list[Outcome]:
    """The cells of a sweep, in memory."""
    images, start, found = fakes.image_set(8, 8, side=detector.image_size), None, []
    for epsilon in RADII:
        made = attacks.get(attack, image_size=detector.image_size, epsilon=scale * epsilon, **settings)
        outcome = run_cell(
            detector,
            made,
            images,
            images.subset(range(8)),
            Draws(10, 0),
            batch_size=5,
            device=torch.device("cpu"),
            tick=lambda done, what: None,
            early_stop=early_stop,
            start=start if warm else None,
        )
        start = outcome.adversarial
        found.append(outcome)
    return found


LABELS = fakes.image_set(8, 8).labels.long().numpy()


@pytest.mark.parametrize("cls", [fakes.Linear, Wavy])
@pytest.mark.parametrize(
    ("attack", "settings"),
    [("pgd-linf", {"steps": 8}), ("apgd-linf", {"steps": 8}), ("autoattack-linf", {"iterations": 6, "queries": 20})],
)
def test_a_sweep_is_no_weaker_than_its_smaller_balls_and_the_early_stop_changes_no_auc_of_it(
    cls: type[fakes.Fake], attack: str, settings: dict[str, int]
) -> None:
    """docs/verdict.md has the proof: what has lost all its pairs in one ball has lost them in every larger one."""
    scale = 1 if cls is fakes.Linear else 0.05
    whole, stopped = (
        chain(fakes.fitted(cls), early_stop=stop, attack=attack, scale=scale, **settings) for stop in (False, True)
    )
    aucs = [float(ranking.auc(o.robust[0], LABELS)) for o in whole]
    assert aucs[0] > aucs[-1] and aucs[1] > 0
    for smaller, larger in itertools.pairwise(whole):
        assert (LABELS * (larger.robust - smaller.robust) >= 0).all()  # image by image
    for one, other in zip(whole, stopped, strict=True):
        assert ranking.auc(one.robust[0], LABELS) == ranking.auc(other.robust[0], LABELS)
    assert sum(o.gradients_spent.mean() for o in stopped if o.gradients_spent is not None) < sum(
        o.gradients for o in whole
    )


def test_a_sweep_reaches_the_optimum_of_a_linear_score_as_a_cold_run_does() -> None:
    detector = fakes.fitted(fakes.Linear)
    warm, cold = (chain(detector, early_stop=False, warm=w, steps=20) for w in (True, False))
    for one, other in zip(warm, cold, strict=True):
        torch.testing.assert_close(one.robust, other.robust, rtol=1e-5, atol=1e-4)


def test_a_sweep_is_at_least_as_strong_as_cold_runs_where_there_are_local_optima() -> None:
    detector = fakes.fitted(Wavy)
    warm, cold = (chain(detector, early_stop=False, warm=w, steps=10) for w in (True, False))
    gains = [float((LABELS * (o.robust - c.robust)).mean()) for o, c in zip(warm, cold, strict=True)]
    assert gains[0] == 0 and all(gain > 0 for gain in gains[1:])


def test_the_first_ball_is_the_cold_cell_and_the_others_name_the_smaller_ones(
    tmp_path: Path, folder: Path, register: Callable[..., None]
) -> None:
    register(Wavy)
    found = fakes.run(sweep(tmp_path / "warm", folder, "wavy", epsilons=(*RADII[::-1], 0))).records
    cold = fakes.run(sweep(tmp_path / "cold", folder, "wavy", sweep=False)).records
    assert [r.epsilon for r in found] == [0, *RADII]
    assert [r.attack.warm_from for r in found] == [[], *([*RADII[:n]] for n in range(4))]
    assert found[1].key == cold[0].key and not {r.key for r in found[2:]} & {r.key for r in cold}
    assert all("warm_from" not in r.cell.to_document()["attack"] for r in cold)
    rises = [r.indicators.get("auc_rise") for r in found]
    assert rises[:2] == [None, None] and all((rise or 0) <= 0 for rise in rises[2:])
    assert robust(found)[1:] == sorted(robust(found)[1:], reverse=True)
    boards = leaderboard.build(found)
    assert ["of a sweep" in " ".join(board.facts) for board in boards] == [bool(r.attack.warm_from) for r in found]


@pytest.mark.parametrize("cls", [Wavy, NoisyWavy, Bright])
@pytest.mark.parametrize("missing", [(1,), (2, 3), (3,), (1, 2, 3)])
def test_a_sweep_that_was_cut_off_ends_with_the_same_records(
    tmp_path: Path, folder: Path, register: Callable[..., None], cls: type[fakes.Fake], missing: tuple[int, ...]
) -> None:
    register(cls)
    radii = (0.001, 0.002, 0.5, 0.9) if cls is Bright else RADII  # of brightness nothing is left at 0.5
    config = sweep(tmp_path, folder, cls.name, epsilons=radii)
    found = fakes.run(config).records
    assert all(robust(found)[:2])  # it does not end before it should
    documents, scores = fakes.documents(tmp_path / "out"), fakes.score_files(tmp_path / "out")
    for number in missing:
        path = found[number].path
        assert path is not None
        path.unlink()
    quiet = fakes.Quiet()
    fakes.run(config, quiet)
    assert [reused for *_, reused in quiet.cells] == [n not in missing for n in range(4)]
    assert fakes.documents(tmp_path / "out") == documents and fakes.score_files(tmp_path / "out") == scores


def test_a_sweep_ends_where_nothing_is_left_and_says_so(
    tmp_path: Path, folder: Path, register: Callable[..., None]
) -> None:
    register(Bright)
    config = sweep(tmp_path, folder, "bright", epsilons=(0.004, 0.5, 0.7, 0.9))
    found = fakes.run(config).records
    assert robust(found)[0] > 0 and robust(found)[1:] == [0, 0, 0]
    assert [r.indicators.get("smaller_ball") for r in found] == [None, None, 0.5, 0.5]
    assert [r.indicators["gradients_per_image"] for r in found[2:]] == [0, 0]
    assert (read_scores(found[3]).robust == read_scores(found[1]).robust).all()
    assert found[3].results == found[1].results and found[3].ok
    assert not failure_flags(found[3])
    # A complete run wants every image attacked to the end, in every ball.
    whole = fakes.run(replace(config, complete=True, out=tmp_path / "complete")).records
    assert robust(whole)[1:] == [0, 0, 0] and not any("smaller_ball" in r.indicators for r in whole)


def test_what_could_still_be_lowered_is_left_out_where_a_sweep_has_ended(
    tmp_path: Path, folder: Path, register: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The robust accuracy at a threshold is of the smaller ball's images, and an attack might do more."""
    register(Bright)
    monkeypatch.setattr(verdict, "LEAST_HELD_OUT", 1)
    found = fakes.run(sweep(tmp_path, folder, "bright", epsilons=(0.004, 0.5, 0.9))).records
    assert ["robust_accuracy" in r.results for r in found] == [True, True, False]
    assert found[2].results == {
        name: value
        for name, value in found[1].results.items()
        if name not in ("robust_accuracy", "attack_success", "threshold", "threshold_rule")
    }


def test_what_starts_from_a_cell_that_failed_fails_and_is_done_again(
    tmp_path: Path, folder: Path, register: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    register(Wavy)
    config = sweep(tmp_path, folder, "wavy")
    whole = fakes.run(replace(config, out=tmp_path / "whole")).records

    def fails(self: Any, *anything: Any, **more: Any) -> Any:
        if self.threat.epsilon == RADII[1]:
            raise RuntimeError("broken")
        return run(self, *anything, **more)

    run = attacks.PGD._run
    with monkeypatch.context() as patched:
        patched.setattr(attacks.PGD, "_run", fails)
        found = fakes.run(config).records
    assert [r.ok for r in found] == [True, False, False, False]
    assert "broken" in found[1].reason and "next smaller epsilon" in found[2].reason
    assert [r.results for r in fakes.run(config).records] == [r.results for r in whole]


def test_several_processes_leave_the_same_records(tmp_path: Path, folder: Path) -> None:
    names = ("mean-image", "brightness", "file-order")
    config = sweep(tmp_path / "one", folder, *names, categories=("bolt", "nut"))
    fakes.run(config)
    several = replace(config, out=tmp_path / "two" / "out")
    runner.run_plan(planning.make(several), fakes.Quiet(), workers=2)
    assert fakes.documents(tmp_path / "one" / "out") == fakes.documents(tmp_path / "two" / "out")
    assert fakes.score_files(tmp_path / "one" / "out") == fakes.score_files(tmp_path / "two" / "out")
    found = fakes.documents(tmp_path / "one" / "out").values()
    assert all("warm_from" not in d["cell"]["attack"] for d in found if d["cell"]["detector"]["name"] == "file-order")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"epsilons": (0.01,)}, "several radii"),
        ({"epsilons": (0.0, 0.01)}, "several radii"),
        ({"protocol": "paper"}, "--keep best"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_a_sentence(
    tmp_path: Path, folder: Path, register: Callable[..., None], changes: dict[str, Any], text: str
) -> None:
    register(Wavy)
    with pytest.raises(BenchError, match=text):
        planning.make(sweep(tmp_path, folder, "wavy", **changes))


def test_an_auc_that_rises_with_epsilon_is_a_flag(tmp_path: Path, folder: Path, register: Callable[..., None]) -> None:
    register(Wavy)
    record = fakes.run(sweep(tmp_path, folder, "wavy")).records[-1]
    assert not any("rises" in flag for flag in failure_flags(record))
    risen = replace(record, indicators=record.indicators | {"auc_rise": 2.34})
    assert any("rises with epsilon, by 2.3" in flag for flag in failure_flags(risen))


@pytest.mark.parametrize("cls", [Wavy, NoisyWavy])
@pytest.mark.parametrize("attack", ["pgd-linf", "pgd-l2"])
def test_at_epsilon_0_the_figures_are_the_clean_ones_and_no_flag_is_up(
    tmp_path: Path, folder: Path, register: Callable[..., None], cls: type[fakes.Fake], attack: str
) -> None:
    register(cls)
    (record,) = fakes.run(sweep(tmp_path, folder, cls.name, epsilons=(0.0,), sweep=False, attacks=(attack,))).records
    assert record.results["robust"] == record.results["clean"]
    scores = read_scores(record)
    assert (scores.clean == scores.robust).all()
    assert record.indicators["gradients_per_image"] == 0 and not failure_flags(record)
