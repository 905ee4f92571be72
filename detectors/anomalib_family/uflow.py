"""anomalib:uflow (Tailanian et al. 2022): a U-shaped flow on a feature pyramid.

As shipped: a true gradient that dies, since probabilities exp(log p) underflow where an image is anomalous; and only
with backbones that are downloaded. Rewired: RADBench's backbone under the same layer norms; the score is minus the
logarithm of the mean probability, which orders images in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from anomalib.models.image.uflow import loss, torch_model
from torch import Tensor, nn

from detectors.anomalib_family.adapter import AnomalibDetector, BackboneSettings, at_preset
from detectors.anomalib_family.features import Features
from detectors.anomalib_family.fence import stand_ins
from detectors.anomalib_family.likelihood import gaussian_log, surprise
from detectors.anomalib_family.training import Maps, TrainingSettings, frozen_features, train
from detectors.base import Progress
from detectors.parts import backbone as backbones


@dataclass(frozen=True)
class UflowSettings(BackboneSettings):
    """Settings of U-Flow.

    Attributes:
        flow_steps: coupling blocks per stage.
        clamp: of their scales.
        subnet_ratio: width of their networks, relative to the input.
        weight_decay: Adam's.
        training: how long and how fast.
    """

    layers: tuple[str, ...] = ("layer1", "layer2", "layer3")
    flow_steps: int = 4
    clamp: float = 2.0
    subnet_ratio: float = 1.0
    weight_decay: float = 1e-5
    training: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(epochs=200, batch_size=16, learning_rate=1e-3, patience=20)
    )


class Normed(nn.Module):
    """Frozen features, each scale under its own trainable layer norm, as U-Flow has them for ResNets."""

    def __init__(self, features: Features, side: int) -> None:
        super().__init__()
        self.backbone = features.backbone
        self.features = (features,)  # in a tuple: the backbone is there already
        self.channels, self.scale_factors = features.channels, features.scale_factors
        self.scales = features.scales
        self.norms = nn.ModuleList(
            nn.LayerNorm([c, side // s, side // s]) for c, s in zip(self.channels, self.scale_factors, strict=True)
        )

    def forward(self, images: Tensor) -> Maps:
        return self.normed(list(self.features[0](images).values()))

    def normed(self, maps: Maps) -> Maps:
        return [norm(m) for norm, m in zip(self.norms, maps, strict=True)]


class Uflow(AnomalibDetector):
    """score = -log of the smallest mean probability over the pixels."""

    name = "anomalib:uflow"
    title = "U-Flow (anomalib)"
    paper = "Tailanian et al. 2022, arXiv 2211.12353"

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> UflowSettings:
        """`paper`: WideResNet-50-2 (not the authors' two CaiTs). `quick`: two scales of a small network."""
        found: UflowSettings = at_preset(
            preset,
            UflowSettings(),
            backbone=backbones.QUICK,
            layers=("blocks.2", "blocks.4"),
            training=TrainingSettings(epochs=20, batch_size=16, learning_rate=1e-3, patience=6),
        )
        return found

    def _assemble(self) -> Any:
        features = self._features()
        features.check_sides(self.name, self.work_size)
        normed = Normed(features, self.work_size)
        with stand_ins(torch_model, get_feature_extractor=lambda *_: normed):
            return torch_model.UflowModel(
                (self.work_size, self.work_size),
                self.settings.flow_steps,
                "wide_resnet50_2",
                self.settings.clamp,
                self.settings.subnet_ratio,
            )

    def _learn(self, images: Tensor, *, seed: int, progress: Progress) -> None:
        settings: TrainingSettings = self.settings.training
        measure = loss.UFlowLoss()
        extractor = self.model.feature_extractor
        features = frozen_features(extractor.features[0], images)

        def loss_of(chosen: Tensor) -> Tensor:
            hidden, jacobians = self.model.encode(extractor.normed(features(chosen)))
            # anomalib's loss sums the squares over the batch and averages the log-determinants: so both are averaged.
            found: Tensor = measure([z / len(chosen) ** 0.5 for z in hidden], jacobians)
            return found

        trained = [p for p in self.model.parameters() if p.requires_grad]
        optimiser = torch.optim.Adam(trained, settings.learning_rate, weight_decay=self.settings.weight_decay)
        self.fit_report |= train(
            self.name,
            self.model,
            loss_of,
            optimiser,
            images,
            settings,
            seed=seed,
            progress=progress,
            skipped=("feature_extractor.backbone.",),
        )

    def _judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        hidden, _ = self.model.encode(self.model.feature_extractor(images))
        found = surprise([gaussian_log(z) for z in hidden], images.shape[-1])
        return found.flatten(1).amax(dim=1), found


DETECTOR = Uflow
