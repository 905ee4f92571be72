"""anomalib:patchflow: one flow over fused multi-scale patch features.

As shipped: no graph at all (everything before the flow runs under no_grad). Rewired: it builds the graph; the score is
minus the logarithm of the probability, which does not underflow and orders images in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from anomalib.models.image.patchflow import loss, torch_model
from torch import Tensor

from detectors.anomalib_family.adapter import CHUNK, AnomalibDetector, BackboneSettings, at_preset
from detectors.anomalib_family.fence import stand_ins
from detectors.anomalib_family.likelihood import gaussian_log, surprise
from detectors.anomalib_family.training import TrainingSettings, train
from detectors.base import Progress
from detectors.parts import backbone as backbones


@dataclass(frozen=True)
class PatchflowSettings(BackboneSettings):
    """Settings of PatchFlow.

    Attributes:
        flow_steps: coupling blocks.
        width: channels of the flow and of its coupling networks.
        scales: sizes of the image, each half of the one before.
        weight_decay: Adam's.
        training: how long and how fast.
    """

    backbone: str = "tf_efficientnet_b5"
    layers: tuple[str, ...] = ("blocks.2", "blocks.4", "blocks.6")
    flow_steps: int = 1
    width: int = 128
    scales: int = 3
    weight_decay: float = 1e-4
    training: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(epochs=500, batch_size=32, learning_rate=1e-3, patience=50)
    )


class Patchflow(AnomalibDetector):
    """score = -log of the smallest probability over the pixels."""

    name = "anomalib:patchflow"
    title = "PatchFlow (anomalib)"
    paper = "PatchFlow, as in anomalib 2.7"

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> PatchflowSettings:
        """`paper`: EfficientNet-B5. `quick`: a small network, two scales."""
        found: PatchflowSettings = at_preset(
            preset,
            PatchflowSettings(),
            backbone=backbones.QUICK,
            layers=("blocks.2", "blocks.4"),
            width=64,
            scales=2,
            training=TrainingSettings(epochs=30, batch_size=16, learning_rate=1e-3, patience=8),
        )
        return found

    def _assemble(self) -> Any:
        with stand_ins(torch_model, TimmFeatureExtractor=lambda **_: self._features()):
            return torch_model.PatchflowModel(
                (self.work_size, self.work_size),
                self.settings.backbone,
                flow_steps=self.settings.flow_steps,
                flow_feature_dim=self.settings.width,
                num_scales=self.settings.scales,
                flow_hidden_dim=self.settings.width,
            )

    def _fused(self, images: Tensor) -> Tensor:
        found: Tensor = self.model._fuse_features(self.model._extract_cnn_features(images))
        return found

    def _learn(self, images: Tensor, *, seed: int, progress: Progress) -> None:
        settings: TrainingSettings = self.settings.training
        measure = loss.PatchflowLoss()
        with torch.no_grad():
            fused = torch.cat([self._fused(chunk) for chunk in images.split(CHUNK)])  # type: ignore[no-untyped-call]

        def loss_of(chosen: Tensor) -> Tensor:
            found: Tensor = measure(*self.model.flow(self.model.feature_adaptor(fused[chosen])))
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
            skipped=("feature_extractor.",),
        )

    def _judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        hidden, _ = self.model.flow(self.model.feature_adaptor(self._fused(images)))
        found = surprise([gaussian_log(hidden)], images.shape[-1])
        return found.flatten(1).amax(dim=1), found


DETECTOR = Patchflow
