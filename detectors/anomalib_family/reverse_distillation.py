"""anomalib:reverse_distillation (Deng & Li 2022): a decoder rebuilds the features of a frozen encoder.

As shipped: the encoder runs under no_grad, and there is no gradient. The map is built in float32 whatever comes in.
Rewired: the encoder builds the graph, the map follows the dtype. anomalib's bottleneck and decoder have a ResNet's
widths: the small network's signed features enter as positive and negative parts, padded with zeros.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from anomalib.models.components import GaussianBlur2d
from anomalib.models.image.reverse_distillation import loss, torch_model
from anomalib.models.image.reverse_distillation.anomaly_map import AnomalyMapGenerationMode
from torch import Tensor

from detectors.anomalib_family.adapter import AnomalibDetector, BackboneSettings, at_preset
from detectors.anomalib_family.features import Features
from detectors.anomalib_family.fence import stand_ins
from detectors.anomalib_family.training import Maps, TrainingSettings, frozen_features, train
from detectors.base import Progress, evaluation
from detectors.errors import DetectorError
from detectors.parts import backbone as backbones

_WIDTHS = {"resnet18": (64, 128, 256), "wide_resnet50_2": (256, 512, 1024)}


@dataclass(frozen=True)
class ReverseDistillationSettings(BackboneSettings):
    """Settings of Reverse Distillation.

    Attributes:
        decoder: "wide_resnet50_2" or "resnet18": the decoder's architecture; features must fit its widths.
        training: how long and how fast.
    """

    layers: tuple[str, ...] = ("layer1", "layer2", "layer3")
    decoder: str = "wide_resnet50_2"
    training: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(epochs=200, batch_size=16, learning_rate=5e-3, patience=30)
    )


class ReverseDistillation(AnomalibDetector):
    """score = the largest sum over layers of 1 - cosine(encoder, decoder), blurred."""

    name = "anomalib:reverse_distillation"
    title = "Reverse Distillation (anomalib)"
    paper = "Deng & Li 2022, CVPR, arXiv 2201.10703"
    extractor = "encoder"

    def __init__(self, settings: ReverseDistillationSettings, image_size: int) -> None:
        """Raises DetectorError where the features do not fit the decoder."""
        if settings.decoder not in _WIDTHS:
            raise DetectorError(f"{self.name}'s decoder is one of {', '.join(_WIDTHS)}; got {settings.decoder!r}.")
        super().__init__(settings, image_size)
        self.blur = GaussianBlur2d(sigma=4.0)

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> ReverseDistillationSettings:
        """`paper`: WideResNet-50-2, 200 epochs. `quick`: a small network, a ResNet-18 decoder."""
        found: ReverseDistillationSettings = at_preset(
            preset,
            ReverseDistillationSettings(),
            backbone=backbones.QUICK,
            layers=("blocks.1", "blocks.2", "blocks.4"),
            decoder="resnet18",
            training=TrainingSettings(epochs=10, batch_size=16, learning_rate=5e-3, patience=4),
        )
        return found

    def _assemble(self) -> Any:
        wanted = _WIDTHS[self.settings.decoder]
        channels = self._held[0].channels
        fits = len(channels) == len(wanted) and all(2 * c <= w for c, w in zip(channels, wanted, strict=True))
        if channels != wanted and not fits:
            raise DetectorError(
                f"{self.name}'s decoder {self.settings.decoder} wants {wanted} channels, the layers have {channels}; "
                "choose other layers or the other decoder."
            )
        features = self._features(widths=() if channels == wanted else wanted)
        with stand_ins(torch_model, TimmFeatureExtractor=lambda **_: features):
            model = torch_model.ReverseDistillationModel(
                backbone=self.settings.decoder,
                input_size=(self.work_size, self.work_size),
                layers=self.settings.layers,
                anomaly_map_mode=AnomalyMapGenerationMode.ADD,
            )
        self._check_sides(model, features)
        return model

    def _check_sides(self, model: Any, features: Features) -> None:
        """Raise DetectorError where the decoder's maps are not as large as the encoder's: it doubles what was halved
        with rounding."""
        blank = features.backbone.mean.new_full((1, 3, self.work_size, self.work_size), 0.5)
        with torch.no_grad(), evaluation(model):
            encoded = [maps.cpu() for maps in features(blank).values()]  # a second fit's backbone may lie elsewhere
            try:
                decoded = model.decoder(model.bottleneck(encoded))
            except RuntimeError:  # the bottleneck cannot even join the layers
                decoded = []
        if [maps.shape for maps in decoded] != [maps.shape for maps in encoded]:
            sides = ", ".join(str(maps.shape[-1]) for maps in encoded)
            raise DetectorError(
                f"{self.name} cannot rebuild features {sides} wide, those of images of {self.work_size} px: set "
                f"input_size to a multiple of {2 * features.reductions[-1]}."
            )

    def _decoded(self, encoded: Maps) -> Maps:
        found: Maps = self.model.decoder(self.model.bottleneck(encoded))
        return found

    def _learn(self, images: Tensor, *, seed: int, progress: Progress) -> None:
        settings: TrainingSettings = self.settings.training
        measure = loss.ReverseDistillationLoss()
        features = frozen_features(self.model.encoder, images)
        trained = [*self.model.decoder.parameters(), *self.model.bottleneck.parameters()]

        def loss_of(chosen: Tensor) -> Tensor:
            encoded = features(chosen)
            found: Tensor = measure(encoded, self._decoded(encoded))
            return found

        self.fit_report |= train(
            self.name,
            self.model,
            loss_of,
            torch.optim.Adam(trained, settings.learning_rate, betas=(0.5, 0.99)),
            images,
            settings,
            seed=seed,
            progress=progress,
            skipped=("encoder.",),
        )

    def _judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        encoded = list(self.model.encoder(images).values())
        total = torch.zeros_like(images[:, :1])
        for a, b in zip(encoded, self._decoded(encoded), strict=True):
            distance = 1 - F.cosine_similarity(a, b)[:, None]
            total = total + F.interpolate(distance, size=images.shape[-2:], mode="bilinear", align_corners=True)
        found = self.blur(total)
        return found.flatten(1).amax(dim=1), found


DETECTOR = ReverseDistillation
