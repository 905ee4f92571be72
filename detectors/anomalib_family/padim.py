"""anomalib:padim (Defard et al. 2021): Mahalanobis distance to the Gaussian of the normal features, per position.

As shipped: no graph at all. Rewired: features and embedding outside anomalib's no_grad; distances clamped above 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from anomalib.models.image.padim import torch_model
from torch import Tensor

from detectors.anomalib_family.adapter import CHUNK, AnomalibDetector, BackboneSettings, at_preset
from detectors.anomalib_family.fence import stand_ins
from detectors.base import Progress
from detectors.parts import backbone as backbones

SMALLEST_SQUARE = 1e-12


@dataclass(frozen=True)
class PadimSettings(BackboneSettings):
    """Settings of PaDiM.

    Attributes:
        channels: of all channels, how many are drawn at random and used.
    """

    layers: tuple[str, ...] = ("layer1", "layer2", "layer3")
    channels: int = 550


def mahalanobis(embedding: Tensor, stats: list[Tensor]) -> Tensor:
    """(B, C, h, w) to (B, 1, h, w): as anomalib's, but never 0."""
    mean, inverse = stats
    side = embedding.shape[-2:]
    delta = (embedding.flatten(2) - mean).permute(2, 0, 1)  # (P, B, C)
    squares = ((delta @ inverse) * delta).sum(dim=2).T
    return squares.clamp_min(SMALLEST_SQUARE).sqrt().view(-1, 1, *side)


class Padim(AnomalibDetector):
    """score = the largest Mahalanobis distance of the blurred map."""

    name = "anomalib:padim"
    title = "PaDiM (anomalib)"
    paper = "Defard et al. 2021, ICPR, arXiv 2011.08785"
    learned_shapes = frozenset({"model.gaussian.mean", "model.gaussian.inv_covariance"})

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> PadimSettings:
        """`paper`: 550 channels of WideResNet-50-2. `quick`: 64 channels of a small network, from stride 8 on."""
        found: PadimSettings = at_preset(
            preset, PadimSettings(), backbone=backbones.QUICK, layers=("blocks.2", "blocks.4"), channels=64
        )
        return found

    def _assemble(self) -> Any:
        with stand_ins(torch_model, TimmFeatureExtractor=lambda **_: self._features()):
            model = torch_model.PadimModel(
                backbone=self.settings.backbone, layers=list(self.settings.layers), n_features=self.settings.channels
            )
        model.anomaly_map_generator.compute_distance = mahalanobis
        return model

    def _learn(self, images: Tensor, *, seed: int, progress: Progress) -> None:
        with torch.no_grad():
            self.model.memory_bank = [self.model(chunk) for chunk in images.split(CHUNK)]  # type: ignore[no-untyped-call]
            self.model.fit()
        progress(1, 1, f"{self.model.gaussian.mean.shape[1]} Gaussians")

    def _judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.model.generate_embedding(self.model.feature_extractor(images))
        found = self.model.anomaly_map_generator(
            embedding=embedding,
            mean=self.model.gaussian.mean,
            inv_covariance=self.model.gaussian.inv_covariance,
            image_size=images.shape[-2:],
        )
        return found.flatten(1).amax(dim=1), found


DETECTOR = Padim
