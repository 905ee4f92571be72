"""The same from Python, as the README has it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import numpy as np
import pytest
import torch

import attacks
import bench
import detectors
from attacks import registry as attack_registry
from attacks.base import Attack
from attacks.errors import AttackError
from attacks.objective import Objective
from attacks.result import AttackResult
from bench.errors import BenchError
from detectors.errors import DetectorError

Register = Callable[..., None]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADBENCH_CACHE", str(tmp_path / "cache"))


def fitted(name: str, folder: Path, **settings: object) -> detectors.Detector:
    return bench.fit(name, "folder", "bolt", data_root=folder, image_size=32, device="cpu", **settings)  # type: ignore[arg-type]


def test_fit_attack_evaluate_in_three_calls(folder: Path) -> None:
    detector = fitted("ae", folder, epochs=3)
    images, labels = bench.test_images("folder", "bolt", data_root=folder, image_size=32)
    adversarial = attacks.get("pgd-linf", steps=3)(detector, images, labels)
    assert adversarial.shape == images.shape == (12, 3, 32, 32)
    assert float((adversarial - images).abs().max()) <= 2 / 255 + 1e-6
    loss = labels * (detector.score(adversarial) - detector.score(images))
    assert bool((loss >= 0).all()) and float(loss.sum()) > 0
    found = bench.evaluate(detector, "folder", "bolt", data_root=folder, steps=3)
    assert found.robust.low <= found.robust.value <= found.robust.high
    assert str(found).startswith(f"clean AUC {found.clean.value:.1f} [")


def test_evaluate_gives_the_figures_of_the_command_line(folder: Path, tmp_path: Path, register: Register) -> None:
    register(fakes.Noisy)
    (record,) = fakes.run(fakes.config(tmp_path, folder, "noisy", categories=("bolt",), seed=3)).records
    found = bench.evaluate(fitted("noisy", folder), "folder", "bolt", data_root=folder, steps=3, seed=3, batch_size=5)
    assert record.clean is not None and record.robust is not None
    assert (found.clean.value, found.robust.value) == (record.clean.auc, record.robust.auc)
    assert (found.robust.low, found.robust.high) == (record.robust.low, record.robust.high)
    assert found.scores.robust.shape == (10, 12)


def test_fit_takes_a_checkpoint_where_there_is_one_and_settings_make_another(folder: Path, register: Register) -> None:
    register(fakes.Fake)
    for _ in range(2):
        assert fitted("fake", folder).is_fitted
    assert fakes.Fake.fits == 1
    assert fitted("fake", folder, knob=2).settings.knob == 2 and fakes.Fake.fits == 2


def test_a_saved_detector_comes_back_by_its_file(folder: Path, tmp_path: Path) -> None:
    detector = fitted("ae", folder, epochs=2)
    again = detectors.load(detector.save(tmp_path / "mine.safetensors"))
    images, _ = bench.test_images("folder", "bolt", data_root=folder, image_size=32)
    torch.testing.assert_close(again.score(images), detector.score(images), rtol=0, atol=0)


def test_a_radius_may_be_written_as_on_the_command_line(folder: Path, register: Register) -> None:
    register(fakes.Linear)
    detector = fitted("linear", folder)
    text, number = (
        bench.evaluate(detector, "folder", "bolt", data_root=folder, epsilon=epsilon, steps=2)
        for epsilon in ("2/255", 2 / 255)
    )
    np.testing.assert_array_equal(text.scores.robust, number.scores.robust)


def test_evaluate_refuses_to_follow_a_map_that_is_not_there(folder: Path) -> None:
    detector = fitted("brightness", folder)
    with pytest.raises(AttackError, match=r"told to follow the anomaly map .*, and brightness has none"):
        bench.evaluate(detector, "folder", "bolt", data_root=folder, differentiate="map")


def test_evaluate_takes_the_attacks_own_settings_and_limits_the_images(folder: Path, register: Register) -> None:
    register(fakes.Linear)
    detector = fitted("linear", folder)
    weak, strong = (
        bench.evaluate(detector, "folder", "bolt", data_root=folder, limit=4, epsilon=epsilon, steps=8)
        for epsilon in (1e-4, 0.05)
    )
    assert weak.scores.clean.shape == (1, 8)
    np.testing.assert_array_equal(weak.scores.clean, strong.scores.clean)
    assert strong.robust.value <= weak.robust.value
    l2 = bench.evaluate(detector, "folder", "bolt", data_root=folder, attack="pgd-l2", limit=4, steps=2)
    assert l2.results["clean"] == weak.results["clean"]


def test_what_the_user_can_mend_is_raised_as_a_sentence(folder: Path, register: Register) -> None:
    register(fakes.Fake, fakes.NotANumber)
    with pytest.raises(DetectorError, match="did you mean"):
        fitted("fak", folder)
    with pytest.raises(BenchError, match="did you mean 'bolt'"):
        bench.fit("fake", "folder", "bold", data_root=folder)
    detector = fitted("fake", folder)
    with pytest.raises(AttackError, match="did you mean"):
        bench.evaluate(detector, "folder", "bolt", data_root=folder, attack="pgd")
    with pytest.raises(AttackError, match="0-255"):
        bench.evaluate(detector, "folder", "bolt", data_root=folder, epsilon=2)
    with pytest.raises(AttackError, match="no setting"):
        bench.evaluate(detector, "folder", "bolt", data_root=folder, stepps=2)
    with pytest.raises(BenchError, match="not finite"):
        bench.evaluate(fitted("not-a-number", folder), "folder", "bolt", data_root=folder, steps=1)
    for size in (0, 100_000):
        with pytest.raises(BenchError, match="1 to 4096 are possible"):
            bench.test_images("folder", "bolt", data_root=folder, image_size=size)
    with pytest.raises(BenchError, match=r"takes a fitted detector.*got 'fake'"):
        bench.evaluate("fake", "folder", "bolt", data_root=folder)  # type: ignore[arg-type]
    with pytest.raises(DetectorError, match="not fitted"):
        bench.evaluate(detectors.create("ae", image_size=32), "folder", "bolt", data_root=folder)


@pytest.mark.parametrize("wrong", [{"seed": "a"}, {"seed": 1.5}, {"complete": "no"}])
def test_seeds_and_switches_of_another_kind_are_sentences(
    folder: Path, register: Register, wrong: dict[str, Any]
) -> None:
    register(fakes.Fake)
    detector = fitted("fake", folder)
    with pytest.raises(BenchError, match="must be"):
        bench.evaluate(detector, "folder", "bolt", data_root=folder, steps=2, **wrong)


@pytest.mark.parametrize("seed", ["0", 1.5, None])
def test_a_fit_takes_a_whole_number_for_a_seed(folder: Path, seed: Any) -> None:
    with pytest.raises(BenchError, match="whole number"):
        fitted("brightness", folder, seed=seed)


def test_the_python_calls_touch_no_global_random_state(folder: Path) -> None:
    before = torch.get_rng_state()
    detector = fitted("brightness", folder)
    bench.evaluate(detector, "folder", "bolt", data_root=folder, steps=1, random_start=True)
    assert torch.equal(before, torch.get_rng_state())


def test_an_attack_without_the_protocols_settings_takes_none_of_them(
    folder: Path, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Noise(Attack):
        """One random point of the ball."""

        name, title, summary, norm = "noise", "Noise", "One random point.", "linf"

        def _run(self, detector: Any, x: Any, y: Any, threat: Any, *, noise: Any, **sources: Any) -> AttackResult:
            images = threat.random_start(x, noise)
            found = Objective(detector, y).losses(images, noise, 1)
            nothing = torch.zeros_like(found[0])
            return AttackResult(images, found, found[0], found[0], found[0], nothing, nothing, nothing.bool(), 1, 0)

    register(fakes.Linear)
    monkeypatch.setitem(attack_registry._REGISTRY, "noise", Noise)
    found = bench.evaluate(fitted("linear", folder), "folder", "bolt", data_root=folder, attack="noise", limit=2)
    assert str(found).startswith("clean AUC") and found.scores.robust.shape == (1, 4)
