"""anomalib:csflow (Rudolph et al. 2022): one flow over three scales that see each other.

As shipped: no graph at all (the extractor runs under no_grad); hard-wired to the 304 channels of an EfficientNet-B5
that is downloaded. Rewired: RADBench's backbone, which builds the graph, and its number of channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from anomalib.models.image.csflow import loss, torch_model
from torch import Tensor, nn

from detectors.anomalib_family.adapter import CHUNK, AnomalibDetector, BackboneSettings, at_preset
from detectors.anomalib_family.features import Features
from detectors.anomalib_family.fence import stand_ins
from detectors.anomalib_family.training import Maps, TrainingSettings, train
from detectors.base import Progress
from detectors.errors import DetectorError
from detectors.parts import backbone as backbones

_SCALES = 3


@dataclass(frozen=True)
class CsflowSettings(BackboneSettings):
    """Settings of CS-Flow, which takes one layer.

    Attributes:
        coupling_blocks: of the flow.
        hidden: channels of its cross-scale convolutions.
        clamp: of its scales.
        training: how long and how fast.
    """

    backbone: str = "tf_efficientnet_b5"
    layers: tuple[str, ...] = ("blocks.5",)
    coupling_blocks: int = 4
    hidden: int = 1024
    clamp: int = 3
    training: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(epochs=240, batch_size=16, learning_rate=2e-4, patience=30)
    )


class Pyramid(nn.Module):
    """One layer's features of the image, of its half and of its quarter."""

    def __init__(self, features: Features) -> None:
        super().__init__()
        self.backbone = features.backbone
        self.features = (features,)  # in a tuple: the backbone is there already

    def forward(self, images: Tensor) -> Maps:
        side = images.shape[-1]
        sizes = [F.interpolate(images, size=(side // 2**s, side // 2**s)) if s else images for s in range(_SCALES)]
        return [next(iter(self.features[0](size).values())) for size in sizes]


class Csflow(AnomalibDetector):
    """score = mean of half the squared latents over all scales."""

    name = "anomalib:csflow"
    title = "CS-Flow (anomalib)"
    paper = "Rudolph et al. 2022, WACV, arXiv 2110.02855"
    layer_count = 1

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> CsflowSettings:
        """`paper`: EfficientNet-B5. `quick`: stride 16 of a small network."""
        found: CsflowSettings = at_preset(
            preset,
            CsflowSettings(),
            backbone=backbones.QUICK,
            layers=("blocks.3",),
            hidden=64,
            training=TrainingSettings(epochs=20, batch_size=16, learning_rate=1e-3, patience=6),
        )
        return found

    def _assemble(self) -> Any:
        pyramid = Pyramid(self._features())
        blank = self._held[0].mean.new_full((1, 3, self.work_size, self.work_size), 0.5)
        with torch.no_grad():
            shapes = [m.shape[1:] for m in pyramid(blank)]
        if any(2 * small[-1] != large[-1] for large, small in pairwise(shapes)):
            raise DetectorError(
                f"{self.name} halves images of {self.work_size} px twice and its features do not follow "
                f"({', '.join(str(s[-1]) for s in shapes)}): set input_size to a larger power of two."
            )
        remaining = iter(shapes)

        def node(*_: int, name: str) -> Any:
            return make_node(*next(remaining), name=name)

        make_node = torch_model.InputNode
        with stand_ins(torch_model, InputNode=node, CsFlowMultiScaleFeatureExtractor=lambda **_: pyramid):
            return torch_model.CsFlowModel(
                (self.work_size, self.work_size),
                self.settings.hidden,
                self.settings.coupling_blocks,
                self.settings.clamp,
            )

    def _learn(self, images: Tensor, *, seed: int, progress: Progress) -> None:
        settings: TrainingSettings = self.settings.training
        measure = loss.CsFlowLoss()
        with torch.no_grad():
            parts = [self.model.feature_extractor(chunk) for chunk in images.split(CHUNK)]  # type: ignore[no-untyped-call]
            kept = [torch.cat(scale) for scale in zip(*parts, strict=True)]

        def loss_of(chosen: Tensor) -> Tensor:
            latents, jacobian = self.model.graph([m[chosen] for m in kept])
            # anomalib's log-determinant is the batch's sum, and its loss takes it for one image's.
            found: Tensor = measure(latents, jacobian / len(chosen))
            return found

        optimiser = torch.optim.Adam(
            self.model.graph.parameters(), settings.learning_rate, eps=1e-4, weight_decay=1e-5, betas=(0.5, 0.9)
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
        latents, _ = self.model.graph(self.model.feature_extractor(images))
        size = images.shape[-2:]
        maps = [F.interpolate(z.square().mean(dim=1, keepdim=True), size=size, mode="bilinear") for z in latents]
        return self.model._compute_anomaly_scores(latents), torch.stack(maps).prod(dim=0)


DETECTOR = Csflow
