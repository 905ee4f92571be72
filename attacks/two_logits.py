"""A score as the classifier of two classes that attacks of other libraries ask for, and what they did to it.

Other libraries maximise a cross entropy of logits, stop where a class changes, and return what they think best. `z` of
the logits (-z / 2, z / 2) is the score less the clean image's, in units of what the ball can do to it. Its cross
entropy is log(1 + e^z) for a normal image and log(1 + e^-z) for an anomalous one: it rises with y * A(x), from log 2 at
the clean image, so that it does not saturate on the way up. (In the score's own units it may: the softmax of two logits
that are 120 apart has no gradient left in float32.) Whatever is asked about is a candidate, since what such an attack
returns may be far from the best that it saw.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attacks.candidates import Highest
from attacks.threat import ThreatModel
from detectors.noise import Noise

if TYPE_CHECKING:
    from detectors.base import Detector


class TwoLogits(torch.nn.Module):
    """Images (n, 3, H, W) to logits (n, 2) of (normal, anomalous). n is B, or any number for copies of one image.

    Attributes:
        best: the candidate in the threat model with the highest y * A(x); the clean image is the first.
        last: the last one that lay in the threat model, (B, 3, H, W).
        bests: the best loss after each query, (B,) each.
        forwards, gradients: passes per image.
        zero_gradients, non_finite_gradients: shares of the backward passes, (B,); NaN, and 0, where there were none.
    """

    def __init__(
        self,
        detector: Detector,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        noise: Noise,
        clean_loss: Tensor,
        unit: Tensor,
        *,
        never_crosses: bool = False,
    ) -> None:
        """Args:
        detector: whose surrogate stands for the score where that is a monotone function of it.
        x, y: clean images, (B, 3, H, W), and labels, (B,).
        threat: which of the images that are asked about are candidates.
        noise: query number k draws from `noise.sub(k)`.
        clean_loss: y * A(x) of the clean images, (B,).
        unit: of z, (B,) above 0.
        never_crosses: for an attack that ends where the class changes: the logits, now in float64, keep the order of
            the score and never change places.
        """
        super().__init__()
        self.device_of_attack = torch.nn.Parameter(x.new_empty(0), requires_grad=False)  # where libraries look for it
        self._detectors = (
            detector,
        )  # in a tuple: no sub-module, so that `train` and `eval` of the view leave it alone
        self._x, self._y, self._threat, self._noise = x, y, threat, noise
        self._centre, self._unit, self._never_crosses = y * clean_loss, unit, never_crosses
        self.best, self.last = Highest(x), x
        self.best.offer(x, clean_loss, 0)
        self.bests: list[Tensor] = []
        self.forwards = self.gradients = 0
        self._backwards = 0
        self._zero, self._non_finite = torch.zeros_like(clean_loss), torch.zeros_like(clean_loss)

    def forward(self, images: Tensor) -> Tensor:
        """The logits, (n, 2)."""
        images = images.to(self._x.dtype)
        seen = images
        if images.requires_grad and torch.is_grad_enabled():
            seen = images.view_as(images)
            seen.register_hook(self._look)  # type: ignore[no-untyped-call]
        scores = self._scores(seen)
        self._note(images.detach().clone(), scores.detach())  # a clone: APGD changes its iterates in place
        copies = len(images) // len(self._x)
        z = (scores - self._centre.repeat(copies)) / self._unit.repeat(copies)
        if self._never_crosses:
            z = z.double()
            z = z / (1 + z.abs()) - 2 * self._y.repeat(copies)
        return torch.stack([-z / 2, z / 2], dim=1)

    @property
    def zero_gradients(self) -> Tensor:
        """Share of the backward passes whose gradient was exactly zero, (B,)."""
        return self._zero / self._backwards if self._backwards else torch.full_like(self._zero, torch.nan)

    @property
    def non_finite_gradients(self) -> Tensor:
        """Share of the backward passes whose gradient held a NaN or an infinity, (B,)."""
        return self._non_finite / max(1, self._backwards)

    def _scores(self, images: Tensor) -> Tensor:
        (detector,) = self._detectors
        score = detector.surrogate_score if follows_surrogate(detector) else detector.score
        query = self._noise.sub(len(self.bests))
        if len(images) == len(self._x):
            return score(images, noise=query)
        if not detector.is_stochastic:
            return score(images, noise=query.pick([0] * len(images)))
        # Copies of one image: each draws its own noise.
        return torch.cat([score(image[None], noise=query.sub(i)) for i, image in enumerate(images)])

    def _note(self, images: Tensor, scores: Tensor) -> None:
        self.forwards += len(images) // len(self._x)
        batch = len(self._x)
        for start in range(0, len(images), batch):
            some, score = images[start : start + batch], scores[start : start + batch]
            inside = self._threat.inside(some, self._x)
            self.best.offer(some, torch.where(inside, self._y * score, torch.nan), 0)
            self.last = torch.where(inside[:, None, None, None], some, self.last)
        self.bests.append(self.best.loss)

    def _look(self, gradient: Tensor) -> Tensor:
        """Count what is wrong with a gradient on its way to the attack, and pass on what is finite of it."""
        flat = gradient.flatten(1)
        finite = flat.isfinite().all(1).view(-1, len(self._x)).all(0)
        zero = (flat == 0).all(1).view(-1, len(self._x)).all(0)
        self._backwards += 1
        self.gradients += len(gradient) // len(self._x)
        self._zero += zero
        self._non_finite += ~finite
        # In PyTorch's usual order in memory: libraries call `view` on it, which fails on channels that lie together.
        return gradient.nan_to_num(nan=0, posinf=0, neginf=0).contiguous()


def follows_surrogate(detector: Detector) -> bool:
    """Whether a surrogate stands for the score: where it is a monotone function of it."""
    return bool(detector.has_surrogate and detector.surrogate_is_monotone)
