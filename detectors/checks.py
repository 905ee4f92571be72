"""What goes into a detector and what its method returns: asked at every call, so that whatever else it is, is a
sentence."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from detectors.errors import ContractError, DetectorError

RANGE_TOLERANCE = 1e-3  # beyond [0, 1]: rounding, and the steps of finite differences


def check_range(x: Tensor) -> None:
    """Raises DetectorError for images (B, 3, H, W) that do not lie in [0, 1]; NaN passes: it has no score either."""
    lowest, highest = (float(value) for value in x.detach().aminmax())
    if lowest < -RANGE_TOLERANCE or highest > 1 + RANGE_TOLERANCE:
        raise DetectorError(
            f"Images must lie in [0, 1]; these go from {lowest:g} to {highest:g}; undo the normalisation or divide by "
            "255 (detectors normalise inside)."
        )


def one_number_each(found: Any, count: int, *, owner: str, what: str = "score") -> Tensor:
    """What a method returned for so many images, if it is a tensor (B,). Raises ContractError for anything else: a
    tensor (B, 1) would mix images when it is multiplied by labels."""
    if isinstance(found, Tensor) and found.shape == (count,):
        return found
    kind = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
    raise ContractError(
        f"{owner} breaks the contract: for {count} images its {what} is {kind}; return one number per image, a tensor "
        f"of shape ({count},)."
    )


def tensor(found: Any, *, owner: str, what: str) -> Tensor:
    """What a method returned, if it is a tensor. Raises ContractError for anything else."""
    if isinstance(found, Tensor):
        return found
    raise ContractError(f"{owner} breaks the contract: its {what} is {type(found).__name__}; return a tensor.")
