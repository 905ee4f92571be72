"""The runner: whatever a detector does, the run ends with a record for each cell, and nothing is computed twice."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import numpy as np
import pytest
import torch

import attacks
from attacks.base import AttackResult
from attacks.pgd import PGDLInf
from attacks.threat import LInf
from bench import disk, metrics, records, runner
from bench import plan as planning
from bench.cell import Draws, Outcome, run_cell
from bench.config import Override
from bench.errors import CellError, RecordError
from bench.judging import late_gain
from bench.records import Record
from detectors.base import Detector
from detectors.noise import NoiseSeed

Register = Callable[..., None]
CPU = torch.device("cpu")


def fitted(cls: type[fakes.Fake], side: int = 16) -> Detector:
    return cls(fakes.FakeSettings(), side).fit(torch.rand(4, 3, side, side), seed=0)


def outcome_of(
    detector: Detector, *, attack: str = "pgd-linf", normals: int = 6, anomalies: int = 6, batch_size: int = 5,
    seed: int = 0, verdict: int = 10, epsilon: float | None = None, steps: int = 10,
) -> Outcome:  # fmt: skip
    images = fakes.image_set(normals, anomalies, side=detector.image_size)
    made = attacks.get(attack, image_size=detector.image_size, epsilon=epsilon, steps=steps)
    return run_cell(
        detector, made, images, images.subset(range(normals)), Draws(verdict, seed),
        batch_size=batch_size, device=CPU, tick=lambda done, what: None,
    )  # fmt: skip


def by_detector(found: list[Record]) -> dict[str, Record]:
    return {record.detector_name: record for record in found}


# -- what is computed, and what is not --------------------------------------------------------------------------------


def test_a_second_run_fits_nothing_scores_nothing_and_keeps_the_records(
    tmp_path: Path, folder: Path, register: Register
) -> None:
    register(fakes.Fake)
    run = fakes.config(tmp_path, folder, "fake")
    first = fakes.run(run)
    texts = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    fits, scores = fakes.Fake.fits, fakes.Fake.scores
    second = fakes.run(run)
    assert (fakes.Fake.fits, fakes.Fake.scores) == (fits, scores) and fits == 2
    assert (first.reused, second.reused) == (0, 2)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == texts


def test_a_new_seed_epsilon_step_count_or_setting_makes_new_cells(
    tmp_path: Path, folder: Path, register: Register
) -> None:
    register(fakes.Fake)
    changes = [
        {}, {"seed": 1}, {"fit_seed": 1}, {"epsilons": (0.01,)}, {"steps": 4}, {"step_size": 0.001}, {"restarts": 2},
        {"attacks": ("pgd-l2",)}, {"limit": 5}, {"image_size": 24}, {"protocol": "paper"},
        {"overrides": (Override("fake", "knob", None, 2),)},
    ]  # fmt: skip
    for number, change in enumerate(changes):
        found = fakes.run(fakes.config(tmp_path, folder, "fake", categories=("bolt",), **change))
        assert (found.reused, len(found.records)) == (0, 1), change
        assert len(records.read_all(tmp_path / "out" / "records")[0]) == number + 1


def test_the_same_epsilon_twice_is_one_cell(tmp_path: Path, folder: Path, register: Register) -> None:
    register(fakes.Fake)
    plan = planning.make(fakes.config(tmp_path, folder, "fake", "fake", epsilons=(0.01, 0.01, 0.02)))
    assert [a.describe()["epsilon"] for a in plan.attacks] == [0.01, 0.02]
    assert plan.cells == 2 * 1 * 2


def test_a_limited_run_never_stands_in_for_a_full_one(tmp_path: Path, folder: Path, register: Register) -> None:
    """Also where the limit changes nothing (here there are 12 and 6 images): its record is marked as limited."""
    register(fakes.Fake)
    limited = fakes.run(fakes.config(tmp_path, folder, "fake", steps=None, image_size=None, limit=100)).records
    full = fakes.run(fakes.config(tmp_path, folder, "fake", steps=None, image_size=None)).records
    assert [r.full_run for r in limited + full] == [False, False, True, True]
    assert all("--limit 100" in r.limits[0] for r in limited)
    assert len({r.key for r in limited + full}) == 4


def test_scores_that_were_lost_or_changed_are_computed_again(tmp_path: Path, folder: Path, register: Register) -> None:
    register(fakes.Fake)
    run = fakes.config(tmp_path, folder, "fake", categories=("bolt",))
    fakes.run(run)
    before = fakes.score_files(tmp_path / "out")
    (path,) = (tmp_path / "out").glob("records/*/*/*.scores.csv")
    for damage in (path.unlink, lambda: path.write_text(path.read_text().replace("0.", "1.", 1))):
        damage()
        assert fakes.run(run).reused == 0
        assert fakes.score_files(tmp_path / "out") == before
        assert fakes.run(run).reused == 1


def test_a_damaged_record_is_computed_again(tmp_path: Path, folder: Path, register: Register) -> None:
    register(fakes.Fake)
    run = fakes.config(tmp_path, folder, "fake", categories=("bolt",))
    fakes.run(run)
    before = fakes.documents(tmp_path / "out")
    (path,) = (tmp_path / "out").glob("records/*/*/*.json")
    path.write_text(path.read_text()[:100])
    assert fakes.run(run).reused == 0
    assert fakes.documents(tmp_path / "out") == before


@pytest.mark.parametrize("detector", ["brightness", "ae", "spade", "freerad"])
@pytest.mark.usefixtures("one_thread")
def test_batch_size_changes_no_bit_of_the_scores(tmp_path: Path, folder: Path, detector: str) -> None:
    small = {"k": 50, "work_size": 16, "unet.channels": 8, "training.batch_size": 2, "training.iterations": 2}
    overrides = tuple(Override("freerad", name, None, value) for name, value in small.items() if detector == "freerad")
    plan = planning.make(fakes.config(tmp_path, folder, detector, categories=("bolt",), steps=2, overrides=overrides))
    found = []
    for size in (1, 3, 7, 64):  # of 12 images
        changed = dataclasses.replace(plan.run, batch_size=size, out=tmp_path / str(size))
        assert not runner.run_plan(dataclasses.replace(plan, run=changed), fakes.Quiet()).failed
        found.append(fakes.score_files(tmp_path / str(size)))
    assert found[0] == found[1] == found[2] == found[3]
    assert len(found[0]) == 1


def test_an_image_that_is_left_alone_in_the_last_batch_counts_once() -> None:
    noisy = fitted(fakes.Noisy)
    whole, rest = outcome_of(noisy, normals=4, anomalies=3, batch_size=7), outcome_of(
        noisy, normals=4, anomalies=3, batch_size=6
    )
    assert rest.robust.shape == (10, 7) and rest.calibration.shape == (10, 4) and len(rest.last_worse) == 7
    np.testing.assert_array_equal(whole.robust, rest.robust)
    np.testing.assert_array_equal(whole.trace, rest.trace)


def test_out_of_memory_halves_the_batch_and_changes_no_score(caplog: pytest.LogCaptureFixture) -> None:
    class Hungry(fakes.Noisy):
        def value(self, x: torch.Tensor, noise: object) -> torch.Tensor:
            if len(x) > 3:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")
            return super().value(x, noise)  # type: ignore[arg-type]

    with caplog.at_level(logging.WARNING):
        hungry = outcome_of(fitted(Hungry), batch_size=12)
    modest = outcome_of(fitted(fakes.Noisy), batch_size=3)
    np.testing.assert_array_equal(hungry.clean, modest.clean)
    np.testing.assert_array_equal(hungry.robust, modest.robust)
    assert "batches of 3 images" in caplog.text


def test_an_image_that_does_not_fit_into_memory_is_a_reason() -> None:
    class Greedy(fakes.Fake):
        def value(self, x: torch.Tensor, noise: object) -> torch.Tensor:
            raise MemoryError

    with pytest.raises(CellError, match="single image does not fit"):
        outcome_of(fitted(Greedy))


# -- what goes wrong in one cell --------------------------------------------------------------------------------------


def test_one_broken_detector_does_not_cost_the_others_their_cells(
    tmp_path: Path, folder: Path, register: Register
) -> None:
    doubles = (fakes.NotANumber, fakes.Broken, fakes.BrokenFit, fakes.Fake)
    register(*doubles)
    found = fakes.run(fakes.config(tmp_path, folder, *(d.name for d in doubles), categories=("bolt",)))
    cells = by_detector(found.records)
    assert {name: record.status for name, record in cells.items()} == {
        "not-a-number": "failed", "broken": "failed", "broken-fit": "failed", "fake": "ok",
    }  # fmt: skip
    assert "not finite" in cells["not-a-number"].reason
    assert "ZeroDivisionError (a bug of two lines)" in cells["broken"].reason and "--verbose" in cells["broken"].reason
    assert "IndexError (a bug in the fit)" in cells["broken-fit"].reason
    assert cells["fake"].robust is not None
    on_disk, problems = records.read_all(tmp_path / "out" / "records")
    assert len(on_disk) == 4 and not problems
    assert all("\n" not in record.reason for record in on_disk)


def test_the_traceback_of_a_broken_detector_is_logged_for_verbose(
    tmp_path: Path, folder: Path, register: Register, caplog: pytest.LogCaptureFixture
) -> None:
    register(fakes.Broken)
    with caplog.at_level(logging.DEBUG, logger="bench"):
        fakes.run(fakes.config(tmp_path, folder, "broken", categories=("bolt",)))
    assert "bench_fakes.py" in caplog.text and "ZeroDivisionError" in caplog.text


def test_a_failed_cell_is_tried_again_and_its_failure_forgotten(
    tmp_path: Path, folder: Path, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(fakes.BrokenFit)
    run = fakes.config(tmp_path, folder, "broken-fit", categories=("bolt",))
    assert fakes.run(run).failed
    monkeypatch.setattr(fakes.BrokenFit, "_fit", fakes.Fake._fit)
    found = fakes.run(run)
    assert (found.reused, [r.status for r in found.records]) == (0, ["ok"])
    assert [r.status for r in records.read_all(tmp_path / "out" / "records")[0]] == ["ok"]


def test_a_gradient_that_was_cut_fails_the_cell_instead_of_looking_robust(
    tmp_path: Path, folder: Path, register: Register
) -> None:
    class Cut(fakes.Fake):
        name = "cut"

        def value(self, x: torch.Tensor, noise: object) -> torch.Tensor:
            return super().value(x.detach(), noise)  # type: ignore[arg-type]

    register(Cut)
    (record,) = fakes.run(fakes.config(tmp_path, folder, "cut", categories=("bolt",))).records
    assert (record.status, record.robust) == ("failed", None)
    assert "no gradient" in record.reason


def test_maps_that_are_not_finite_fail_the_cell() -> None:
    class BadMap(fakes.Fake):
        has_map = True

        def _anomaly_map(self, x: torch.Tensor, noise: object) -> torch.Tensor:
            return x.mean(dim=1) / 0

    images = fakes.image_set(2, 2)
    masked = type(images)(images.ids, images.images, images.labels, images.defects, torch.ones(4, 16, 16).bool())
    with pytest.raises(CellError, match="anomaly maps"):
        run_cell(
            fitted(BadMap), attacks.get("pgd-linf", steps=1), masked, images.subset([]), Draws(1, 0),
            batch_size=4, device=CPU, tick=lambda done, what: None,
        )  # fmt: skip


def test_a_category_with_a_damaged_picture_is_left_out_and_the_rest_is_done(
    tmp_path: Path, register: Register
) -> None:
    register(fakes.Fake)
    data = fakes.write_folder(tmp_path / "data", ("bolt", "nut"))
    (data / "bolt/test/good/000.png").write_bytes(b"no picture")
    found = fakes.run(fakes.config(tmp_path, data, "fake"))
    assert [(r.category, r.status) for r in found.records] == [("nut", "ok")]
    assert len(found.problems) == 1 and "000.png" in found.problems[0]
    assert fakes.Fake.fits == 1  # found before the fit


def test_a_full_disk_stops_the_run_and_keeps_what_is_done(
    tmp_path: Path, folder: Path, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(fakes.Fake, fakes.Linear)
    run = fakes.config(tmp_path, folder, "fake", "linear", categories=("bolt",))
    fakes.run(fakes.config(tmp_path, folder, "fake", categories=("bolt",)))
    before = fakes.documents(tmp_path / "out")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(RecordError, match=r"disk is full.*same command"):
        patched.setattr("os.fsync", full)
        fakes.run(run)
    assert fakes.documents(tmp_path / "out") == before
    found = fakes.run(run)
    assert (found.reused, len(found.records), found.failed) == (1, 2, [])


def test_an_error_of_a_file_that_a_detector_misses_is_not_blamed_on_the_disk(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), disk.guarded(tmp_path):
        (tmp_path / "nowhere").read_bytes()
    with pytest.raises(RecordError, match="disk is full"), disk.guarded(tmp_path):
        raise OSError(28, "No space left on device")


# -- the verdict ------------------------------------------------------------------------------------------------------


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
    assert metrics.mean_single_draw_auc(found.robust, labels).mean == pytest.approx(
        metrics.mean_single_draw_auc(exact[None], labels).mean
    )
    clean = metrics.mean_single_draw_auc(found.clean, labels).mean
    assert metrics.mean_single_draw_auc(found.robust, labels).mean < clean - 5


def test_a_score_of_pure_noise_is_a_coin_toss_clean_and_robust() -> None:
    """An attack that selected lucky noise, and a verdict that re-used it, would push the robust AUC to 0."""
    found = outcome_of(fitted(fakes.PureNoise), normals=40, anomalies=40, batch_size=40)
    labels = fakes.image_set(40, 40).labels.numpy().astype(np.int64)
    np.testing.assert_array_equal(found.clean, found.robust)  # the same verdict draws, and the image plays no part
    assert metrics.mean_single_draw_auc(found.robust, labels).mean == pytest.approx(50, abs=7)
    assert len(np.unique(found.clean)) == found.clean.size  # every image and draw has its own noise


def test_attack_selection_and_verdict_draw_from_sources_of_their_own() -> None:
    fakes.PureNoise.sources.clear()
    outcome_of(fitted(fakes.PureNoise), normals=2, anomalies=2, batch_size=4, seed=5, verdict=10)
    purposes = {
        NoiseSeed(5).source(purpose, ["a"]).key: purpose for purpose in ("attack", "selection", "verdict")
    }
    used = [purposes[source.key] for source in fakes.PureNoise.sources]
    # In this order: nothing of the attack comes after the first look at the verdict's noise.
    assert list(dict.fromkeys(sorted(set(used), key=used.index))) == ["selection", "attack", "verdict"]
    first_verdict = used.index("verdict")
    assert set(used[first_verdict:]) == {"verdict"}


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
    np.testing.assert_array_equal(linf.clean, l2.clean)
    assert not np.array_equal(linf.robust, l2.robust)
    np.testing.assert_array_equal(linf.calibration, linf.clean[:, :6])  # the same images, ids and draws


def test_a_random_detector_is_judged_on_all_verdict_draws_and_another_seed_draws_others() -> None:
    noisy = fitted(fakes.Noisy)
    found, other = outcome_of(noisy, verdict=10), outcome_of(noisy, verdict=10, seed=1)
    assert found.clean.shape == found.robust.shape == (10, 12)
    assert all(len(np.unique(found.robust[:, image])) == 10 for image in range(12))
    assert not np.intersect1d(found.clean, other.clean).size
    assert outcome_of(fitted(fakes.Fake), verdict=10).clean.shape == (1, 12)


# -- the record -------------------------------------------------------------------------------------------------------


def test_a_record_states_what_was_done_where_and_with_what_uncertainty(
    tmp_path: Path, folder: Path, register: Register
) -> None:
    register(fakes.Noisy)
    run = fakes.config(tmp_path, folder, "noisy", categories=("bolt",), steps=None, image_size=None)
    (record,) = fakes.run(run).records
    cell = record.cell
    assert cell["protocol"]["name"] == "quick" and cell["protocol"]["version"] >= 1
    assert (cell["dataset"], cell["category"], cell["preset"], cell["image_size"]) == ("folder", "bolt", "quick", 128)
    assert len(cell["fingerprint"]) == 64 and cell["subset"]["normals"] == cell["subset"]["anomalies"] == 6
    assert cell["detector"]["settings"] == {"knob": 1} and cell["detector"]["revision"] == 1
    assert len(cell["detector"]["checkpoint_sha256"]) == 64
    assert cell["attack"]["steps"] == 20 and cell["attack"]["epsilon"] == pytest.approx(2 / 255)
    assert cell["attack"]["step_size"] == pytest.approx(2.5 * 2 / 255 / 20)
    assert cell["draws"] == {"verdict": 10, "selection": 3} and cell["seed"] == 0
    assert record.full_run and record.limits == []
    assert record.checkpoint["origin"] == "fitted" and len(record.checkpoint["key"]) == 64
    assert {"python", "torch", "timm", "numpy", "device", "commit", "cpu", "threads"} <= record.environment.keys()
    assert record.environment["torch"] and record.environment["device"] == "cpu"
    assert {"fit", "attack", "verdict", "total"} <= record.seconds.keys()
    assert record.peak_memory_mb is not None and record.peak_memory_mb > 50
    for figures in (record.clean, record.robust):
        assert figures is not None and 0 <= figures.low <= figures.auc <= figures.high <= 100
        assert figures.high > figures.low and figures.strict_auc is not None
    assert {
        "zero_gradient_share", "nonfinite_gradient_share", "last_worse_than_best_share", "late_gain_share",
        "reprojected_images",
    } <= record.indicators.keys()  # fmt: skip
    assert {"separability", "flagged"} == record.results["brightness"].keys()
    assert record.licence and record.command


def test_figures_of_a_record_are_those_of_its_scores(tmp_path: Path, folder: Path, register: Register) -> None:
    register(fakes.Noisy)
    (record,) = fakes.run(fakes.config(tmp_path, folder, "noisy", categories=("bolt",))).records
    scores = records.read_scores(record)
    assert scores.robust.shape == (10, 12)

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
    for module in ("bench.records", "bench.runner"):
        monkeypatch.setattr(f"{module}.write_atomically", lambda path, data: written.append(path.name))
    monkeypatch.setattr("bench.records.read", lambda path: None)  # nothing is there to be read back
    monkeypatch.setattr(fakes.Quiet, "done", lambda self, record, reused: None)
    fakes.run(fakes.config(tmp_path, folder, "fake", categories=("bolt",)))
    assert [name.split(".", 1)[1] for name in written] == ["examples.safetensors", "scores.csv", "json"]


@pytest.mark.parametrize(
    ("trace", "share"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 0.2),  # still climbing: a fifth of the gain in the last fifth of the steps
        ([0, 8, 10, 10, 10, 10, 10, 10, 10, 10, 10], 0.0),
        ([5, 5, 5, 5], None),
        ([0, float("nan"), 1, 2], None),
        ([0, 1], None),
    ],
)
def test_late_gain_tells_an_attack_that_has_not_converged(trace: list[float], share: float | None) -> None:
    assert late_gain(np.array(trace, dtype=float)) == share


def test_images_that_an_attack_leaves_outside_the_ball_are_brought_back_and_counted() -> None:
    class Leaving(PGDLInf):
        def _run(self, detector: Any, x: torch.Tensor, y: torch.Tensor, threat: Any, **sources: Any) -> AttackResult:
            found = super()._run(detector, x, y, threat, **sources)
            return dataclasses.replace(found, images=found.images + 0.5)

    images = fakes.image_set(3, 2)
    found = run_cell(
        fitted(fakes.Fake), Leaving(LInf(0.01)), images, images.subset([]), Draws(1, 0),
        batch_size=4, device=CPU, tick=lambda done, what: None,
    )  # fmt: skip
    assert found.reprojected == 5  # of 4 images and of one alone, which is computed twice and counted once
    assert np.abs(found.robust - found.clean).max() <= 0.01 + 1e-6  # the mean of an image in the ball


def test_a_record_on_disk_is_plain_json(tmp_path: Path, folder: Path, register: Register) -> None:
    register(fakes.NotANumber)
    fakes.run(fakes.config(tmp_path, folder, "not-a-number", categories=("bolt",)))
    (path,) = (tmp_path / "out").glob("records/*/*/*.json")
    assert json.loads(path.read_text())["status"] == "failed"
    assert not list(path.parent.glob("*.csv")) and not list(tmp_path.rglob("*.tmp"))
