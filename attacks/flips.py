"""Decisions at a threshold: which images are on the wrong side of it, and the nearest one that is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attacks.candidates import mean_over_draws
from attacks.objective import Objective
from attacks.threat import LInf, largest_entry
from detectors.noise import Noise

if TYPE_CHECKING:
    from detectors.base import Detector

_DECISION = 0  # under which the decision's draws are nested in the noise


class Flips:
    """What is known of the images of one batch so far: asks for decisions and keeps the nearest flip.

    Attributes:
        clean: (B, 3, H, W); sign: y, (B,); target: y * threshold, float64 (B,).
        distance: of the nearest flip, (B,), infinity where there is none yet.
        best: its image, or else the one with the highest loss, (B, 3, H, W); loss: its y * A, (B,).
        forwards: passes per image of the decisions alone.
    """

    def __init__(
        self, detector: Detector, x: Tensor, sign: Tensor, threshold: float, noise: Noise, draws: int, norm: str
    ) -> None:
        self.clean, self.sign, self.noise, self.draws = x, sign, noise, draws
        self.decision_noise = noise.sub(_DECISION)
        self.target = sign.double() * threshold
        self.best = x
        self.loss = torch.full_like(sign, torch.nan)
        self.distance = torch.full_like(sign, torch.inf)
        self._decision, self._norm = Objective(detector, sign), norm

    @property
    def is_found(self) -> Tensor:
        return self.distance.isfinite()

    @property
    def forwards(self) -> int:
        return self._decision.forwards

    def length(self, change: Tensor) -> Tensor:
        """In the norm, (B,)."""
        if self._norm == LInf.norm:
            return largest_entry(change) + 0.0  # of no change it is -0
        length: Tensor = torch.linalg.vector_norm(change.flatten(1), dim=1)
        return length

    def ask(self, images: Tensor) -> Tensor:
        """Whether the score decides these wrongly, (B,) bool; they are candidates."""
        loss = self._losses(images)
        flipped = self._is_wrong(loss)
        distance = self.length(images - self.clean)
        nearer = flipped & (distance < self.distance)
        # As long as there is no flip, the highest loss is what came nearest to one.
        higher = ~self.is_found & ~flipped & ((loss > self.loss) | self.loss.isnan())
        better = nearer | higher
        self.best = torch.where(better[:, None, None, None], images, self.best)
        self.loss = torch.where(better, loss, self.loss)
        self.distance = torch.where(nearer, distance, self.distance)
        return flipped

    def halve(self, image_at: Callable[[Tensor], Tensor], far: Tensor, times: int) -> None:
        """Search between 0 and `far`, (B,), for the first flip on the way that `image_at` describes."""
        near = torch.zeros_like(far)
        for _ in range(times):
            middle = (near + far) / 2
            flipped = self.ask(image_at(middle))
            near, far = torch.where(flipped, near, middle), torch.where(flipped, middle, far)

    def confirm(self) -> None:
        """Score the witnesses once more: one that is no flip any more was none, and counts as not found."""
        self.loss = self._losses(self.best)
        self.distance = torch.where(self._is_wrong(self.loss), self.distance, torch.inf)

    def _losses(self, images: Tensor) -> Tensor:
        return mean_over_draws(self._decision.losses(images, self.decision_noise, self.draws))

    def _is_wrong(self, loss: Tensor) -> Tensor:
        """A normal image is called anomalous above the threshold, an anomaly normal at it or below; NaN is neither."""
        value = loss.double()
        return torch.where(self.sign > 0, value > self.target, value >= self.target)
