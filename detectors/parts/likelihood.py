"""Log-likelihoods at several scales into one anomaly map, in the log domain or out of it.

A flow gives a log-likelihood per position and scale. FastFlow and CFlow exponentiate it, upsample it bilinearly and sum
over the scales. For strong anomalies that sum underflows: all of them get the same score, and a gradient of zero. Here
the sum is computed as the logarithm of itself, with the bilinear weights inside the log-sum-exp, so that nothing
underflows; the methods' own score is then the exponential of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from detectors.errors import DetectorError

Domain = Literal["exp", "log"]
# The log-likelihoods (B, a, b) of scale i, of its maps (B, C, a, b); with what was cropped, the positions that each
# image's window has in the whole map, row by row (B, a * b), else None.
LogLikelihoods = Callable[[int, Tensor, Tensor | None], Tensor]


def check_domain(name: str, domain: str) -> None:
    """Raise DetectorError for a score domain that does not exist."""
    if domain not in get_args(Domain):
        raise DetectorError(f"{name}'s score_domain must be 'exp' (as published) or 'log'; got {domain!r}.")


def log_likelihood(logs: Sequence[Tensor], size: int, *, align_corners: bool) -> Tensor:
    """log of the sum over the scales of bilinear upsampling of exp(log map).

    Args:
        logs: one map per scale, (B, h, w).
        size: side of the result in pixels.
        align_corners: as in `torch.nn.functional.interpolate`.

    Returns:
        (B, size, size), finite for finite logs, however small.
    """
    total: Tensor | None = None
    for log in logs:
        upsampled = log_upsample(log, size, align_corners=align_corners)
        total = upsampled if total is None else torch.logaddexp(total, upsampled)
    assert total is not None, "at least one scale"
    return total


def log_upsample(log: Tensor, size: int, *, align_corners: bool) -> Tensor:
    """log(bilinear upsampling of exp(log)), (B, h, w) to (B, size, size)."""
    for axis in (2, 1):  # rows last: a row of the larger map is gathered in one piece
        low, high, weight = neighbours(log.shape[axis], size, align_corners, log)
        shape = (-1, 1) if axis == 1 else (-1,)
        # A weight of 0 has the logarithm -inf, and its neighbour no part in the sum nor in the gradient.
        below = log.index_select(axis, low) + (1 - weight).log().view(shape)
        above = log.index_select(axis, high) + weight.log().view(shape)
        log = torch.logaddexp(below, above)
    return log


def anomaly_map(log_likelihoods: Tensor, domain: str) -> Tensor:
    """-likelihood ("exp") or -log likelihood ("log"): each rises where the other does."""
    return -log_likelihoods if domain == "log" else -log_likelihoods.exp()


def neighbours(count: int, size: int, align_corners: bool, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each of `size` outputs, the two of `count` inputs that it lies between, and the weight of the second."""
    out = torch.arange(size, device=like.device, dtype=torch.float64)
    if align_corners:
        place = out * ((count - 1) / max(1, size - 1))
    else:
        place = ((out + 0.5) * (count / size) - 0.5).clamp(0, count - 1)
    low = place.floor().clamp(max=max(0, count - 2)).long()
    high = (low + 1).clamp(max=count - 1)
    return low, high, (place - low).to(like.dtype)


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
    # The map's value, bit for bit, so that an attack sees the score of the verdict; the windows' gradient.
    same = torch.cat(parts, dim=1).logsumexp(dim=1)
    return least + (same - same.detach())


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
