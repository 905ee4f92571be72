"""What goes wrong in a detector, as sentences for the user."""

import difflib
from collections.abc import Iterable
from typing import Any

import torch


class DetectorError(Exception):
    """A detector cannot do what was asked; the text says why and what to do."""


class CheckpointError(DetectorError):
    """A checkpoint is missing, damaged, tampered with, or belongs to another detector."""


class WeightsError(DetectorError):
    """Pretrained weights cannot be had."""


class NoReconstructionError(DetectorError):
    """The method does not reconstruct images."""


class NoAnomalyMapError(DetectorError):
    """The method scores whole images only."""


class ContractError(DetectorError):
    """A detector breaks its contract (`detectors.contract`), so that a robustness number of it would say nothing."""


def nearest(name: str, known: Iterable[str], *, likeness: float = 0.0) -> str:
    """The known name that is most like another, for "did you mean"; "" where none is as like as that (0 to 1)."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=likeness)), "")


def wrong_images(x: Any) -> str:
    """What is wrong with what should be a batch of images, float32 or float64 (B, 3, H, W), as a sentence; "" where
    nothing is. What values it has is not asked."""
    if not isinstance(x, torch.Tensor):
        return f"Images must be a tensor (B, 3, H, W) in [0, 1]; got {type(x).__name__}; see torch.from_numpy."
    shape = tuple(x.shape)
    if x.ndim != 4 or x.shape[1] != 3 or x.shape[0] == 0:
        hint = ""
        if x.ndim == 4 and x.shape[3] == 3 and x.shape[0] > 0:
            hint = "; the colours come last: x.permute(0, 3, 1, 2)"
        elif x.ndim == 3 and 3 in (x.shape[0], x.shape[2]):
            hint = "; one image is a batch of one: " + ("x[None]" if x.shape[0] == 3 else "x.permute(2, 0, 1)[None]")
        return f"Images must have the shape (B, 3, H, W) with B > 0; got {shape}{hint}."
    if x.dtype not in (torch.float32, torch.float64):
        return f"Images must be float32 or float64 in [0, 1]; got {x.dtype}; divide bytes by 255."
    return ""
