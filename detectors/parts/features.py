"""Features of the training images by a network that does not change, computed once where memory allows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from detectors.base import Progress, silent

LIMIT = 1_500_000_000  # bytes of features that are kept
_CHUNK = 32


class Features:
    """What a frozen function makes of each training image, a tensor per layer.

    Computed once and kept where it fits into LIMIT bytes; otherwise computed anew for every batch.

    Attributes:
        shapes: of each layer's tensor for one image.
    """

    def __init__(self, compute: Callable[[Tensor], list[Tensor]], normals: Tensor, progress: Progress = silent) -> None:
        """`compute` takes images (B, 3, H, W), and gives tensors whose first dimension is B; `progress` is told."""
        self._make, self._normals = compute, normals
        self._kept: list[Tensor] | None = None
        first = self._compute(normals[:1])
        self.shapes = tuple(tuple(f.shape[1:]) for f in first)
        if len(normals) * sum(f.numel() * f.element_size() for f in first) > LIMIT:
            return
        self._kept = [_room(len(normals), f) for f in first]
        for start in range(0, len(normals), _CHUNK):
            chunk = self._compute(normals[start : start + _CHUNK])
            for kept, found in zip(self._kept, chunk, strict=True):
                kept[start : start + len(found)] = found
            progress(min(start + _CHUNK, len(normals)), len(normals), "features")

    def __len__(self) -> int:
        return len(self._normals)

    def __getitem__(self, indices: Tensor) -> list[Tensor]:
        """Those of the images at the indices, (len(indices), ...) per layer."""
        indices = indices.to(self._normals.device)
        if self._kept is None:
            return self._compute(self._normals[indices])
        return [kept[indices] for kept in self._kept]

    @torch.no_grad()
    def _compute(self, images: Tensor) -> list[Tensor]:
        return list(self._make(images))


def _room(count: int, like: Tensor) -> Tensor:
    """For so many of these, (count, ...), with channels together in memory where they are."""
    room = torch.empty(count, *like.shape[1:], dtype=like.dtype, device=like.device)
    is_packed = like.ndim == 4 and not like.is_contiguous() and like.is_contiguous(memory_format=torch.channels_last)
    return room.to(memory_format=torch.channels_last) if is_packed else room
