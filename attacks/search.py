"""What attacks share that try one transformation after the other and follow no gradient.

Of a deterministic detector each image keeps the candidate with the highest loss, the clean image among them. Of a
stochastic one the best of many estimates is mostly luck: candidates are looked for on a few common draws of the
attack's own noise, and the one that was found must then beat the clean image on the selection's draws, which had no
part in finding it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attacks.candidates import Significant, mean_over_draws
from attacks.objective import Objective
from attacks.result import AttackResult
from detectors.noise import Noise

if TYPE_CHECKING:
    from detectors.base import Detector

_OF_THE_SEARCH = -1  # no candidate has this number, so its noise is its own


class Search:
    """A search under way.

    Attributes:
        images: the best candidate of each image so far, (B, 3, H, W).
        loss: what it reached, (B,): of a stochastic detector the mean over the search's draws.
        transformation: what was done to get it, (B, P); 0 where nothing was.
    """

    def __init__(
        self,
        detector: Detector,
        x: Tensor,
        y: Tensor,
        *,
        parameters: int,
        noise: Noise,
        selection: Noise,
        search_draws: int,
        selection_draws: int,
        enough: Tensor | None,
    ) -> None:
        """Args: as of `Attack.run`; parameters: of a transformation, P; search_draws, selection_draws: of a stochastic
        detector, on which candidates are looked for, and on which the best is compared with the clean image."""
        self._detector, self._x, self._enough = detector, x, enough
        self._objective = Objective(detector, y, differentiate="surrogate")  # as `compared_loss`
        self._noise, self._search_draws = noise.sub(_OF_THE_SEARCH), search_draws
        self._selection, self._selection_draws = selection, selection_draws
        self._clean = self._objective.losses(x, selection, selection_draws)  # (D, B)
        self.images, self.loss = x.clone(), self._clean[0].clone()
        if detector.is_stochastic:
            self.loss = mean_over_draws(self._objective.losses(x, self._noise, search_draws))
        self.transformation = x.new_zeros(len(x), parameters)
        self._trace = [mean_over_draws(self._clean)]

    def wanting(self, which: Tensor | None = None) -> Tensor:
        """The rows of the images that do not have enough yet, of those of `which`, (B,) bool, where it is given."""
        rows = torch.ones_like(self.loss, dtype=torch.bool) if which is None else which
        rows = rows if self._enough is None else rows & ~(self.loss > self._enough)
        return rows.nonzero().flatten()

    def offer(self, rows: Tensor, images: Tensor, transformation: Tensor) -> None:
        """Candidates of some images, (B', 3, H, W), and what was done to get them, (B', P)."""
        noise = self._noise.pick(rows.tolist())
        found = mean_over_draws(self._objective.losses(images, noise, self._search_draws, rows=rows))
        known = self.loss[rows]
        better = (found > known) | (known.isnan() & ~found.isnan())  # a NaN never wins and always loses
        chosen = rows[better]
        self.images[chosen], self.loss[chosen] = images[better], found[better]
        self.transformation[chosen] = transformation[better].to(self.transformation)
        self._trace.append(self.loss.clone())

    def result(self) -> AttackResult:
        """The best that was found of each image."""
        images, loss, transformation = self.images, self.loss, self.transformation
        if self._detector.is_stochastic:
            best = Significant(self._x, self._clean, 0)
            best.challenge(images, self._objective.losses(images, self._selection, self._selection_draws), 1)
            images, loss = best.images, best.loss
            transformation = torch.where((best.run == 1)[:, None], transformation, 0)
        found = AttackResult.without_gradients(
            images,
            loss,
            clean_loss=self._trace[0],
            trace=torch.stack(self._trace),
            forwards=self._objective.forwards,
            enough=self._enough,
        )
        return replace(found, transformation=transformation)
