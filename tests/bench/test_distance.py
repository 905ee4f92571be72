"""`bench distance`: thresholds as the bench has them, distances with witnesses, and what the command leaves."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import numpy as np
import pytest
import torch
import zoo
from test_cli import too_wide
from torch import Tensor

from attacks.fab import FAB, FABSettings
from bench.cell import distance
from bench.cell.verdict import Draws, Judge, threshold_of
from bench.data.base import ImageSet
from bench.errors import CellError
from bench.records.distances import COLUMNS, Distances, render
from bench.report import transfer as report
from detectors.base import Detector
from detectors.noise import Noise

SIDE = 16
CPU = torch.device("cpu")
Command = Callable[..., Any]
Register = Callable[..., None]
SHORT = FABSettings(iterations=8, starts=1)


def mid_grey(normals: int, anomalies: int, seed: int = 0) -> ImageSet:
    found = fakes.image_set(normals, anomalies, side=SIDE, seed=seed)
    return ImageSet(found.ids, found.images // 3 + 80, found.labels, found.defects, None)


def measured(detector: Detector, norm: str, settings: FABSettings = SHORT, *, held_out: int = 20) -> Distances:
    return distance.measure(
        detector,
        FAB(norm, settings),
        mid_grey(8, 8),
        mid_grey(held_out, 0, 1),
        0,
        batch_size=5,
        device=CPU,
        tick=lambda done, what: None,
    )


@pytest.mark.parametrize(("norm", "order"), [("linf", 1), ("l2", 2)])
def test_of_a_linear_score_the_distance_is_how_far_the_score_is_over_the_dual_norm(norm: str, order: int) -> None:
    detector = fakes.fitted(fakes.Linear, SIDE)
    found = measured(detector, norm)
    scores, threshold = found.scores, found.threshold
    calibration = detector.score(mid_grey(20, 0, 1).pixels()).double().numpy()
    assert threshold == threshold_of(calibration[None]) == float(np.sort(calibration)[-2]), "one of 20 lies above"
    wrong = np.where(found.labels > 0, scores > threshold, scores <= threshold)
    assert (found.wrong == wrong).all() and 0 < wrong.sum() < len(wrong)
    dual = float(torch.linalg.vector_norm(fakes.linear_weights(SIDE).flatten(), ord=order))
    assert found.distances == pytest.approx(np.where(wrong, 0, np.abs(scores - threshold) / dual), rel=2e-3, abs=1e-7)
    assert found.held_share == 100 and found.missing_share == 0 and found.wrong_share == 100 * wrong.mean()
    witness = found.witness_scores[~wrong]
    assert (np.where(found.labels[~wrong] > 0, witness > threshold, witness <= threshold)).all()


def test_the_medians_are_of_each_class_and_count_what_is_wrong_and_what_is_not_found() -> None:
    labels = np.array([1, 1, 1, -1, -1, -1])
    found = Distances(
        "some",
        0.0,
        tuple("abcdef"),
        labels,
        np.zeros(6),
        np.array([True, False, False, False, False, False]),
        np.array([0.0, 0.25, 0.5, 0.125, math.inf, math.inf]),
        np.array([1.0, 1.0, 1.0, -1.0, 0.0, 0.0]),
    )
    assert found.median(1) == 0.25 and found.median(-1) == math.inf and found.median() == 0.5
    assert found.describe()["median_distance"] == {"normal": 0.25, "anomalous": None, "all": 0.5}
    assert found.missing_share == pytest.approx(100 / 3) and found.held_share == 100
    half = dataclasses.replace(found, witness_scores=np.array([1.0, 1.0, -1.0, 1.0, 0.0, 0.0]))
    assert half.held_share == pytest.approx(100 / 3)
    assert report.distance_text(2 / 255, "linf") == "2" and report.distance_text(0.25, "l2") == "0.25"
    assert report.distance_text(math.inf, "linf") == "not found" and report.distance_text(None, "l2") == "–"  # noqa: RUF001
    rows = list(csv.reader(render([found]).splitlines()))
    assert tuple(rows[0]) == COLUMNS and rows[2] == ["some", "b", "1", "0.0", "0.0", "0", "0.25", "1.0"]
    assert rows[5][-2] == "inf"


class Line(zoo.Exponential):
    """An increasing function of `Linear`'s score, which is its surrogate: 0 or 1 but for what lies near the middle."""

    name = "line"
    middle = 0.0

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return torch.sigmoid(8 * (self._surrogate_score(x, noise) - self.middle))

    def _surrogate_score(self, x: Tensor, noise: Noise) -> Tensor:
        return (fakes.linear_weights(x.shape[-1]).to(x) * x).sum(dim=(1, 2, 3))


def test_a_monotone_surrogate_has_the_threshold_of_the_same_image() -> None:
    plain = measured(fakes.fitted(fakes.Linear, SIDE), "l2")
    found = measured(fakes.fitted(type("Near", (Line,), {"middle": plain.threshold}), SIDE), "l2")
    assert found.facts["surrogate_threshold"] == pytest.approx(plain.threshold) and found.threshold == 0.5
    saturated = (found.scores == 1) | (found.scores < 1e-7)
    assert saturated.sum() > 4 and (found.wrong == plain.wrong).all()
    assert found.distances == pytest.approx(plain.distances, rel=2e-3, abs=1e-6) and (found.distances > 0).any()


def test_where_the_threshold_is_the_largest_score_that_there_is_no_normal_passes_it() -> None:
    """Of a score that has run out of digits: by its decisions, no image is anomalous."""
    found = measured(fakes.fitted(type("Far", (Line,), {"middle": -1e3}), SIDE), "l2")
    normal = found.labels > 0
    assert found.threshold == 1 and np.isinf(found.distances[normal]).all() and (found.distances[~normal] == 0).all()


def test_a_stochastic_detector_decides_by_its_mean_and_its_threshold_is_of_means() -> None:
    detector, held_out = fakes.fitted(fakes.Noisy, SIDE), mid_grey(20, 0, 1)
    found = measured(detector, "linf", dataclasses.replace(SHORT, draws=12))
    scores = Judge(detector, Draws(1, 0), 5, CPU).scores(held_out.ids, held_out.pixels(), range(12))
    assert found.threshold == threshold_of(scores.mean(axis=0)[None]) and found.facts["draws"] == 12
    assert found.facts["is_stochastic"] and found.held_share is not None
    # Of the mean over so many draws the distance in l-inf is the difference of means: brightness moves by each change.
    assert (found.distances[~found.wrong] < 0.2).all()


def test_no_threshold_no_pixels_and_no_numbers_are_sentences() -> None:
    with pytest.raises(CellError, match=r"10 held-out training normals.*takes 100 of them"):
        measured(fakes.fitted(fakes.Linear, SIDE), "linf", held_out=9)
    with pytest.raises(CellError, match="sees no pixels"):
        measured(fakes.fitted(fakes_blind(), SIDE), "linf")
    with pytest.raises(CellError, match="not finite"):
        measured(fakes.fitted(fakes.NotANumber, SIDE), "linf")


def fakes_blind() -> type[fakes.Fake]:
    return type("Blind", (fakes.Fake,), {"name": "blind", "sees_pixels": False})


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with enough normals to keep ten from the fit."""
    return fakes.write_folder(tmp_path_factory.mktemp("many"), ("bolt",), train=100, test=5)


def words(root: Path, out: Path, *more: object, names: str) -> tuple[object, ...]:
    start = ("distance", "--detectors", names, "--dataset", "folder", "--data-root", root, "--image-size", 32)
    return (*start, "--device", "cpu", "--out", out / "out", "--cache", out / "cache", "--iterations", 3, *more)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_command_prints_medians_and_leaves_a_table_and_its_json(
    command: Command, many: Path, tmp_path: Path, register: Register, norm: str
) -> None:
    register(fakes.Fake, fakes.Noisy, fakes.Linear, fakes.Broken)
    asked = words(many, tmp_path, "--norm", norm, "--starts", 1, names="fake,noisy,linear,broken,file-order")
    said = command(*asked)
    flat = " ".join(said.out.split())
    assert said.code == 2 and said.err == "" and too_wide(said.out) == []
    for text in ("folder bolt: median", "(1/255)" if norm == "linf" else "(of [0, 1])", "not found", "Upper bounds"):
        assert text in flat, text
    assert "Failed: broken on bolt: fab on broken raised ZeroDivisionError" in flat
    assert "file-order: it sees no pixels" in flat
    table, document = sorted((tmp_path / "out" / "distance").iterdir())
    assert table.stem == document.stem and table.stem.startswith(f"folder--bolt--distance-{norm}--")
    found = json.loads(document.read_text())
    assert found["detectors"].keys() == {"fake", "noisy", "linear"} and found["failed"].keys() == {
        "broken",
        "file-order",
    }
    assert found["asked"]["norm"] == norm and found["asked"]["iterations"] == 3 and found["licence"]
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert len(rows) == 3 * 10 and {row["label"] for row in rows} == {"1", "-1"}
    for name, figures in found["detectors"].items():
        own = [row for row in rows if row["detector"] == name]
        normal = sorted(float(row["distance"]) for row in own if row["label"] == "1")
        assert figures["median_distance"]["normal"] == normal[2]
        shown = report.distance_text(normal[2], norm)
        assert any(line.startswith(name) and f" {shown} " in line for line in said.out.splitlines()), (name, shown)
        for row in own:
            wrong = (float(row["score"]) > float(row["threshold"])) != (row["label"] == "-1")
            assert row["wrong"] == str(int(wrong)) or name == "noisy"  # whose decision is on other draws
    assert command(*asked).code == 2 and sorted((tmp_path / "out" / "distance").iterdir()) == [table, document]


def test_without_a_failure_the_exit_code_is_0(command: Command, many: Path, tmp_path: Path, register: Register) -> None:
    register(fakes.Fake)
    said = command(*words(many, tmp_path, names="fake,file-order"))
    assert said.code == 0


def test_a_dry_run_fits_and_writes_nothing(command: Command, many: Path, tmp_path: Path, register: Register) -> None:
    register(fakes.Fake)
    said = command(*words(many, tmp_path, "--dry-run", names="fake,brightness"))
    assert said.code == 0 and fakes.Fake.fits == 0 and list(tmp_path.iterdir()) == []
    assert "Nothing was run" in said.out and "fake on bolt: to be fitted" in said.out and too_wide(said.out) == []


def test_what_makes_no_sense_is_a_sentence(safe: Callable[..., str], folder: Path, many: Path) -> None:
    start = ("distance", "--detectors", "fake", "--dataset", "folder", "--image-size", 32, "--data-root")
    assert "it takes 100 of them" in safe(*start, folder), "before any fit"
    for words_of_it, *more in (
        ("linf, l2", "--norm", "l1"),
        ("at least 1", "--iterations", "0"),
        ("at least 1", "--starts", "0"),
        ("at least 1", "--draws", "0"),
        ("takes 100 of them", "--holdout", "0"),
        ("screw", "--categories", "screw"),
    ):
        assert words_of_it in safe(*start, many, *more), more
