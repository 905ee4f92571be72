"""anomalib:stfpm (Wang et al. 2021): a student imitates the feature pyramid of a pretrained teacher.

As shipped: a gradient that is wrong without a word, since the teacher runs under no_grad and the student does not.
Rewired: both build the graph. The map is a product of small distances: the score is its logarithm, which orders images
in the same way and whose gradient does not vanish with the product.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import timm
import torch
from anomalib.models.image.stfpm import loss, torch_model
from torch import Tensor, nn

from detectors.anomalib_family.adapter import AnomalibDetector, BackboneSettings, at_preset
from detectors.anomalib_family.fence import stand_ins
from detectors.anomalib_family.training import TrainingSettings, frozen_features, train
from detectors.base import Progress
from detectors.parts import backbone as backbones
from detectors.parts.backbone import Backbone

_SMALLEST = 1e-30


@dataclass(frozen=True)
class StfpmSettings(BackboneSettings):
    """Settings of STFPM.

    Attributes:
        momentum, weight_decay: of the gradient descent.
        training: how long and how fast.
    """

    backbone: str = "resnet18"
    layers: tuple[str, ...] = ("layer1", "layer2", "layer3")
    momentum: float = 0.9
    weight_decay: float = 1e-3
    training: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(epochs=100, batch_size=32, learning_rate=0.4, patience=20)
    )


class Student(nn.Module):
    """The teacher's architecture, untrained, on images in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, teacher: Backbone, name: str) -> None:
        super().__init__()
        self.layers = teacher.layers
        self.network: nn.Module = timm.create_model(name, pretrained=False)
        cast(Any, self.network).reset_classifier(0)
        for module in self.network.modules():
            if getattr(module, "inplace", False):
                setattr(module, "inplace", False)  # noqa: B010 - it would overwrite the features of the layer before it
        self.register_buffer("mean", teacher.mean.clone(), persistent=False)
        self.register_buffer("std", teacher.std.clone(), persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        found = backbones.features(self.network, (images - self.mean) / self.std, self.layers)
        return dict(zip(self.layers, found, strict=True))


class Stfpm(AnomalibDetector):
    """score = log of the largest product over layers of the squared distance of normalised features."""

    name = "anomalib:stfpm"
    title = "STFPM (anomalib)"
    paper = "Wang et al. 2021, BMVC, arXiv 2103.04257"
    extractor = "teacher_model"

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> StfpmSettings:
        """`paper`: ResNet-18, 100 epochs. `quick`: a small network."""
        found: StfpmSettings = at_preset(
            preset,
            StfpmSettings(),
            backbone=backbones.QUICK,
            layers=("blocks.1", "blocks.2", "blocks.4"),
            training=TrainingSettings(epochs=15, batch_size=16, learning_rate=0.1, patience=5),
        )
        return found

    def _assemble(self) -> Any:
        def extractor(*, pre_trained: bool, **_: Any) -> nn.Module:
            return self._features() if pre_trained else Student(self._held[0], self.settings.backbone)

        with stand_ins(torch_model, TimmFeatureExtractor=extractor):
            return torch_model.STFPMModel(layers=self.settings.layers, backbone=self.settings.backbone)

    def _learn(self, images: Tensor, *, seed: int, progress: Progress) -> None:
        settings: TrainingSettings = self.settings.training
        measure = loss.STFPMLoss()
        features = frozen_features(self.model.teacher_model, images)

        def loss_of(chosen: Tensor) -> Tensor:
            teacher = dict(zip(self.settings.layers, features(chosen), strict=True))
            # anomalib's loss is a sum over the batch.
            found: Tensor = measure(teacher, self.model.student_model(images[chosen])) / len(chosen)
            return found

        optimiser = torch.optim.SGD(
            self.model.student_model.parameters(),
            settings.learning_rate,
            momentum=self.settings.momentum,
            weight_decay=self.settings.weight_decay,
        )
        self.fit_report |= train(
            self.name,
            self.model,
            loss_of,
            optimiser,
            images,
            settings,
            seed=seed,
            progress=progress,
            skipped=("teacher_model.",),
        )

    def _judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        teacher, student = self.model.teacher_model(images), self.model.student_model(images)
        layer_map = self.model.anomaly_map_generator.compute_layer_map
        logs = [layer_map(teacher[k], student[k], images.shape[-2:]).clamp_min(_SMALLEST).log() for k in teacher]
        found = torch.stack(logs).sum(dim=0)
        return found.flatten(1).amax(dim=1), found


DETECTOR = Stfpm
