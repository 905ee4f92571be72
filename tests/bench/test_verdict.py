"""The verdict of a cell, its noise, and what the record says of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import numpy as np
import pytest
import torch
from bench_fakes import fitted, outcome_of

from attacks.pgd import PGDLInf
from attacks.result import AttackResult
from attacks.threat import LInf
from bench.cell.attack import Draws, run_cell
from bench.cell.results import late_gain
from bench.metrics import ranking
from bench.records import store
from detectors.noise import NoiseSeed

Register = Callable[..., None]
CPU = torch.device("cpu")


def test_the_robust_auc_of_a_linear_score_is_the_exact_worst_case() -> None:
    epsilon, side = 0.02, 16
    found = outcome_of(fitted(fakes.Linear, side), normals=20, anomalies=20, epsilon=epsilon, steps=20)
    images = fakes.image_set(20, 20, side=side)
    x, y, w = images.pixels().double(), images.labels.double(), fakes.linear_weights(side).double()
    # max of y <w, x'> over |x' - x| <= epsilon and 0 <= x' <= 1: every pixel goes to the end that y w points to.
    up, down = (x + epsilon).clamp(0, 1), (x - epsilon).clamp(0, 1)
    worst = torch.where(y[:, None, None, None] * w > 0, up, down)
    exact = (w * worst).sum(dim=(1, 2, 3)).numpy()
    np.testing.assert_allclose(found.robust[0], exact, atol=2e-4)
    labels = images.labels.numpy().astype(np.int64)
    assert ranking.mean_single_draw_auc(found.robust, labels).mean == pytest.approx(
        ranking.mean_single_draw_auc(exact[None], labels).mean
    )
    clean = ranking.mean_single_draw_auc(found.clean, labels).mean
    assert ranking.mean_single_draw_auc(found.robust, labels).mean < clean - 5


def test_a_score_of_pure_noise_is_a_coin_toss_clean_and_robust() -> None:
    """An attack that selected lucky noise, and a verdict that re-used it, would push the robust AUC to 0."""
    found = outcome_of(fitted(fakes.PureNoise), normals=40, anomalies=40, batch_size=40)
    labels = fakes.image_set(40, 40).labels.numpy().astype(np.int64)
    np.testing.assert_array_equal(found.clean, found.robust)  # the same verdict draws, and the image plays no part
    assert ranking.mean_single_draw_auc(found.robust, labels).mean == pytest.approx(50, abs=7)
    # Every image and draw has its own noise (float32 has the same number twice now and then).
    assert len(np.unique(found.clean)) > 0.999 * found.clean.size


def test_attack_selection_and_verdict_draw_from_sources_of_their_own() -> None:
    fakes.PureNoise.sources.clear()
    outcome_of(fitted(fakes.PureNoise), normals=2, anomalies=2, batch_size=4, seed=5, verdict=10)
    indicator = ["more-draws-selection", "more-draws", "more-draws-verdict"]
    expected = ["selection", "attack", "verdict", "plain-noise", *indicator]
    purposes = {NoiseSeed(5).source(purpose, ["a"]).key: purpose for purpose in expected}
    used = [purposes[source.key] for source in fakes.PureNoise.sources]
    # In this order: nothing of the attack comes after the first look at the verdict's noise.
    assert list(dict.fromkeys(used)) == expected
    first_verdict = used.index("verdict")
    assert not {"attack", "selection"} & set(used[first_verdict:])


def test_what_an_attack_is_given_leads_to_no_noise_of_the_verdict() -> None:
    root = NoiseSeed(0)
    like = torch.zeros(1, 3, 2, 2)
    verdict = [root.source("verdict", ["a"]).at(draw).normal((4,), stream="s", like=like) for draw in range(10)]
    for purpose in ("attack", "selection"):
        given = root.source(purpose, ["a"])
        assert not hasattr(given, "seed")
        reachable = [given, *(given.at(i) for i in range(10)), *(given.sub(i) for i in range(10)), given.pick([0])]
        for source in reachable:
            drawn = source.normal((4,), stream="s", like=like)
            assert not any(torch.equal(drawn, v) for v in verdict)


def test_clean_scores_of_the_verdict_do_not_depend_on_the_attack() -> None:
    noisy = fitted(fakes.Noisy)
    linf, l2 = outcome_of(noisy), outcome_of(noisy, attack="pgd-l2", epsilon=0.5, steps=3)
    draws = min(len(linf.clean), len(l2.clean))  # how many there are follows from the spread, clean and attacked
    np.testing.assert_array_equal(linf.clean[:draws], l2.clean[:draws])
    assert not np.array_equal(linf.robust[:draws], l2.robust[:draws])
    np.testing.assert_array_equal(linf.calibration, linf.clean[:, :6])  # the same images, ids and draws


def test_a_random_detector_is_judged_on_all_verdict_draws_and_another_seed_draws_others() -> None:
    noisy = fitted(fakes.Noisy)
    found, other = outcome_of(noisy, verdict=10), outcome_of(noisy, verdict=10, seed=1)
    draws = len(found.clean)
    assert draws >= 10 and found.clean.shape == found.robust.shape == (draws, 12)
    assert all(len(np.unique(found.robust[:, image])) == draws for image in range(12))
    assert np.intersect1d(found.clean, other.clean).size < 0.01 * found.clean.size  # a number of float32 now and then
    assert outcome_of(fitted(fakes.Fake), verdict=10).clean.shape == (1, 12)


# -- the record -------------------------------------------------------------------------------------------------------


def test_a_record_states_what_was_done_where_and_with_what_uncertainty(
    tmp_path: Path, folder: Path, register: Register
) -> None:
    register(fakes.Noisy)
    run = fakes.config(tmp_path, folder, "noisy", categories=("bolt",), steps=None, image_size=None)
    (record,) = fakes.run(run).records
    cell = record.cell
    assert cell.protocol.name == "quick" and cell.protocol.version >= 1
    assert (cell.dataset, cell.category, cell.preset, cell.image_size) == ("folder", "bolt", "quick", 128)
    assert len(cell.fingerprint) == 64 and cell.subset.normals == cell.subset.anomalies == 6
    assert cell.detector.settings == {"knob": 1} and cell.detector.revision == 1
    assert len(cell.detector.checkpoint_sha256) == 64
    attack = cell.attack.settings
    assert attack["steps"] == 30 and (attack["eot"], attack["eot_last"]) == (2, 6)
    assert attack["schedule"] == "cosine" and cell.attack.epsilon == pytest.approx(2 / 255)
    assert attack["step_size"] == pytest.approx(1 / 255)
    assert cell.draws.to_document() == {"verdict": 10, "selection": 16} and cell.seed == 0
    assert record.full_run and record.limits == []
    assert record.checkpoint["origin"] == "fitted" and len(record.checkpoint["key"]) == 64
    assert {"python", "torch", "timm", "numpy", "device", "commit", "cpu", "threads"} <= record.environment.keys()
    assert record.environment["torch"] and record.environment["device"] == "cpu"
    assert {"fit", "attack", "verdict", "total", "score"} <= record.seconds.keys()
    assert 0 < record.seconds["score"] * 2 * 12 * record.results["verdict_draws"] <= record.seconds["verdict"] + 0.01
    assert record.peak_memory_mb is not None and record.peak_memory_mb > 50
    for figures in (record.clean, record.robust):
        assert figures is not None and 0 <= figures.low <= figures.auc <= figures.high <= 100
        assert figures.high > figures.low and figures.strict_auc is not None
    assert {
        "zero_gradient_share",
        "nonfinite_gradient_share",
        "last_worse_than_best_share",
        "late_gain_share",
        "reprojected_images",
    } <= record.indicators.keys()
    assert {"separability", "flagged"} == record.results["brightness"].keys()
    assert record.licence and record.command


def test_figures_of_a_record_are_those_of_its_scores(tmp_path: Path, folder: Path, register: Register) -> None:
    register(fakes.Noisy)
    (record,) = fakes.run(fakes.config(tmp_path, folder, "noisy", categories=("bolt",))).records
    scores = store.read_scores(record)
    assert scores.robust.shape == (record.results["verdict_draws"], 12)

    def auc(values: np.ndarray) -> float:  # the definition: pairs in the right order, ties half
        normals, anomalies = values[scores.labels == 1], values[scores.labels == -1]
        return 100 * float(np.mean((anomalies[:, None] > normals) + 0.5 * (anomalies[:, None] == normals)))

    assert record.clean is not None and record.robust is not None
    assert record.clean.auc == pytest.approx(np.mean([auc(draw) for draw in scores.clean]))
    assert record.robust.auc == pytest.approx(np.mean([auc(draw) for draw in scores.robust]))


def test_a_record_names_a_checkpoint_that_was_there_as_cached(tmp_path: Path, folder: Path, register: Register) -> None:
    register(fakes.Fake)
    origins = [
        fakes.run(fakes.config(tmp_path, folder, "fake", categories=("bolt",), seed=seed)).records[0].checkpoint
        for seed in (0, 1)
    ]
    assert [o["origin"] for o in origins] == ["fitted", "cached"]
    assert origins[0]["key"] == origins[1]["key"]


def test_a_threshold_is_set_on_held_out_normals_only(tmp_path: Path, register: Register) -> None:
    register(fakes.Fake)
    data = fakes.write_folder(tmp_path / "data", train=100, side=8)
    (record,) = fakes.run(fakes.config(tmp_path, data, "fake", image_size=8)).records
    assert "10 held-out training normals" in record.results["threshold_rule"]
    assert {"attack_success", "robust_accuracy"} <= record.results.keys()
    few = fakes.run(fakes.config(tmp_path / "few", fakes.write_folder(tmp_path / "d", side=8), "fake", image_size=8))
    assert "threshold" not in few.records[0].results


def test_the_pictures_of_a_cell_are_there_as_soon_as_its_record_is(
    tmp_path: Path, folder: Path, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a run that was killed between the two would never draw its panel."""
    register(fakes.Fake)
    written: list[str] = []
    for module in ("bench.records.pairs", "bench.cell.group"):
        monkeypatch.setattr(f"{module}.write_atomically", lambda path, data: written.append(path.name))
    monkeypatch.setattr("bench.cell.group.read", lambda path: None)  # nothing is there to be read back
    monkeypatch.setattr(fakes.Quiet, "done", lambda self, record, reused: None)
    fakes.run(fakes.config(tmp_path, folder, "fake", categories=("bolt",)))
    assert [name.split(".", 1)[1] for name in written] == ["examples.safetensors", "scores.csv", "json"]


@pytest.mark.parametrize(
    ("gained", "late", "share"),
    [
        ([10, 10], [2, 2], 0.2),  # still climbing: a fifth of the gain in the last fifth of the steps
        ([10, 0], [1, 0], 0.1),
        ([10, 10], [0, 0], 0.0),
        ([0, 0], [0, 0], None),
        ([-1, 0], [1, 0], None),
        ([float("nan"), 1], [0, 0.5], 0.5),  # one broken image must not silence the sign
        ([float("nan")], [0], None),
    ],
)
def test_late_gain_tells_an_attack_that_has_not_converged(
    gained: list[float], late: list[float], share: float | None
) -> None:
    assert late_gain(np.array(gained, dtype=float), np.array(late, dtype=float)) == share
    assert late_gain(None, None) is None


def test_a_baseline_that_sees_no_pixels_is_judged_and_not_attacked(
    tmp_path: Path, folder: Path, register: Register
) -> None:
    (record,) = fakes.run(fakes.config(tmp_path, folder, "file-order", categories=("bolt",))).records
    assert record.ok and record.clean == record.robust
    assert record.indicators["gradients_per_image"] == record.indicators["forward_passes_per_image"] == 0
    assert record.indicators["zero_gradient_share"] is None and record.indicators["late_gain_share"] is None


def test_images_that_an_attack_leaves_outside_the_ball_are_brought_back_and_counted() -> None:
    class Leaving(PGDLInf):
        def _run(self, detector: Any, x: torch.Tensor, y: torch.Tensor, threat: Any, **sources: Any) -> AttackResult:
            found = super()._run(detector, x, y, threat, **sources)
            return dataclasses.replace(found, images=found.images + 0.5)

    images = fakes.image_set(3, 2)
    found = run_cell(
        fitted(fakes.Fake),
        Leaving(LInf(0.01)),
        images,
        images.subset([]),
        Draws(1, 0),
        batch_size=4,
        device=CPU,
        tick=lambda done, what: None,
    )
    assert found.reprojected == 5  # of 4 images and of one alone, which is computed twice and counted once
    assert np.abs(found.robust - found.clean).max() <= 0.01 + 1e-6  # the mean of an image in the ball


def test_a_record_on_disk_is_plain_json(tmp_path: Path, folder: Path, register: Register) -> None:
    register(fakes.NotANumber)
    fakes.run(fakes.config(tmp_path, folder, "not-a-number", categories=("bolt",)))
    (path,) = (tmp_path / "out").glob("records/*/*/*.json")
    assert json.loads(path.read_text())["status"] == "failed"
    assert not list(path.parent.glob("*.csv")) and not list(tmp_path.rglob("*.tmp"))
