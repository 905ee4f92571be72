"""FreeRAD's settings: what cannot work is refused before a fit, and the presets are what they claim."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from freerad_small import small

from detectors import registry
from detectors.errors import DetectorError
from detectors.freerad import FreeRAD
from detectors.freerad.checks import check_settings
from detectors.freerad.unet import UNet


@pytest.mark.parametrize(
    "wrong",
    [
        {"k": 0},
        {"k": 1001},
        {"k": "best"},
        {"k": 5, "denoising_steps": 6},
        {"k": "auto", "denoising_steps": 26},
        {"denoising_steps": -1},
        {"score_draws": 0},
        {"map_draws": 0},
        {"map_images": 0},
        {"scales": 0},
        {"scales": 6},
        {"filter_size": 4},
        {"filter_size": 17},
        {"filter_size": -1},
        {"work_size": 17},
        {"work_size": 0},
        {"storage": "bfloat16"},
        {"schedule.beta_last": 1.5},
        {"schedule.beta_first": 0.0},
        {"schedule.steps": 10},
        {"k": "auto", "schedule.steps": 200, "training.largest_timestep": 200},
        {"training.largest_timestep": 1001},
        {"training.largest_timestep": 0},
        {"training.iterations": 0},
        {"training.batch_size": 0},
        {"training.learning_rate": 0.0},
        {"training.ema": 1.5},
        {"training.decay": -0.1},
        {"training.warmup": -1},
        {"unet.channels": 7},
        {"unet.heads": 3},
        {"unet.multipliers": ()},
        {"unet.blocks": 0},
        {"unet.unshuffle": 0},
        {"unet.dropout": 0.1},
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused_with_a_sentence(wrong: dict[str, Any]) -> None:
    with pytest.raises(DetectorError, match=r"^freerad's [\w ]+.*\.$") as caught:
        small(**wrong)
    named = next(reversed(wrong)).rpartition(".")[2]
    assert any(word in str(caught.value) for word in (named, "betas", "must lie in 1..")), caught.value


@pytest.mark.parametrize(
    ("preset", "side"), [("quick", 128), ("quick", 32), ("paper", 256), ("paper", 128), ("paper", 64), ("paper", 32)]
)
def test_the_presets_settings_work(preset: str, side: int) -> None:
    settings = FreeRAD.settings_for(preset, side)
    check_settings(settings, FreeRAD.auto_choices["k"])
    assert settings.work_size <= side
    with torch.device("meta"):
        UNet(settings.unet, settings.work_size)


def test_the_papers_preset_is_the_papers() -> None:
    settings = FreeRAD.settings_for("paper", 256)
    assert (settings.k, settings.denoising_steps, settings.score_draws, settings.scales) == (100, 1, 1, 4)
    assert (settings.filter_size, settings.work_size, settings.storage) == (11, 256, "float32")
    unet, training, schedule = settings.unet, settings.training, settings.schedule
    assert (unet.channels, unet.multipliers, unet.attention_sides, unet.heads) == (128, (1, 1, 2, 2, 4, 4), (16,), 1)
    assert (unet.dropout, unet.unshuffle) == (0.0, 1)
    assert settings.map_images is None, "Algorithm 4 averages over all normal training images"
    assert (training.iterations, training.batch_size, training.learning_rate, training.vb_weight) == (
        30_000,
        2,
        1e-4,
        0.001,
    )
    assert (training.warmup, training.decay, training.gradient_norm, training.flip) == (0, 0.0, 0.0, False)
    assert training.largest_timestep == schedule.steps == 1000
    assert FreeRAD.auto_choices == {"k": (25, 50, 100, 200, 300)}


def test_the_number_of_images_of_the_mean_map_can_be_set_where_it_is_all() -> None:
    paper = FreeRAD.settings_for("paper", 64)
    assert registry.override(paper, {"map_images": 64}, owner="freerad").map_images == 64
    for value in ("many", 64.0, True):
        with pytest.raises(DetectorError, match="map_images must be a whole number"):
            check_settings(registry.override(paper, {"map_images": value}, owner="freerad"), (100,))
    assert FreeRAD.settings_for("quick", 64).map_images == 64
