"""Detectors by name: those in this folder, and those of other packages (entry point `radbench.detectors`)."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from dataclasses import fields, is_dataclass, replace
from importlib.metadata import entry_points
from typing import Any, TypeVar

import torch

import detectors
from detectors import _presets
from detectors.base import Detector, Settings
from detectors.errors import DetectorError

ENTRY_POINT = "radbench.detectors"
_REGISTRY: dict[str, type[Detector]] = {}
_INFRASTRUCTURE = frozenset({"base", "checkpoint", "errors", "loading", "noise", "registry"})
D = TypeVar("D", bound=type[Detector])


def register(cls: D) -> D:
    """Class decorator: the detector can from now on be had by its name."""
    known = _REGISTRY.get(cls.name)
    # The same class may come twice (importlib.reload, an entry point into this folder); another one may not.
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f"Two detectors call themselves {cls.name!r}: {known.__module__} and {cls.__module__}.")
    _REGISTRY[cls.name] = cls
    return cls


def names() -> tuple[str, ...]:
    """Every detector's name, sorted."""
    _discover()
    return tuple(sorted(_REGISTRY))


def get(name: str) -> type[Detector]:
    """The class of a detector. Raises DetectorError with the nearest name where there is none."""
    _discover()
    if name not in _REGISTRY:
        near = difflib.get_close_matches(name, _REGISTRY, n=1, cutoff=0.0)[0]
        raise DetectorError(f"There is no detector {name!r}; did you mean {near!r}? (Known: {', '.join(names())}.)")
    return _REGISTRY[name]


def create(name: str, *, preset: str = "quick", image_size: int = 128, **overrides: Any) -> Detector:
    """A fresh, unfitted detector at a preset's settings, some of them overridden.

    Raises:
        DetectorError: an unknown detector, preset or setting.
    """
    cls = get(name)
    _presets.check(preset)
    with torch.random.fork_rng(devices=[]):  # torch's layers draw when they are built; nobody else may notice
        return cls(override(cls.settings_for(preset, image_size), overrides, owner=name), image_size)


def override(settings: Settings, overrides: dict[str, Any], *, owner: str) -> Settings:
    """The settings with some fields replaced; "training.iterations" reaches into nested settings.

    Raises:
        DetectorError: a field that is not there, or a value of another type.
    """
    for path, value in overrides.items():
        settings = _replaced(settings, path.split("."), value, owner=owner)
    return settings


def _replaced(settings: Any, path: list[str], value: Any, *, owner: str) -> Any:
    name, *rest = path
    known = [f.name for f in fields(settings)]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        hint = f"; did you mean {near[0]!r}?" if near else "; it has none."
        raise DetectorError(f"{owner} has no setting {name!r}{hint}")
    current = getattr(settings, name)
    if is_dataclass(current) and not isinstance(current, type):
        if not rest:
            inner = ", ".join(f"{name}.{f.name}" for f in fields(current))
            raise DetectorError(f"{owner}'s setting {name!r} has parts: set {inner}.")
        return replace(settings, **{name: _replaced(current, rest, value, owner=f"{owner}.{name}")})
    if rest:
        raise DetectorError(f"{owner}'s setting {name!r} has no parts.")
    if isinstance(current, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    # A setting that may be "auto" takes a number too; anything else keeps its type.
    if type(value) is not type(current) and current is not None and not {type(value), type(current)} == {int, str}:
        raise DetectorError(f"{owner}'s setting {name!r} is like {current!r}; {value!r} cannot take its place.")
    return replace(settings, **{name: value})


def _discover() -> None:
    """Import every module of this folder once, and load the entry points of installed packages."""
    for module in pkgutil.iter_modules(detectors.__path__):
        if not module.name.startswith("_") and module.name not in _INFRASTRUCTURE:
            importlib.import_module(f"detectors.{module.name}")
    for point in entry_points(group=ENTRY_POINT):
        try:
            cls = point.load()
        except Exception as error:  # a stranger's package may fail in any way
            raise DetectorError(
                f"The detector {point.name!r} of an installed package cannot be imported ({point.value}: {error}); "
                "repair or uninstall that package."
            ) from error
        if not (isinstance(cls, type) and issubclass(cls, Detector)):
            raise DetectorError(f"The entry point {point.name!r} ({point.value}) is no Detector class; correct it.")
        register(cls)
