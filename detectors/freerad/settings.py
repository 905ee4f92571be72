"""FreeRAD's settings, and those of its presets."""

from __future__ import annotations

from dataclasses import dataclass, field

from detectors.base import Settings
from detectors.freerad.diffusion import Schedule
from detectors.freerad.training import TrainingSettings
from detectors.freerad.unet import UNetSettings
from detectors.settings import CAME_LATER


@dataclass(frozen=True)
class FreeRADSettings(Settings):
    """FreeRAD's settings. A change of `training`, `unet`, `schedule`, `work_size` or `storage` needs a new fit.

    Attributes:
        k: the timestep that images are diffused to; "auto" lets the suite choose it on painted held-out normals.
        denoising_steps: 1 is one-shot, 0 means k (full-shot), anything between is arbitrary-shot.
        score_draws: reconstructions averaged before the maximum is taken; 1 in the paper. More is another detector.
        filter_size: side of the mean filter in pixels of the work size, odd.
        scales: scales of the error map.
        map_draws: noise draws per training image for the mean map of the normals.
        map_images: training images used for it at most; None means all, as in the paper's Algorithm 4.
        work_size: side at which the U-Net works; the input is resized to it differentiably.
        given_noise: standard deviation, on [0, 1], of Gaussian noise that every image carries already, as a smoothed
            detector's samples do; 0: none. It takes the place of the diffusion's: k is the timestep that has as much,
            nothing is drawn, and the score is deterministic. One shot, one draw.
        storage: dtype that the fitted weights are rounded to ("float32"; "float16" halves the checkpoint).
        unet, training, schedule: see there.
    """

    k: int | str = 100
    denoising_steps: int = 1
    score_draws: int = 1
    filter_size: int = 11
    scales: int = 4
    map_draws: int = 4
    map_images: int | None = None
    work_size: int = 256
    given_noise: float = field(default=0.0, metadata=CAME_LATER)
    storage: str = "float32"
    unet: UNetSettings = field(default_factory=UNetSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    schedule: Schedule = field(default_factory=Schedule)


def quick_settings(image_size: int) -> FreeRADSettings:
    """Sized for two CPU cores: 64 pixels, a small U-Net on 2 x 2-unshuffled pixels, stored in half precision.

    Chosen among four networks and rates and three filter sizes on held-out training normals of ELPV beside painted
    copies of them; results/README.md has the figures, and what had been in view before.
    """
    return FreeRADSettings(
        k="auto",
        filter_size=5,
        map_images=64,
        work_size=min(64, image_size),
        storage="float16",
        unet=UNetSettings(channels=32, multipliers=(1, 2, 4), blocks=1, attention_sides=(8,), unshuffle=2),
        training=TrainingSettings(
            iterations=5000,
            batch_size=8,
            learning_rate=1e-3,
            warmup=100,
            decay=0.4,
            ema=0.998,
            gradient_norm=1.0,
        ),
    )
