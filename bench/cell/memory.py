"""Running out of memory: nobody's bug, and what to do about it."""

from __future__ import annotations

import torch

OUT_OF_MEMORY = (
    "ran out of memory; give it more with a smaller --workers or --batch-size, or let it need less with a smaller "
    "--image-size or --limit, or --set"
)


def is_out_of_memory(error: BaseException) -> bool:
    """On a CPU, PyTorch raises a plain RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
