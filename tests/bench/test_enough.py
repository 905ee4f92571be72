"""The early stop changes no figure that a record states (`bench.cell.enough`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import numpy as np
import pytest
import torch
import zoo
from torch import Tensor

import attacks
from bench.cell.attack import Draws, Outcome, run_cell
from bench.cell.enough import Bounds
from bench.cell.results import figures
from bench.metrics import intervals, ranking
from bench.metrics.ranking import Floats
from detectors import registry
from detectors.base import Detector
from detectors.noise import Noise

Register = Callable[..., None]
CPU = torch.device("cpu")


@pytest.mark.parametrize("seed", range(40))
def test_whatever_an_attack_would_still_do_to_a_lost_image_changes_no_figure_of_pairs(seed: int) -> None:
    """Complete attacks beside early ends of them, drawn at random: the proof, tried."""
    random = np.random.default_rng(seed)
    count = int(random.integers(4, 60))
    labels = np.where(random.random(count) < random.uniform(0.2, 0.8), 1, -1)
    labels[:2] = 1, -1
    # Few levels, so that there are ties.
    clean = random.integers(0, 12, count) + random.choice([0, 3]) * (labels == -1)
    clean = clean.astype(float)
    pushed = clean + labels * random.exponential(random.choice([0.5, 3, 8]), count).round(int(random.integers(0, 3)))
    threshold = None if seed % 3 == 0 else float(random.integers(0, 12))
    bounds = Bounds(labels, clean, threshold)
    normal = labels == 1
    # An attack that goes up and stops anywhere behind what is enough.
    early = pushed.copy()
    done = normal & (pushed > bounds.normals())
    share = random.uniform(0.01, 1, count)
    early[done] = np.maximum(clean, bounds.normals() + share * (pushed - bounds.normals()))[done]
    limit = bounds.anomalies(early[normal])
    done = ~normal & (pushed < limit)
    early[done] = np.minimum(clean, limit + share * (pushed - limit))[done]
    for figure in (ranking.auc, ranking.strict_auc, ranking.fpr_at_95_tpr):
        assert figure(early, labels) == figure(pushed, labels), figure.__name__
    assert_same(early[None], pushed[None], labels)
    assert ranking.auc(np.where(normal, early, clean), labels) == ranking.auc(np.where(normal, pushed, clean), labels)
    if threshold is not None:
        found, whole = (ranking.attack_success(clean, r, labels, threshold) for r in (early, pushed))
        assert found == whole


def assert_same(early: Floats, whole: Floats, labels: Any) -> None:
    """Every figure and interval. An average precision is a sum over anomalies from the highest down, and among those
    that are lost another one may be next: the terms are the same, and their sum rounds. (Of anomalies that share a
    score it counts the last one's term for all, so there it depends on who does.)"""
    found, expected = intervals.summary(early, labels), intervals.summary(whole, labels)
    anomalies = [scores[0, labels == -1] for scores in (early, whole)]
    if any(len(np.unique(scores)) < len(scores) for scores in anomalies):
        del found["aupr"], expected["aupr"]
    assert found == pytest.approx(expected, rel=1e-12, abs=0)
    assert found["auc"] == expected["auc"] and found["strict_auc"] == expected["strict_auc"]


def outcome(detector: Detector, *, early_stop: bool, epsilon: float, steps: int = 10, images: Any = None) -> Outcome:
    test = images or fakes.image_set(12, 12, side=detector.image_size)
    made = attacks.get("pgd-linf", image_size=detector.image_size, epsilon=epsilon, steps=steps)
    return run_cell(
        detector,
        made,
        test,
        test.subset(range(11)),
        Draws(1, 0),
        batch_size=5,
        device=CPU,
        tick=lambda done, what: None,
        early_stop=early_stop,
    )


class Wavy(fakes.Fake):
    """Rough, so that some images resist."""

    name = "wavy"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return (fakes.linear_weights(x.shape[-1]).to(x) * torch.sin(25 * x)).mean(dim=(1, 2, 3))


class Saturated(fakes.Fake):
    """A score without digits, of which its monotone surrogate has some."""

    name = "saturated"
    has_surrogate = surrogate_is_monotone = True

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return (100 * self._surrogate_score(x, noise)).tanh()

    def _surrogate_score(self, x: Tensor, noise: Noise) -> Tensor:
        return (fakes.linear_weights(x.shape[-1]).to(x) * x).mean(dim=(1, 2, 3))


class Stairs(Saturated):
    """A score of few levels, which its monotone surrogate passes long before it does."""

    name = "stairs"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return (60 * self._surrogate_score(x, noise)).floor() + 0 * x.sum(dim=(1, 2, 3))


@pytest.mark.parametrize("epsilon", [0.001, 0.004, 0.02])
@pytest.mark.parametrize("cls", [fakes.Fake, fakes.Linear, Wavy, Saturated])
def test_a_cell_that_stops_early_has_the_figures_of_a_complete_one(cls: type[fakes.Fake], epsilon: float) -> None:
    detector = fakes.fitted(cls)
    labels = fakes.image_set(12, 12).labels.numpy().astype(np.int64)
    early, whole = (outcome(detector, early_stop=stop, epsilon=epsilon) for stop in (True, False))
    assert_same(early.robust, whole.robust, labels)
    np.testing.assert_array_equal(early.clean, whole.clean)
    assert early.had_enough is not None and whole.had_enough is None
    resisting = ~early.had_enough
    np.testing.assert_allclose(early.robust[:, resisting], whole.robust[:, resisting], rtol=1e-6)


@pytest.mark.parametrize("epsilon", [0.002, 0.01, 0.02])
def test_images_that_the_verdict_does_not_see_lost_are_attacked_to_the_end(
    epsilon: float, attacked_again: list[int]
) -> None:
    """Without that the AUC would be 1.7, 2.4 and 6.2 points too high."""
    detector = fakes.fitted(Stairs)
    labels = fakes.image_set(12, 12).labels.numpy().astype(np.int64)
    whole = outcome(detector, early_stop=False, epsilon=epsilon)
    assert not attacked_again, "a complete attack has been to the end"
    early = outcome(detector, early_stop=True, epsilon=epsilon)
    assert attacked_again, "images had stopped too early"
    assert_same(early.robust, whole.robust, labels)


def test_a_robust_aupr_is_left_out_where_a_stop_may_have_made_or_broken_a_tie_of_anomalies() -> None:
    """Of all figures of pairs it alone hangs on who ties. Here some do."""
    detector, test = zoo.fitted(zoo.HonestStairs, 16), fakes.image_set(16, 16, side=16)
    labels = test.labels.numpy().astype(np.int64)
    early, whole = (outcome(detector, early_stop=stop, epsilon=0.02, steps=8, images=test) for stop in (True, False))
    told, complete = (figures(found, labels, test) for found in (early, whole))
    assert len(np.unique(early.robust[0, labels == -1])) < 16, "some tie"
    assert "aupr" in complete["robust"] and "aupr" in told["clean"] and "aupr" not in told["robust"]
    assert told["robust"] == pytest.approx({n: v for n, v in complete["robust"].items() if n != "aupr"}, rel=1e-12)
    apart = outcome(fakes.fitted(Wavy), early_stop=True, epsilon=0.004)
    assert "aupr" in figures(apart, fakes.image_set(12, 12).labels.numpy(), fakes.image_set(12, 12))["robust"]


def test_it_saves_gradients_where_an_attack_wins_and_shows_its_pictures_attacked_to_the_end() -> None:
    found = outcome(fakes.fitted(fakes.Linear), early_stop=True, epsilon=0.05)
    assert found.gradients_spent is not None and found.had_enough is not None
    assert found.had_enough.mean() > 0.8 and found.gradients_spent.mean() < 5
    shown = [0, 12]  # the first of each class
    assert not found.had_enough[shown].any() and (found.gradients_spent[shown] == 10).all()


def test_an_image_whose_score_has_not_passed_the_bound_after_all_is_attacked_to_the_end() -> None:
    """Its surrogate had: the score is flat there."""
    test = fakes.image_set(12, 12)
    found = outcome(fakes.fitted(Saturated), early_stop=True, epsilon=0.05, images=test)
    labels = test.labels.numpy().astype(np.int64)
    assert found.had_enough is not None
    lost = Bounds(labels, found.clean[0], None).lost(found.robust[0])
    assert (lost | ~found.had_enough).all()


def test_a_record_leaves_out_what_it_does_not_know_and_a_complete_run_makes_its_own(
    tmp_path: Path, folder: Path, register: Register
) -> None:
    register(fakes.Linear, fakes.Noisy)
    names = ("linear", "noisy")
    early, noisy = fakes.run(fakes.config(tmp_path, folder, *names, categories=("bolt",))).records
    whole, _ = fakes.run(fakes.config(tmp_path, folder, *names, categories=("bolt",), complete=True)).records
    assert early.cell.early_stop and early.cell.to_document()["early_stop"] is True
    assert "early_stop" not in {*whole.cell.to_document(), *noisy.cell.to_document()}
    assert early.key != whole.key and early.robust == whole.robust
    assert "anomalies_only_auc" in whole.results and "anomalies_only_auc" not in early.results
    assert early.results["normals_only_auc"] == whole.results["normals_only_auc"]
    assert 0 <= early.indicators["had_enough_share"] <= 1 and "had_enough_share" not in noisy.indicators
    assert early.indicators["mean_gradients_per_image"] <= early.indicators["gradients_per_image"]
    assert registry.get("noisy").is_stochastic and "anomalies_only_auc" in noisy.results


def test_where_nothing_can_be_said_to_be_enough_every_image_is_attacked_to_the_end(
    tmp_path: Path, folder: Path, register: Register
) -> None:
    """A surrogate that is -inf on a clean picture, of a score that is finite, must not end the run."""

    class Infinite(fakes.Linear):
        name = "infinite"
        has_surrogate = surrogate_is_monotone = True

        def _surrogate_score(self, x: Tensor, noise: Noise) -> Tensor:
            last = torch.tensor([name.endswith("good/005.png") for name in noise.image_ids])
            return self.value(x, noise) - torch.where(last, torch.inf, 0.0).to(x)

    register(Infinite)
    run = fakes.config(tmp_path, folder, "infinite", categories=("bolt",))
    (record,) = fakes.run(run).records
    assert record.ok, record.reason
    assert record.cell.to_document()["early_stop"] is True and "anomalies_only_auc" not in record.results


def test_an_image_that_was_attacked_to_the_end_after_all_counts_with_what_that_cost() -> None:
    found = outcome(fakes.fitted(Saturated), early_stop=True, epsilon=0.05)
    assert found.had_enough is not None and found.gradients_spent is not None
    to_the_end = ~found.had_enough
    assert (found.gradients_spent[to_the_end] == 10).all() and found.early_stop
