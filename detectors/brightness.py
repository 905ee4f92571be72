"""The trivial baseline: how far the image's mean brightness is from that of the normal training images.

No method at all. It shows what a data set gives away (MVTec AD's Screw can be told apart by brightness alone), and any
detector should beat it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from detectors.base import Detector, Progress, Settings
from detectors.noise import Noise
from detectors.parts import presets
from detectors.registry import register


@dataclass(frozen=True)
class BrightnessSettings(Settings):
    """There is nothing to set."""


@register
class Brightness(Detector):
    """score = |mean brightness - mean brightness of the training normals|; brightness is the mean over all channels."""

    name = "brightness"
    title = "Brightness"
    paper = "trivial baseline"
    fit_is_seeded = False
    min_normals = 1

    mean_brightness: Tensor

    def __init__(self, settings: BrightnessSettings, image_size: int) -> None:
        super().__init__(settings, image_size)
        self.register_buffer("mean_brightness", torch.zeros(()))

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> BrightnessSettings:
        """The same at every preset."""
        return presets.choose(preset, quick=BrightnessSettings(), paper=BrightnessSettings())

    def signed(self, x: Tensor) -> Tensor:
        """Mean brightness minus that of the training normals, (B,): its AUC tells what brightness alone gives away."""
        ready, _ = self._ready(x, None)
        return self._signed(ready)

    def lipschitz(self, norm: str) -> float | None:
        """A mean moves by no more than its pixels do, and in l2 by the length of a change over that of (1, ..., 1)."""
        return {"linf": 1.0, "l2": (3 * self.image_size**2) ** -0.5}.get(norm)

    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        self.mean_brightness.copy_(normals.double().mean())

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        return self._signed(x).abs()

    def _signed(self, x: Tensor) -> Tensor:
        return x.mean(dim=(1, 2, 3)) - self.mean_brightness
