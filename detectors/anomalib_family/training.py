"""anomalib's training steps in a plain loop: no Lightning, early stopping on held-out normals."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detectors.anomalib_family.features import Features
from detectors.anomalib_family.fence import own_randomness
from detectors.base import Progress, evaluation
from detectors.errors import DetectorError
from detectors.noise import generator
from detectors.parts.training import batches, holdout

Maps = list[Tensor]
_KEPT_BYTES = 1_000_000_000  # features of training images are computed once if they fit in here


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
    one = sum(f[0].numel() * f.element_size() for f in features(images[:1]).values())
    if one * len(images) > _KEPT_BYTES:
        return lambda chosen: list(features(images[chosen]).values())
    parts = [list(features(chunk).values()) for chunk in images.split(32)]  # type: ignore[no-untyped-call]
    kept = [torch.cat(layer) for layer in zip(*parts, strict=True)]
    return lambda chosen: [f[chosen] for f in kept]


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
    history: list[list[float]] = []
    best, best_loss, best_epoch = _kept(model, skipped), math.inf, 0
    for epoch in range(settings.epochs):
        each_epoch()
        model.train()
        total = 0.0
        for chosen in batches(len(training), settings.batch_size, order):
            if len(chosen) == 1 and len(training) > 1:
                continue  # BatchNorm has no statistics of one vector
            batch = training[chosen].to(images.device)
            total += len(batch) * (step(batch) if step else _descend(optimiser, loss_of(batch)))
        # The same draws at every epoch, so that losses can be compared.
        with torch.no_grad(), evaluation(model), own_randomness(seed, owner, "held-out"):
            parts = [
                float(loss_of(chunk.to(images.device))) * len(chunk)
                for chunk in held_out.split(settings.batch_size)  # type: ignore[no-untyped-call]
            ]
        held_loss = sum(parts) / len(held_out)
        history.append([total / len(training), held_loss])
        progress(epoch + 1, settings.epochs, f"held-out loss {held_loss:.5g}")
        if held_loss < best_loss:
            best, best_loss, best_epoch = _kept(model, skipped), held_loss, epoch
        elif epoch - best_epoch >= settings.patience:
            break
    if not math.isfinite(best_loss):
        raise DetectorError(f"{owner}'s training diverged (the loss is not finite); lower training.learning_rate.")
    model.load_state_dict(best, strict=False)
    return {"losses": history, "best_epoch": best_epoch, "held_out_loss": best_loss}


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> float:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return float(loss.detach())


def _kept(model: nn.Module, skipped: Sequence[str]) -> dict[str, Tensor]:
    state = {k: v for k, v in model.state_dict().items() if not k.startswith(tuple(skipped) or ("\0",))}
    return copy.deepcopy(state)
