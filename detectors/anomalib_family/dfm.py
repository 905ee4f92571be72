"""anomalib:dfm (Ahuja et al. 2019): error of rebuilding deep features from their principal components.

As shipped: no graph at all. Rewired: features and pooling outside anomalib's no_grad; its own PCA and score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from anomalib.models.image.dfm import torch_model
from torch import Tensor

from detectors.anomalib_family.adapter import CHUNK, AnomalibDetector, BackboneSettings, at_preset
from detectors.anomalib_family.fence import stand_ins
from detectors.base import Progress
from detectors.parts import backbone as backbones


@dataclass(frozen=True)
class DfmSettings(BackboneSettings):
    """Settings of DFM, which takes one layer.

    Attributes:
        pooling: side of the windows over which features are averaged.
        variance: share of the variance that the components must keep.
    """

    backbone: str = "resnet50"
    layers: tuple[str, ...] = ("layer3",)
    pooling: int = 4
    variance: float = 0.97


class Dfm(AnomalibDetector):
    """score = squared feature reconstruction error."""

    name = "anomalib:dfm"
    title = "DFM (anomalib)"
    paper = "Ahuja et al. 2019, arXiv 1909.11786"
    layer_count = 1
    learned_shapes = frozenset(f"model.pca_model.{name}" for name in ("singular_vectors", "mean", "num_components"))

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> DfmSettings:
        """`paper`: ResNet-50's third layer. `quick`: a small network's at the same stride."""
        found: DfmSettings = at_preset(preset, DfmSettings(), backbone=backbones.QUICK, layers=("blocks.4",), pooling=2)
        return found

    def _assemble(self) -> Any:
        with stand_ins(torch_model, TimmFeatureExtractor=lambda **_: self._features()):
            return torch_model.DFMModel(
                self.settings.backbone,
                self.settings.layers[0],
                pooling_kernel_size=self.settings.pooling,
                n_comps=self.settings.variance,
            )

    def _learn(self, images: Tensor, *, seed: int, progress: Progress) -> None:
        with torch.no_grad():
            self.model.memory_bank = [self._pooled(chunk).flatten(1) for chunk in images.split(CHUNK)]  # type: ignore[no-untyped-call]
            self.model.fit()
        pca = self.model.pca_model
        pca.num_components = pca.num_components.to(torch.float32)  # as in a fresh model
        progress(1, 1, f"{pca.singular_vectors.shape[1]} components")

    def _pooled(self, images: Tensor) -> Tensor:
        features: Tensor = self.model.feature_extractor(images)[self.settings.layers[0]]
        return F.avg_pool2d(features, self.settings.pooling) if self.settings.pooling > 1 else features

    def _judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self._pooled(images)
        # A copy: anomalib centres the features in place, and compares the centred ones.
        score, found = self.model.score(pooled.flatten(1).clone(), pooled.shape)
        return score, found


DETECTOR = Dfm
