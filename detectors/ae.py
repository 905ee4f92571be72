"""The plain convolutional autoencoder with mean squared error.

The baseline that Goodge et al. (2020) and Lo et al. (2022) attacked; the architecture is ours (`parts.autoencoder`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from detectors.base import Progress
from detectors.parts import presets
from detectors.parts.autoencoder import AutoencoderDetector, AutoencoderSettings, base_settings
from detectors.registry import register


@dataclass(frozen=True)
class AESettings(AutoencoderSettings):
    """Settings of the autoencoder: those of the network and its training alone."""


@register
class AE(AutoencoderDetector):
    """score = mean squared reconstruction error over the pixels, at the size at which the network works."""

    name = "ae"
    title = "AE"
    paper = "plain convolutional autoencoder (as attacked by Goodge et al., IJCAI 2020)"
    revision = 2  # last bits: Adam in one kernel, channels together in memory
    training_is_chaotic = True

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> AESettings:
        """`quick`: 64 pixels inside and a small network, under half a minute on one core (18 settings were tried)."""
        presets.check(preset)
        return AESettings(**base_settings(preset, image_size))

    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        self._train_or_take_over(self._small(normals), seed=seed, progress=progress)
