"""Band energy: how unusual an image's contrast is at each scale (octave), against that of normal training images."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch.nn.functional import avg_pool2d, interpolate

from detectors import Detector, DetectorError, Settings


@dataclass(frozen=True)
class BandEnergySettings(Settings):
    bands: int = 4  # octaves, from the finest on


class BandEnergy(Detector):
    name, title, paper = "band-energy", "Band energy", "example of a detector from outside"

    def __init__(self, settings, image_size):
        super().__init__(settings, image_size)
        if not 1 <= settings.bands < image_size.bit_length():
            raise DetectorError(f"band-energy cannot halve {image_size} px {settings.bands} times; lower its bands.")
        self.register_buffer("moments", torch.zeros(2, settings.bands))  # in checkpoints

    @classmethod
    def settings_for(cls, preset, image_size):
        return BandEnergySettings()

    def _fit(self, normals, *, seed, progress, workdir):
        self.moments.copy_(torch.stack(torch.std_mean(self._log_energies(normals), dim=0)))

    def _score(self, x, noise):  # mean squared z-score, (B, 3, H, W) to (B,)
        return ((self._log_energies(x) - self.moments[1]) / (self.moments[0] + 1e-3)).square().mean(dim=1)

    def _log_energies(self, x):  # the mean square of each band of a Laplacian pyramid, (B, bands)
        levels = [x, *(avg_pool2d(x, 2**band) for band in range(1, self.settings.bands + 1))]
        details = [a - interpolate(b, size=a.shape[-2:], mode="bilinear") for a, b in pairwise(levels)]
        return torch.stack([(d.square().mean(dim=(1, 2, 3)) + 1e-8).log() for d in details], dim=1)
