"""Detectors by name: those in this folder, and those of other packages (entry point `radbench.detectors`)."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from importlib.metadata import entry_points
from typing import Any, TypeVar

from detectors.base import Detector, Settings
from detectors.building import build
from detectors.errors import DetectorError, nearest
from detectors.parts import presets

ENTRY_POINT = "radbench.detectors"


@dataclass(frozen=True)
class Family:
    """Detectors that are made from a name, "prefix:member" (`purify:spade`): each is asked for, none is in "all".

    Attributes:
        prefix: before the colon.
        members: lists the members that can be had here, for `bench list detectors`; may be empty, must not fail.
        make: from a member's name to its class; the same class for the same name. Raises DetectorError.
        summary: one line for `bench list detectors`.
        refused: members that cannot be had anywhere, with a sentence on why.
        revisions: of the members (`Detector.revision`), for telling stale records without making a class.
    """

    prefix: str
    members: Callable[[], tuple[str, ...]]
    make: Callable[[str], type[Detector]]
    summary: str
    refused: Mapping[str, str] = field(default_factory=dict)
    revisions: Mapping[str, int] = field(default_factory=dict)


_REGISTRY: dict[str, type[Detector]] = {}
_FAMILIES: dict[str, Family] = {}
_INFRASTRUCTURE = frozenset(
    {
        "base",
        "building",
        "checkpoint",
        "checks",
        "contract",
        "errors",
        "files",
        "loading",
        "noise",
        "parts",
        "registry",
        "store",
    }
)
D = TypeVar("D", bound=type[Detector])


def register(cls: D) -> D:
    """Class decorator: the detector can from now on be had by its name."""
    known = _REGISTRY.get(cls.name)
    # The same class may come twice (importlib.reload, an entry point into this folder); another one may not.
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f"Two detectors call themselves {cls.name!r}: {known.__module__} and {cls.__module__}.")
    _REGISTRY[cls.name] = cls
    return cls


def register_family(family: Family) -> Family:
    """From now on "prefix:member" names a detector."""
    known = _FAMILIES.get(family.prefix)
    if known is not None and known.make.__module__ != family.make.__module__:
        raise ValueError(f"Two families call themselves {family.prefix!r}: give one of them another name.")
    _FAMILIES[family.prefix] = family
    return family


def families() -> tuple[Family, ...]:
    """Every family, sorted by prefix."""
    _discover()
    return tuple(_FAMILIES[prefix] for prefix in sorted(_FAMILIES))


def names() -> tuple[str, ...]:
    """Every detector's name, sorted; without those of families."""
    _discover()
    return tuple(sorted(_REGISTRY))


def get(name: str) -> type[Detector]:
    """The class of a detector. Raises DetectorError with the nearest name where there is none."""
    _discover()
    prefix, colon, member = name.partition(":")
    if colon and prefix in _FAMILIES:
        return _member(_FAMILIES[prefix], member)
    if name not in _REGISTRY:
        of_families = [f"{f.prefix}:{m}" for f in families() for m in f.members() or ([member] if member else [])]
        near = nearest(name, [*_REGISTRY, *of_families])
        known = ", ".join([*names(), *(f"{family.prefix}:NAME" for family in families())])
        raise DetectorError(f"There is no detector {name!r}; did you mean {near!r}? (Known: {known}.)")
    return _REGISTRY[name]


def _member(family: Family, member: str) -> type[Detector]:
    try:
        return family.make(member)
    except DetectorError as error:
        if member in family.refused:
            raise
        # The family says why; whoever mistyped a name wants to hear the right one, too.
        near = nearest(member, family.members(), likeness=0.6)
        if near in ("", member) or "did you mean" in str(error).lower():
            raise
        raise DetectorError(f"{error} Did you mean '{family.prefix}:{near}'?") from error


def create(name: str, *, preset: str = "quick", image_size: int = 128, **overrides: Any) -> Detector:
    """A fresh, unfitted detector at a preset's settings, some of them overridden.

    Raises:
        DetectorError: an unknown detector, preset or setting, or settings with which it cannot be built.
    """
    cls = get(name)
    presets.check(preset)
    return build(cls, override(cls.settings_for(preset, image_size), overrides, owner=name), image_size)


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
        near = nearest(name, known)
        hint = f"; did you mean {near!r}?" if near else "; it has none."
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
    # Between a whole number and "auto" a setting may change; anything else keeps its type.
    is_auto = {type(value), type(current)} == {int, str} and "auto" in (value, current)
    if type(value) is not type(current) and current is not None and not is_auto:
        raise DetectorError(f"{owner}'s setting {name!r} is like {current!r}; {value!r} cannot take its place.")
    return replace(settings, **{name: value})


def _discover() -> None:
    """Import every module of this folder once, and load the entry points of installed packages."""
    for module in pkgutil.iter_modules(importlib.import_module("detectors").__path__):
        if not module.name.startswith("_") and module.name not in _INFRASTRUCTURE:
            try:
                importlib.import_module(f"detectors.{module.name}")
            except Exception as error:  # somebody's new file
                raise DetectorError(
                    f"detectors/{module.name}.py cannot be imported ({type(error).__name__}: {error}); mend it, or "
                    "take it out of the folder."
                ) from error
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
