"""Whether a score moves no faster than its detector declares (`Detector.lipschitz`): an exact certificate stands on it.

|A(x) - A(x')| <= L |x - x'| is asked of pairs of images that are random, that lie a steepest step apart, and that an
ascent of many steps has driven apart. A check and no proof: the constant must come from the formula.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from detectors.contract.ball import BLOCKS
from detectors.contract.place import Place
from detectors.errors import ContractError

NORMS = ("linf", "l2")
SIZES = (1e-3, 8 / 255, 0.2)  # of steps, per pixel
STEPS = 8  # of an ascent
STEP = 0.05  # its steps' size, per pixel
ROUNDING = 1e-9  # of the scores: sums in float64 over some ten thousand pixels


def constants(place: Place) -> dict[str, float]:
    """The constants that are declared, by norm. Raises ContractError for one that is no number from 0 on."""
    detector = place.detector
    found = {norm: detector.lipschitz(norm) for norm in NORMS}
    for norm, constant in found.items():
        is_number = isinstance(constant, int | float) and not isinstance(constant, bool)
        if constant is not None and not (is_number and 0 <= constant < math.inf):
            raise ContractError(
                f"{detector.name} breaks the contract: its lipschitz({norm!r}) is {constant!r}; return a number of at "
                "least 0, or None where no constant is known."
            )
    return {norm: float(constant) for norm, constant in found.items() if constant is not None}


def check_lipschitz(place: Place, *, steps: int = STEPS) -> dict[str, float]:
    """The score at a place, in float64, against every constant that its detector declares.

    Args:
        place: of the score.
        steps: of the ascents.

    Returns:
        By norm, the largest share of the constant that a pair of images needed; empty where none is declared.

    Raises:
        ContractError: a pair needs more than all of it, or the score draws noise: no constant bounds that.
    """
    declared = constants(place)
    if not declared:
        return {}
    if place.detector.is_stochastic:
        raise ContractError(
            f"{place.detector.name} breaks the contract: it declares a Lipschitz constant and its score draws noise, "
            "which moves it where the image stays; let lipschitz() return None."
        )
    worst = dict.fromkeys(declared, 0.0)
    for which, first, second in _pairs(place, tuple(declared), steps):
        here, there = place.value(first), place.value(second)
        moved = ((here - there).abs() - ROUNDING * (here.abs() + there.abs())).clamp_min(0)
        for norm, constant in declared.items():
            allowed = constant * distance(first, second, norm)
            # Beyond a constant of 0 lies whatever moves.
            share = torch.where(moved > 0, moved / allowed, 0)
            worst[norm] = max(worst[norm], float(share.max()))
            if worst[norm] > 1:
                raise ContractError(
                    f"{place.detector.name} breaks the contract: between two {which} images its score moves by "
                    f"{worst[norm]:.3g} times what its lipschitz({norm!r}) of {constant:.3g} allows, so its "
                    "certificate would be void; correct the constant, or let it return None."
                )
    return worst


def distance(first: Tensor, second: Tensor, norm: str) -> Tensor:
    """Of each image (B, 3, H, W) from its partner, in "linf" or "l2", (B,)."""
    apart = (first - second).flatten(1)
    return apart.abs().amax(dim=1) if norm == "linf" else apart.square().sum(dim=1).sqrt()


def _pairs(place: Place, norms: tuple[str, ...], steps: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Words for them, and pairs of images (B, 3, H, W) in [0, 1]."""
    x = place.x
    for other in (x.flip(0), 1 - x, x.mean(dim=(2, 3), keepdim=True).expand_as(x), 0.5 * x, torch.ones_like(x)):
        yield "unlike", x, other
    for size in SIZES:
        for block in BLOCKS:
            noise = place.noise.sub(3).blocks(x.shape[1:], block, stream=f"pair-{block}", like=x)
            for way in (noise, -noise, noise.sign()):
                yield "random", x, (x + size * way).clamp(0, 1)
    for norm in norms:
        for y in (place.y, -place.y):  # up and down
            up = replace(place, y=y)
            for size in SIZES:
                yield "neighbouring", x, _stepped(up, x, size, norm)
            image = x
            for _ in range(steps):
                after = _stepped(up, image, STEP, norm)
                yield "neighbouring", image, after
                image = after
            yield "attacked", x, image
            # At the bounds of [0, 1] most pixels can move back alone.
            yield "neighbouring", image, _stepped(replace(place, y=-up.y), image, SIZES[0], norm)


def _stepped(place: Place, x: Tensor, size: float, norm: str) -> Tensor:
    """A steepest step: in l2 as long as one that changes each entry by `size`."""
    gradient = place.gradient(x)
    if norm == "linf":
        way = gradient.sign()
    else:
        length = distance(gradient, torch.zeros_like(gradient), "l2").clamp_min(torch.finfo(x.dtype).tiny)
        way = gradient / length[:, None, None, None] * gradient[0].numel() ** 0.5
    return (x + size * way).clamp(0, 1)
