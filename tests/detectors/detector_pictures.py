"""Synthetic photographs of parts: brushed texture as normal, painted spots and scratches as defects."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def normal_pictures(count: int, size: int, *, seed: int) -> Tensor:
    """Stripes of random phase with fine grain, float32 (count, 3, size, size) in [0, 1]."""
    draws = torch.Generator().manual_seed(seed)
    rows = torch.arange(size)[None, :, None] / size
    columns = torch.arange(size)[None, None, :] / size
    phase = torch.rand(count, 1, 1, generator=draws) * 2 * math.pi
    stripes = 0.5 + 0.2 * torch.sin(2 * math.pi * (4 * columns + rows) + phase)
    tint = torch.tensor([1.0, 0.95, 0.9])[None, :, None, None]
    grain = 0.02 * torch.randn(count, 3, size, size, generator=draws)
    return (stripes[:, None] * tint + grain).clamp(0, 1)


def anomalous_pictures(count: int, size: int, *, seed: int) -> Tensor:
    """Normal pictures with one bright spot and one dark scratch each."""
    pictures = normal_pictures(count, size, seed=seed)
    draws = torch.Generator().manual_seed(seed + 1)
    spot = max(3, size // 5)
    for picture in pictures:
        top, left = (int(v) for v in torch.randint(0, size - spot, (2,), generator=draws))
        picture[:, top : top + spot, left : left + spot] = 1.0
        row = int(torch.randint(0, size - 2, (1,), generator=draws))
        picture[:, row : row + 2, : size // 2] = 0.0
    return pictures


def turned_pictures(count: int, size: int, *, seed: int) -> Tensor:
    """Normal pictures with one square patch turned by a quarter: brightness and contrast alone do not give it away."""
    pictures = normal_pictures(count, size, seed=seed)
    draws = torch.Generator().manual_seed(seed + 1)
    side = size // 2
    for picture in pictures:
        top, left = (int(v) for v in torch.randint(0, size - side, (2,), generator=draws))
        patch = picture[:, top : top + side, left : left + side]
        picture[:, top : top + side, left : left + side] = patch.transpose(1, 2).clone()
    return pictures
