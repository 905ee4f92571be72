"""The plain convolutional autoencoder with mean squared error.

The baseline that Goodge et al. (2020) and Lo et al. (2022) attacked; the architecture is ours. Strided convolutions
down to a narrow map, and back by nearest-neighbour upsampling; no skip connections, or it could copy defects.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors import _presets
from detectors._images import resize
from detectors._training import batches, holdout, initialise_
from detectors.base import Detector, Progress, Settings
from detectors.errors import DetectorError
from detectors.noise import Noise, generator
from detectors.registry import register


@dataclass(frozen=True)
class AESettings(Settings):
    """Settings of the autoencoder.

    Attributes:
        work_size: side at which the network works, a multiple of 2^levels; images are resized to it differentiably.
        channels: of the first level; each level doubles them, up to 8 times.
        levels: halvings of the side.
        latent: channels of the narrowest map.
        epochs: passes over the training images at most.
        batch_size: images per step.
        learning_rate: Adam's.
        patience: epochs without a better loss on the held-out normals before training stops.
        holdout: share of the normals that is held out for that.
    """

    work_size: int = 256
    channels: int = 32
    levels: int = 5
    latent: int = 64
    epochs: int = 300
    batch_size: int = 32
    learning_rate: float = 1e-3
    patience: int = 30
    holdout: float = 0.1


class Autoencoder(nn.Module):
    """(B, 3, S, S) to the same shape, about [0, 1], through (B, latent, S / 2^levels, S / 2^levels)."""

    def __init__(self, channels: int, levels: int, latent: int) -> None:
        super().__init__()
        widths = [channels * min(8, 2**level) for level in range(levels)]
        down: list[nn.Module] = []
        for before, width in zip([3, *widths], widths, strict=False):
            down += [nn.Conv2d(before, width, 4, stride=2, padding=1), nn.SiLU()]
        self.encode = nn.Sequential(*down, nn.Conv2d(widths[-1], latent, 1))
        up: list[nn.Module] = [nn.Conv2d(latent, widths[-1], 1), nn.SiLU()]
        for before, width in zip(widths[:0:-1], widths[-2::-1], strict=True):
            up += [nn.Upsample(scale_factor=2), nn.Conv2d(before, width, 3, padding=1), nn.SiLU()]
        # The last doubling by pixel shuffle: convolutions at full size would cost as much as all the others.
        self.decode = nn.Sequential(*up, nn.Conv2d(channels, 12, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction; not clamped, since a clamp cuts gradients."""
        decoded: Tensor = self.decode(self.encode(2 * x - 1))
        return (decoded + 1) / 2


@register
class AE(Detector):
    """score = mean squared reconstruction error over the pixels, at the size at which the network works."""

    name = "ae"
    title = "AE"
    paper = "plain convolutional autoencoder (as attacked by Goodge et al., IJCAI 2020)"
    has_map = True
    has_reconstruction = True

    def __init__(self, settings: AESettings, image_size: int) -> None:
        """Raises DetectorError where the work size cannot be halved often enough."""
        super().__init__(settings, image_size)
        multiple = 2**settings.levels
        if settings.levels < 1 or settings.work_size < multiple or settings.work_size % multiple:
            raise DetectorError(
                f"ae's work_size {settings.work_size} must be a multiple of {multiple} for {settings.levels} levels."
            )
        self.network = Autoencoder(settings.channels, settings.levels, settings.latent)

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> AESettings:
        """`quick`: 64 pixels inside and a small network, under half a minute on one core."""
        side = min(64, image_size)
        quick = AESettings(
            work_size=side, channels=8, levels=max(2, round(math.log2(side / 4))), latent=8, epochs=30, batch_size=16,
            learning_rate=3e-3, patience=10,
        )
        levels = max(2, round(math.log2(image_size / 8)))  # an 8 x 8 map in the middle
        return _presets.choose(preset, quick=quick, paper=AESettings(work_size=image_size, levels=levels))

    def _reconstruct(self, x: Tensor, noise: Noise) -> Tensor:
        rebuilt: Tensor = self.network(self._work(x))
        return rebuilt

    def _work(self, x: Tensor) -> Tensor:
        return resize(x, self.settings.work_size)

    def _errors(self, x: Tensor) -> Tensor:
        """(B, work size, work size): the squared error's mean over the channels."""
        small = self._work(x)
        reconstruction: Tensor = self.network(small)
        return (small - reconstruction).square().mean(dim=1)

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        return self._errors(x).mean(dim=(1, 2))

    def _anomaly_map(self, x: Tensor, noise: Noise) -> Tensor:
        return resize(self._errors(x)[:, None], x.shape[-1])[:, 0]

    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        settings: AESettings = self.settings
        initialise_(self.network, generator(seed, "ae-initial-weights"))
        with torch.no_grad():
            images = torch.cat([self._work(chunk) for chunk in normals.split(64)])  # type: ignore[no-untyped-call]
        training, held_out = holdout(len(images), settings.holdout, generator(seed, "ae-holdout"))
        optimiser = torch.optim.Adam(self.network.parameters(), lr=settings.learning_rate)
        best_loss, best_epoch, best = math.inf, 0, copy.deepcopy(self.network.state_dict())
        history: list[list[float]] = []
        for epoch in range(settings.epochs):
            total = torch.zeros((), device=images.device)
            for indices in batches(len(training), settings.batch_size, generator(seed, "ae-order", epoch)):
                batch = images[training[indices].to(images.device)]
                loss = F.mse_loss(self.network(batch), batch)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                total += loss.detach() * len(batch)
            held_loss = self._mean_loss(images[held_out.to(images.device)])
            history.append([float(total) / len(training), held_loss])
            progress(epoch + 1, settings.epochs, f"held-out loss {held_loss:.5f}")
            if held_loss < best_loss:
                best_loss, best_epoch, best = held_loss, epoch, copy.deepcopy(self.network.state_dict())
            elif epoch - best_epoch >= settings.patience:
                break
        if not math.isfinite(best_loss):
            raise DetectorError("ae's training diverged (the loss is not finite); lower its learning_rate.")
        self.network.load_state_dict(best)
        self.fit_report |= {"losses": history, "best_epoch": best_epoch, "held_out_loss": best_loss}

    def _mean_loss(self, images: Tensor) -> float:
        with torch.no_grad():
            errors = [F.mse_loss(self.network(chunk), chunk, reduction="sum") for chunk in images.split(64)]  # type: ignore[no-untyped-call]
        return float(torch.stack(errors).sum()) / images.numel()
