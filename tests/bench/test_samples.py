"""Samples under noise in the cache: what was drawn stays of use, whatever stopped a run."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import bench_fakes as fakes
import numpy as np
import pytest
import torch
from torch import Tensor

from bench.cell import samples
from bench.cell.known_code import source_of
from bench.cell.memory import Batches
from bench.cell.samples import Pictures, SampleSet
from bench.data.base import ImageSet
from bench.errors import CellError
from bench.records import environment
from detectors import registry
from detectors.base import Detector
from detectors.noise import Noise, NoiseSeed

SIDE, SIGMA = 8, 0.1
IMAGES = fakes.image_set(3, 4, side=SIDE)


def pictures(images: ImageSet = IMAGES) -> Pictures:
    return Pictures("test", images.ids, images.pixels)


def sample_set(cache: Path, **changes: Any) -> SampleSet:
    depends = {"detector": "purify:x", "sigma": SIGMA, "seed": 3, "tensors_sha256": "a"} | changes
    return SampleSet(cache, depends, len(IMAGES))


def drawn(found: SampleSet, detector: Detector, count: int, batch_size: int = 3) -> Any:
    ticks: list[float] = []
    values = found.draw(
        detector,
        pictures(),
        count,
        batch_size=batch_size,
        device=torch.device("cpu"),
        tick=lambda done, note: ticks.append(done),
    )
    assert sum(ticks) == count
    return values


def pieces(found: SampleSet) -> list[str]:
    return sorted(path.stem for path in found.folder.glob("*.safetensors"))


class Stopping(fakes.Linear):
    """Stops after so many scores, as a kill would."""

    left = 10**9

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        type(self).left -= len(x)
        if self.left < 0:
            raise KeyboardInterrupt
        return super().value(x, noise)


@pytest.fixture
def linear() -> Detector:
    return fakes.fitted(fakes.Linear, SIDE)


def test_a_sample_is_the_score_of_the_image_and_its_own_noise(tmp_path: Path, linear: Detector) -> None:
    """Sorted for each image; sample i is drawn from `noise.sub(i)` of its name, unclipped."""
    source = NoiseSeed(3).source("certificate", IMAGES.ids)
    x, weights = IMAGES.pixels(), fakes.linear_weights(SIDE)
    by_hand = [
        (weights * (x + SIGMA * source.sub(i).normal(x.shape[1:], stream="smoothing", like=x))).sum(dim=(1, 2, 3))
        for i in range(5)
    ]
    expected = np.sort(torch.stack(by_hand).double().numpy().T, axis=1)
    assert drawn(sample_set(tmp_path), linear, 5) == pytest.approx(expected, abs=1e-4)


def test_noise_leaves_the_range_of_pictures_and_nobody_refuses_it(tmp_path: Path, linear: Detector) -> None:
    drawn(sample_set(tmp_path, sigma=3.0), linear, 2)
    assert not linear._trusts_images


def test_more_samples_extend_the_same_samples(tmp_path: Path, linear: Detector) -> None:
    whole = drawn(sample_set(tmp_path / "a"), linear, 12)
    drawn(sample_set(tmp_path / "b"), linear, 5)
    type(linear).scores = 0  # type: ignore[attr-defined]
    extended = drawn(sample_set(tmp_path / "b"), linear, 12)
    assert type(linear).scores == 7 * len(IMAGES)  # type: ignore[attr-defined]
    assert np.array_equal(extended, whole)
    assert np.array_equal(sample_set(tmp_path / "b").read(5), sample_set(tmp_path / "a").read(5))


def test_fewer_samples_are_the_first_of_them(tmp_path: Path, linear: Detector) -> None:
    drawn(sample_set(tmp_path / "a"), linear, 9)
    few = drawn(sample_set(tmp_path / "b"), linear, 4)
    assert np.array_equal(drawn(sample_set(tmp_path / "a"), linear, 4), few)


@pytest.mark.parametrize("scores", [0, 1, 7, 20, 50, 83])
def test_a_killed_run_goes_on_and_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linear: Detector, scores: int
) -> None:
    """What is lost is one batch: of samples that take long, the images that are done are kept."""
    monkeypatch.setattr(samples, "SECONDS", 0.0)  # a piece for each sample
    whole = drawn(sample_set(tmp_path / "a"), linear, 12)
    stopping = fakes.fitted(Stopping, SIDE)
    monkeypatch.setattr(Stopping, "left", scores)
    with pytest.raises(KeyboardInterrupt):
        drawn(sample_set(tmp_path / "b"), stopping, 12)
    sweeps, rest = divmod(scores, len(IMAGES))
    assert sample_set(tmp_path / "b").known(12) == sweeps
    type(linear).scores = 0  # type: ignore[attr-defined]
    assert np.array_equal(drawn(sample_set(tmp_path / "b"), linear, 12), whole)
    kept = sweeps * len(IMAGES) + rest // 3 * 3  # the batches of three that were whole
    assert type(linear).scores == 12 * len(IMAGES) - kept  # type: ignore[attr-defined]
    assert pieces(sample_set(tmp_path / "b")) == ["0-12"]


def test_another_batch_size_changes_rounding_at_most(tmp_path: Path, linear: Detector) -> None:
    one, other = (drawn(sample_set(tmp_path / str(n)), linear, 6, batch_size=n) for n in (1, 7))
    assert one == pytest.approx(other, abs=1e-4)


def test_when_memory_runs_out_batches_are_halved_for_good(tmp_path: Path, linear: Detector) -> None:
    class Hungry(fakes.Linear):
        asked: ClassVar[list[int]] = []

        def value(self, x: Tensor, noise: Noise) -> Tensor:
            self.asked.append(len(x))
            if len(x) > 2:
                raise torch.OutOfMemoryError
            return super().value(x, noise)

    found = drawn(sample_set(tmp_path / "a"), fakes.fitted(Hungry, SIDE), 4, batch_size=5)
    assert Hungry.asked[0] == 5 and set(Hungry.asked[1:]) <= {1, 2}
    assert found == pytest.approx(drawn(sample_set(tmp_path / "b"), linear, 4), abs=1e-4)


def test_without_a_cache_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linear: Detector) -> None:
    monkeypatch.setattr(samples, "SECONDS", 0.0)
    monkeypatch.chdir(tmp_path)
    depends = sample_set(tmp_path).depends
    found = drawn(SampleSet(None, depends, len(IMAGES)), linear, 6)
    assert not list(tmp_path.rglob("*")) and SampleSet(None, depends, len(IMAGES)).known(6) == 0
    assert np.array_equal(found, drawn(sample_set(tmp_path), linear, 6))


def test_code_that_no_commit_tells_has_samples_of_its_own_and_a_strangers_none(
    monkeypatch: pytest.MonkeyPatch, linear: Detector
) -> None:
    ours = registry.create("brightness", image_size=SIDE)
    monkeypatch.setattr(environment, "commit", lambda: "0" * 40)
    assert source_of(ours) == "" and source_of(linear) is None
    holding = registry.create("smooth:brightness", image_size=SIDE)
    assert source_of(holding) == ""
    holding.add_module("inner", linear)
    assert source_of(holding) is None
    for commit in ("0" * 40 + "+changes", "", "0" * 40 + " (told)"):
        monkeypatch.setattr(environment, "commit", lambda told=commit: told)
        assert re.fullmatch("[0-9a-f]{64}", source_of(ours) or "") and source_of(linear) is None


@pytest.mark.parametrize("change", [{"sigma": 0.2}, {"seed": 4}, {"tensors_sha256": "b"}, {"detector": "other"}])
def test_whatever_a_score_depends_on_makes_another_set(tmp_path: Path, change: dict[str, Any]) -> None:
    assert sample_set(tmp_path, **change).folder != sample_set(tmp_path).folder


def spoil(path: Path, how: str) -> None:
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-4])
    elif how == "changed":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    elif how == "no description":
        path.with_suffix(".json").unlink()
    elif how == "renamed":
        for suffix in (".safetensors", ".json"):
            path.with_suffix(suffix).rename(path.with_name(f"4-8{suffix}"))
    elif how == "no JSON":
        path.with_suffix(".json").write_text("[" * 10000)


@pytest.mark.parametrize("how", ["cut", "changed", "no description", "renamed", "no JSON"])
def test_a_damaged_piece_is_drawn_again(
    tmp_path: Path, linear: Detector, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = sample_set(tmp_path)
    whole = drawn(found, linear, 4)
    spoil(found.folder / "0-4.safetensors", how)
    with caplog.at_level(logging.WARNING, logger="bench"):
        assert np.array_equal(drawn(found, linear, 4), whole)
    assert "drawn again" in caplog.text


def test_pieces_of_two_runs_may_overlap(tmp_path: Path, linear: Detector) -> None:
    whole = drawn(sample_set(tmp_path / "a"), linear, 10)
    found = sample_set(tmp_path / "b")
    drawn(found, linear, 6)
    for start, stop in ((4, 9), (2, 3), (9, 10)):
        numbers = range(start, stop)
        found._write(numbers, found._scores(linear, pictures(), numbers, Batches(3), torch.device("cpu")))
    assert found.known(10) == 10
    assert np.array_equal(drawn(found, linear, 10), whole)
    assert pieces(found) == ["0-10"]


def test_many_pieces_are_joined_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linear: Detector) -> None:
    monkeypatch.setattr(samples, "SECONDS", 0.0)
    monkeypatch.setattr(samples, "MOST_PIECES", 3)
    most: list[int] = []
    write: Callable[..., None] = SampleSet._write

    def counting(self: SampleSet, numbers: range, scores: Tensor) -> None:
        write(self, numbers, scores)
        most.append(len(pieces(self)))

    monkeypatch.setattr(SampleSet, "_write", counting)
    assert np.array_equal(drawn(sample_set(tmp_path), linear, 20), drawn(sample_set(tmp_path / "b"), linear, 20))
    assert max(most) <= 5


def test_a_score_that_is_no_number_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(CellError, match=r"of not-a-number under noise of 0\.1 are NaN"):
        drawn(sample_set(tmp_path), fakes.fitted(fakes.NotANumber, SIDE), 3)
    assert not pieces(sample_set(tmp_path))


def test_a_random_detector_draws_its_own_noise_afresh_for_each_sample(tmp_path: Path) -> None:
    """Pure noise: as many different scores as samples, and again the same."""
    detector = fakes.fitted(fakes.PureNoise, SIDE)
    found = drawn(sample_set(tmp_path / "a"), detector, 50)
    assert len(np.unique(found)) == found.size
    assert np.array_equal(drawn(sample_set(tmp_path / "b"), detector, 50), found)
