"""Decoded pictures in files that several processes map into their memory: it is there once, whoever looks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bench.data.base import ImageSet


@dataclass(frozen=True, eq=False)
class StoredImages:
    """An `ImageSet` whose pictures and masks lie in .npy files; what is small goes along with it."""

    ids: tuple[str, ...]
    labels: NDArray[np.int8]
    defects: tuple[str, ...]
    images: Path
    masks: Path | None

    @classmethod
    def store(cls, images: ImageSet, stem: Path) -> StoredImages:
        """Write the files, whose names begin with the stem's. Raises OSError where the disk refuses."""
        stored = cls(
            ids=images.ids,
            labels=images.labels.numpy(),
            defects=images.defects,
            images=stem.with_name(f"{stem.name}-images.npy"),
            masks=None if images.masks is None else stem.with_name(f"{stem.name}-masks.npy"),
        )
        np.save(stored.images, images.images.numpy())
        if stored.masks is not None and images.masks is not None:
            np.save(stored.masks, images.masks.numpy())
        return stored

    def mapped(self) -> ImageSet:
        """The same images; their memory is the files', as long as nobody writes to it, and then a copy of one's own."""
        return ImageSet(
            ids=self.ids,
            images=_mapped(self.images),
            labels=torch.from_numpy(self.labels),
            defects=self.defects,
            masks=None if self.masks is None else _mapped(self.masks),
        )


def _mapped(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.load(path, mmap_mode="c"))
