"""The settings of a detector, and what of them names a checkpoint and a record."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

# Metadata of a setting that came when checkpoints and records were there without it: at its default they go on to be
# what they were, since it is not named.
CAME_LATER = {"came_later": True}


@dataclass(frozen=True)
class Settings:
    """The settings of a detector; each detector derives its own frozen dataclass from this one."""


def described(settings: Any) -> dict[str, Any]:
    """Settings by name, parts as dictionaries, as checkpoints and records state them: what `CAME_LATER` is not named
    where it is at its default."""
    found = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if not (came_later(field) and value == field.default):
            is_part = dataclasses.is_dataclass(value) and not isinstance(value, type)
            found[field.name] = described(value) if is_part else value
    return found


def came_later(field: dataclasses.Field[Any]) -> bool:
    """Whether a setting is named only where it is not the default's."""
    return bool(field.metadata.get("came_later", False))
