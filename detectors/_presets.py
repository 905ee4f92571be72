"""The presets' names."""

from __future__ import annotations

from typing import TypeVar

from detectors.errors import DetectorError

S = TypeVar("S")


def choose(preset: str, *, quick: S, paper: S) -> S:
    """The settings of a preset. Raises DetectorError for one that does not exist."""
    known = {"quick": quick, "paper": paper}
    if preset not in known:
        raise DetectorError(f"There is no preset {preset!r}; use one of {', '.join(known)}.")
    return known[preset]
