"""Running out of memory: nobody's bug, and what to do about it."""

from __future__ import annotations

import torch

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
