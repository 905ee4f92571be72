"""The presets' names."""

from __future__ import annotations

from typing import TypeVar

from detectors.errors import DetectorError

NAMES = ("quick", "paper")
S = TypeVar("S")


def check(preset: str) -> None:
    """Raise DetectorError for a preset that does not exist."""
    if preset not in NAMES:
        raise DetectorError(f"There is no preset {preset!r}; use one of {', '.join(NAMES)}.")


def choose(preset: str, *, quick: S, paper: S) -> S:
    """The settings of a preset. Raises DetectorError for one that does not exist."""
    check(preset)
    return quick if preset == "quick" else paper
