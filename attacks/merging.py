"""The result of several attacks on the same images: image by image, the best one's.

What was spent is the sum of all. What is said of how an image was found (its losses, gain, gradients of zero) is of the
attack that it came from.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from attacks.base import AttackResult

_OF_THE_WINNER = ("best_loss", "last_loss", "zero_gradients", "non_finite_gradients", "gain", "late_gain")


def merged(first: AttackResult, second: AttackResult, rows: Tensor, wins: Tensor) -> AttackResult:
    """Both results as one.

    Args:
        first: of N images.
        second: of B of them, by another attack.
        rows: which these are, (B,).
        wins: where the second's image is the better one, (B,) bool.

    Returns:
        The N images' result; its `trace` has the best losses after each of the attacks, a row for each.
    """
    chosen = rows[wins]

    def of_winner(name: str) -> Tensor | None:
        old, new = getattr(first, name), getattr(second, name)
        if old is None and new is None:
            return None
        # Not asked of the one, so unknown of its images.
        found: Tensor = torch.full_like(first.best_loss, torch.nan) if old is None else old.clone()
        found[chosen] = torch.nan if new is None else new[wins].to(found.dtype)
        return found

    values: dict[str, Any] = {name: of_winner(name) for name in _OF_THE_WINNER}
    images, reprojected = first.images.clone(), first.reprojected.clone()
    images[chosen], reprojected[chosen] = second.images[wins], second.reprojected[wins]
    return replace(
        first,
        **values,
        images=images,
        reprojected=reprojected,
        trace=torch.cat([first.trace, values["best_loss"][None]]),
        had_enough=None,
        gradients_spent=_spent(first).index_add(0, rows, _spent(second)),
        surrogate_zero_gradients=None,
        surrogate_won=None,
        forwards=first.forwards + second.forwards,
        gradients=first.gradients + second.gradients,
    )


def _spent(result: AttackResult) -> Tensor:
    """Backward passes of each image, (B,)."""
    if result.gradients_spent is not None:
        return result.gradients_spent.to(result.best_loss.dtype)
    return torch.full_like(result.best_loss, float(result.gradients))
