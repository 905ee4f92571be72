"""An ensemble of attacks on a test set: each member on the images that the ones before left, and the same figures."""

from __future__ import annotations

import json
from typing import Any

import bench_fakes as fakes
import numpy as np
import pytest
import torch
import zoo
from test_enough import CPU, Saturated, Stairs, Wavy, assert_same
from torch import Tensor

import attacks
from bench.cell import in_turn
from bench.cell.attack import Draws, Outcome, run_cell
from bench.cell.attacking import Attacking
from bench.cell.results import figures, indicators
from bench.metrics import ranking
from detectors.noise import Noise

SMALL = {"iterations": 6, "starts": 2, "other_starts": 1, "queries": 40}
LABELS = fakes.image_set(12, 12).labels.numpy().astype(np.int64)


class Mapped(Wavy):
    """With a map to follow."""

    name = "mapped"
    has_map = True

    def _anomaly_map(self, x: Tensor, noise: Noise) -> Tensor:
        return (fakes.linear_weights(x.shape[-1]).to(x) * torch.sin(25 * x)).mean(dim=1)


def outcome(detector: Any, *, early_stop: bool, epsilon: float, **settings: int) -> Outcome:
    test = fakes.image_set(12, 12, side=detector.image_size)
    name = "autoattack-rand-linf" if detector.is_stochastic else "autoattack-linf"
    made = attacks.get(name, image_size=detector.image_size, epsilon=epsilon, **settings)
    return run_cell(
        detector,
        made,
        test,
        test.subset(range(11)),
        Draws(2, 0),
        batch_size=5,
        device=CPU,
        tick=lambda done, what: None,
        early_stop=early_stop,
    )


@pytest.mark.parametrize("epsilon", [0.001, 0.004, 0.02])
@pytest.mark.parametrize("cls", [fakes.Linear, Wavy, Mapped, Saturated])
def test_images_that_are_left_alone_change_no_figure_of_pairs(cls: type[fakes.Fake], epsilon: float) -> None:
    detector = fakes.fitted(cls)
    early, whole = (outcome(detector, early_stop=stop, epsilon=epsilon, **SMALL) for stop in (True, False))
    assert_same(early.robust, whole.robust, LABELS)
    assert early.had_enough is not None and early.gradients_spent is not None
    assert early.gradients_spent.sum() <= whole.gradients_spent.sum()  # type: ignore[union-attr]
    found, limited = (figures(o, LABELS, fakes.image_set(12, 12)) for o in (whole, early))
    assert found["robust_accuracy"] == limited["robust_accuracy"]
    assert "normals_only_auc" in found and "normals_only_auc" not in limited and "anomalies_only_auc" not in limited


@pytest.mark.parametrize("epsilon", [0.01, 0.02])
def test_images_that_the_verdict_does_not_see_lost_are_attacked_to_the_end_by_all_members(
    epsilon: float, attacked_again: list[int]
) -> None:
    """Without that the AUC would be 2.4 and 6.2 points too high."""
    detector = fakes.fitted(Stairs)
    whole = outcome(detector, early_stop=False, epsilon=epsilon, **SMALL)
    assert not attacked_again, "a complete attack has been to the end"
    early = outcome(detector, early_stop=True, epsilon=epsilon, **SMALL)
    assert attacked_again, "images had stopped too early"
    assert_same(early.robust, whole.robust, LABELS)


@pytest.mark.parametrize("stop", [True, False])
def test_the_record_says_what_each_member_did(stop: bool) -> None:
    found = outcome(fakes.fitted(Mapped), early_stop=stop, epsilon=0.004, **SMALL)
    members = indicators(found)["members"]
    assert [m["attack"]["name"] for m in members] == ["apgd-linf"] * 3 + ["square-linf"]
    assert [m["attack"].get("differentiate") for m in members] == ["score", "map", "mean-map", None]
    assert sum(m["won_share"] for m in members) == pytest.approx(1, abs=1e-3)
    attacked = [m["attacked_images"] for m in members]
    assert attacked[0] == 24 and attacked == sorted(attacked, reverse=True)
    assert attacked[-1] < 24 if stop else attacked == [24] * 4
    if stop:
        aucs = [m["robust_auc"] for m in members]
        assert aucs == sorted(aucs, reverse=True)
        assert aucs[-1] == pytest.approx(ranking.auc(found.robust[0], LABELS))


@pytest.mark.parametrize("epsilon", [0.001, 0.004])
def test_the_ensemble_leaves_at_most_what_each_member_leaves(epsilon: float) -> None:
    """Exactly: each alone, to the end, under the noise that it has in the ensemble."""
    detector = fakes.fitted(Mapped)
    whole = outcome(detector, early_stop=True, epsilon=epsilon, **SMALL)
    made = attacks.get("autoattack-linf", image_size=detector.image_size, epsilon=epsilon, **SMALL)
    attacking = Attacking(detector, fakes.image_set(12, 12, side=detector.image_size), Draws(1, 0), CPU, 5)
    losses = [
        attacking.attacked(member, range(24), None, lambda done: None, path=(number,)).best_loss.double().numpy()
        for number, member in enumerate(made.members(detector))
    ]
    alone = [ranking.auc(LABELS * loss, LABELS) for loss in losses]
    assert ranking.auc(whole.robust[0], LABELS) <= min(alone)
    assert ranking.auc(whole.robust[0], LABELS) == ranking.auc(LABELS * np.max(losses, axis=0), LABELS)


def test_what_is_enough_is_renewed_after_each_member(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first member's anomalies fall, and normals that had not passed them by then have: they are left to nobody."""
    test = fakes.image_set(30, 30, side=16)
    made = attacks.get("autoattack-linf", image_size=16, epsilon=0.004, **SMALL | {"iterations": 4, "starts": 1})

    def run() -> Outcome:
        return run_cell(
            zoo.fitted(Mapped, 16),
            made,
            test,
            test.subset(range(11)),
            Draws(1, 0),
            batch_size=30,
            device=CPU,
            tick=lambda done, what: None,
            early_stop=True,
        )

    renewed = run()
    monkeypatch.setattr(in_turn._Best, "renew", lambda self, images, enough: None)
    not_renewed = run()
    of_second, others = (indicators(found)["members"][1]["attacked_images"] for found in (renewed, not_renewed))
    assert of_second < others
    assert renewed.gradients_spent is not None and not_renewed.gradients_spent is not None
    assert renewed.gradients_spent.sum() < not_renewed.gradients_spent.sum()
    labels = test.labels.numpy().astype(np.int64)
    assert ranking.auc(renewed.robust[0], labels) == ranking.auc(not_renewed.robust[0], labels)


def test_images_of_a_stochastic_detector_are_all_attacked_by_all() -> None:
    detector = fakes.fitted(fakes.Noisy)
    found = outcome(detector, early_stop=False, epsilon=0.02, iterations=4, mean_draws=2, selection_draws=4)
    members = indicators(found)["members"]
    assert [m["attacked_images"] for m in members] == [24, 24] and "robust_auc" not in members[0]
    assert found.had_enough is None and (found.gradients_spent == 16).all()


class Rounded(fakes.Linear):
    """Steps that no gradient sees, with a little of a slope that leads nowhere."""

    name = "rounded"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        steps = torch.floor(2000 * super().value(x, noise).detach()) / 2000
        return steps + 1e-6 * x[:, 0, 0, 0]


def test_what_no_gradient_finds_is_found_and_its_indicators_are_numbers() -> None:
    found = outcome(fakes.fitted(Rounded), early_stop=False, epsilon=0.05, **SMALL)
    told = indicators(found)
    square = told["members"][-1]
    assert square["won_share"] > 0.5 and (found.robust - found.clean)[0][LABELS == 1].mean() > 0
    assert told["gain_share"] > 0.5, "what Square found is a gain, too"
    assert told["zero_gradient_share"] is None or 0 <= told["zero_gradient_share"] <= 1
    json.dumps(told, allow_nan=False)


def test_its_batches_change_nothing_but_rounding() -> None:
    detector, made = fakes.fitted(Mapped), None
    found = []
    for size in (24, 7):
        made = attacks.get("autoattack-linf", image_size=detector.image_size, epsilon=0.004, **SMALL)
        test = fakes.image_set(12, 12, side=detector.image_size)
        found.append(
            run_cell(
                detector,
                made,
                test,
                test.subset(range(11)),
                Draws(1, 0),
                batch_size=size,
                device=CPU,
                tick=lambda done, what: None,
                early_stop=True,
            )
        )
    np.testing.assert_allclose(found[0].robust, found[1].robust, rtol=1e-5)


class _NotANumber(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        return x.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * torch.nan


class NoNumbers(fakes.Linear):
    """Whose gradient is not finite."""

    name = "no-numbers"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return super().value(_NotANumber.apply(x), noise)


class Flat(fakes.Linear):
    """Whose gradient is zero."""

    name = "flat"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return super().value(x.detach(), noise) + 0 * x.sum(dim=(1, 2, 3))


@pytest.mark.parametrize(("cls", "name"), [(NoNumbers, "nonfinite_gradient_share"), (Flat, "zero_gradient_share")])
def test_bad_gradients_are_told_where_a_black_box_found_every_image(cls: type[fakes.Fake], name: str) -> None:
    found = indicators(outcome(fakes.fitted(cls), early_stop=False, epsilon=0.02, **SMALL))
    assert found["members"][-1]["won_share"] == 1  # Square's, which follows no gradient
    assert found[name] == 1


class FlatSurrogate(fakes.Linear):
    """With a surrogate that is flat, and no function of the score."""

    name = "flat-surrogate"
    has_surrogate = True

    def _surrogate_score(self, x: Tensor, noise: Noise) -> Tensor:
        return 0 * x.sum(dim=(1, 2, 3))


@pytest.mark.parametrize("stop", [True, False])
def test_a_flat_surrogate_is_told_whichever_gradient_found_the_images(stop: bool) -> None:
    found = indicators(outcome(fakes.fitted(FlatSurrogate), early_stop=stop, epsilon=0.002, **SMALL))
    assert [m["attack"].get("differentiate") for m in found["members"]] == ["score", "surrogate", None]
    assert found["members"][1]["won_share"] == 0
    assert found["surrogate_zero_gradient_share"] == 1 and found["zero_gradient_share"] == 0
