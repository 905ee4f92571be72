"""What an attack found, image by image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_ROUNDING = 1e-6  # of a sum of shares


@dataclass(frozen=True)
class AttackResult:
    """What an attack found for a batch of B images.

    Losses are y * A(x), higher is better for the attack. Of a stochastic detector, `clean_loss`, `last_loss` and
    `best_loss` are on common selection draws, and `trace` is under each step's own noise.

    Attributes:
        images: adversarial images inside the threat model, (B, 3, H, W).
        trace: the loss at each iterate of the restart that the image came from, (steps + 1, B).
        clean_loss: the loss of the clean image, (B,).
        last_loss: the loss of the last iterate (of several restarts: the best of their last iterates), (B,).
        best_loss: the loss of the best candidate that the attack saw, (B,); of a reprojected image, its own.
        zero_gradients: share of the steps along the SCORE's gradient at which it was exactly zero, (B,); NaN where that
            gradient was not followed.
        non_finite_gradients: share of the gradient steps whose gradient held a NaN or an infinity, (B,).
        reprojected: whether the attack had left the threat model and was brought back, (B,) bool.
        forwards: forward passes per image.
        gradients: backward passes per image.
        surrogate_zero_gradients: as `zero_gradients`, of the surrogate's, (B,); None where it was not followed.
        surrogate_won: whether the image was found along the surrogate's gradient, (B,) bool; None unless both the
            score's and the surrogate's were followed.
        gain, late_gain: what all of the steps, and what the last fifth of them, added to the loss in the run that the
            image came from, (B,); of its best iterate where that is kept, and of a stochastic detector on the
            selection's common draws. None where the attack goes in no steps.
        had_enough: whether the attack stopped on the image because its loss had passed `enough`, (B,) bool; None where
            it was not asked to.
        gradients_spent: backward passes of each image, (B,); None where all had `gradients`.
        transformation: of an attack that transforms images, what was done to each, (B, P), as its threat model counts
            it (`attacks.threat.How`); None of an attack in a ball.
    """

    images: Tensor
    trace: Tensor
    clean_loss: Tensor
    last_loss: Tensor
    best_loss: Tensor
    zero_gradients: Tensor
    non_finite_gradients: Tensor
    reprojected: Tensor
    forwards: int
    gradients: int
    surrogate_zero_gradients: Tensor | None = None
    surrogate_won: Tensor | None = None
    gain: Tensor | None = None
    late_gain: Tensor | None = None
    had_enough: Tensor | None = None
    gradients_spent: Tensor | None = None
    transformation: Tensor | None = None

    @property
    def never_had_a_gradient(self) -> Tensor:
        """Of which images each gradient that was followed was zero or not finite, (B,) bool; none where none was."""
        if self.gradients == 0:
            return torch.zeros_like(self.non_finite_gradients, dtype=torch.bool)
        zero = [z for z in (self.zero_gradients, self.surrogate_zero_gradients) if z is not None]
        unusable = torch.stack(zero).nanmean(dim=0).nan_to_num(nan=0) + self.non_finite_gradients
        return unusable > 1 - _ROUNDING

    @classmethod
    def without_gradients(
        cls,
        images: Tensor,
        best_loss: Tensor,
        *,
        clean_loss: Tensor,
        trace: Tensor,
        forwards: int,
        enough: Tensor | None,
    ) -> AttackResult:
        """Of an attack that asks for scores alone and returns its best candidate; `enough` as in `Attack.run`."""
        return cls(
            images=images,
            trace=trace,
            clean_loss=clean_loss,
            last_loss=best_loss,
            best_loss=best_loss,
            zero_gradients=torch.full_like(best_loss, torch.nan),
            non_finite_gradients=torch.zeros_like(best_loss),
            reprojected=torch.zeros_like(best_loss, dtype=torch.bool),
            forwards=forwards,
            gradients=0,
            had_enough=None if enough is None else best_loss > enough,
            gradients_spent=None if enough is None else torch.zeros_like(best_loss),
        )
