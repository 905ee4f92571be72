"""anomalib's training steps in a plain loop: no Lightning, early stopping on held-out normals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detectors.anomalib_family.features import Features
from detectors.anomalib_family.fence import own_randomness
from detectors.base import Progress, evaluation
from detectors.noise import generator
from detectors.parts.features import Features as KeptFeatures
from detectors.parts.training import batches, holdout, train_until_held_out_stops_improving

Maps = list[Tensor]


@dataclass(frozen=True)
class TrainingSettings:
    """How long and how fast.

    Attributes:
        epochs: passes over the training images at most.
        batch_size: images per step.
        learning_rate: the optimiser's.
        patience: epochs without a better loss on the held-out normals before training stops.
        holdout: share of the normals that is held out for that.
    """

    epochs: int = 100
    batch_size: int = 32
    learning_rate: float = 1e-3
    patience: int = 20
    holdout: float = 0.1


def frozen_features(features: Features, images: Tensor) -> Callable[[Tensor], Maps]:
    """A function from indices to the feature maps of those images; all computed at once where memory allows."""
    kept = KeptFeatures(lambda some: list(features(some).values()), images)
    return lambda chosen: kept[chosen]


def train(
    owner: str,
    model: nn.Module,
    loss_of: Callable[[Tensor], Tensor],
    optimiser: torch.optim.Optimizer,
    images: Tensor,
    settings: TrainingSettings,
    *,
    seed: int,
    progress: Progress,
    step: Callable[[Tensor], float] | None = None,
    skipped: Sequence[str] = (),
    each_epoch: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Train until the held-out loss stops falling; keep the best epoch's weights.

    Args:
        owner: for messages.
        model: what is trained.
        loss_of: indices of images to their mean loss; the same function in training and on the held-out images.
        optimiser: of the trained parameters.
        images: the normals (its length and device are what is used).
        settings: how long and how fast.
        seed, progress: of the fit.
        step: one training step where one loss and one optimiser are not enough (GANs); returns the loss.
        skipped: prefixes of state that does not change, and need not be kept.
        each_epoch: done before each epoch.

    Returns:
        what the fit reports.
    """
    training, held_out = holdout(len(images), settings.holdout, generator(seed, owner, "holdout"))
    order = generator(seed, owner, "order")

    def train_epoch(epoch: int) -> list[float]:
        each_epoch()
        model.train()
        total = 0.0
        for chosen in batches(len(training), settings.batch_size, order):
            if len(chosen) == 1 and len(training) > 1:
                continue  # BatchNorm has no statistics of one vector
            batch = training[chosen].to(images.device)
            total += len(batch) * (step(batch) if step else _descend(optimiser, loss_of(batch)))
        return [total / len(training)]

    def judge() -> list[float]:
        # The same draws at every epoch, so that losses can be compared.
        with evaluation(model), own_randomness(seed, owner, "held-out"):
            parts = [
                float(loss_of(chunk.to(images.device))) * len(chunk)
                for chunk in held_out.split(settings.batch_size)  # type: ignore[no-untyped-call]
            ]
        return [sum(parts) / len(held_out)]

    return train_until_held_out_stops_improving(
        owner,
        model,
        epochs=settings.epochs,
        patience=settings.patience,
        train=train_epoch,
        judge=judge,
        progress=progress,
        skipped=skipped,
    )


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> float:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return float(loss.detach())
