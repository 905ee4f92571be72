"""anomalib:ganomaly (Akcay et al. 2018): how far the code of the rebuilt image is from the code of the image.

As shipped: a true gradient (its Lightning part rescales scores by the test set's extremes; the torch model does not).
Rewired: images enter on [-1, 1], the range of the generator's tanh.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from anomalib.models.image.ganomaly import loss, torch_model
from torch import Tensor

from detectors.anomalib_family.adapter import AnomalibDetector, AnomalibSettings, at_preset
from detectors.anomalib_family.training import TrainingSettings, train
from detectors.base import Progress
from detectors.errors import DetectorError


@dataclass(frozen=True)
class GanomalySettings(AnomalibSettings):
    """Settings of GANomaly.

    Attributes:
        features: channels of the first level.
        latent: numbers of the code.
        training: how long and how fast.
    """

    features: int = 64
    latent: int = 100
    training: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(epochs=100, batch_size=32, learning_rate=2e-4, patience=20)
    )


class Ganomaly(AnomalibDetector):
    """score = mean squared difference of the two codes."""

    name = "anomalib:ganomaly"
    title = "GANomaly (anomalib)"
    paper = "Akcay et al. 2018, ACCV, arXiv 1805.06725"
    has_map = False
    has_reconstruction = True
    extractor = ""

    def __init__(self, settings: GanomalySettings, image_size: int) -> None:
        """Raises DetectorError where the side is no power of two of at least 16."""
        side = settings.input_size or image_size
        if side < 16 or side & (side - 1):
            raise DetectorError(f"{self.name} works at 16, 32, 64, ... pixels: set its input_size to one of them.")
        super().__init__(settings, image_size)

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> GanomalySettings:
        """`paper`: anomalib's widths. `quick`: 64 pixels and half of the channels."""
        power = max(16, 2 ** (image_size - 1).bit_length())
        found: GanomalySettings = at_preset(
            preset,
            GanomalySettings(input_size=power),
            input_size=min(64, power),
            features=32,
            training=TrainingSettings(epochs=30, batch_size=16, learning_rate=2e-4, patience=8),
        )
        return found

    def _assemble(self) -> Any:
        return torch_model.GanomalyModel(
            input_size=(self.work_size, self.work_size),
            num_input_channels=3,
            n_features=self.settings.features,
            latent_vec_size=self.settings.latent,
        )

    def _learn(self, images: Tensor, *, seed: int, progress: Progress) -> None:
        settings: TrainingSettings = self.settings.training
        generator, discriminator = self.model.generator, self.model.discriminator
        of_generator, of_discriminator = loss.GeneratorLoss(), loss.DiscriminatorLoss()
        descend, deceive = (
            torch.optim.Adam(part.parameters(), settings.learning_rate, betas=(0.5, 0.999))
            for part in (discriminator, generator)
        )

        def step(chosen: Tensor) -> float:
            real = 2 * images[chosen] - 1
            fake, code, again = generator(real)
            found = of_generator(code, again, real, fake, discriminator(real)[0], discriminator(fake)[0])
            deceive.zero_grad(set_to_none=True)
            found.backward()
            deceive.step()
            against = of_discriminator(discriminator(real)[0], discriminator(fake.detach())[0])
            descend.zero_grad(set_to_none=True)
            against.backward()
            descend.step()
            return float(found.detach())

        def loss_of(chosen: Tensor) -> Tensor:
            """The generator's loss without the adversarial term, which says nothing about how good it is."""
            real = 2 * images[chosen] - 1
            fake, code, again = generator(real)
            found: Tensor = of_generator.loss_con(real, fake) * of_generator.wcon + of_generator.loss_enc(code, again)
            return found

        self.fit_report |= train(
            self.name, self.model, loss_of, deceive, images, settings, seed=seed, progress=progress, step=step
        )

    def _judge(self, images: Tensor) -> tuple[Tensor, None]:
        return self.model(2 * images - 1).pred_score, None

    def _reconstruct(self, x: Tensor, noise: Any) -> Tensor:
        found: Tensor = self.model.generator(2 * self._images(x) - 1)[0]
        return (found + 1) / 2


DETECTOR = Ganomaly
