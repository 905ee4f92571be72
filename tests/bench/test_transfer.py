"""Transfer: images made on one detector and judged on others, against closed forms; and what its command leaves."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import numpy as np
import pytest
import torch
from PIL import Image
from test_cli import too_wide
from torch import Tensor

import attacks
import bench
from bench.cell.transfer import Ground, matrix
from bench.cell.verdict import Draws
from bench.data.base import ImageSet
from bench.errors import BenchError
from bench.metrics import ranking
from bench.records.transfer import Entry, TransferMatrix, entry, render
from bench.report import transfer as report
from detectors.base import Detector
from detectors.noise import Noise

SIDE = 16
Command = Callable[..., Any]
Register = Callable[..., None]


def mid_grey(count: int = 12) -> ImageSet:
    """Images that no attack here brings to the border of [0, 1]."""
    found = fakes.image_set(count, count, side=SIDE)
    return ImageSet(found.ids, found.images // 3 + 80, found.labels, found.defects, None)


def ground(test: ImageSet, *, seed: int = 0) -> Ground:
    return Ground(test, Draws(10, seed), 7, torch.device("cpu"))


def direction(angle: float) -> Tensor:
    """A unit vector at this angle to that of angle 0, in a plane of images."""
    first = fakes.linear_weights(SIDE)
    second = first.flip(-1)
    first = first / first.norm()
    second = second - (second * first).sum() * first
    return math.cos(angle) * first + math.sin(angle) * second / second.norm()


def along(angle: float, name: str) -> Detector:
    """score = <w, x> with |w| = 1."""

    def value(self: fakes.Fake, x: Tensor, noise: Noise) -> Tensor:
        return (direction(angle).to(x) * x).sum(dim=(1, 2, 3))

    return fakes.fitted(type("Along", (fakes.Fake,), {"name": name, "value": value}), SIDE)


def stairs(name: str = "stairs") -> Detector:
    """A linear score that is rounded: it has a gradient of exactly zero, as a saturated one, and the gate lets it be
    attacked. Only images that were made elsewhere move it."""

    def value(self: fakes.Fake, x: Tensor, noise: Noise) -> Tensor:
        return ((direction(0.0).to(x) * x).sum(dim=(1, 2, 3)) * 200).floor() / 200 + 0 * x.sum(dim=(1, 2, 3))

    return fakes.fitted(type("Stairs", (fakes.Fake,), {"name": name, "value": value}), SIDE)


def attack_on(norm: str, epsilon: float, **settings: object) -> attacks.Attack:
    return attacks.get(f"pgd-{norm}", image_size=SIDE, epsilon=epsilon, **settings)


def found_on(detectors: dict[str, Detector], made: attacks.Attack, test: ImageSet, **more: Any) -> TransferMatrix:
    return matrix(ground(test), detectors, dict.fromkeys(detectors, made), **more)


# -- closed forms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("norm", "epsilon"), [("l2", 0.15), ("linf", 0.004)])
def test_between_two_linear_detectors_the_angle_decides(norm: str, epsilon: float) -> None:
    """Images made on w move the score <v, x> by epsilon * <v, w> (l2) or epsilon * <v, sign(w)> (l-inf)."""
    test, angles = mid_grey(), {"a": 0.0, "b": 1.1, "c": 1.9}  # the last one: more than a right angle
    found = found_on({name: along(angle, name) for name, angle in angles.items()}, attack_on(norm, epsilon), test)
    x, y = test.pixels().double(), test.labels.double()
    shown = set()
    for target, angle in angles.items():
        v = direction(angle).double()
        scores = (v * x).sum(dim=(1, 2, 3))
        assert found.clean[target].auc == pytest.approx(float(ranking.auc(scores, test.labels)), abs=1e-9)
        for source, other in angles.items():
            w = direction(other).double()
            push = float((v * (w if norm == "l2" else w.sign())).sum())
            if norm == "l2":
                assert push == pytest.approx(math.cos(angle - other), abs=1e-6)
            exact = float(ranking.auc((scores + y * epsilon * push).numpy(), test.labels.numpy()))
            assert found.auc(source, target) == pytest.approx(exact, abs=0.8), (source, target)  # a pair is 0.69
            shown.add(round(exact))
    assert len(shown) > 4, "the angles make a difference"
    if norm == "l2":  # beyond a right angle it helps
        assert found.auc("c", "a") > found.clean["a"].auc  # type: ignore[operator]
    assert found.flags() == []


def test_the_diagonal_is_what_a_run_finds() -> None:
    """The white box attacks every image to the end, which changes no AUC of pairs."""
    test, made = mid_grey(), attack_on("linf", 0.004)
    found = found_on({"a": along(0.0, "a"), "smooth": fakes.fitted(fakes.Fake, SIDE)}, made, test)
    from bench.cell.attack import run_cell

    outcome = run_cell(
        along(0.0, "a"),
        made,
        test,
        test.subset(range(12)),
        Draws(10, 0),
        batch_size=7,
        device=torch.device("cpu"),
        tick=lambda done, what: None,
        early_stop=True,
    )
    assert outcome.had_enough is not None and outcome.had_enough.any()
    assert found.auc("a", "a") == float(ranking.auc(outcome.robust, test.labels).mean())


def test_a_masked_gradient_is_caught_by_images_from_elsewhere() -> None:
    test, made = mid_grey(), attack_on("l2", 0.3)
    found = found_on({"stairs": stairs(), "line": along(0.0, "line")}, made, test)
    assert found.auc("stairs", "stairs") == found.clean["stairs"].auc, "its own attack has nothing to follow"
    assert found.auc("line", "stairs") < found.auc("stairs", "stairs") - 10  # type: ignore[operator]
    (flag,) = found.flags()
    own, others = (f"{found.auc(source, 'stairs'):.1f}" for source in ("stairs", "line"))
    assert "stairs: images made on other detectors do more" in flag and own in flag and f"line {others}" in flag
    assert report.figure(found, "line", "stairs") == others + "!" and report.figure(found, "line", "line")[0] == "["
    assert report.notes(found)[0].startswith("! stairs:")


def test_one_source_is_enough_to_ask_whether_it_does_more() -> None:
    found = found_on(
        {"stairs": stairs(), "line": along(0.0, "line")}, attack_on("l2", 0.3), mid_grey(), sources=["stairs", "line"]
    )
    alone = found_on(
        {"stairs": stairs(), "line": along(0.0, "line")}, attack_on("l2", 0.3), mid_grey(), sources=["line"]
    )
    assert alone.sources == ("line",) and alone.targets == ("stairs", "line")
    assert alone.auc("line", "stairs") == found.auc("line", "stairs")
    assert alone.entries["line", "stairs"].lead is None, "without its own images there is nothing to compare with"
    assert alone.flags() == []


class Jittery(fakes.Noisy):
    """Its score is nearly all noise: one detector's images do more than another's by chance alone."""

    name = "jittery"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return 0.01 * x.mean(dim=(1, 2, 3)) + noise.normal((), stream="score", like=x)


def test_chance_is_no_sign_of_masking() -> None:
    for seed in range(4):
        test = mid_grey(10)
        detectors = {"jittery": fakes.fitted(Jittery, SIDE), "line": along(0.0, "line"), "fake": along(1.0, "fake")}
        made = dict.fromkeys(detectors, attack_on("linf", 0.004, steps=2))
        assert matrix(ground(test, seed=seed), detectors, made).flags() == []


def test_a_lead_counts_beyond_a_point_and_beyond_the_noise_of_the_draws() -> None:
    labels = np.array([1] * 50 + [-1] * 50)
    draws = np.random.default_rng(0).normal(0, 1, (10, 100)) + (labels == -1)
    assert not entry(draws, labels, draws).is_ahead
    assert entry(draws - 0.5 * (labels == -1), labels, draws).is_ahead
    assert not entry(draws + 0.5 * (labels == -1), labels, draws).is_ahead
    assert not Entry(50, 40, 60, 1.0, 50, lead=0.9).is_ahead
    assert not Entry(50, 40, 60, 1.0, 50, lead=3.0, lead_error=2.0).is_ahead
    assert Entry(50, 40, 60, 1.0, 50, lead=3.0, lead_error=1.0).is_ahead


def test_every_judge_of_noise_hears_the_same_draws_for_all_rows() -> None:
    """Whatever images it judges: the row of a detector that moves nothing is the clean row, to the last digit."""
    test = mid_grey()
    detectors = {"noisy": fakes.fitted(fakes.Noisy, SIDE), "blind": fakes.fitted(Blind, SIDE)}
    found = found_on(detectors, attack_on("linf", 0.01), test)
    assert found.auc("blind", "noisy") == found.clean["noisy"].auc and found.draws["noisy"] >= 10
    assert found.auc("noisy", "blind") == found.auc("blind", "blind") == found.clean["blind"].auc
    assert found.auc("noisy", "noisy") < found.clean["noisy"].auc  # type: ignore[operator]


class Blind(fakes.Fake):
    """Scores the names of the images."""

    name = "blind"
    sees_pixels = False

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return torch.tensor([float(int(name[-7:-4]) % 5) for name in noise.image_ids]).to(x)


# -- what fails -------------------------------------------------------------------------------------------------------


def test_one_that_fails_costs_its_own_row_and_column() -> None:
    detectors = {name: along(0.0, name) for name in ("a", "z")}
    detectors |= {cls.name: fakes.fitted(cls, SIDE) for cls in (fakes.Broken, fakes.NotANumber)}
    names = ["a", "missing", *[n for n in detectors if n not in ("a", "z")], "z"]
    found = found_on(detectors, attack_on("l2", 0.1), mid_grey(), names=names, reasons={"missing": "it is not there"})
    assert found.targets == found.sources == tuple(names)
    assert (
        set(found.reasons) == {"missing", "broken", "not-a-number"} and "ZeroDivisionError" in found.reasons["broken"]
    )
    values = found.values
    there = [names.index("a"), names.index("z")]
    assert values.shape == (6, 5) and np.isfinite(values[np.ix_([0, 1 + there[0], 1 + there[1]], there)]).all()
    assert int(np.isfinite(values).sum()) == 6
    rows = list(csv.reader(render(found).splitlines()))
    assert rows[0] == ["made on", *names] and [row[0] for row in rows[1:]] == ["clean", *names]
    assert rows[2][1] == repr(found.auc("a", "a")) and rows[2][2] == ""


def test_the_matrix_does_not_depend_on_the_batch_size_or_on_who_else_is_there() -> None:
    test, made = mid_grey(6), attack_on("linf", 0.004)
    detectors = {"noisy": fakes.fitted(fakes.Noisy, SIDE), "line": along(0.3, "line")}
    whole = found_on(detectors, made, test)
    other = matrix(Ground(test, Draws(10, 0), 3, torch.device("cpu")), detectors, dict.fromkeys(detectors, made))
    assert np.allclose(whole.values, other.values, atol=1e-3)
    alone = found_on({"noisy": fakes.fitted(fakes.Noisy, SIDE)}, made, test)
    assert alone.auc("noisy", "noisy") == whole.auc("noisy", "noisy")


# -- from Python ------------------------------------------------------------------------------------------------------


def test_from_python_by_names(folder: Path) -> None:
    detectors = {
        name: bench.fit(name, "folder", "bolt", data_root=folder, image_size=32)
        for name in ("brightness", "mean-image")
    }
    options: dict[str, Any] = {"data_root": folder, "attack": "pgd-linf", "epsilon": "4/255", "steps": 3, "limit": 4}
    found = bench.transfer(list(detectors.values()), "folder", "bolt", **options)
    assert found.sources == found.targets == tuple(detectors) and found.epsilon == 4 / 255 and not found.reasons
    own = bench.evaluate(detectors["brightness"], "folder", "bolt", **options)
    assert found.auc("brightness", "brightness") == own.robust.value
    assert found.clean["brightness"].auc == own.clean.value
    one = bench.transfer(detectors, "folder", "bolt", sources=["mean-image"], **options)
    assert one.sources == ("mean-image",) and one.auc("mean-image", "brightness") == found.auc(
        "mean-image", "brightness"
    )
    with pytest.raises(BenchError, match="of different names"):
        bench.transfer([detectors["brightness"]] * 2, "folder", "bolt", **options)
    with pytest.raises(BenchError, match="of one image size"):
        bench.transfer([*detectors.values(), along(0.0, "a")], "folder", "bolt", **options)
    with pytest.raises(BenchError, match="one detector or more"):
        bench.transfer([], "folder", "bolt", **options)
    with pytest.raises(BenchError, match="names of the detectors"):
        bench.transfer(detectors, "folder", "bolt", sources=["spade"], **options)


# -- the command ------------------------------------------------------------------------------------------------------


def words(root: Path, out: Path, *more: object, names: str) -> tuple[object, ...]:
    start = ("transfer", "--detectors", names, "--dataset", "folder", "--data-root", root, "--image-size", 32)
    return (*start, "--device", "cpu", "--out", out / "out", "--cache", out / "cache", *more)


def test_the_command_prints_a_matrix_and_leaves_three_files(
    command: Command, folder: Path, tmp_path: Path, register: Register
) -> None:
    register(fakes.Fake, fakes.Noisy, fakes.Linear, fakes.BrokenFit)
    asked = words(
        folder,
        tmp_path,
        "--steps",
        2,
        "--categories",
        "bolt",
        names="fake,noisy,broken-fit,linear,brightness,file-order",
    )
    said = command(*asked)
    assert said.code == 2 and said.err == "" and too_wide(said.out) == []
    flat = " ".join(said.out.split())
    for text in (
        "pgd-linf at l-inf epsilon 2/255",
        "made on",
        "clean",
        "[0.0]",
        "In brackets",
        "file-order",
        "folder bolt",
    ):
        assert text in flat, text
    assert "Failed: broken-fit on bolt: fitting broken-fit raised IndexError" in flat
    written = sorted((tmp_path / "out" / "transfer").iterdir())
    assert {path.suffix for path in written} == {".csv", ".json", ".png", ".pdf"} and len(written) == 4
    assert len({path.stem for path in written}) == 1 and written[0].stem.startswith("folder--bolt--transfer-pgd-linf--")
    document = json.loads(next(path for path in written if path.suffix == ".json").read_text())
    rows = list(csv.reader(next(path for path in written if path.suffix == ".csv").read_text().splitlines()))
    assert rows[0][1:] == document["targets"] == ["fake", "noisy", "broken-fit", "linear", "brightness", "file-order"]
    assert float(rows[2][1]) == document["made_on"]["fake"]["fake"]["auc"] and rows[4][1] == ""
    assert document["failed"].keys() == {"broken-fit"} and document["checkpoints"]["fake"]["sha256"]
    assert document["command"].startswith("python -m bench transfer") and document["subset"]["normals"] == 6
    assert document["asked"]["fake"]["steps"] == 2 and any(
        "--steps" in limit or "32" in limit for limit in document["limits"]
    )
    with Image.open(next(path for path in written if path.suffix == ".png")) as picture:
        assert picture.width > 600
    again = command(*asked)  # the same request writes the same files
    assert again.code == 2 and sorted((tmp_path / "out" / "transfer").iterdir()) == written
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()], "nothing half-written stays"


def test_a_dry_run_fits_and_writes_nothing(command: Command, folder: Path, tmp_path: Path, register: Register) -> None:
    register(fakes.Fake)
    said = command(*words(folder, tmp_path, "--dry-run", names="fake,brightness"))
    assert said.code == 0 and fakes.Fake.fits == 0 and list(tmp_path.iterdir()) == []
    assert "Nothing was run" in said.out and "to be fitted" in said.out and too_wide(said.out) == []


def test_on_a_narrow_terminal_the_matrix_is_a_list(
    command: Command, folder: Path, tmp_path: Path, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(fakes.Fake)
    monkeypatch.setenv("COLUMNS", "50")
    said = command(*words(folder, tmp_path, "--steps", 1, "--categories", "nut", names="fake,brightness"))
    assert said.code == 0 and "judged on brightness" in said.out and "made on fake: " in said.out
    assert all(len(line) <= 50 or "/" in line for line in said.out.splitlines())


def test_what_makes_no_sense_is_a_sentence(safe: Callable[..., str], folder: Path) -> None:
    start = ("transfer", "--detectors", "fake", "--dataset", "folder", "--data-root", folder, "--image-size", 32)
    for words_of_it, *more in (
        ("one attack in one ball", "--attack", "pgd-linf,apgd-linf"),
        ("one attack in one ball", "--epsilon", "1/255,2/255"),
        ("no attack 'fgsm'", "--attack", "fgsm"),
        ("0-255 value", "--epsilon", "2"),
        ("screw", "--categories", "screw"),
        ("at least 1", "--limit", "0"),
        ("Cannot use", "--out", "/proc/nowhere"),
    ):
        assert words_of_it in safe(*start, *more, keeps="--out" not in more), more
