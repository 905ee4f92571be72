"""anomalib:glass (Chen et al. 2024): a network that tells features from those pushed outwards by gradient ascent.

As shipped: no graph at all (it scores under no_grad), and the score is a sigmoid, which rounds to 0 and 1. Rewired:
features, projection and discriminator outside no_grad; the score is the largest logit, which orders images as its
sigmoid does. Without the texture dataset (DTD, a download) anomalies are made from Perlin noise, as anomalib does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from anomalib.models.image.glass import torch_model
from torch import Tensor

from detectors.anomalib_family.adapter import CHUNK, AnomalibDetector, BackboneSettings, at_preset
from detectors.anomalib_family.fence import stand_ins
from detectors.anomalib_family.training import TrainingSettings, train
from detectors.base import Progress
from detectors.parts import backbone as backbones


@dataclass(frozen=True)
class GlassSettings(BackboneSettings):
    """Settings of GLASS.

    Attributes:
        width: numbers of a patch's feature vector.
        hidden: width of the discriminator.
        ascent: gradient ascent steps of each training step.
        training: how long and how fast (the projection's rate; the discriminator has twice of it).
    """

    width: int = 1536
    hidden: int = 1024
    ascent: int = 20
    training: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(epochs=640, batch_size=8, learning_rate=1e-4, patience=100)
    )


class Glass(AnomalibDetector):
    """score = the largest logit over the patches."""

    name = "anomalib:glass"
    title = "GLASS (anomalib, without DTD)"
    paper = "Chen et al. 2024, ECCV, arXiv 2407.09359"
    extractor = "forward_modules.feature_aggregator"

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> GlassSettings:
        """`paper`: WideResNet-50-2, 640 epochs. `quick`: two layers of a small network, 5 ascent steps."""
        found: GlassSettings = at_preset(
            preset,
            GlassSettings(),
            backbone=backbones.QUICK,
            layers=("blocks.2", "blocks.4"),
            width=128,
            hidden=64,
            ascent=5,
            training=TrainingSettings(epochs=10, batch_size=16, learning_rate=1e-3, patience=4),
        )
        return found

    def _assemble(self) -> Any:
        features = self._features()
        with stand_ins(
            torch_model, TimmFeatureExtractor=lambda **_: features, _deduce_dims=lambda *_: features.out_dims
        ):
            return torch_model.GlassModel(
                (self.work_size, self.work_size),
                pretrain_embed_dim=self.settings.width,
                target_embed_dim=self.settings.width,
                layers=list(self.settings.layers),
                step=self.settings.ascent,
                discriminator_hidden=self.settings.hidden,
                normalize_mean=[0.0] * 3,
                normalize_std=[1.0] * 3,  # the backbone normalises inside
            )

    def _learn(self, images: Tensor, *, seed: int, progress: Progress) -> None:
        """The centre (`calculate_center`) is that of all images, the held-out ones among them: only early stopping can
        be flattered by that."""
        settings: TrainingSettings = self.settings.training
        model = self.model
        loader = [SimpleNamespace(image=chunk) for chunk in images.split(CHUNK)]  # type: ignore[no-untyped-call]

        def loss_of(chosen: Tensor) -> Tensor:
            before, model.training = model.training, True  # of the model alone: its layers keep their mode
            try:
                with torch.enable_grad():  # its own gradient ascent needs one
                    found: Tensor = model(images[chosen])[-1]
            finally:
                model.training = before
            return found

        optimiser = torch.optim.AdamW(
            [
                {"params": model.discriminator.parameters(), "lr": 2 * settings.learning_rate},
                {"params": model.projection.parameters(), "lr": settings.learning_rate, "weight_decay": 1e-5},
            ]
        )
        self.fit_report |= train(
            self.name,
            model,
            loss_of,
            optimiser,
            images,
            settings,
            seed=seed,
            progress=progress,
            skipped=(f"{self.extractor}.",),
            each_epoch=lambda: model.calculate_center(loader, images.device),
        )

    def _judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        patches, shapes = self.model.generate_embeddings(images, evaluation=True)
        discriminator = self.model.discriminator
        logits = discriminator.tail[0](discriminator.body(self.model.projection(patches)))
        coarse = logits.view(len(images), 1, *shapes[0])
        fine = F.interpolate(coarse, size=images.shape[-2:], mode="bilinear", align_corners=False)
        kernel = self.model.anomaly_segmentor._kernel
        margin = kernel.shape[-1] // 2
        return coarse.flatten(1).amax(dim=1), F.conv2d(F.pad(fine, (margin,) * 4, mode="reflect"), kernel)


DETECTOR = Glass
