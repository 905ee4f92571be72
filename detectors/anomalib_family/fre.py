"""anomalib:fre (Ndiour et al. 2022): error of rebuilding deep features by a shallow linear autoencoder.

As shipped: the features are detached, and there is no graph. Rewired: they are not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from anomalib.models.image.fre import torch_model
from torch import Tensor

from detectors.anomalib_family.adapter import AnomalibDetector, BackboneSettings, at_preset
from detectors.anomalib_family.fence import stand_ins
from detectors.anomalib_family.training import TrainingSettings, frozen_features, train
from detectors.base import Progress
from detectors.parts import backbone as backbones


@dataclass(frozen=True)
class FreSettings(BackboneSettings):
    """Settings of FRE, which takes one layer.

    Attributes:
        pooling: side of the windows over which features are averaged.
        latent: width of the autoencoder.
        training: how long and how fast.
    """

    backbone: str = "resnet50"
    layers: tuple[str, ...] = ("layer3",)
    pooling: int = 2
    latent: int = 220
    training: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(epochs=220, batch_size=32, learning_rate=1e-3, patience=30)
    )


class Fre(AnomalibDetector):
    """score = squared feature reconstruction error."""

    name = "anomalib:fre"
    title = "FRE (anomalib)"
    paper = "Ndiour et al. 2022, arXiv 2207.13190"
    layer_count = 1

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> FreSettings:
        """`paper`: ResNet-50's third layer. `quick`: a small network's at the same stride."""
        found: FreSettings = at_preset(
            preset,
            FreSettings(),
            backbone=backbones.QUICK,
            layers=("blocks.4",),
            latent=100,
            training=TrainingSettings(epochs=100, batch_size=32, learning_rate=1e-3, patience=10),
        )
        return found

    def _assemble(self) -> Any:
        features = self._features()
        (blank,) = self._held[0].blank_maps(self.work_size)
        with stand_ins(torch_model, TimmFeatureExtractor=lambda **_: features):
            return torch_model.FREModel(
                self.settings.backbone,
                self.settings.layers[0],
                input_dim=self._pooled(blank).numel(),
                latent_dim=self.settings.latent,
                pooling_kernel_size=self.settings.pooling,
            )

    def _pooled(self, features: Tensor) -> Tensor:
        return F.avg_pool2d(features, self.settings.pooling) if self.settings.pooling > 1 else features

    def _learn(self, images: Tensor, *, seed: int, progress: Progress) -> None:
        settings: TrainingSettings = self.settings.training
        features = frozen_features(self.model.feature_extractor, images)

        def loss_of(chosen: Tensor) -> Tensor:
            flat = self._pooled(features(chosen)[0]).flatten(1)
            return F.mse_loss(self.model.fre_model(flat), flat)

        optimiser = torch.optim.Adam(self.model.fre_model.parameters(), settings.learning_rate)
        self.fit_report |= train(
            self.name,
            self.model,
            loss_of,
            optimiser,
            images,
            settings,
            seed=seed,
            progress=progress,
            skipped=("feature_extractor.",),
        )

    def _judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self._pooled(self.model.feature_extractor(images)[self.settings.layers[0]])
        flat = pooled.flatten(1)
        errors = (flat - self.model.fre_model(flat)).square().view_as(pooled)
        return errors.sum(dim=(1, 2, 3)), errors.sum(dim=1, keepdim=True)


DETECTOR = Fre
