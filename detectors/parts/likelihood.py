"""Log-likelihoods at several scales into one anomaly map, in the log domain or out of it.

A flow gives a log-likelihood per position and scale. FastFlow and CFlow exponentiate it, upsample it bilinearly and sum
over the scales. For strong anomalies that sum underflows: all of them get the same score, and a gradient of zero. Here
the sum is computed as the logarithm of itself, with the bilinear weights inside the log-sum-exp, so that nothing
underflows; the methods' own score is then the exponential of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from detectors.errors import DetectorError

Domain = Literal["exp", "log"]


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

