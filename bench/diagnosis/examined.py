"""An attack on a detector that is looked at: its images, and what others on the same images are compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.base import Attack
from attacks.result import AttackResult
from bench.cell.attacking import Attacking, keys_of
from bench.cell.rivals import is_clearly_ahead
from bench.metrics import ranking
from detectors.noise import NoiseSeed

DRAWS = 16  # on which attacks on a stochastic detector are compared
ERRORS = 3.0  # standard errors of the paired difference that another attack must be ahead by, there


@dataclass(frozen=True, eq=False)
class Examined:
    """An attack's images of a few test images, on draws that no attack has seen.

    Attributes:
        attacking: the detector and the test images.
        attack: that is looked at, with its threat model settled.
        adversarial: its images, (N, 3, S, S) in [0, 1], on the CPU.
    """

    attacking: Attacking
    attack: Attack
    adversarial: Tensor

    @property
    def labels(self) -> NDArray[np.int64]:
        """+1 normal, -1 anomalous, (N,)."""
        return self.attacking.test.labels.numpy().astype(np.int64)

    @cached_property
    def clean(self) -> Tensor:
        """Losses of the clean images, float64 (D, N)."""
        return self.losses(self.attacking.test.pixels())

    @cached_property
    def kept(self) -> Tensor:
        """Losses of the attack's images, float64 (D, N)."""
        return self.losses(self.adversarial)

    def losses(self, images: Tensor) -> Tensor:
        """y * A(x), in what the attack compares, of images for each test image, (N, 3, S, S), float64 (D, N); one draw
        of a deterministic detector."""
        attacking, detector = self.attacking, self.attacking.detector
        draws = DRAWS if detector.is_stochastic else 1

        def work(part: list[int]) -> Tensor:
            x = images[part].to(attacking.device)
            y = attacking.test.labels[part].to(attacking.device).to(x.dtype)
            noise = NoiseSeed(attacking.draws.seed).source("diagnosis", keys_of(attacking.test, part))
            found = [self.attack.compared_loss(detector, x, y, noise.at(draw)) for draw in range(draws)]
            return torch.stack(found).double().cpu()

        return torch.cat(list(attacking.in_batches(range(len(images)), work)), dim=1)

    def run(self, attack: Attack, number: int) -> AttackResult:
        """What another attack finds of the same images, under noise of its own (`number`)."""
        return self.attacking.attacked(attack, range(len(self.labels)), None, _silent, path=(number,))

    def is_ahead(self, losses: Tensor) -> Tensor:
        """On which images these losses, (D, N), are clearly above the attack's own, (N,) bool; of a stochastic detector
        by more than their difference scatters over draws, too."""
        clean, kept, found = (values.mean(dim=0) for values in (self.clean, self.kept, losses))
        ahead = is_clearly_ahead(clean.float(), kept.float(), found.float())
        if len(losses) > 1:
            apart = losses - self.kept
            ahead &= apart.mean(dim=0) > ERRORS * apart.std(dim=0) / len(losses) ** 0.5
        return ahead

    def area(self, losses: Tensor) -> float:
        """The AUC in per cent of images with these losses, (D, N): the mean over draws."""
        return ranking.mean_single_draw_auc(self.labels * losses.numpy(), self.labels).mean


def _silent(done: int) -> None:
    """Nobody is told of batches."""


Tell = Callable[[str], None]  # told what is asked next
