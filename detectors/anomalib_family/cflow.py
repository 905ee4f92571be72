"""anomalib:cflow (Gudovskiy et al. 2022): flows over feature vectors, conditioned on their position.

As shipped: no graph at all, and the score depends on the batch, since probabilities are divided by the batch's largest
and the map is subtracted from the batch's largest. Rewired: the divisor of each layer is the largest of the training
images, kept; the score is minus the logarithm of the summed probabilities, which order images as the sum does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from anomalib.models.image.cflow import torch_model
from anomalib.models.image.cflow.utils import get_logp, positional_encoding_2d
from torch import Tensor

from detectors.anomalib_family.adapter import CHUNK, AnomalibDetector, BackboneSettings, at_preset
from detectors.anomalib_family.fence import stand_ins
from detectors.anomalib_family.likelihood import surprise
from detectors.anomalib_family.training import Maps, TrainingSettings, frozen_features, train
from detectors.base import Progress, evaluation
from detectors.parts import backbone as backbones


@dataclass(frozen=True)
class CflowSettings(BackboneSettings):
    """Settings of CFlow.

    Attributes:
        coupling_blocks: per layer.
        condition: numbers that encode a position, a multiple of 4.
        clamp: of the coupling blocks' scales.
        training: how long and how fast; a step takes all positions of its images.
    """

    layers: tuple[str, ...] = ("layer2", "layer3", "layer4")
    coupling_blocks: int = 8
    condition: int = 128
    clamp: float = 1.9
    training: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(epochs=200, batch_size=8, learning_rate=1e-4, patience=20)
    )


class Cflow(AnomalibDetector):
    """score = -log of the smallest sum over layers of probabilities relative to the training images' largest."""

    name = "anomalib:cflow"
    title = "CFlow (anomalib, frozen normalisation)"
    paper = "Gudovskiy et al. 2022, WACV, arXiv 2107.12571"
    extractor = "encoder"
    largest: Tensor

    def __init__(self, settings: CflowSettings, image_size: int) -> None:
        """Raises WeightsError where the backbone's weights cannot be had."""
        super().__init__(settings, image_size)
        self.register_buffer("largest", torch.zeros(len(settings.layers)))

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> CflowSettings:
        """`paper`: WideResNet-50-2. `quick`: two layers of a small network, 4 blocks."""
        found: CflowSettings = at_preset(
            preset,
            CflowSettings(),
            backbone=backbones.QUICK,
            layers=("blocks.2", "blocks.4"),
            coupling_blocks=4,
            condition=32,
            training=TrainingSettings(epochs=20, batch_size=8, learning_rate=1e-3, patience=6),
        )
        return found

    def _assemble(self) -> Any:
        with stand_ins(torch_model, TimmFeatureExtractor=lambda **_: self._features()):
            return torch_model.CflowModel(
                self.settings.backbone,
                self.settings.layers,
                condition_vector=self.settings.condition,
                coupling_blocks=self.settings.coupling_blocks,
                clamp_alpha=self.settings.clamp,
            )

    def _log_probabilities(self, maps: Maps) -> Maps:
        """log p per channel at each position, (B, 1, h, w) for each layer."""
        found = []
        for decoder, features in zip(self.model.decoders, maps, strict=True):
            count, channels, height, width = features.shape
            place = positional_encoding_2d(self.settings.condition, height, width).to(features)
            places = place.flatten(1).T.repeat(count, 1)  # (B h w, condition)
            z, log_jacobian = decoder(features.permute(0, 2, 3, 1).reshape(-1, channels), [places])
            found.append((get_logp(channels, z, log_jacobian) / channels).view(count, 1, height, width))
        return found

    def _learn(self, images: Tensor, *, seed: int, progress: Progress) -> None:
        settings: TrainingSettings = self.settings.training
        features = frozen_features(self.model.encoder, images)

        def loss_of(chosen: Tensor) -> Tensor:
            losses = [-F.logsigmoid(logs).mean() for logs in self._log_probabilities(features(chosen))]
            return torch.stack(losses).sum()

        trained = [p for p in self.model.decoders.parameters() if p.requires_grad]
        self.fit_report |= train(
            self.name,
            self.model,
            loss_of,
            torch.optim.Adam(trained, settings.learning_rate),
            images,
            settings,
            seed=seed,
            progress=progress,
            skipped=("encoder.",),
        )
        with torch.no_grad(), evaluation(self.model):
            chunks = torch.arange(len(images), device=images.device).split(CHUNK)  # type: ignore[no-untyped-call]
            rows = [torch.stack([m.max() for m in self._log_probabilities(features(chunk))]) for chunk in chunks]
        self.largest = torch.stack(rows).amax(dim=0)

    def _judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logs = self._log_probabilities(list(self.model.encoder(images).values()))
        relative = [layer - top for layer, top in zip(logs, self.largest, strict=True)]
        found = surprise(relative, images.shape[-1], align_corners=True)
        return found.flatten(1).amax(dim=1), found


DETECTOR = Cflow
