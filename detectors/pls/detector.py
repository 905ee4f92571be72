"""PLS: an autoencoder whose latent space keeps a few principal components, trained against PGD.

Lo, Oza & Patel 2022, "Adversarially Robust One-class Novelty Detection" (T-PAMI; arXiv 2108.11168; the method is
called PrincipaLS there), from the paper's formulas: the authors' repository holds no code. At test time the
components are constants and the projection is affine, so plain PGD on the score is an adaptive attack.

The paper fixes k_V = 1, k_S = 8, the sigmoid, the moving averages and training on PGD examples of the normals. Ours
are widths, pooling, averaging rate, schedule, the target (the clean image; the attacked one gave the same on painted
defects), and that training attacks the images at the network's own size: the resizing's weights are positive and add
up to one, so that ball contains every attack on the input with the same radius.

Measured on ELPV at `quick`: the attack hardly moves the reconstruction. What it gains is what every squared error
gives away, about 2 epsilon |residual| a pixel: PGD against the reconstruction held at its clean value does as well.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_right
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors.base import Detector, Progress, Settings
from detectors.errors import DetectorError
from detectors.noise import Noise, generator
from detectors.parts import presets
from detectors.parts.images import resize
from detectors.parts.training import (
    QUICK_EPOCH,
    adam,
    batches,
    check_schedule,
    draw_,
    held_count,
    holdout,
    initialise_,
    train_until_held_out_stops_improving,
)
from detectors.pls.network import PrincipalAutoencoder
from detectors.registry import register


@dataclass(frozen=True)
class PLSSettings(Settings):
    """Settings of PLS.

    Attributes:
        work_size: side at which the network works, a multiple of 2^poolings; images are resized to it differentiably.
        widths: channels of the encoder's convolutions (the paper: four), the last one's being the latent's.
        poolings: how many of them are followed by pooling.
        vector_components: k_V, kept of each position's channel vector.
        spatial_components: k_S, kept of each map of positions.
        component_rate: weight of a batch in the components' moving average (the paper's eta).
        attack_epsilon: radius on [0, 1] of the l-inf ball in which training attacks; 0 trains on clean images.
        attack_steps: gradient steps of that attack.
        attack_step_size: on [0, 1]; None means 2.5 * attack_epsilon / attack_steps.
        epochs: passes over the training images at most.
        epoch_images: images of one pass at most, drawn anew for each: larger sets train no longer; 0: all.
        batch_size: images per step.
        learning_rate: Adam's.
        patience: epochs without a better loss on the held-out normals, attacked, before training stops.
        holdout: share of the normals that is held out for that.
    """

    work_size: int = 256
    widths: tuple[int, ...] = (32, 64, 128, 128)
    poolings: int = 4
    vector_components: int = 1
    spatial_components: int = 8
    component_rate: float = 0.1
    attack_epsilon: float = 2 / 255
    attack_steps: int = 5
    attack_step_size: float | None = None
    epochs: int = 300
    epoch_images: int = 0
    batch_size: int = 32
    learning_rate: float = 1e-3
    patience: int = 30
    holdout: float = 0.1


@register
class PLS(Detector):
    """score = mean squared reconstruction error over the pixels, at the size at which the network works."""

    name = "pls"
    title = "PLS"
    paper = "Lo et al., T-PAMI 2022 (Principal Latent Space), arXiv 2108.11168"
    revision = 4  # last bits: every gradient is PyTorch's own, of the plain formula
    training_is_chaotic = True
    trains_adversarially = True
    has_map = True
    has_reconstruction = True

    def __init__(self, settings: PLSSettings, image_size: int) -> None:
        """Raises DetectorError for settings that no network, projection or attack can have."""
        super().__init__(settings, image_size)
        _check(settings)
        self.min_normals = _least_normals(settings)
        self.network = PrincipalAutoencoder(
            settings.work_size,
            settings.widths,
            settings.poolings,
            vector_components=settings.vector_components,
            spatial_components=settings.spatial_components,
        )

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> PLSSettings:
        """`quick`: 64 pixels inside and a small network, about half a minute on one core."""
        side = min(64, image_size)
        quick = PLSSettings(
            work_size=side,
            widths=(8, 16, 32, 32),
            poolings=_poolings(side),
            attack_epsilon=4 / 255,
            attack_steps=3,
            epochs=20,
            epoch_images=QUICK_EPOCH,
            batch_size=16,
            learning_rate=3e-3,
            patience=10,
        )
        # 8/255 at CIFAR-10's size as in the paper, as far as we know; above it, the radius of this benchmark's attacks.
        paper = PLSSettings(
            work_size=image_size, poolings=_poolings(image_size), attack_epsilon=(8 if image_size <= 32 else 2) / 255
        )
        return presets.choose(preset, quick=quick, paper=paper)

    def _work(self, x: Tensor) -> Tensor:
        return resize(x, self.settings.work_size)

    def _reconstruct(self, x: Tensor, noise: Noise) -> Tensor:
        rebuilt: Tensor = self.network(self._work(x))
        return rebuilt

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        return self._errors(self._work(x)).mean(dim=(1, 2))

    def _anomaly_map(self, x: Tensor, noise: Noise) -> Tensor:
        return resize(self._errors(self._work(x))[:, None], x.shape[-1])[:, 0]

    def _errors(self, small: Tensor) -> Tensor:
        """(B, 3, work size, work size) to (B, work size, work size): the squared error's mean over the channels."""
        rebuilt: Tensor = self.network(small)
        return (small - rebuilt).square().mean(dim=1)

    # -- fitting ------------------------------------------------------------------------------------------------------

    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        settings: PLSSettings = self.settings
        training, held_out = holdout(len(normals), settings.holdout, generator(seed, "pls-holdout"))
        self._initialise(seed)
        with torch.no_grad():
            images = torch.cat([self._work(chunk) for chunk in normals.split(64)])  # type: ignore[no-untyped-call]
        training, held_out = training.to(images.device), held_out.to(images.device)
        optimiser = adam(self.network.parameters(), settings.learning_rate)

        def train(epoch: int) -> list[float]:
            try:
                return [self._train(images[training], optimiser, seed=seed, epoch=epoch)]
            except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # latent maps with NaN have no principal components
                return [math.nan]

        # A row of the losses: in training, attacked; of the held-out normals, clean and attacked.
        self.fit_report |= train_until_held_out_stops_improving(
            self.name,
            self.network,
            epochs=settings.epochs,
            patience=settings.patience,
            train=train,
            judge=lambda: self._held_out_errors(images[held_out], seed),
            progress=progress,
        )

    def _initialise(self, seed: int) -> None:
        source = generator(seed, "pls-initial-weights")
        initialise_(self.network, source)
        # Updates are turned onto the basis that is there, so what an earlier fit left would show.
        self.network.principal.vector.reset()
        self.network.principal.spatial.reset()
        # PyTorch's default makes the signal smaller in every layer. Of what a sigmoid and two projections then leave,
        # training can fail to find its way out of reconstructing the mean image (measured); He et al. (2015) keep it.
        for layer in self.network.modules():
            if isinstance(layer, nn.Conv2d):
                draw_(layer.weight, partial(nn.init.kaiming_uniform_, nonlinearity="relu", generator=source))
                nn.init.zeros_(cast(Tensor, layer.bias))

    def _train(self, images: Tensor, optimiser: torch.optim.Optimizer, *, seed: int, epoch: int) -> float:
        """One epoch of adversarial training; returns its mean loss."""
        settings: PLSSettings = self.settings
        draws = generator(seed, "pls-attack", epoch)
        total, seen = torch.zeros((), device=images.device), 0
        order = generator(seed, "pls-order", epoch)
        parts = batches(len(images), settings.batch_size, order, most=settings.epoch_images)
        for step, indices in enumerate(parts):
            clean = images[indices.to(images.device)]
            latent = self.network.latent_of(self._attack(clean, draws))
            if len(clean) > settings.spatial_components:  # a smaller last batch has too few components of its own
                is_first = epoch == 0 and step == 0
                self.network.principal.update(latent, 1.0 if is_first else settings.component_rate)
            loss = F.mse_loss(self.network.image_of(latent), clean)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += loss.detach() * len(clean)
            seen += len(clean)
        return float(total) / seen

    def _attack(self, images: Tensor, draws: torch.Generator) -> Tensor:
        """PGD from a random start (Madry et al. 2018) that raises the error of normal images at the work size.

        The last iterate, inside the l-inf ball and [0, 1]. It is part of the method and no measure of robustness:
        that is the attack layer's.
        """
        settings: PLSSettings = self.settings
        epsilon, steps = settings.attack_epsilon, settings.attack_steps
        step_size = 2.5 * epsilon / steps if settings.attack_step_size is None else settings.attack_step_size
        low, high = (images - epsilon).clamp(0, 1), (images + epsilon).clamp(0, 1)
        attacked = torch.lerp(low, high, torch.rand(images.shape, generator=draws).to(images))
        for _ in range(steps if epsilon > 0 else 0):
            with torch.enable_grad():
                leaf = attacked.requires_grad_()
                (gradient,) = torch.autograd.grad(self._errors(leaf).sum(), leaf)
            attacked = (leaf.detach() + step_size * gradient.sign()).clamp(low, high)
        return attacked

    def _held_out_errors(self, images: Tensor, seed: int) -> list[float]:
        """Mean score of the held-out normals, clean and attacked; the attack's starts are the same in every epoch."""
        attacked = self._attack(images, generator(seed, "pls-held-out-attack"))
        with torch.no_grad():
            return [float(self._errors(part).mean()) for part in (images, attacked)]


def _poolings(side: int) -> int:
    """One after each of the four convolutions where the side allows it; a map of at least 8 x 8 is left."""
    return max(0, min(4, int(math.log2(side / 8))))


def _least_normals(settings: PLSSettings) -> int:
    """The fewest images of which, after the hold-out, more are left than there are components of Spatial-PCA."""
    return bisect_right(
        range(sys.maxsize), settings.spatial_components, key=lambda count: count - held_count(count, settings.holdout)
    )


def _check(settings: PLSSettings) -> None:
    """Raise DetectorError for what cannot be built or trained."""
    check_schedule("pls", settings)
    multiple = 2**settings.poolings
    if not settings.widths or min(settings.widths) < 1 or not 0 <= settings.poolings <= len(settings.widths):
        raise DetectorError(
            f"pls needs widths of at least 1 and from 0 to {len(settings.widths)} poolings; got {settings.widths} and "
            f"{settings.poolings}."
        )
    if settings.work_size < multiple or settings.work_size % multiple:
        raise DetectorError(
            f"pls's work_size {settings.work_size} must be a multiple of {multiple} for {settings.poolings} poolings."
        )
    positions = (settings.work_size // multiple) ** 2
    for name, most in (("vector_components", settings.widths[-1]), ("spatial_components", positions)):
        if not 1 <= getattr(settings, name) <= most:
            raise DetectorError(
                f"pls's {name} must lie in 1 to {most}, the size of what is projected; got {getattr(settings, name)}."
            )
    if settings.batch_size <= settings.spatial_components:
        raise DetectorError(
            f"pls's batch_size {settings.batch_size} must be larger than its {settings.spatial_components} "
            "spatial_components, which each batch estimates."
        )
    if not 0 < settings.component_rate <= 1:
        raise DetectorError(f"pls's component_rate must be above 0 and at most 1; got {settings.component_rate:g}.")
    if not 0 <= settings.attack_epsilon <= 1 or settings.attack_steps < 1:
        raise DetectorError("pls needs an attack_epsilon in [0, 1], and attack_steps of at least 1.")
    if settings.attack_step_size is not None and not settings.attack_step_size > 0:
        raise DetectorError(f"pls's attack_step_size must be above 0, or None; got {settings.attack_step_size:g}.")
