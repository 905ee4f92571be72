"""Detectors by name: those in this folder, and those of other packages (entry point `radbench.detectors`)."""

from __future__ import annotations

import importlib
import inspect
import logging
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from detectors.base import Detector, Settings
from detectors.building import build
from detectors.errors import DetectorError, nearest
from detectors.parts import presets

ENTRY_POINT = "radbench.detectors"
log = logging.getLogger(__name__)


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
_INSTALLED: set[str] = set()  # the names of those that other packages brought
_FAMILIES: dict[str, Family] = {}
_REFUSED: dict[str, str] = {}  # entry points of other packages that bring no detector, and why, as sentences
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
        "settings",
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


def is_installed(name: str) -> bool:
    """Whether a detector comes from another author's installed package."""
    _discover()
    return name in _INSTALLED


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
    if name in _REGISTRY:
        return _REGISTRY[name]
    if name in _REFUSED:
        raise DetectorError(_REFUSED[name])
    known = ", ".join([*names(), *(f"{family.prefix}:NAME" for family in families())])
    shown = name if len(name) <= 100 else f"{name[:99]}…"
    raise DetectorError(f"There is no detector {shown!r}; did you mean {_meant(name)!r}? (Known: {known}.)")


def _meant(name: str) -> str:
    """The name that is most like one that is not there; a family's member is known by its own name as well."""
    spoken: dict[str, str] = {}
    member = name.partition(":")[2]
    for family in families():
        # What cannot be had here, for want of a package, is still what was meant: its error says what to install.
        can_be_had = family.members() or tuple(family.revisions) or ((member,) if member else ())
        for of_family in (*can_be_had, *family.refused):
            full = f"{family.prefix}:{of_family}"
            spoken |= {of_family: full, full: full}
    spoken |= {own: own for own in _REGISTRY}
    return spoken.get(nearest(name.casefold(), spoken), "")


def is_ours(cls: type[Detector]) -> bool:
    """Whether a detector is one of this folder's, and not of another package."""
    return cls.__module__.startswith("detectors.")


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
    """Import every module of this folder once, and load the entry points of installed packages. One of these that is
    broken costs its own name alone, and a warning."""
    for module in pkgutil.iter_modules(importlib.import_module("detectors").__path__):
        if not module.name.startswith("_") and module.name not in _INFRASTRUCTURE:
            try:
                importlib.import_module(f"detectors.{module.name}")
            except (Exception, SystemExit) as error:  # somebody's new file
                raise DetectorError(
                    f"detectors/{module.name}.py cannot be imported ({type(error).__name__}: {error}); mend it, or "
                    "take it out of the folder."
                ) from error
    for point in entry_points(group=ENTRY_POINT):
        if point.name not in _REFUSED:
            problem = _load(point)
            if problem:
                whose = f"The detector {point.name!r} of an installed package ({point.value})"
                _REFUSED[point.name] = f"{whose} {problem}; repair or uninstall that package."
                log.warning("%s Everything else goes on without it.", _REFUSED[point.name])


def _load(point: EntryPoint) -> str:
    """Have the detector of an entry point. Returns what is wrong with it, "" where nothing is."""
    before = dict(_REGISTRY)
    try:
        cls = point.load()
        problem = _unusable(cls)
        if not problem:
            register(cls)
            _INSTALLED.add(cls.name)
        return problem
    except (Exception, SystemExit) as error:  # a stranger's package may do anything
        _REGISTRY.clear()
        _REGISTRY.update(before)  # its module may have registered some before it failed
        did = "sys.exit was called" if isinstance(error, SystemExit) else type(error).__name__
        text = "".join(c if c.isprintable() else " " for c in str(error))[:300]
        return f"cannot be had ({did}: {text})"


def _unusable(cls: Any) -> str:
    """Why a class of another package is none of a detector; "" where it is."""
    if not (isinstance(cls, type) and issubclass(cls, Detector)):
        return "is no Detector class"
    if inspect.isabstract(cls):
        return f"leaves {', '.join(sorted(cls.__abstractmethods__))} unwritten"
    for attribute in ("name", "title", "paper"):
        text = getattr(cls, attribute, None)
        if not (isinstance(text, str) and text and text.isprintable()):
            return f"has no {attribute}"
    if set(cls.name) & set(":,@.="):  # what stands between names on a command line
        return f"calls itself {cls.name!r}; a name is made of letters, digits and -"
    return ""
