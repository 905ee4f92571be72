"""Running out of memory: nobody's bug, and what to do about it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from bench.errors import CellError

log = logging.getLogger(__name__)
Places = Sequence[int] | NDArray[np.intp]
T = TypeVar("T")
OUT_OF_MEMORY = (
    "ran out of memory; give it more with a smaller --workers or --batch-size, or let it need less with a smaller "
    "--image-size or --limit, or --set"
)
# What a plain RuntimeError says: PyTorch's on a CPU, and of the libraries below it on a GPU that is nearly full.
_WORDS = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the machine or of a device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


@dataclass(eq=False)
class Batches:
    """Work on images in batches of `size`, which is halved for good when memory runs out."""

    size: int

    def of(self, places: Places, work: Callable[[list[int]], T]) -> Iterator[T]:
        """What some work gives for batches of the images at these places. Raises CellError where not even one image
        fits."""
        start = 0
        while start < len(places):
            part = [int(i) for i in places[start : start + self.size]]
            try:
                found = work(part)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                # From the batch at hand, which may be smaller than asked for; it is done again, nothing of it is kept.
                self.size = len(part) // 2
                if self.size == 0:
                    raise CellError(
                        "A single image does not fit into the device's memory; use a smaller preset."
                    ) from None
                torch.cuda.empty_cache()
                log.warning("Out of memory: going on with batches of %d images.", self.size)
                continue
            yield found
            start += len(part)
