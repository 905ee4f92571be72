"""anomalib:supersimplenet (Rolih et al. 2024): a network that tells features from noised features.

As shipped: the extractor runs under no_grad, and the classification head sees the map detached, also when it scores:
opening the extractor alone leaves a wrong gradient. Rewired: neither cuts while scoring (training stays as it was), and
the score is the logit instead of its sigmoid, which rounds to 0 and 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from anomalib.models.image.supersimplenet import anomaly_generator, loss, torch_model
from torch import Tensor

from detectors.anomalib_family.adapter import AnomalibDetector, BackboneSettings, at_preset
from detectors.anomalib_family.fence import stand_ins
from detectors.anomalib_family.training import TrainingSettings, train
from detectors.base import Progress
from detectors.parts import backbone as backbones


@dataclass(frozen=True)
class SupersimplenetSettings(BackboneSettings):
    """Settings of SuperSimpleNet.

    Attributes:
        perlin_threshold: above which Perlin noise is anomalous.
        training: how long and how fast (the rate of the head; the adaptor has half of it).
    """

    perlin_threshold: float = 0.2
    training: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(epochs=300, batch_size=32, learning_rate=2e-4, patience=50)
    )


_FINEST = 32  # anomalib's Perlin noise has up to so many periods along a side, and fails on smaller maps
_perlin_noise = anomaly_generator.generate_perlin_noise


def perlin_noise(height: int, width: int) -> Tensor:
    """anomalib's, averaged where the map is smaller than what it can make."""
    noise: Tensor = _perlin_noise(height=max(height, _FINEST), width=max(width, _FINEST))
    return F.interpolate(noise[None, None], size=(height, width), mode="area")[0, 0]


class Supersimplenet(AnomalibDetector):
    """score = the classification head's logit."""

    name = "anomalib:supersimplenet"
    title = "SuperSimpleNet (anomalib)"
    paper = "Rolih et al. 2024, ICPR, arXiv 2408.03143"
    extractor = "feature_extractor.feature_extractor"

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> SupersimplenetSettings:
        """`paper`: WideResNet-50-2, 300 epochs. `quick`: strides 8 and 16 of a small network."""
        found: SupersimplenetSettings = at_preset(
            preset,
            SupersimplenetSettings(),
            backbone=backbones.QUICK,
            layers=("blocks.2", "blocks.4"),
            training=TrainingSettings(epochs=15, batch_size=16, learning_rate=1e-3, patience=5),
        )
        return found

    def _assemble(self) -> Any:
        with stand_ins(torch_model, TimmFeatureExtractor=lambda **_: self._features()):
            return torch_model.SupersimplenetModel(
                self.settings.perlin_threshold, self.settings.backbone, list(self.settings.layers)
            )

    def _learn(self, images: Tensor, *, seed: int, progress: Progress) -> None:
        settings: TrainingSettings = self.settings.training
        measure = loss.SSNLoss()
        model = self.model

        def loss_of(chosen: Tensor) -> Tensor:
            with torch.no_grad():
                features = model.feature_extractor(images[chosen])
            adapted = model.adaptor(features)
            none = torch.zeros_like(features[:, :1])
            noised, noised_adapted, masks, labels = model.anomaly_generator(features, adapted, none, none[:, 0, 0, 0])
            found: Tensor = measure(*model.segdec(noised_adapted, noised), masks, labels)
            return found

        model.segdec.stop_grad = True  # as the authors train without defects
        rate = settings.learning_rate
        optimiser = torch.optim.AdamW(
            [
                {"params": model.adaptor.parameters(), "lr": rate / 2},
                {"params": model.segdec.parameters(), "lr": rate, "weight_decay": 1e-5},
            ]
        )
        with stand_ins(anomaly_generator, generate_perlin_noise=perlin_noise):
            self.fit_report |= train(
                self.name,
                model,
                loss_of,
                optimiser,
                images,
                settings,
                seed=seed,
                progress=progress,
                skipped=("feature_extractor.",),
            )

    def _judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.model.feature_extractor(images)
        self.model.segdec.stop_grad = False
        anomaly_map, score = self.model.segdec(self.model.adaptor(features), features)
        return score, self.model.anomaly_map_generator(anomaly_map, images.shape[-2:])


DETECTOR = Supersimplenet
