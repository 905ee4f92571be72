"""A fitted detector from its checkpoint alone: the JSON beside the tensors names the detector and its settings."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from detectors import checkpoint, registry
from detectors.base import LARGEST_SIDE, Detector, Settings
from detectors.building import build
from detectors.errors import CheckpointError, DetectorError, nearest
from detectors.settings import came_later

_LONGEST_NAME = 200


def load(name: str | Path) -> Detector:
    """A fitted detector.

    Args:
        name: a .safetensors file with its .json beside it, or the name of a checkpoint that ships with a detector
            ("freerad-elpv-mono-quick"; `shipped()` lists them).

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged, tampered with or of an unknown detector.
    """
    path = Path(name)
    if path.suffix != ".safetensors":
        known = shipped()
        if str(name) not in known:
            near = nearest(str(name), known)
            hint = f" Did you mean {near!r}?" if near else ""
            raise CheckpointError(f"There is no shipped checkpoint {str(name)!r}; give a .safetensors file.{hint}")
        path = known[str(name)]
    description = checkpoint.read_description(path)
    owner, size, stored = (description.get(key) for key in ("detector", "image_size", "settings"))
    if not isinstance(size, int) or not isinstance(stored, dict) or not 8 <= size <= LARGEST_SIDE:
        raise CheckpointError(f"{path} does not say its image size and settings; fit the detector again.")
    if not isinstance(owner, str) or len(owner) > _LONGEST_NAME:
        raise CheckpointError(f"{path} does not say whose it is; fit the detector again.")
    cls = registry.get(owner)
    try:
        settings = _restored(cls.settings_for("quick", size), stored)
    except Exception as error:  # a stranger's file may say anything, and the settings may be a stranger's, too
        raise CheckpointError(f"{path} has settings that {cls.name} does not know ({error}); fit again.") from None
    try:
        detector = build(cls, settings, size)
    except DetectorError as error:
        raise CheckpointError(
            f"The checkpoint {path} describes a detector that cannot be built: {error} Fit it again."
        ) from error
    return detector.load(path)


def shipped() -> dict[str, Path]:
    """The checkpoints that come with the installed detectors, by name."""
    found = {}
    for name in registry.names():
        for path in registry.get(name).shipped_checkpoints():
            found[f"{name}-{path.stem}"] = path
    return found


def _restored(default: Settings, stored: dict[str, Any]) -> Settings:
    """The settings that `base.described` and JSON made this of; the default tells the types."""
    return dataclasses.replace(default, **_values(default, stored))


def _values(default: Any, stored: dict[str, Any]) -> dict[str, Any]:
    known = {field.name: field for field in dataclasses.fields(default)}
    values: dict[str, Any] = {name: f.default for name, f in known.items() if came_later(f) and name not in stored}
    if stored.keys() | values.keys() != known.keys():
        raise KeyError(f"{sorted((stored.keys() | values.keys()) ^ known.keys())}")
    for name, value in stored.items():
        current = getattr(default, name)
        if dataclasses.is_dataclass(current) and not isinstance(current, type):
            values[name] = dataclasses.replace(current, **_values(current, value))
        else:
            values[name] = tuple(value) if isinstance(value, list) else value
    return values
