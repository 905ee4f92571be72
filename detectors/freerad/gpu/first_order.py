"""Gradients that are written by hand and end there."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """For the `backward` of an autograd function: refuse to be part of a second derivative.

    PyTorch's own `once_differentiable` refuses `.backward()` alone: `torch.autograd.grad` passes by what it marks, and
    a second derivative comes out that looks like one and lacks these terms.
    """

    @wraps(backward)
    def guarded(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled():  # what `create_graph` means, here
            raise RuntimeError(
                "This detector's gradient is written by hand and has no derivative of its own; ask for it without "
                "create_graph."
            )
        return backward(ctx, *gradients)

    return guarded
