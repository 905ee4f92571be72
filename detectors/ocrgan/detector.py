"""OCR-GAN: what a GAN trained on normal images fails to reconstruct, frequency band by frequency band.

Liang et al. 2022, "Omni-frequency Channel-selection Representations for Unsupervised Anomaly Detection". The image is
split into frequency bands, one U-Net branch reconstructs each, channel selection connects the branches' encoders, and
a discriminator compares. score = 0.9 mean(reconstruction error^2) + 0.1 mean(feature difference^2).

Where the official code does otherwise:
- It splits 8-bit images with OpenCV, outside the graph; here the split is differentiable and part of the score. Its
  subtraction saturates at zero, so detail that is darker than its surroundings is in no band: a dark crack shows only
  as a shade of the low band. Here the difference is signed, as a Laplacian pyramid's is; `subtraction="saturating"` is
  the official behaviour, whose gradient has a kink wherever an image is exactly flat.
- It builds the layers of the channel selection anew, with random weights, at every forward pass: no checkpoint holds
  them, and its scores are random. Here they are trained; `channel_selection="random"` is the official behaviour, each
  image with random layers of its own, and makes the detector stochastic.
- It scales scores by the test set's extremes, and keeps the epoch that is best on the test set. Here nothing does.
- It shows the discriminator the made-up anomalies unsplit, on another scale than real images, so that brightness gives
  them away, and adds the latent loss to the discriminator's loss. Here everything passes through the same split, and
  the discriminator has the adversarial loss alone.

BatchNorm uses batch statistics in training only; at evaluation, the averages that are stored with the weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from detectors.base import Detector, Progress, Settings, evaluation
from detectors.errors import DetectorError
from detectors.noise import Noise, NoiseSeed, generator
from detectors.ocrgan.network import Discriminator, Generator, initialise_dcgan_, split, total
from detectors.parts import presets
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
from detectors.registry import register

SELECTIONS = ("trained", "random")
SUBTRACTIONS = ("signed", "saturating")


@dataclass(frozen=True)
class OCRGANSettings(Settings):
    """Settings of OCR-GAN; the defaults are the authors' but for the two of which the module docstring tells.

    Attributes:
        work_size: side at which the networks work, a power of two; images are resized to it differentiably.
        bands: frequency bands, and branches.
        subtraction: "signed", or "saturating" to cut what is darker than its surroundings off the upper bands, as the
            official code's 8-bit subtraction does.
        channel_selection: "trained", or "random" for the official code's new random weights at every forward pass.
        channels: of the first level of a branch, and of the discriminator.
        levels: halvings of the side.
        features: length of the discriminator's feature vector.
        adversarial_weight, reconstruction_weight, latent_weight: of the generator's three losses.
        feature_share: of the feature difference in the score; the rest belongs to the reconstruction error.
        epochs: passes over the training images at most.
        epoch_images: images of one pass at most, drawn anew for each: larger sets train no longer; 0: all.
        batch_size: images per step.
        learning_rate: Adam's; beta1 is 0.5.
        patience: epochs without a better reconstruction of the held-out normals before training stops.
        holdout: share of the normals that is held out for that.
    """

    work_size: int = 256
    bands: int = 2
    subtraction: str = "signed"
    channel_selection: str = "trained"
    channels: int = 64
    levels: int = 8
    features: int = 100
    adversarial_weight: float = 1.0
    reconstruction_weight: float = 50.0
    latent_weight: float = 1.0
    feature_share: float = 0.1
    epochs: int = 200
    epoch_images: int = 0
    batch_size: int = 32
    learning_rate: float = 2e-4
    patience: int = 50
    holdout: float = 0.1


@register
class OCRGAN(Detector):
    """Omni-frequency channel-selection reconstruction (module docstring)."""

    name = "ocr-gan"
    title = "OCR-GAN"
    paper = "Liang et al. 2022, arXiv 2203.00259"
    revision = 4  # last bits: every gradient is PyTorch's own, of the plain formula
    training_is_chaotic = True
    has_map = True
    has_reconstruction = True

    def __init__(self, settings: OCRGANSettings, image_size: int) -> None:
        """Raises DetectorError for settings that no network or training can have."""
        super().__init__(settings, image_size)
        _check_settings(settings)
        self.is_stochastic = settings.channel_selection == "random"
        self.generator = Generator(
            settings.bands, settings.channels, settings.levels, trained_selection=not self.is_stochastic
        )
        self.discriminator = Discriminator(settings.work_size, settings.channels, settings.features)

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> OCRGANSettings:
        """`quick`: 64 pixels inside and narrow networks, under half a minute on one core. `paper`: the authors'."""
        side = 2 ** max(3, round(math.log2(image_size)))
        small = min(64, side)
        quick = OCRGANSettings(
            work_size=small,
            channels=8,
            levels=round(math.log2(small)),
            features=32,
            epochs=14,
            epoch_images=QUICK_EPOCH,
            batch_size=16,
            learning_rate=2e-3,
            patience=10,
        )
        paper = OCRGANSettings(work_size=side, levels=round(math.log2(side)))
        return presets.choose(preset, quick=quick, paper=paper)

    # -- scoring ------------------------------------------------------------------------------------------------------

    def _bands(self, x: Tensor) -> list[Tensor]:
        """The bands as the networks see them: [0, 1] becomes [-1, 1], a signed difference is doubled."""
        saturating = self.settings.subtraction == "saturating"
        *details, coarse = split(resize(x, self.settings.work_size), self.settings.bands, saturating=saturating)
        bands = [2 * detail - 1 if saturating else 2 * detail for detail in details] + [2 * coarse - 1]
        return bands

    def _compared(self, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """What is compared, (B, 3, S, S) each: the sum of the bands and that of their reconstructions."""
        bands = self._bands(x)
        return total(bands), total(self.generator(bands, self._selection(bands[0], noise)))

    def _selection(self, x: Tensor, noise: Noise) -> Tensor | None:
        """Each image's own random layers, as numbers in [0, 1), or None where the layers are trained."""
        if not self.is_stochastic:
            return None
        return noise.uniform((self.generator.draws,), stream="ocr-gan-selection", like=x)

    def _reconstruct(self, x: Tensor, noise: Noise) -> Tensor:
        _, rebuilt = self._compared(x, noise)
        # Back to [0, 1]: each band that lies on [-1, 1] has taken 1 off.
        shift: int = self.settings.bands if self.settings.subtraction == "saturating" else 1
        return (rebuilt + shift) / 2

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        real, rebuilt = self._compared(x, noise)
        error = (real - rebuilt).square().mean(dim=(1, 2, 3))
        features, rebuilt_features = self.discriminator(real)[1], self.discriminator(rebuilt)[1]
        difference: Tensor = (features - rebuilt_features).square().mean(dim=1)
        share: float = self.settings.feature_share
        return (1 - share) * error + share * difference

    def _anomaly_map(self, x: Tensor, noise: Noise) -> Tensor:
        real, rebuilt = self._compared(x, noise)
        return resize((real - rebuilt).square().mean(dim=1, keepdim=True), x.shape[-1])[:, 0]

    # -- fitting ------------------------------------------------------------------------------------------------------

    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        settings: OCRGANSettings = self.settings
        for network, part in ((self.generator, "generator"), (self.discriminator, "discriminator")):
            initialise_(network, generator(seed, "ocr-gan-initial-weights", part))  # linear layers and statistics
            initialise_dcgan_(network, generator(seed, "ocr-gan-initial-convolutions", part))
        chunks = torch.split(normals, 64)
        images = torch.cat([resize(chunk, settings.work_size) for chunk in chunks])
        training, held_out = holdout(len(images), settings.holdout, generator(seed, "ocr-gan-holdout"))
        source = NoiseSeed(seed).source("ocr-gan-fit", [str(i) for i in range(len(images))])
        optimisers = _Optimisers(self, settings)

        def train(epoch: int) -> list[float]:
            fakes = generator(seed, "ocr-gan-fakes", epoch)
            losses: list[Tensor] = []
            order = generator(seed, "ocr-gan-order", epoch)
            for indices in batches(len(training), settings.batch_size, order, most=settings.epoch_images):
                if len(indices) < settings.batch_size and losses:
                    break  # as the authors do: BatchNorm must not see a batch of one, and the order changes each epoch
                chosen = training[indices]
                batch = images[chosen.to(images.device)]
                painted = torch.stack([paint(image, fakes) for image in batch])
                losses.append(self._step(batch, painted, source.pick(chosen.tolist()).at(epoch), optimisers))
            means: list[float] = torch.stack(losses).mean(dim=0).tolist()
            return means

        def judge() -> list[float]:
            return [self._held_out_loss(images[held_out.to(images.device)], source.pick(held_out.tolist()))]

        self.fit_report |= train_until_held_out_stops_improving(
            self.name,
            self,
            epochs=settings.epochs,
            patience=settings.patience,
            train=train,
            judge=judge,
            progress=progress,
        )
        kinds = ["reconstruction", "adversarial", "latent", "discriminator", "held-out reconstruction"]
        self.fit_report |= {"losses_are": kinds}

    def _step(self, batch: Tensor, painted: Tensor, noise: Noise, optimisers: _Optimisers) -> Tensor:
        """One update of the generator, one of the discriminator; the four losses, (4,)."""
        settings: OCRGANSettings = self.settings
        bands = self._bands(batch)
        real, unlike = total(bands), total(self._bands(painted))
        rebuilt = total(self.generator(bands, self._selection(batch, noise)))

        self.discriminator.requires_grad_(False)
        logits, features = self.discriminator(rebuilt)
        self.discriminator.requires_grad_(True)
        # Its own step, before the generator's: it needs the features of real images, too. Hence they count twice.
        (real_logits, real_features), (rebuilt_logits, _), (unlike_logits, _) = self.discriminator.of_batches(
            [real, rebuilt.detach(), unlike], times=[2, 1, 1]
        )
        reconstruction = (rebuilt - real).abs().sum() / real.numel()  # a mean's gradient would lose the memory's order
        adversarial = _should_be(1.0, logits)
        latent = F.mse_loss(features, real_features.detach())
        loss = (
            settings.adversarial_weight * adversarial
            + settings.reconstruction_weight * reconstruction
            + settings.latent_weight * latent
        )
        optimisers.generator.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimisers.generator.step()

        told_apart = _should_be(1.0, real_logits) + _should_be(0.0, rebuilt_logits) + _should_be(0.0, unlike_logits)
        optimisers.discriminator.zero_grad(set_to_none=True)
        told_apart.backward()  # type: ignore[no-untyped-call]
        optimisers.discriminator.step()
        return torch.stack([reconstruction, adversarial, latent, told_apart]).detach()

    def _held_out_loss(self, images: Tensor, noise: Noise) -> float:
        """Mean absolute reconstruction error, on the same draws at each epoch."""
        total = torch.zeros((), device=images.device)
        with torch.no_grad(), evaluation(self):
            for start in range(0, len(images), 64):
                part = slice(start, start + 64)
                real, rebuilt = self._compared(images[part], noise.pick(part).at(-1))
                total += (real - rebuilt).abs().mean(dim=(1, 2, 3)).sum()
        return float(total) / len(images)


class _Optimisers:
    """Adam for each of the two networks, with DCGAN's beta1."""

    def __init__(self, detector: OCRGAN, settings: OCRGANSettings) -> None:
        self.generator, self.discriminator = (
            adam(network.parameters(), settings.learning_rate, betas=(0.5, 0.999))
            for network in (detector.generator, detector.discriminator)
        )


def paint(image: Tensor, source: torch.Generator) -> Tensor:
    """A made-up anomaly: CutPaste (Li et al. 2021), then Cutout (DeVries & Taylor 2017), on a copy.

    A patch of 2 to 15 % of the area with sides up to 3.3 : 1, its brightness and contrast changed by up to 10 %, is
    pasted elsewhere; a square of 20 / 256 of the side is blackened.

    Args:
        image: (3, S, S) in [0, 1].
        source: of all choices.
    """
    side = image.shape[-1]
    area, shape, top, left, to_top, to_left, bright, contrast, row, column = torch.rand(10, generator=source).tolist()
    aspect = 0.3 + shape * (1 / 0.3 - 0.3)
    pixels = (0.02 + 0.13 * area) * side**2
    height = min(side, max(1, round(math.sqrt(pixels / aspect))))
    width = min(side, max(1, round(math.sqrt(pixels * aspect))))
    top, left, to_top, to_left = (
        round(place * (side - length))
        for place, length in ((top, height), (left, width), (to_top, height), (to_left, width))
    )
    patch = image[:, top : top + height, left : left + width] * (0.9 + 0.2 * bright)
    mean = patch.mean()
    painted = image.clone()
    painted[:, to_top : to_top + height, to_left : to_left + width] = (
        mean + (patch - mean) * (0.9 + 0.2 * contrast)
    ).clamp(0, 1)
    half = max(1, round(side * 20 / 256 / 2))
    row, column = int(row * side), int(column * side)
    painted[:, max(0, row - half) : row + half, max(0, column - half) : column + half] = 0
    return painted


def _should_be(real: float, logits: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, real))


def _check_settings(settings: OCRGANSettings) -> None:
    check_schedule("ocr-gan", settings)
    for name, allowed in (("channel_selection", SELECTIONS), ("subtraction", SUBTRACTIONS)):
        if getattr(settings, name) not in allowed:
            raise DetectorError(f"ocr-gan's {name} must be {' or '.join(allowed)}; got {getattr(settings, name)!r}.")
    side = settings.work_size
    if side < 8 or side & (side - 1):
        raise DetectorError(f"ocr-gan's work_size must be a power of two, at least 8; got {side}.")
    if not 2 <= settings.levels <= round(math.log2(side)):
        raise DetectorError(
            f"ocr-gan's levels must lie in 2..{round(math.log2(side))}, the halvings of {side} pixels; "
            f"got {settings.levels}."
        )
    if settings.bands < 2 or 2 ** (settings.bands + 1) > side:
        raise DetectorError(
            f"ocr-gan's bands must lie in 2..{round(math.log2(side)) - 1} at {side} pixels; got {settings.bands}."
        )
    if not 0 <= settings.feature_share <= 1:
        raise DetectorError(f"ocr-gan's feature_share must lie in [0, 1]; got {settings.feature_share:g}.")
