"""The runner: whatever a detector does, the run ends with a record for each cell, and nothing is computed twice."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

import bench_fakes as fakes
import numpy as np
import pytest
import torch
from bench_fakes import fitted, outcome_of

import attacks
from bench import files
from bench.cell.attack import Draws, run_cell
from bench.errors import CellError, RecordError
from bench.plan import plan as planning
from bench.plan.request import Override
from bench.records import store
from bench.records.record import Record
from bench.run import runner

Register = Callable[..., None]
CPU = torch.device("cpu")


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
        {},
        {"seed": 1},
        {"fit_seed": 1},
        {"epsilons": (0.01,)},
        {"steps": 4},
        {"step_size": 0.001},
        {"restarts": 2},
        {"attacks": ("pgd-l2",)},
        {"limit": 5},
        {"image_size": 24},
        {"protocol": "paper"},
        {"overrides": (Override("fake", "knob", None, 2),)},
    ]
    for number, change in enumerate(changes):
        found = fakes.run(fakes.config(tmp_path, folder, "fake", categories=("bolt",), **change))
        assert (found.reused, len(found.records)) == (0, 1), change
        assert len(store.read_all(tmp_path / "out" / "records")[0]) == number + 1


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
def test_batch_size_changes_scores_by_rounding_alone(tmp_path: Path, folder: Path, detector: str) -> None:
    small = {"k": 50, "work_size": 16, "unet.channels": 8, "training.batch_size": 2, "training.iterations": 2}
    overrides = tuple(Override("freerad", name, None, value) for name, value in small.items() if detector == "freerad")
    run = fakes.config(tmp_path, folder, detector, categories=("bolt",), steps=2, limit=5, overrides=overrides)
    plan = planning.make(run)
    found = []
    for size in (1, 3, 7, 64):  # of 10 images: 3 leave one alone
        changed = dataclasses.replace(plan.run, batch_size=size, out=tmp_path / str(size))
        (record,) = runner.run_plan(dataclasses.replace(plan, run=changed), fakes.Quiet()).records
        assert record.ok and record.clean is not None and record.robust is not None
        found.append((record, store.read_scores(record)))
    (whole, expected), *others = reversed(found)
    for record, scores in others:
        np.testing.assert_allclose(scores.clean, expected.clean, rtol=1e-4)
        # A sign that rounding turns is one pixel of an attack.
        np.testing.assert_allclose(scores.robust, expected.robust, rtol=1e-2)
        assert record.clean.auc == pytest.approx(whole.clean.auc, abs=0.1)
        assert record.robust.auc == pytest.approx(whole.robust.auc, abs=0.1)


def test_an_image_that_is_left_alone_in_the_last_batch_counts_once() -> None:
    noisy = fitted(fakes.Noisy)
    whole, rest = (
        outcome_of(noisy, normals=4, anomalies=3, batch_size=7),
        outcome_of(noisy, normals=4, anomalies=3, batch_size=6),
    )
    draws = len(rest.robust)
    assert rest.robust.shape == (draws, 7) and rest.calibration.shape == (draws, 4) and len(rest.last_worse) == 7
    np.testing.assert_allclose(whole.robust, rest.robust, rtol=1e-5)
    np.testing.assert_allclose(whole.gained, rest.gained, rtol=1e-3, atol=1e-6)


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
        "not-a-number": "failed",
        "broken": "failed",
        "broken-fit": "failed",
        "fake": "ok",
    }
    assert "not finite" in cells["not-a-number"].reason
    assert "ZeroDivisionError (a bug of two lines)" in cells["broken"].reason and "--verbose" in cells["broken"].reason
    assert "IndexError (a bug in the fit)" in cells["broken-fit"].reason
    assert cells["fake"].robust is not None
    on_disk, problems = store.read_all(tmp_path / "out" / "records")
    assert len(on_disk) == 4 and not problems
    assert all("\n" not in record.reason for record in on_disk)


def test_the_traceback_of_a_broken_detector_is_logged_for_verbose(
    tmp_path: Path, folder: Path, register: Register, caplog: pytest.LogCaptureFixture
) -> None:
    register(fakes.Broken)
    with caplog.at_level(logging.DEBUG, logger="bench"):
        fakes.run(fakes.config(tmp_path, folder, "broken", categories=("bolt",)))
    assert "zoo.py" in caplog.text and "ZeroDivisionError" in caplog.text


def test_a_failed_cell_is_tried_again_and_its_failure_forgotten(
    tmp_path: Path, folder: Path, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(fakes.BrokenFit)
    run = fakes.config(tmp_path, folder, "broken-fit", categories=("bolt",))
    assert fakes.run(run).failed
    monkeypatch.setattr(fakes.BrokenFit, "_fit", fakes.Fake._fit)
    found = fakes.run(run)
    assert (found.reused, [r.status for r in found.records]) == (0, ["ok"])
    assert [r.status for r in store.read_all(tmp_path / "out" / "records")[0]] == ["ok"]


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
            fitted(BadMap),
            attacks.get("pgd-linf", steps=1),
            masked,
            images.subset([]),
            Draws(1, 0),
            batch_size=4,
            device=CPU,
            tick=lambda done, what: None,
        )


def test_a_category_with_a_damaged_picture_is_left_out_and_the_rest_is_done(tmp_path: Path, register: Register) -> None:
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
    with pytest.raises(FileNotFoundError), files.guarded(tmp_path):
        (tmp_path / "nowhere").read_bytes()
    with pytest.raises(RecordError, match="disk is full"), files.guarded(tmp_path):
        raise OSError(28, "No space left on device")
