"""What the detectors that train flows on a frozen backbone share: features computed once, and early stopping."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from detectors.base import Progress
from detectors.errors import DetectorError
from detectors.parts.backbone import Backbone

_CHUNK = 32


class Features:
    """The backbone's features of the training images.

    They are computed once and kept where they fit into `limit` bytes; otherwise they are computed anew for every batch.
    """

    def __init__(self, backbone: Backbone, normals: Tensor, progress: Progress, *, limit: int = 2**30) -> None:
        self._backbone, self._normals = backbone, normals
        self._kept: list[Tensor] | None = None
        first = self._compute(normals[:1])
        self.shapes = tuple(tuple(f.shape[1:]) for f in first)
        if len(normals) * sum(f.numel() for f in first) * 4 > limit:
            return
        self._kept = [
            torch.empty(len(normals), *f.shape[1:], device=f.device).to(memory_format=torch.channels_last)
            for f in first
        ]
        for start in range(0, len(normals), _CHUNK):
            chunk = self._compute(normals[start : start + _CHUNK])
            for kept, found in zip(self._kept, chunk, strict=True):
                kept[start : start + len(found)] = found
            progress(min(start + _CHUNK, len(normals)), len(normals), "features")

    def __len__(self) -> int:
        return len(self._normals)

    def __getitem__(self, indices: Tensor) -> list[Tensor]:
        """One (len(indices), C, h, w) per layer."""
        indices = indices.to(self._normals.device)
        if self._kept is None:
            return self._compute(self._normals[indices])
        return [kept[indices] for kept in self._kept]

    @torch.no_grad()
    def _compute(self, images: Tensor) -> list[Tensor]:
        found: list[Tensor] = self._backbone(images)
        return found


def train_until_held_out_stops_improving(
    name: str,
    network: nn.Module,
    *,
    epochs: int,
    patience: int,
    train: Callable[[int], float],
    judge: Callable[[], float],
    progress: Progress,
) -> dict[str, Any]:
    """Epochs until `judge` has not improved for `patience` of them; the network keeps the weights of the best one.

    Args:
        name: the detector's, for the error.
        network: what is trained.
        epochs: at most so many.
        patience: see above.
        train: trains for the epoch of that number and returns the mean loss.
        judge: the loss on the held-out normals.
        progress: told the held-out loss of each epoch.

    Returns:
        For the fit report: "losses" (training and held-out, one pair per epoch), "best_epoch", "held_out_loss".

    Raises:
        DetectorError: no epoch had a finite held-out loss.
    """
    best_loss, best_epoch, best = math.inf, 0, copy.deepcopy(network.state_dict())
    history: list[list[float]] = []
    for epoch in range(epochs):
        loss = train(epoch)
        with torch.no_grad():
            held = judge()
        if not (math.isfinite(loss) and math.isfinite(held)):
            break  # what was best before it diverged stands
        history.append([loss, held])
        progress(epoch + 1, epochs, f"held-out loss {held:.4f}")
        if held < best_loss:
            best_loss, best_epoch, best = held, epoch, copy.deepcopy(network.state_dict())
        elif epoch - best_epoch >= patience:
            break
    if not math.isfinite(best_loss):
        raise DetectorError(f"{name}'s training diverged (the loss is not finite); lower its learning_rate.")
    network.load_state_dict(best)
    return {"losses": history, "best_epoch": best_epoch, "held_out_loss": best_loss}
