"""anomalib:mh_patchcore: PatchCore on whitened features, with a streaming coreset.

As shipped: no graph at all (the extractor runs under no_grad), and one broken image makes the whole batch an error.
Rewired: the extractor builds the graph; projection and whitening let broken values through, so that the score says it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from anomalib.models.image.mh_patchcore import torch_model
from torch import Tensor

from detectors.anomalib_family.adapter import CHUNK, AnomalibDetector, BackboneSettings, at_preset
from detectors.anomalib_family.fence import stand_ins
from detectors.base import Progress
from detectors.parts import backbone as backbones


@dataclass(frozen=True)
class MHPatchcoreSettings(BackboneSettings):
    """Settings of MH-PatchCore.

    Attributes:
        variance: share of the variance that the principal components must keep.
        shrinkage: of the covariance, towards a multiple of the identity.
        bank: patches that are kept.
        local_coreset: patches kept of each batch on the way there.
        neighbours: those that the image score is re-weighted by.
    """

    variance: float = 0.99
    shrinkage: float = 0.07
    bank: int = 1000
    local_coreset: int = 256
    neighbours: int = 9


class MHPatchcore(AnomalibDetector):
    """score = squared Mahalanobis distance of the most anomalous patch, re-weighted by its neighbourhood."""

    name = "anomalib:mh_patchcore"
    title = "MH-PatchCore (anomalib)"
    paper = "MH-PatchCore, as in anomalib 2.7 (after Roth et al. 2022)"
    learned_shapes = frozenset(
        f"model.{name}"
        for name in (
            "pca.components",
            "pca.mean",
            "pca.projected_mean",
            "covariance.mean",
            "covariance.whitening_matrix",
            "memory_bank.bank",
        )
    )

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> MHPatchcoreSettings:
        """`paper`: WideResNet-50-2. `quick`: stride 16 of a small network."""
        found: MHPatchcoreSettings = at_preset(
            preset, MHPatchcoreSettings(), backbone=backbones.QUICK, layers=("blocks.4",), local_coreset=128
        )
        return found

    def _assemble(self) -> Any:
        with stand_ins(torch_model, TimmFeatureExtractor=lambda **_: self._features()):
            return torch_model.MHPatchcoreModel(
                self.settings.backbone,
                self.settings.layers,
                pca_variance_ratio=self.settings.variance,
                covariance_shrinkage=self.settings.shrinkage,
                memory_bank_size=self.settings.bank,
                local_coreset_size=self.settings.local_coreset,
                num_neighbors=self.settings.neighbours,
            ).to(torch.float32)

    def _learn(self, images: Tensor, *, seed: int, progress: Progress) -> None:
        model = self.model
        # Three passes, as in anomalib's training: principal components, their covariance, then the bank.
        passes = [(model.pca, lambda e: e), (model.covariance, model.pca), (model.memory_bank, self._whitened)]
        with torch.no_grad():
            for done, (part, before) in enumerate(passes):
                for chunk in images.split(CHUNK):  # type: ignore[no-untyped-call]
                    part.update(before(model.generate_embedding(model.feature_extractor(chunk))))
                part.finalize()
                model.to(torch.float32)
                progress(done + 1, len(passes), type(part).__name__)

    def _whitened(self, embedding: Tensor) -> Tensor:
        pca, covariance = self.model.pca, self.model.covariance
        projected = embedding @ pca.components.T - pca.projected_mean
        found: Tensor = (projected - covariance.mean) @ covariance.whitening_matrix
        return found

    def _judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.model.feature_extractor(images)
        patches = self._whitened(self.model.generate_embedding(features))
        bank = self.model.memory_bank.bank
        scores, places = torch_model._nearest_neighbors(patches, bank, num_neighbors=1)
        scores, places = scores.view(len(images), -1), places.view(len(images), -1)
        score = torch_model._compute_anomaly_score(scores, places, patches, bank, self.settings.neighbours)
        coarse = scores.view(len(images), 1, *features[self.settings.layers[0]].shape[-2:])
        return score, self.model.anomaly_map_generator(coarse, images.shape[-2:])


DETECTOR = MHPatchcore
