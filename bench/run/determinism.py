"""The same bits from the same command on the same machine."""

from __future__ import annotations

import os

import torch


def deterministic(device: torch.device) -> None:
    """Ask PyTorch for the same bits on the same machine."""
    # cuBLAS reads it when it starts, and without it only warns that its sums may differ from run to run.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Else PyTorch writes NaN into all new memory, to show who reads it unwritten: a quarter of SPADE's time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a hidden property
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = False
