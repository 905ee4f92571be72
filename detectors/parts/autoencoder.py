"""The plain convolutional autoencoder that AE, APAE and RAE share: its network, its training loop and its score.

Strided convolutions down to a narrow map, and back by nearest-neighbour upsampling; no skip connections, or it could
copy defects. With the same base settings and seed AE and APAE hold the same weights, so that their rows differ in the
defence alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors.base import Detector, Progress, Settings
from detectors.errors import DetectorError
from detectors.noise import Noise, generator
from detectors.parts.images import resize
from detectors.parts.training import (
    QUICK_EPOCH,
    adam,
    batches,
    check_schedule,
    holdout,
    initialise_,
    train_until_held_out_stops_improving,
)
from detectors.store import key_of

TRUNK_REVISION = 2  # raised whenever a change of code changes what is trained
MOST_LEVELS = 12  # halvings of the largest side that a detector works at
CHUNK = 64  # images at a time where no gradient is needed


@dataclass(frozen=True)
class AutoencoderSettings(Settings):
    """Settings of the network and of its training.

    Attributes:
        work_size: side at which the network works, a multiple of 2^levels; images are resized to it differentiably.
        channels: of the first level; each level doubles them, up to 8 times.
        levels: halvings of the side.
        latent: channels of the narrowest map.
        epochs: passes over the training images at most.
        epoch_images: images of one pass at most, drawn anew for each: larger sets train no longer; 0: all.
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
    epoch_images: int = 0
    batch_size: int = 32
    learning_rate: float = 1e-3
    patience: int = 30
    holdout: float = 0.1


def base_settings(preset: str, image_size: int) -> dict[str, Any]:
    """The fields of `AutoencoderSettings` at a preset that `presets.check` knows; the same for every detector here.

    `quick` is the best of 18 settings that were tried on ELPV, mono and poly, with two fit seeds each: six trainings
    (latent 8, 16, 32 at rate 3e-3 and batch 16; rate 6e-3; batch 8 at 3e-3 and at 2e-3), each stopped after 8, 15 and
    30 epochs, judged by the AUC of held-out training normals against painted copies of them
    (`bench.cell.painted_defects`). The test set was not looked at. At rate 3e-3 with batches of 8, and at 6e-3, some
    trainings break down.
    """
    if preset == "quick":
        side = min(64, image_size)
        return {
            "work_size": side,
            "channels": 8,
            "levels": max(2, round(math.log2(side / 4))),
            "latent": 8,
            "epochs": 30,
            "epoch_images": QUICK_EPOCH,
            "batch_size": 8,
            "learning_rate": 2e-3,
            "patience": 10,
        }
    # An 8 x 8 map in the middle.
    return {"work_size": image_size, "levels": max(2, round(math.log2(image_size / 8)))}


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

    def latent_of(self, x: Tensor) -> Tensor:
        """E(x) of an image in [0, 1], (B, latent, S / 2^levels, S / 2^levels)."""
        # On a CPU, thin convolutions and upsampling are a quarter faster when channels lie together in memory.
        latent: Tensor = self.encode((2 * x - 1).contiguous(memory_format=torch.channels_last))
        return latent

    def image_of(self, latent: Tensor) -> Tensor:
        """D(z), about [0, 1]; not clamped, since a clamp cuts gradients."""
        shuffled: Tensor = self.decode[:-1](latent.contiguous(memory_format=torch.channels_last))
        decoded: Tensor = self.decode[-1](shuffled.contiguous())  # shuffling pixels is faster the other way round
        return (decoded + 1) / 2

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction D(E(x))."""
        return self.image_of(self.latent_of(x))


class AutoencoderDetector(Detector):
    """score = mean squared reconstruction error over the pixels, at the size at which the network works.

    A subclass trains `network` in `_fit` with `_train` or `_train_or_take_over`; where its reconstruction is another
    one, it overrides `_rebuild`, and where pixels count differently, `_weighted`.
    """

    has_map = True
    has_reconstruction = True

    def __init__(self, settings: AutoencoderSettings, image_size: int) -> None:
        """Raises DetectorError where the work size cannot be halved often enough, or nothing could be trained."""
        super().__init__(settings, image_size)
        check_schedule(self.name, settings)
        if not 1 <= settings.levels <= MOST_LEVELS:
            raise DetectorError(f"{self.name}'s levels must lie in 1..{MOST_LEVELS}; got {settings.levels}.")
        multiple = 2**settings.levels
        if settings.work_size < multiple or settings.work_size % multiple:
            raise DetectorError(
                f"{self.name}'s work_size {settings.work_size} must be a multiple of {multiple} for "
                f"{settings.levels} levels."
            )
        self.network = Autoencoder(settings.channels, settings.levels, settings.latent)

    def _rebuild(self, small: Tensor) -> Tensor:
        """The reconstruction of images at the work size, (B, 3, work size, work size) to the same."""
        rebuilt: Tensor = self.network(small)
        return rebuilt

    def _weighted(self, errors: Tensor) -> Tensor:
        """What the squared errors (B, 3, work size, work size) count."""
        return errors

    def _reconstruct(self, x: Tensor, noise: Noise) -> Tensor:
        return self._rebuild(self._work(x))

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        return self._errors(x).mean(dim=(1, 2))

    def _anomaly_map(self, x: Tensor, noise: Noise) -> Tensor:
        return resize(self._errors(x)[:, None], x.shape[-1])[:, 0]

    def _errors(self, x: Tensor) -> Tensor:
        """(B, work size, work size): the squared error's mean over the channels."""
        small = self._work(x)
        return self._weighted((small - self._rebuild(small)).square()).mean(dim=1)

    def _work(self, x: Tensor) -> Tensor:
        return resize(x, self.settings.work_size)

    def _small(self, normals: Tensor) -> Tensor:
        """All training images at the work size."""
        with torch.no_grad():
            return torch.cat([self._work(chunk) for chunk in chunks(normals)])

    def _train(
        self,
        images: Tensor,
        *,
        seed: int,
        progress: Progress,
        prepare: Callable[[int, Tensor], Tensor] | None = None,
        judge: Callable[[Tensor], Tensor] = torch.square,
    ) -> Tensor:
        """Train the network, stop early on held-out normals, keep its best weights and report the losses.

        Args:
            images: training images at the work size.
            seed, progress: as in `fit`.
            prepare: the images to train on in an epoch, given its number and the training images: those by default.
            judge: residuals x - D(E(x)) of held-out images to losses per pixel, whose mean is judged.

        Returns:
            The training images, without the held-out ones.

        Raises:
            DetectorError: training diverged.
        """
        settings: AutoencoderSettings = self.settings
        initialise_(self.network, generator(seed, "ae-initial-weights"))
        kept, held = holdout(len(images), settings.holdout, generator(seed, "ae-holdout"))
        training, held_out = images[kept.to(images.device)], images[held.to(images.device)]
        optimiser = adam(self.network.parameters(), settings.learning_rate)

        def train(epoch: int) -> list[float]:
            targets = training if prepare is None else prepare(epoch, training)
            total = torch.zeros((), device=images.device)
            order, seen = generator(seed, "ae-order", epoch), 0
            for indices in batches(len(targets), settings.batch_size, order, most=settings.epoch_images):
                batch = targets[indices.to(images.device)]
                loss = F.mse_loss(self.network(batch), batch)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                total += loss.detach() * len(batch)
                seen += len(batch)
            return [float(total) / seen]

        self.fit_report |= train_until_held_out_stops_improving(
            self.name,
            self.network,
            epochs=settings.epochs,
            patience=settings.patience,
            train=train,
            judge=lambda: [mean_of(lambda chunk: judge(chunk - self.network(chunk)), held_out)],
            progress=progress,
        )
        return training

    def _train_or_take_over(self, images: Tensor, *, seed: int, progress: Progress) -> None:
        """The plain training, or the very network that AE's or APAE's fit on these images left in the store."""
        settings = {f.name: getattr(self.settings, f.name) for f in fields(AutoencoderSettings)}
        trunk = key_of([TRUNK_REVISION, settings, seed, str(images.device)], images)
        found = self.store.find(trunk, self.network.state_dict())
        if found is None:
            started = time.monotonic()
            self._train(images, seed=seed, progress=progress)
            told = {key: self.fit_report[key] for key in ("losses", "best_epoch", "held_out_loss")}
            self.store.keep(
                trunk, self.network.state_dict(), trained_by=self.name, seconds=time.monotonic() - started, report=told
            )
        else:
            self.network.load_state_dict(found.tensors)
            self.fit_report |= {**found.report, "network_from": found.trained_by, "network_fit": found.origin}
        self.fit_report["trunk"] = trunk


def chunks(images: Tensor) -> tuple[Tensor, ...]:
    """The images, a few at a time."""
    parts: tuple[Tensor, ...] = images.split(CHUNK)  # type: ignore[no-untyped-call]
    return parts


def mean_of(function: Callable[[Tensor], Tensor], images: Tensor) -> float:
    """The mean over all entries of what the function makes of the images, without gradients."""
    with torch.no_grad():
        found = [function(chunk) for chunk in chunks(images)]
    return float(torch.stack([part.sum() for part in found]).sum()) / sum(part.numel() for part in found)
