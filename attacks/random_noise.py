"""Random noise in the ball: the floor. An attack that finds less than it has not used what it knows.

Its images lie on the border of the ball (l-inf: every pixel changed by plus or minus epsilon; l2: a direction on the
sphere), and are alike within blocks of 1, 2 or 8 pixels: a score that rests on convolutions averages finer noise away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from attacks.base import Attack, AttackSettings
from attacks.candidates import Highest, Significant, mean_over_draws
from attacks.errors import AttackError
from attacks.objective import Objective
from attacks.registry import register
from attacks.result import AttackResult
from attacks.threat import ThreatModel
from detectors.noise import Noise

if TYPE_CHECKING:
    from detectors.base import Detector, Progress


BLOCKS = (1, 2, 8)  # sides in pixels, in turn


@dataclass(frozen=True)
class RandomNoiseSettings(AttackSettings):
    """Settings of random noise.

    Attributes:
        samples: how many are tried of each image.
        selection_draws: draws on which a stochastic detector's candidates are compared.
    """

    samples: int = 20
    selection_draws: int = 16

    def __post_init__(self) -> None:
        """Raises AttackError for values that make no sense."""
        for field in ("samples", "selection_draws"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise AttackError(f"{field} of random noise must be a whole number of at least 1; got {value!r}.")


class RandomNoise(Attack):
    """The best of several random images on the border of the ball."""

    name: ClassVar[str] = "noise"
    title: ClassVar[str] = "Random noise"
    summary: ClassVar[str] = "Random images on the border of the ball."
    settings_class: ClassVar[type[AttackSettings]] = RandomNoiseSettings
    budget_settings: ClassVar[tuple[str, ...]] = ("samples",)
    can_stop: bool = True

    def gradients(self, *, is_stochastic: bool, gradients_followed: int = 1) -> int:
        """None: it follows no gradient."""
        return 0

    def _run(
        self,
        detector: Detector,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        *,
        noise: Noise,
        selection: Noise,
        progress: Progress,
        enough: Tensor | None = None,
    ) -> AttackResult:
        settings: RandomNoiseSettings = self.settings
        objective = Objective(detector, y, differentiate="surrogate")  # as `compared_loss`
        clean = objective.losses(x, selection, settings.selection_draws)
        highest, best = Highest(x), Significant(x, clean, 0)
        highest.offer(x, clean[0], run=0)
        trace = [mean_over_draws(clean)]
        for number in range(settings.samples):
            wanting = torch.ones_like(y, dtype=torch.bool) if enough is None else ~(highest.loss > enough)
            if not bool(wanting.any()):
                break
            side = BLOCKS[number % len(BLOCKS)]
            change = noise.sub(number).blocks(x.shape[1:], side, stream="attack-noise", like=x)
            sample = threat.project(x + threat.steepest_step(change, threat.epsilon), x)
            losses = objective.losses(sample, selection, settings.selection_draws)
            if detector.is_stochastic:
                best.challenge(sample, losses, number)
                trace.append(best.loss)
            else:
                highest.offer(sample, torch.where(wanting, losses[0], highest.loss), number)
                trace.append(highest.loss)
        kept: Highest | Significant = best if detector.is_stochastic else highest
        return AttackResult.without_gradients(
            kept.images,
            kept.loss,
            clean_loss=trace[0],
            trace=torch.stack(trace),
            forwards=objective.forwards,
            enough=enough,
        )


@register
class RandomNoiseLInf(RandomNoise):
    """Random noise in the l-inf ball."""

    name: ClassVar[str] = "noise-linf"
    title: ClassVar[str] = "Random noise (l-inf)"
    summary: ClassVar[str] = "Random images at the corners of the l-inf ball: the floor for every attack."
    norm: ClassVar[str] = "linf"


@register
class RandomNoiseL2(RandomNoise):
    """Random noise in the l2 ball."""

    name: ClassVar[str] = "noise-l2"
    title: ClassVar[str] = "Random noise (l2)"
    summary: ClassVar[str] = "Random images on the border of the l2 ball: the floor for every attack."
    norm: ClassVar[str] = "l2"
