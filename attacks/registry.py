"""Attacks by name: every module of this folder registers its own, or a family of them."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any, TypeVar

from attacks.base import Attack
from attacks.errors import AttackError
from attacks.threat import parse_epsilon, threat_model


@dataclass(frozen=True)
class Family:
    """Attacks that are made from a name, "prefix:member" (`torchattacks:PGD`): each is asked for, none is in "all".

    Attributes:
        prefix: before the colon.
        members: lists the members that can be had here, for `bench list attacks`; may be empty, must not fail.
        make: from a member's name to its class; the same class for the same name. Raises AttackError.
        summary: one line for `bench list attacks`.
        refused: members that cannot be had anywhere, with the reason.
        revisions: of the members, for telling stale records without making a class.
    """

    prefix: str
    members: Callable[[], tuple[str, ...]]
    make: Callable[[str], type[Attack]]
    summary: str
    refused: Mapping[str, str]
    revisions: Mapping[str, int]


_REGISTRY: dict[str, type[Attack]] = {}
_FAMILIES: dict[str, Family] = {}
_INFRASTRUCTURE = frozenset(
    {
        "ascent",
        "base",
        "candidates",
        "errors",
        "image_changes",
        "inputs",
        "known_noise",
        "merging",
        "objective",
        "registry",
    }
    | {"result", "search", "starts", "threat", "threat_others", "torchattacks_adapter", "two_logits"}
)
A = TypeVar("A", bound=type[Attack])


def register(cls: A) -> A:
    """Class decorator: the attack can from now on be had by its name."""
    known = _REGISTRY.get(cls.name)
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f"Two attacks call themselves {cls.name!r}: {known.__module__} and {cls.__module__}.")
    _REGISTRY[cls.name] = cls
    return cls


def register_family(family: Family) -> Family:
    """From now on "prefix:member" names an attack."""
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
    """Every attack's name, sorted; without those of families."""
    _discover()
    return tuple(sorted(_REGISTRY))


def get_class(name: str) -> type[Attack]:
    """The class of an attack (its title and summary). Raises AttackError with the nearest name where there is none."""
    _discover()
    prefix, colon, member = name.partition(":")
    if colon and prefix in _FAMILIES:
        return _FAMILIES[prefix].make(member)
    if name not in _REGISTRY:
        known = ", ".join([*names(), *(f"{family.prefix}:NAME" for family in families())])
        raise AttackError(f"There is no attack {name!r}; did you mean {_nearest(name, _REGISTRY)!r}? (Known: {known}.)")
    return _REGISTRY[name]


def get(name: str, *, image_size: int | None = None, epsilon: float | str | None = None, **settings: Any) -> Attack:
    """An attack by name.

    Args:
        name: one of `names()`, or a family's ("torchattacks:PGD").
        image_size: side of the images in pixels; without it, a default l2 epsilon is settled when the attack is called.
        epsilon: radius on [0, 1], as a number or a text ("2/255"); by default 2/255 (l-inf) or 0.2 * side / 256 (l2).
        **settings: fields of the attack's settings; those that are lengths are given as epsilon is.

    Raises:
        AttackError: an unknown attack or setting, or a value that makes no sense.
    """
    cls = get_class(name)
    known = [f.name for f in fields(cls.settings_class)]
    for key in settings:
        if key not in known:
            near = _nearest(key, known)
            hint = f"; did you mean {near!r}?" if near else "; it has none."
            raise AttackError(f"{name} has no setting {key!r}{hint}")
    lengths = {key: _length(key, settings[key], cls.norm) for key in cls.length_settings if key in settings}
    ball = threat_model(cls.norm, _length("epsilon", epsilon, cls.norm))
    attack = cls(ball, cls.settings_class(**{**settings, **lengths}))
    return attack if image_size is None else attack.resolve(image_size)


def _length(name: str, value: Any, norm: str) -> float | None:
    """A length in the norm as a user gives it: a number, a text, or None for the default. Raises AttackError."""
    if value is None:
        return None
    if isinstance(value, str):
        return parse_epsilon(value, norm=norm)
    with suppress(OverflowError):
        if isinstance(value, Real) and value is not True and value is not False:  # NumPy's numbers are Real, too
            return float(value)
    raise AttackError(f"{name} must be a number on [0, 1], or such a text as '2/255'; got a {type(value).__name__}.")


def _nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is most like another, for "did you mean"; "" where there is none."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)), "")


def _discover() -> None:
    """Import every module of this folder once."""
    for module in pkgutil.iter_modules(importlib.import_module("attacks").__path__):
        if not module.name.startswith("_") and module.name not in _INFRASTRUCTURE:
            try:
                importlib.import_module(f"attacks.{module.name}")
            except (Exception, SystemExit) as error:  # somebody's new file
                raise AttackError(
                    f"attacks/{module.name}.py cannot be imported ({type(error).__name__}: {error}); mend it, or "
                    "take it out of the folder."
                ) from error
