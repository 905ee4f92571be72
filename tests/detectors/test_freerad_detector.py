"""FreeRAD as a detector: its noise, its gradient, its k, and fits that are not done twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from derivatives import check_derivative, gradient
from detector_pictures import normal_pictures
from freerad_small import SIDE, lively, shake, small, source
from torch import Tensor

from detectors import checkpoint
from detectors.errors import CheckpointError, DetectorError
from detectors.freerad import FreeRAD
from detectors.freerad.scoring import image_score, multiscale_error
from detectors.store import FolderStore

NORMALS = normal_pictures(6, SIDE, seed=1)


@pytest.fixture(scope="module")
def detector() -> FreeRAD:
    return lively()


def _images(count: int, side: int = SIDE) -> Tensor:
    return normal_pictures(count, side, seed=2)


class Count:
    """A progress that counts."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, done: int, total: int, note: str = "") -> None:
        self.calls += 1


# -- noise ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "overrides"), [(SIDE, {}), (2 * SIDE, {}), (24, {"k": 4, "denoising_steps": 0})])
def test_scores_are_the_same_in_batches_of_any_size_up_to_rounding(side: int, overrides: dict[str, Any]) -> None:
    detector = lively(side=side, **overrides)
    x = _images(17, side)
    noise = source(17)
    with torch.no_grad():
        whole = detector.score(x, noise=noise)
        for size in (1, 2, 3, 5, 16):
            parts = [slice(start, start + size) for start in range(0, 17, size)]
            found = torch.cat([detector.score(x[part], noise=noise.pick(part)) for part in parts])
            torch.testing.assert_close(found, whole, rtol=1e-4, atol=0)


def test_every_way_to_another_draw_gives_other_scores(detector: FreeRAD) -> None:
    x, noise = _images(1), source(1)
    draws = [noise, noise.at(1), noise.at(2), noise.sub(0), noise.sub(0, 0), noise.sub(0, 1), noise.at(1).sub(0)]
    scores = [float(detector.score(x, noise=draw)) for draw in draws]
    assert len(set(scores)) == len(draws)
    assert scores == [float(detector.score(x, noise=draw)) for draw in draws]


def test_the_map_the_reconstruction_and_the_score_see_one_noise(detector: FreeRAD) -> None:
    x, noise = _images(2), source(2)
    largest = detector.anomaly_map(x, noise=noise).amax(dim=(1, 2))
    assert torch.equal(largest, detector.score(x, noise=noise))


# -- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "overrides"),
    [
        (SIDE, {}),
        (SIDE, {"k": 4, "denoising_steps": 0}),
        (SIDE, {"k": 200, "denoising_steps": 3, "score_draws": 2}),
        (SIDE, {"unet.unshuffle": 2, "unet.attention_sides": (4,)}),
        (2 * SIDE, {}),
        (24, {}),
        (8, {}),
    ],
    ids=["one-shot", "full-shot", "arbitrary-shot", "unshuffled", "shrunk by averaging", "shrunk", "enlarged"],
)
def test_the_gradient_is_that_of_the_whole_path(side: int, overrides: dict[str, Any]) -> None:
    detector = lively(side=side, **overrides)
    check_derivative(detector, _images(2, side), directions=2)
    if side != SIDE:
        found = detector.anomaly_map(_images(2, side), noise=source(2))
        assert found.shape == (2, side, side)
        assert detector.reconstruct(_images(2, side), noise=source(2)).shape == (2, 3, side, side)


def test_the_gradient_runs_through_the_reconstruction(detector: FreeRAD) -> None:
    """With the reconstruction held constant it is another one: a cut there would look like robustness."""
    x, noise = _images(2).double(), source(2)
    full = gradient(detector.score, x, noise)
    leaf = x.clone().requires_grad_()
    held = detector.reconstruct(x, noise=noise).detach()
    score = image_score(multiscale_error(leaf, held, 4, 3), detector.normal_map)
    (cut,) = torch.autograd.grad(score.sum(), leaf)
    torch.testing.assert_close(score, detector.score(x, noise=noise))
    assert float((full - cut).norm()) > 0.1 * float(cut.norm())


# -- k ----------------------------------------------------------------------------------------------------------------


def test_another_k_is_chosen_without_training_and_measures_the_normals_again() -> None:
    chosen = small(k="auto").fit(NORMALS, seed=0)
    assert chosen.k == 100
    weights = {key: value.clone() for key, value in chosen.unet.state_dict().items()}
    chosen.choose("k", 30, NORMALS, seed=0)
    fixed = small(k=30).fit(NORMALS, seed=0)
    for key, value in chosen.unet.state_dict().items():
        assert torch.equal(value, weights[key]) and torch.equal(value, fixed.unet.state_dict()[key])
    assert torch.equal(chosen.normal_map, fixed.normal_map)
    x, noise = _images(2), source(2)
    assert torch.equal(chosen.score(x, noise=noise), fixed.score(x, noise=noise))
    assert not torch.equal(chosen.normal_map, small(k="auto").fit(NORMALS, seed=0).normal_map)


def test_a_chosen_k_travels_with_the_checkpoint(tmp_path: Path) -> None:
    detector = small(k="auto").fit(NORMALS, seed=0).choose("k", 25, NORMALS, seed=0)
    loaded = small(k="auto").load(detector.save(tmp_path / "fitted.safetensors"))
    assert loaded.k == 25 and int(loaded.chosen_k) == 25
    x, noise = _images(2), source(2)
    assert torch.equal(loaded.score(x, noise=noise), detector.score(x, noise=noise))


def test_a_new_fit_forgets_the_k_that_was_chosen_and_the_norms_that_were_learned() -> None:
    fresh = small(k=20).fit(NORMALS, seed=0)
    used = small(k=20).fit(NORMALS, seed=1).choose("k", 50, NORMALS, seed=1)
    shake(used.unet, seed=1)
    used.fit(NORMALS, seed=0)
    assert used.k == 20
    for key, value in fresh.state_dict().items():
        assert torch.equal(value, used.state_dict()[key]), key


def test_choosing_after_a_check_in_float64_changes_nothing() -> None:
    once, twice = lively(), lively()
    twice.score(_images(1).double(), noise=source(1))
    with torch.inference_mode():
        twice.choose("k", 20, NORMALS, seed=0)
    assert twice.normal_map.dtype == torch.float32 and torch.equal(once.normal_map, twice.normal_map)
    x = _images(2)
    assert bool((gradient(twice.score, x, source(2)).flatten(1).norm(dim=1) > 1e-7).all())


def test_what_cannot_be_chosen_is_refused_with_a_sentence(detector: FreeRAD) -> None:
    for setting, value, words in (("k", 0, "1..1000"), ("k", 1001, "1..1000"), ("scales", 2, "not 'scales'")):
        with pytest.raises(DetectorError, match=words):
            detector.choose(setting, value, NORMALS, seed=0)
    assert detector.k == 20
    with pytest.raises(DetectorError, match="not fitted"):
        small().choose("k", 30, NORMALS, seed=0)
    with pytest.raises(DetectorError, match=r"denoising_steps must lie in 0\.\.2"):
        lively(k=6, denoising_steps=3).choose("k", 2, NORMALS, seed=0)


def test_the_mean_map_is_of_all_normals_unless_fewer_are_asked_for() -> None:
    as_many = small(map_images=len(NORMALS)).fit(NORMALS, seed=0)
    of_all = FreeRAD(replace(as_many.settings, map_images=None), SIDE).fit(NORMALS, seed=0)
    assert torch.equal(of_all.normal_map, as_many.normal_map)
    assert not torch.equal(of_all.normal_map, small(map_images=2).fit(NORMALS, seed=0).normal_map)


# -- fits that are not done twice -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a fit has left its U-Net."""
    folder = tmp_path_factory.mktemp("work")
    progress = Count()
    small().fit(NORMALS, seed=0, workdir=folder, progress=progress)
    assert progress.calls == 4
    return folder


@pytest.mark.parametrize(
    "changes",
    [{}, {"k": 60}, {"filter_size": 5, "scales": 2}, {"denoising_steps": 2, "score_draws": 2}, {"map_draws": 1}],
)
def test_settings_of_the_score_alone_train_nothing_again(workdir: Path, changes: dict[str, Any]) -> None:
    progress = Count()
    reused = small(**changes).fit(NORMALS, seed=0, workdir=workdir, progress=progress)
    assert progress.calls == 0
    alone = small(**changes).fit(NORMALS, seed=0)
    for key, value in alone.state_dict().items():
        assert torch.equal(value, reused.state_dict()[key]), key
    assert reused.fit_report.pop("unet_from") == "this machine"
    assert alone.fit_report == reused.fit_report


@pytest.mark.parametrize(
    ("changes", "seed", "normals"),
    [
        ({}, 1, NORMALS),
        ({}, 0, NORMALS.flip(0)),
        ({}, 0, NORMALS[:5]),
        ({"training.iterations": 5}, 0, NORMALS),
        ({"unet.channels": 16}, 0, NORMALS),
        ({"storage": "float16"}, 0, NORMALS),
        ({"schedule.beta_last": 0.03}, 0, NORMALS),
    ],
    ids=["seed", "order", "fewer", "training", "architecture", "storage", "schedule"],
)
def test_what_the_unet_depends_on_trains_it_again(
    workdir: Path, tmp_path: Path, changes: dict[str, Any], seed: int, normals: Tensor
) -> None:
    for path in workdir.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    progress = Count()
    small(**changes).fit(normals, seed=seed, workdir=tmp_path, progress=progress)
    assert progress.calls >= 4


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_a_damaged_unet_is_trained_again(workdir: Path, tmp_path: Path, suffix: str) -> None:
    for path in workdir.iterdir():
        data = path.read_bytes()
        (tmp_path / path.name).write_bytes(data[: len(data) // 2] if path.suffix == suffix else data)
    progress = Count()
    again = small().fit(NORMALS, seed=0, workdir=tmp_path, progress=progress)
    assert progress.calls == 4
    expected = small().fit(NORMALS, seed=0, workdir=workdir)
    assert torch.equal(again.normal_map, expected.normal_map)
    progress = Count()
    small().fit(NORMALS, seed=0, workdir=tmp_path, progress=progress)
    assert progress.calls == 0, "the damaged file was not replaced"


def test_a_shipped_unet_serves_another_k_but_does_not_lend_its_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = small(k="auto").fit(NORMALS, seed=0)
    shipped.fit_report["auto"] = {"chosen": 300}
    path = shipped.choose("k", 300, NORMALS, seed=0).save(tmp_path / "shipped.safetensors")
    monkeypatch.setattr(FreeRAD, "shipped_checkpoints", classmethod(lambda cls: [path]))
    progress = Count()
    other = small(k=50).fit(NORMALS, seed=0, progress=progress)
    assert progress.calls == 0 and other.k == 50
    assert "auto" not in other.fit_report
    assert other.fit_report.pop("unet_from") == "shipped"
    assert other.fit_report.pop("unet_fit").keys() == {"command", "seconds", "written", "commit"}
    refitted = small(k=50)
    refitted.may_take_shipped = False
    refitted.fit(NORMALS, seed=0, progress=progress)
    assert progress.calls == 4, "--refit trains again, whatever ships"
    monkeypatch.undo()
    alone = small(k=50).fit(NORMALS, seed=0)
    assert torch.equal(alone.normal_map, other.normal_map)
    assert json.dumps(alone.fit_report, sort_keys=True) == json.dumps(other.fit_report, sort_keys=True)


def test_a_unet_of_this_machine_serves_another_k(tmp_path: Path) -> None:
    store = FolderStore(tmp_path, about={"command": "fit"})
    small(k=20).fit(NORMALS, seed=0, store=store)
    progress = Count()
    other = small(k=50).fit(NORMALS, seed=0, store=store, progress=progress)
    assert progress.calls == 0 and other.fit_report["unet_from"] == "this machine"
    assert other.fit_report["unet_fit"]["command"] == "fit" and other.fit_report["unet_fit"]["seconds"] >= 0
    alone = small(k=50).fit(NORMALS, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(alone.state_dict().values(), other.state_dict().values(), strict=True))
    for seed, may_take in ((1, True), (0, False)):
        small(k=50).fit(NORMALS, seed=seed, store=FolderStore(tmp_path, takes=may_take), progress=progress)
    assert progress.calls == 8, "another seed, and --refit, train"


# -- storage ----------------------------------------------------------------------------------------------------------


def test_half_precision_is_rounded_at_the_fit_and_loses_nothing_in_the_file(tmp_path: Path) -> None:
    detector = small(storage="float16").fit(NORMALS, seed=0)
    for weight in detector.unet.parameters():
        assert weight.dtype == torch.float32 and torch.equal(weight, weight.half().float())
    path = detector.save(tmp_path / "half.safetensors")
    stored, _ = checkpoint.read(path)
    assert {v.dtype for k, v in stored.items() if k.startswith("unet.")} == {torch.float16}
    assert stored["normal_map"].dtype == torch.float32
    loaded = small(storage="float16").load(path)
    x, noise = _images(3), source(3)
    assert torch.equal(detector.score(x, noise=noise), loaded.score(x, noise=noise))
    full = small(storage="float32").fit(NORMALS, seed=0)
    assert path.stat().st_size < 0.7 * full.save(tmp_path / "full.safetensors").stat().st_size
    with pytest.raises(CheckpointError):
        small(storage="float32").load(path)


# -- randomness -------------------------------------------------------------------------------------------------------


def test_fit_and_score_leave_the_global_random_states_alone(detector: FreeRAD) -> None:
    unfitted = small(denoising_steps=2)
    states = torch.random.get_rng_state(), str(np.random.get_state())
    unfitted.fit(NORMALS, seed=0)
    detector.score(_images(1))
    assert torch.equal(states[0], torch.random.get_rng_state()) and states[1] == str(np.random.get_state())
