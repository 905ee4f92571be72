"""The second trivial baseline: how far the image is from the mean of the normal training images, pixel by pixel.

No method either, and it sees defects at their place only where the parts are aligned. It shows what such a data set
gives away, and how little a score moves under attack that no network amplifies: a ball of radius epsilon in l-inf
changes the root mean square by epsilon at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from detectors.base import Detector, Progress, Settings
from detectors.noise import Noise
from detectors.parts import presets
from detectors.parts.neighbours import root
from detectors.registry import register


@dataclass(frozen=True)
class MeanImageSettings(Settings):
    """There is nothing to set."""


@register
class MeanImage(Detector):
    """score = root mean square over pixels and channels of x - mean of the training normals."""

    name = "mean-image"
    title = "Mean image"
    paper = "trivial baseline"
    fit_is_seeded = False
    min_normals = 1
    has_map = True

    mean_image: Tensor

    def __init__(self, settings: MeanImageSettings, image_size: int) -> None:
        super().__init__(settings, image_size)
        self.register_buffer("mean_image", torch.zeros(3, image_size, image_size))

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> MeanImageSettings:
        """The same at every preset."""
        return presets.choose(preset, quick=MeanImageSettings(), paper=MeanImageSettings())

    def lipschitz(self, norm: str) -> float | None:
        """The score is a distance in l2 over the root of the number of entries."""
        return {"linf": 1.0, "l2": (3 * self.image_size**2) ** -0.5}.get(norm)

    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        total = torch.zeros_like(self.mean_image, dtype=torch.float64)
        for part in normals.split(256):  # type: ignore[no-untyped-call]
            total += part.sum(dim=0, dtype=torch.float64)
        self.mean_image.copy_(total / len(normals))

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        return root(self._squares(x).mean(dim=(1, 2)))

    def _anomaly_map(self, x: Tensor, noise: Noise) -> Tensor:
        return root(self._squares(x))

    def _squares(self, x: Tensor) -> Tensor:
        """Squared difference, averaged over the channels, (B, H, W)."""
        return (x - self.mean_image).square().mean(dim=1)
