"""anomalib:fastflow (Yu et al. 2021): 2-D flows on a feature pyramid.

As shipped: a true gradient that dies, since probabilities exp(log p) underflow where an image is anomalous.
Rewired: the score is minus the logarithm of anomalib's probability, which orders images in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from anomalib.models.image.fastflow import loss, torch_model
from torch import Tensor, nn

from detectors.anomalib_family.adapter import AnomalibDetector, BackboneSettings, at_preset
from detectors.anomalib_family.features import Features
from detectors.anomalib_family.fence import stand_ins
from detectors.anomalib_family.likelihood import gaussian_log, surprise
from detectors.anomalib_family.training import Maps, TrainingSettings, frozen_features, train
from detectors.base import Progress
from detectors.parts import backbone as backbones


@dataclass(frozen=True)
class FastflowSettings(BackboneSettings):
    """Settings of FastFlow.

    Attributes:
        flow_steps: coupling blocks per scale.
        conv3x3_only: no 1x1 convolutions in between.
        hidden_ratio: width of the coupling networks, relative to their input.
        weight_decay: Adam's.
        training: how long and how fast.
    """

    layers: tuple[str, ...] = ("layer1", "layer2", "layer3")
    flow_steps: int = 8
    conv3x3_only: bool = False
    hidden_ratio: float = 1.0
    weight_decay: float = 1e-5
    training: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(epochs=500, batch_size=32, learning_rate=1e-3, patience=50)
    )


class TimmLike(nn.Module):
    """`Features` as what `timm.create_model(features_only=True)` returns: a list, and what it is made of."""

    def __init__(self, features: Features) -> None:
        super().__init__()
        self.backbone = features.backbone
        self.features = (features,)  # in a tuple: the backbone is there already
        self.feature_info = SimpleNamespace(channels=lambda: features.out_dims, reduction=lambda: features.reductions)

    def forward(self, images: Tensor) -> Maps:
        return list(self.features[0](images).values())


class Fastflow(AnomalibDetector):
    """score = -log of the smallest mean probability over the pixels."""

    name = "anomalib:fastflow"
    title = "FastFlow (anomalib)"
    paper = "Yu et al. 2021, arXiv 2111.07677"

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> FastflowSettings:
        """`paper`: WideResNet-50-2, 500 epochs. `quick`: two scales of a small network, 4 steps."""
        found: FastflowSettings = at_preset(
            preset,
            FastflowSettings(),
            backbone=backbones.QUICK,
            layers=("blocks.2", "blocks.4"),
            flow_steps=4,
            training=TrainingSettings(epochs=20, batch_size=16, learning_rate=1e-3, patience=6),
        )
        return found

    def _assemble(self) -> Any:
        features = self._features()
        features.check_sides(self.name, self.work_size)
        timm = SimpleNamespace(create_model=lambda *_, **__: TimmLike(features))
        with stand_ins(torch_model, timm=timm):
            return torch_model.FastflowModel(
                (self.work_size, self.work_size),
                "wide_resnet50_2",  # a CNN: any stands for ours
                flow_steps=self.settings.flow_steps,
                conv3x3_only=self.settings.conv3x3_only,
                hidden_ratio=self.settings.hidden_ratio,
            )

    def _flow(self, maps: Maps) -> tuple[Maps, Maps]:
        pairs = [
            block(norm(m)) for block, norm, m in zip(self.model.fast_flow_blocks, self.model.norms, maps, strict=True)
        ]
        return [z for z, _ in pairs], [log for _, log in pairs]

    def _learn(self, images: Tensor, *, seed: int, progress: Progress) -> None:
        settings: TrainingSettings = self.settings.training
        measure = loss.FastflowLoss()
        features = frozen_features(self.model.feature_extractor.features[0], images)

        def loss_of(chosen: Tensor) -> Tensor:
            found: Tensor = measure(*self._flow(features(chosen)))
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
        hidden, _ = self._flow(self.model.feature_extractor(images))
        found = surprise([gaussian_log(z) for z in hidden], images.shape[-1])
        return found.flatten(1).amax(dim=1), found


DETECTOR = Fastflow
