"""FreeRAD on images that carry noise already: the timestep that has as much, nothing drawn, and no change without."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from detector_pictures import normal_pictures
from freerad_small import SIDE, SMALL, alpha_bar_by_hand, lively, random_images, shake, small, source
from torch import Tensor

from detectors import checkpoint, contract, loading, registry
from detectors.errors import CheckpointError, DetectorError
from detectors.freerad import FreeRAD
from detectors.freerad.diffusion import Schedule, matched_timestep, process
from detectors.freerad.reconstruction import denoise, denoise_given
from detectors.settings import described
from detectors.smooth import Smoothed

GIVEN = 0.25
NORMALS = normal_pictures(6, SIDE, seed=1)
IMAGES = normal_pictures(2, SIDE, seed=2)


# -- the timestep -----------------------------------------------------------------------------------------------------


def test_sigma_of_a_quarter_is_timestep_145() -> None:
    """Twice as much on [-1, 1]; the paper's schedule, whose ratio reaches a half between 145 and 146."""
    assert matched_timestep(Schedule(), 2 * 0.25) == 145
    below, above = (math.sqrt((1 - bar) / bar) for bar in (alpha_bar_by_hand(145), alpha_bar_by_hand(146)))
    assert 0.5 - below == pytest.approx(0.0006, abs=1e-4) and above - 0.5 == pytest.approx(0.0032, abs=1e-4)
    assert small(given_noise=GIVEN).k == 145


@pytest.mark.parametrize("t", [1, 2, 50, 100, 146, 700, 1000])
def test_the_timestep_that_has_a_noise_is_found(t: int) -> None:
    bar = alpha_bar_by_hand(t)
    assert matched_timestep(Schedule(), math.sqrt((1 - bar) / bar)) == t


@pytest.mark.parametrize(("size", "work"), [(32, 16), (64, 16), (24, 16)])
def test_averaged_pixels_have_less_noise(size: int, work: int) -> None:
    """The noise that is left at the work size, measured."""
    detector = small(side=size, given_noise=GIVEN, work_size=work)
    draws = torch.Generator().manual_seed(0)
    seen = 2 * detector._work(GIVEN * torch.randn(200, 3, size, size, generator=draws))
    assert detector.k == pytest.approx(matched_timestep(Schedule(), float(seen.std())), abs=1)


# -- the reconstruction -----------------------------------------------------------------------------------------------


class Oracle:
    """Knows the noise that an image carries; remembers what it was shown."""

    def __init__(self, noise: Tensor) -> None:
        self.noise, self.seen, self.told = noise, torch.zeros(0), 0

    def __call__(self, xt: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        self.seen, self.told = xt, int(timestep)
        return self.noise, torch.zeros_like(xt)


def test_the_denoiser_is_shown_an_ordinary_xt_and_told_its_timestep() -> None:
    """x0 + 2 sigma n, scaled, is sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) n; who knows n finds x0."""
    clean, n = random_images(2, 4), random_images(2, 4, seed=1)
    bar = alpha_bar_by_hand(146)
    carried = clean + math.sqrt((1 - bar) / bar) * n
    oracle = Oracle(n)
    found = denoise_given(oracle, carried, process(Schedule(), [146]), 146)
    torch.testing.assert_close(oracle.seen, math.sqrt(bar) * clean + math.sqrt(1 - bar) * n)
    assert oracle.told == 146
    torch.testing.assert_close(found, clean)
    with pytest.raises(ValueError, match="no timestep 146"):
        denoise_given(oracle, carried, process(Schedule(), [145]), 146)


def test_it_is_the_reconstruction_of_an_image_that_was_diffused_here() -> None:
    """Of x + 2 sigma n with the n that `denoise` would have drawn."""
    unet = lively(given_noise=GIVEN).unet
    x, chain = random_images(2, SIDE).float(), process(Schedule(), [146])
    n = source(2).normal(x.shape[1:], stream="diffuse", like=x)
    bar = alpha_bar_by_hand(146)
    expected = denoise(unet, x, chain, 146, source(2))
    found = denoise_given(unet, x + math.sqrt((1 - bar) / bar) * n, chain, 146)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


# -- the detector -----------------------------------------------------------------------------------------------------


class Silent:
    """A noise source that nobody may draw from."""

    def __len__(self) -> int:
        return len(IMAGES)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the noise source was asked for {name}")


def test_no_noise_is_drawn_and_the_score_is_of_the_image_alone() -> None:
    detector = lively(given_noise=GIVEN)
    assert not detector.is_stochastic and detector.auto_choices == {}
    first = detector.score(IMAGES, noise=Silent())  # type: ignore[arg-type]
    assert torch.equal(first, detector.score(IMAGES))
    assert detector.anomaly_map(IMAGES, noise=Silent()).shape == IMAGES[:, 0].shape  # type: ignore[arg-type]
    rebuilt = detector.reconstruct(IMAGES, noise=Silent())  # type: ignore[arg-type]
    assert float((rebuilt - IMAGES).abs().max()) > 0.01
    contract.check(detector, torch.cat([IMAGES, IMAGES.flip(2).clone() * 0.9]), [1, 1, -1, -1])


def test_the_normals_of_its_mean_map_carry_the_noise() -> None:
    """So a noisy normal is normal: its error is noise about the map, that of a clean one lies below."""
    detector = small(given_noise=0.1, map_images=6, map_draws=8).fit(NORMALS, seed=0)
    noisy = NORMALS + 0.1 * torch.randn(NORMALS.shape, generator=torch.Generator().manual_seed(3))
    of_noisy, of_clean = (float(detector._errors(x, source(6)).mean()) for x in (noisy, NORMALS))
    of_map = float(detector.normal_map.mean())
    assert of_noisy == pytest.approx(of_map, rel=0.1)
    assert abs(of_clean - of_map) > 2 * abs(of_noisy - of_map)


def test_smoothed_it_is_random_by_the_smoothing_noise_alone() -> None:
    settings = {f"inner.{key}": value for key, value in {**SMALL, "given_noise": 0.1, "training.iterations": 1}.items()}
    detector = registry.create("smooth:freerad", image_size=SIDE, samples=3, sigma=0.1, **settings)
    detector.fit(NORMALS, seed=0)
    assert isinstance(detector, Smoothed) and isinstance(detector.inner, FreeRAD)
    shake(detector.inner.unet, seed=5)
    x = IMAGES
    drawn = [
        torch.add(x, source(2).sub(i).normal(x.shape[1:], stream="smoothing", like=x), alpha=0.1) for i in range(3)
    ]
    with detector.inner.trusting():
        each = torch.stack([detector.inner.score(one) for one in drawn])
    assert torch.equal(detector.score(x, noise=source(2)), each.median(dim=0).values)


def test_a_checkpoint_remembers_it(tmp_path: Path) -> None:
    detector = lively(given_noise=GIVEN)
    path = detector.save(tmp_path / "given.safetensors")
    loaded = loading.load(path)
    assert loaded.settings == detector.settings and not loaded.is_stochastic
    assert torch.equal(loaded.score(IMAGES), detector.score(IMAGES))
    with pytest.raises(CheckpointError, match="settings"):
        small(**{"training.iterations": 1}).load(path)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"given_noise": -0.1}, "given_noise must be a number from 0 on"),
        ({"given_noise": math.nan}, "given_noise must be a number from 0 on"),
        ({"given_noise": 0.1, "denoising_steps": 2}, "denoising_steps must be 1 where images carry the noise"),
        ({"given_noise": 0.1, "score_draws": 2}, "score_draws must be 1"),
        ({"given_noise": 1e-4}, r"given_noise of 0.0001 has no match\. No timestep has a noise of 0.0002"),
        ({"given_noise": 1e4}, "has no match"),
        ({"given_noise": 0.25, "training.largest_timestep": 100}, "timestep 145, which is not trained"),
    ],
)
def test_noise_that_cannot_be_is_a_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DetectorError, match=sentence):
        small(**settings)


def test_k_is_not_chosen_beside_it() -> None:
    detector = lively(given_noise=GIVEN)
    with pytest.raises(DetectorError, match="k follows from given_noise"):
        detector.choose("k", 50, NORMALS, seed=0)


# -- without it nothing changes ---------------------------------------------------------------------------------------


def test_at_its_default_it_is_not_named() -> None:
    """Keys of checkpoints and records are hashes of what is named."""
    assert "given_noise" not in described(small().settings)
    assert described(small(given_noise=0.1).settings)["given_noise"] == 0.1
    inside = registry.get("smooth:freerad").settings_for("quick", 64)
    assert "given_noise" not in described(inside)["inner"] and "k" in described(inside)["inner"]


def test_old_checkpoints_are_found_and_score_to_the_bit() -> None:
    """Those that ship were made when there was no such setting; one draw of the whole path, written out again."""
    for name, path in loading.shipped().items():
        detector = loading.load(name)
        stored = checkpoint.read_description(path)["settings"]
        assert json.loads(json.dumps(described(detector.settings))) == stored and "given_noise" not in stored
        assert isinstance(detector, FreeRAD) and detector.settings.given_noise == 0 and detector.is_stochastic
    side = detector.image_size
    x = normal_pictures(1, side, seed=2)
    small_x = torch.nn.functional.avg_pool2d(x, side // 64)
    rebuilt = denoise(detector.unet, small_x * 2 - 1, process(Schedule(), [detector.k]), detector.k, source(1))
    assert torch.equal(
        detector.reconstruct(small_x.repeat_interleave(2, 2).repeat_interleave(2, 3), noise=source(1)),
        torch.nn.functional.interpolate((rebuilt + 1) / 2, size=side, mode="bilinear"),
    )
