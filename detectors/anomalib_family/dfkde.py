"""anomalib:dfkde: kernel density of pooled deep features.

As shipped: the features are detached, and there is no graph; the density underflows to 0 far from the normals, and the
score is a logistic function of its logarithm, so every strong anomaly gets the same one. Rewired: the score is minus
the log density itself, by log-sum-exp, of which anomalib's score is a monotone function as long as it does not round.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from anomalib.models.image.dfkde import torch_model
from torch import Tensor

from detectors.anomalib_family.adapter import CHUNK, AnomalibDetector, BackboneSettings, at_preset
from detectors.anomalib_family.fence import stand_ins
from detectors.base import Progress
from detectors.parts import backbone as backbones


@dataclass(frozen=True)
class DfkdeSettings(BackboneSettings):
    """Settings of DFKDE.

    Attributes:
        components: principal components that are kept.
    """

    backbone: str = "resnet18"
    layers: tuple[str, ...] = ("layer4",)
    components: int = 16


class Dfkde(AnomalibDetector):
    """score = -log of the kernel density."""

    name = "anomalib:dfkde"
    title = "DFKDE (anomalib)"
    paper = "Akcay et al. 2022, arXiv 2202.08341 (anomalib)"
    has_map = False
    learned_shapes = frozenset(
        f"model.classifier.{name}"
        for name in (
            "max_length",
            "pca_model.singular_vectors",
            "pca_model.mean",
            "pca_model.num_components",
            "kde_model.bw_transform",
            "kde_model.dataset",
            "kde_model.norm",
        )
    )

    def __init__(self, settings: DfkdeSettings, image_size: int) -> None:
        """Raises WeightsError where the backbone's weights cannot be had."""
        super().__init__(settings, image_size)
        self.min_normals = max(self.min_normals, settings.components + 1)  # n images have n - 1 components

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> DfkdeSettings:
        """`paper`: ResNet-18's last layer. `quick`: a small network's."""
        found: DfkdeSettings = at_preset(preset, DfkdeSettings(), backbone=backbones.QUICK, layers=("blocks.6",))
        return found

    def _assemble(self) -> Any:
        with stand_ins(torch_model, TimmFeatureExtractor=lambda **_: self._features()):
            return torch_model.DfkdeModel(
                self.settings.backbone, self.settings.layers, n_pca_components=self.settings.components
            )

    def _learn(self, images: Tensor, *, seed: int, progress: Progress) -> None:
        with torch.no_grad():
            self.model.memory_bank = [self.model(chunk) for chunk in images.split(CHUNK)]  # type: ignore[no-untyped-call]
            self.model.fit()
        classifier = self.model.classifier
        # Its type differs between a fresh and a fitted model, and a checkpoint has one.
        classifier.pca_model.num_components = classifier.pca_model.num_components.to(torch.float32)
        progress(1, 1, f"{len(images)} kernels")

    def _judge(self, images: Tensor) -> tuple[Tensor, None]:
        pca, kde = self.model.classifier.pca_model, self.model.classifier.kde_model
        pooled = torch.cat([f.mean(dim=(2, 3)) for f in self.model.feature_extractor(images).values()], dim=1)
        # anomalib's transforms write into what they are given.
        reduced, _ = self.model.classifier.pre_process(pca.transform(pooled.clone()), self.model.classifier.max_length)
        places = reduced @ kde.bw_transform
        squares = (places[:, None] - kde.dataset).square().sum(dim=2)
        log_norm = kde.bw_transform.diagonal().log().sum() - 0.5 * places.shape[1] * math.log(2 * math.pi)
        return math.log(len(kde.dataset)) - log_norm - (-squares / 2).logsumexp(dim=1), None


DETECTOR = Dfkde
