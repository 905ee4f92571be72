"""Which of an attack's images is kept, image by image.

Of a deterministic detector the highest loss is the worst case, and nothing else is to be known. Of a stochastic one a
loss is an estimate: the best of several estimates is too high, and choosing by few draws made attacks weaker, not
stronger (measured on FreeRAD: the best of six candidates on 3 draws left an AUC of 59.9, the last iterates of the same
runs 59.2). There the last iterate stays unless another candidate beats it by more than the noise of the comparison.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

STANDARD_ERRORS = 2.0  # by how many of the paired difference a challenger must be ahead


def mean_over_draws(losses: Tensor) -> Tensor:
    """(D, B) to (B,), in one order of summation whatever the batch, so that its size changes no bit."""
    total: Tensor = reduce(torch.add, losses)
    return total / len(losses)


class Highest:
    """The candidate with the highest loss; of equal ones the first.

    Attributes:
        images, loss: the candidates, (B, 3, H, W), and their losses, (B,).
        run: the number of the run that found each, (B,).
    """

    def __init__(self, x: Tensor) -> None:
        self.images = x
        self.loss = torch.full((len(x),), torch.nan, dtype=x.dtype, device=x.device)
        self.run = torch.zeros(len(x), dtype=torch.long, device=x.device)
        self._is_empty = True

    def offer(self, images: Tensor, loss: Tensor, run: int) -> None:
        """A candidate of each image, with its loss, (B,)."""
        if self._is_empty:  # taken whatever its loss: a last iterate with a NaN score must not become the clean image
            self.images, self.loss, self._is_empty = images, loss, False
            return
        # A NaN never wins and always loses.
        better = (loss > self.loss) | (self.loss.isnan() & ~loss.isnan())
        self.images = torch.where(better[:, None, None, None], images, self.images)
        self.loss = torch.where(better, loss, self.loss)
        self.run = torch.where(better, run, self.run)

    def of_its_run(self, values: Tensor) -> Tensor:
        """(runs, ..., B) to (..., B): the values of the run that each image came from."""
        return _of_runs(values, self.run)


class Significant:
    """The first candidate, unless another one is ahead by more than the noise of their common draws.

    Attributes:
        images, losses: the candidates, (B, 3, H, W), and their losses on D common draws, (D, B).
        run: the number of the run that found each, (B,).
    """

    def __init__(self, images: Tensor, losses: Tensor, run: int) -> None:
        self.images, self.losses = images, losses
        self.run = torch.full(losses.shape[1:], run, dtype=torch.long, device=losses.device)

    def challenge(self, images: Tensor, losses: Tensor, run: int) -> None:
        """Another candidate of each image, with its losses on the same draws, (D, B)."""
        ahead = losses - self.losses
        mean = mean_over_draws(ahead)
        # A single draw tells nothing of its noise.
        variance = mean_over_draws((ahead - mean).square()) / (len(ahead) - 1) if len(ahead) > 1 else torch.inf
        better = (mean > 0) & (mean.square() > STANDARD_ERRORS**2 * variance)
        # A NaN never wins and always loses.
        better = better | (self.losses.isnan().any(dim=0) & ~losses.isnan().any(dim=0))
        self.images = torch.where(better[:, None, None, None], images, self.images)
        self.losses = torch.where(better, losses, self.losses)
        self.run = torch.where(better, run, self.run)

    @property
    def loss(self) -> Tensor:
        """The mean over the draws, (B,)."""
        return mean_over_draws(self.losses)

    def of_its_run(self, values: Tensor) -> Tensor:
        """As in `Highest`."""
        return _of_runs(values, self.run)


def _of_runs(values: Tensor, run: Tensor) -> Tensor:
    return values.gather(0, run.expand(1, *values.shape[1:-1], -1))[0]
