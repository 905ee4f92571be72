"""The log-likelihood of each image's least likely pixel, with a gradient through the few positions it is made of.

A maximum over pixels passes its gradient to one pixel alone, and bilinear upsampling made that pixel of at most four
positions of each scale. So the whole map is computed without a graph, and what is differentiated is the same
likelihood at that pixel, computed once more from a window around these positions: the same gradient for a small part
of the work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from detectors.parts.likelihood import log_likelihood, neighbours

# The log-likelihoods (B, a, b) of scale i, of its maps (B, C, a, b); with what was cropped, the positions that each
# image's window has in the whole map, row by row (B, a * b), else None.
LogLikelihoods = Callable[[int, Tensor, Tensor | None], Tensor]


def least_log_likelihood(
    maps: Sequence[Tensor], logs_of: LogLikelihoods, size: int, *, align_corners: bool, reach: int
) -> Tensor:
    """The smallest value of each image's upsampled log-likelihood (`likelihood.log_likelihood`), (B,).

    Args:
        maps: what the likelihoods are functions of, (B, C, h, w) per scale.
        logs_of: see above.
        size: side of the upsampled map in pixels.
        align_corners: as in `torch.nn.functional.interpolate`.
        reach: how many positions away something may lie that a position's log-likelihood depends on.
    """
    wants_gradient = torch.is_grad_enabled() and any(each.requires_grad for each in maps)
    sides = [[min(count, 2 * reach + 2) for count in each.shape[-2:]] for each in maps]
    # Where the window is the whole map, its graph is made at once.
    is_whole = [list(each.shape[-2:]) == side for each, side in zip(maps, sides, strict=True)]
    logs = []
    for i, each in enumerate(maps):
        with torch.set_grad_enabled(wants_gradient and is_whole[i]):
            logs.append(logs_of(i, each, None))
    with torch.no_grad():
        total = log_likelihood(logs, size, align_corners=align_corners).flatten(1)
        least, pixel = total.min(dim=1)
    if not wants_gradient:
        return least
    parts = []
    for i, (each, side, whole) in enumerate(zip(maps, sides, is_whole, strict=True)):
        rows, row_weights = _window(pixel // size, each.shape[-2], size, align_corners, side[0], reach, each)
        columns, column_weights = _window(pixel % size, each.shape[-1], size, align_corners, side[1], reach, each)
        positions = (rows[:, :, None] * each.shape[-1] + columns[:, None, :]).flatten(1)
        found = logs[i] if whole else logs_of(i, _crop(each, positions, side), positions)
        # The logarithm of a weight of 0 is -inf, and that position has no part in the sum nor in the gradient.
        weights = row_weights[:, :, None] * column_weights[:, None, :]
        parts.append((found + weights.log()).flatten(1))
    same: Tensor = _Value.apply(least, torch.cat(parts, dim=1).logsumexp(dim=1))
    return same


def _window(
    pixels: Tensor, count: int, size: int, align_corners: bool, side: int, reach: int, like: Tensor
) -> tuple[Tensor, Tensor]:
    """The `side` of `count` positions about those that each pixel lies between, and their weights: (B, side) each.

    The window lies within the map: where it ends before the map does, what it lacks is out of reach.
    """
    low, high, weight = (each[pixels] for each in neighbours(count, size, align_corners, like))
    places = (low - reach).clamp(0, count - side)[:, None] + torch.arange(side, device=like.device)
    weight = weight[:, None]
    return places, (places == low[:, None]) * (1 - weight) + (places == high[:, None]) * weight


def _crop(maps: Tensor, positions: Tensor, side: Sequence[int]) -> Tensor:
    """(B, C, h, w) to (B, C, *side), channels-last, of each image's positions (B, side[0] * side[1])."""
    images, channels, height, width = maps.shape
    starts = height * width * torch.arange(images, device=maps.device)[:, None]
    vectors = maps.permute(0, 2, 3, 1).reshape(-1, channels).index_select(0, (starts + positions).flatten())
    return vectors.view(images, *side, channels).permute(0, 3, 1, 2)


class _Value(torch.autograd.Function):
    """The first, with the gradient of the second: the two are the same up to rounding.

    So a score has the same bits whether or not somebody asks for its gradient.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, differentiable: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient
