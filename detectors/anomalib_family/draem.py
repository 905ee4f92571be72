"""anomalib:draem (Zavrtanik et al. 2021): a network learns to segment pasted anomalies from their reconstruction.

As shipped: a true gradient, but the score is the largest softmax probability, which rounds to 0 or 1 where the network
is sure, and the gradient with it. Rewired: the score is its log-odds, which order images in the same way.

Without the texture dataset (DTD, a download) anomalies are made as anomalib makes them without it: from Perlin noise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from anomalib.data.utils.generators import PerlinAnomalyGenerator
from anomalib.models.image.draem import loss, torch_model
from torch import Tensor

from detectors.anomalib_family.adapter import AnomalibDetector, AnomalibSettings, at_preset
from detectors.anomalib_family.fence import stand_ins
from detectors.anomalib_family.training import TrainingSettings, train
from detectors.base import Progress
from detectors.errors import DetectorError
from detectors.parts.images import resize

_HALVINGS = 32  # five poolings


@dataclass(frozen=True)
class DraemSettings(AnomalibSettings):
    """Settings of DRAEM.

    Attributes:
        reconstructive_width, discriminative_width: channels of the first level of each network.
        training: how long and how fast.
    """

    reconstructive_width: int = 128
    discriminative_width: int = 64
    training: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(epochs=700, batch_size=8, learning_rate=1e-4, patience=100)
    )


class Draem(AnomalibDetector):
    """score = the largest log-odds of "anomalous" over the pixels."""

    name = "anomalib:draem"
    title = "DRAEM (anomalib, without DTD)"
    paper = "Zavrtanik et al. 2021, ICCV, arXiv 2108.07610"
    has_reconstruction = True
    extractor = ""

    def __init__(self, settings: DraemSettings, image_size: int) -> None:
        """Raises DetectorError where the images cannot be halved often enough."""
        side = settings.input_size or image_size
        if side % _HALVINGS:
            raise DetectorError(f"{self.name} halves images five times: set input_size to a multiple of {_HALVINGS}.")
        super().__init__(settings, image_size)

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> DraemSettings:
        """`paper`: anomalib's widths, 700 epochs. `quick`: 64 pixels and small networks."""
        found: DraemSettings = at_preset(
            preset,
            DraemSettings(input_size=_multiple(image_size)),
            input_size=_multiple(min(64, image_size)),
            reconstructive_width=8,
            discriminative_width=8,
            training=TrainingSettings(epochs=20, batch_size=16, learning_rate=3e-3, patience=8),
        )
        return found

    def _assemble(self) -> Any:
        with stand_ins(
            torch_model,
            ReconstructiveSubNetwork=partial(
                torch_model.ReconstructiveSubNetwork, base_width=self.settings.reconstructive_width
            ),
            DiscriminativeSubNetwork=partial(
                torch_model.DiscriminativeSubNetwork, base_width=self.settings.discriminative_width
            ),
        ):
            return torch_model.DraemModel()

    def _learn(self, images: Tensor, *, seed: int, progress: Progress) -> None:
        settings: TrainingSettings = self.settings.training
        measure = loss.DraemLoss()
        augment = PerlinAnomalyGenerator(blend_factor=(0.1, 1.0))

        def loss_of(chosen: Tensor) -> Tensor:
            clean = images[chosen]
            with torch.no_grad():
                pasted, mask = augment(clean)
            rebuilt, prediction = self._networks(pasted)
            found: Tensor = measure(clean, rebuilt, mask, prediction)
            return found

        optimiser = torch.optim.Adam(self.model.parameters(), settings.learning_rate)
        self.fit_report |= train(
            self.name, self.model, loss_of, optimiser, images, settings, seed=seed, progress=progress
        )

    def _networks(self, images: Tensor) -> tuple[Tensor, Tensor]:
        rebuilt = self.model.reconstructive_subnetwork(images)
        return rebuilt, self.model.discriminative_subnetwork(torch.cat([images, rebuilt], dim=1))

    def _judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self._networks(images)[1]
        found = logits[:, 1:] - logits[:, :1]
        return found.flatten(1).amax(dim=1), found

    def _reconstruct(self, x: Tensor, noise: Any) -> Tensor:
        return self._networks(resize(x, self.work_size))[0]


def _multiple(side: int) -> int:
    return max(_HALVINGS, round(side / _HALVINGS) * _HALVINGS)


DETECTOR = Draem
