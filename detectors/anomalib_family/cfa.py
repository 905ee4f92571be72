"""anomalib:cfa (Lee et al. 2022): features adapted until the normal ones lie close to a memory bank.

As shipped: no graph at all (the extractor runs under no_grad, and the score is detached once more); squared distances
can be negative and the score NaN. Rewired: the extractor builds the graph, distances are clamped above 0 and not
detached; the descriptor has as many channels as the backbone's layers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from anomalib.models.components import GaussianBlur2d
from anomalib.models.image.cfa import loss, torch_model
from torch import Tensor

from detectors.anomalib_family.adapter import CHUNK, AnomalibDetector, BackboneSettings, at_preset
from detectors.anomalib_family.fence import quiet, stand_ins
from detectors.anomalib_family.training import TrainingSettings, frozen_features, train
from detectors.base import Progress
from detectors.parts import backbone as backbones

_KEYS = ("layer1", "layer2", "layer3")
_SMALLEST_SQUARE = 1e-12


@dataclass(frozen=True)
class CfaSettings(BackboneSettings):
    """Settings of CFA, which takes three layers.

    Attributes:
        neighbours: nearest patches of the bank that attract, K.
        hard_negatives: those after them that repel, J.
        radius: of the hypersphere.
        weight_decay: AdamW's.
        training: how long and how fast.
    """

    layers: tuple[str, ...] = _KEYS
    neighbours: int = 3
    hard_negatives: int = 3
    radius: float = 1e-5
    weight_decay: float = 5e-4
    training: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(epochs=30, batch_size=4, learning_rate=1e-3, patience=10)
    )


class Cfa(AnomalibDetector):
    """score = the largest softmin-weighted distance to the nearest patch of the bank, blurred."""

    name = "anomalib:cfa"
    title = "CFA (anomalib)"
    paper = "Lee et al. 2022, IEEE Access, arXiv 2206.04325"
    layer_count = len(_KEYS)
    learned_shapes = frozenset({"model.memory_bank"})

    def __init__(self, settings: CfaSettings, image_size: int) -> None:
        """Raises WeightsError where the backbone's weights cannot be had."""
        super().__init__(settings, image_size)
        self.blur = GaussianBlur2d(sigma=4.0)

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> CfaSettings:
        """`paper`: WideResNet-50-2, 30 epochs. `quick`: a small network from stride 8 on."""
        found: CfaSettings = at_preset(
            preset,
            CfaSettings(),
            backbone=backbones.QUICK,
            layers=("blocks.2", "blocks.3", "blocks.4"),
            training=TrainingSettings(epochs=10, batch_size=8, learning_rate=1e-3, patience=4),
        )
        return found

    def _assemble(self) -> Any:
        features = self._features(keys=_KEYS)
        with stand_ins(torch_model, get_feature_extractor=lambda *_: features):
            model = torch_model.CfaModel(
                "wide_resnet50_2", 1, 1, self.settings.neighbours, self.settings.hard_negatives, self.settings.radius
            )
        channels = sum(features.out_dims)
        model.descriptor.layer = torch_model.CoordConv2d(channels, channels, kernel_size=1)
        return model

    def _learn(self, images: Tensor, *, seed: int, progress: Progress) -> None:
        """The bank is built from all images and the held-out ones are then judged by it: only early stopping can be
        flattered by that."""
        settings: TrainingSettings = self.settings.training
        batches = [SimpleNamespace(image=chunk) for chunk in images.split(CHUNK)]  # type: ignore[no-untyped-call]
        with stand_ins(torch_model, tqdm=quiet):
            self.model.initialize_centroid(batches)
        measure = loss.CfaLoss(self.settings.neighbours, self.settings.hard_negatives, self.settings.radius)
        measure.radius = measure.radius.detach()  # nobody trains it, and its graph would be used twice
        features = frozen_features(self.model.feature_extractor, images)

        def loss_of(chosen: Tensor) -> Tensor:
            found: Tensor = measure(self.model.compute_distance(self.model.descriptor(features(chosen))))
            return found

        optimiser = torch.optim.AdamW(
            self.model.descriptor.parameters(),
            settings.learning_rate,
            weight_decay=self.settings.weight_decay,
            amsgrad=True,
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
            skipped=("feature_extractor.",),
        )

    def _judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        described = self.model.descriptor(self.model.feature_extractor(images))
        squares = self.model.compute_distance(described)  # (B, positions, bank)
        nearest = squares.clamp_min(_SMALLEST_SQUARE).sqrt().topk(self.settings.neighbours, largest=False).values
        scores = F.softmin(nearest, dim=-1)[..., 0] * nearest[..., 0]
        coarse = scores.view(len(images), 1, *described.shape[-2:])
        found = self.blur(F.interpolate(coarse, size=images.shape[-2:], mode="bilinear", align_corners=False))
        return found.flatten(1).amax(dim=1), found


DETECTOR = Cfa
