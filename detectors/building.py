"""Building an unfitted detector from settings that anybody may have chosen, within bounds of memory."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from detectors.base import LARGEST_SIDE, Detector, Settings
from detectors.errors import DetectorError

# Of tensors. Training needs four times as much (gradients, Adam's two moments); the networks of this package at
# `paper` have half a gigabyte.
LARGEST = 4 << 30
MOST_TENSORS = 20_000  # a network of a million layers takes minutes to make; the largest of this package has 1,000
_SIDES = frozenset({"work_size", "input_size", "crop", "filter_size"})  # settings that are sides in pixels
_ASKED = (
    "is_stochastic",
    "has_map",
    "has_surrogate",
    "has_reconstruction",
    "sees_pixels",
    "score_is_map_maximum",
    "min_normals",
)
_MAKERS = frozenset(
    f"aten.{name}" for name in ("empty", "empty_strided", "zeros", "ones", "full", "rand", "randn", "eye")
)


def build(cls: type[Detector], settings: Settings, image_size: int) -> Detector:
    """The unfitted detector.

    Raises:
        DetectorError, WeightsError: it cannot be built with these settings, or would take more memory than `LARGEST`.
    """
    _check_sides(settings, cls.name)
    try:
        # Layers draw when they are built; nobody else may notice.
        with torch.random.fork_rng(devices=[]), _Limit(cls.name):
            detector = cls(settings, image_size)
            for name in _ASKED:  # may be properties of a stranger's, and nobody asks so carefully later
                getattr(detector, name)
            return detector
    except DetectorError:
        raise
    except (Exception, SystemExit) as error:  # settings that no network can have, or a stranger's detector
        raise DetectorError(
            f"{cls.name} cannot be built at {image_size} px with these settings "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); change them, or leave it out "
            "(--set, --image-size, --detectors)."
        ) from error


class _Limit(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it, making tensors of more than `LARGEST` bytes together, or more than `MOST_TENSORS`, is an error: each
    before it is written to, when the system has not yet given the memory."""

    def __init__(self, owner: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._owner, self._made, self._bytes = owner, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if str(func.overloadpacket) in _MAKERS and made.device.type != "meta":
            self._made += 1
            self._bytes += made.numel() * made.element_size()
            if self._bytes > LARGEST or self._made > MOST_TENSORS:
                what = f"{LARGEST >> 30} GiB" if self._bytes > LARGEST else f"{MOST_TENSORS} tensors"
                raise DetectorError(
                    f"{self._owner} would have more than {what} of weights with these settings, and a fit needs four "
                    "times as much; choose smaller ones."
                )
        return made


def _check_sides(settings: Any, owner: str) -> None:
    for field in fields(settings):
        value = getattr(settings, field.name)
        if is_dataclass(value):
            _check_sides(value, f"{owner}.{field.name}")
        elif field.name in _SIDES and isinstance(value, int) and value > LARGEST_SIDE:
            raise DetectorError(f"{owner}.{field.name} is {value} pixels; it must be {LARGEST_SIDE} at most.")
