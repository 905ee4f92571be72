"""anomalib:patchcore (Roth et al. 2022): distance of patch features to a coreset of the normal ones.

As shipped: no graph at all (the extractor runs under no_grad, also where it was asked for gradients).
Rewired: the extractor builds the graph; distances are clamped above 0, where the square root has an infinite slope.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from anomalib.models.components.sampling import k_center_greedy
from anomalib.models.image.patchcore import torch_model
from torch import Tensor

from detectors.anomalib_family.adapter import CHUNK, AnomalibDetector, BackboneSettings, at_preset
from detectors.anomalib_family.fence import quiet, stand_ins
from detectors.base import Progress
from detectors.errors import DetectorError
from detectors.parts import backbone as backbones

SMALLEST_SQUARE = 1e-12


@dataclass(frozen=True)
class PatchcoreSettings(BackboneSettings):
    """Settings of PatchCore.

    Attributes:
        coreset: patches kept in the memory bank: a share of all where it is at most 1, else their number.
        candidates: patches, drawn at random, that the greedy choice sees; 0: all of them.
        neighbours: those that the image score is re-weighted by.
    """

    coreset: float = 0.1
    candidates: int = 0
    neighbours: int = 9


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean, of all pairs of rows: as anomalib's, but never 0."""
    squares = a.square().sum(-1, keepdim=True) + b.square().sum(-1)[..., None, :] - 2 * a @ b.transpose(-2, -1)
    return squares.clamp_min(SMALLEST_SQUARE).sqrt()


class Patchcore(AnomalibDetector):
    """score = distance of the most anomalous patch, re-weighted by its neighbourhood in the bank."""

    name = "anomalib:patchcore"
    title = "PatchCore (anomalib)"
    paper = "Roth et al. 2022, CVPR, arXiv 2106.08265"
    learned_shapes = frozenset({"model.memory_bank"})

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> PatchcoreSettings:
        """`paper`: WideResNet-50-2, a tenth of all patches. `quick`: 1000 of 20,000 patches of a small network."""
        found: PatchcoreSettings = at_preset(
            preset,
            PatchcoreSettings(),
            backbone=backbones.QUICK,
            layers=("blocks.2", "blocks.4"),
            coreset=1000.0,
            candidates=20_000,
        )
        return found

    def _assemble(self) -> Any:
        with stand_ins(torch_model, TimmFeatureExtractor=lambda **_: self._features()):
            model = torch_model.PatchcoreModel(layers=self.settings.layers, num_neighbors=self.settings.neighbours)
        model.euclidean_dist = distances
        return model

    def _learn(self, images: Tensor, *, seed: int, progress: Progress) -> None:
        with torch.no_grad():
            patches = torch.vstack([self.model(chunk) for chunk in images.split(CHUNK)])  # type: ignore[no-untyped-call]
        if 0 < self.settings.candidates < len(patches):
            patches = patches[torch.randperm(len(patches))[: self.settings.candidates].to(patches.device)]
        share = self.settings.coreset if self.settings.coreset <= 1 else min(1.0, self.settings.coreset / len(patches))
        if int(len(patches) * share) < 1:
            raise DetectorError(f"{self.name}'s coreset of {self.settings.coreset} is empty; raise it.")
        self.model.embedding_store.clear()
        with stand_ins(k_center_greedy, tqdm=quiet), torch.no_grad():
            self.model.memory_bank = k_center_greedy.KCenterGreedy(patches, share).sample_coreset()
        progress(1, 1, f"{len(self.model.memory_bank)} patches kept of {len(patches)}")

    def _judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        found = self.model(images)
        return found.pred_score, found.anomaly_map


DETECTOR = Patchcore
