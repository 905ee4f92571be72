"""Unknown names: say so, and offer the nearest known one."""

from collections.abc import Iterable
from difflib import SequenceMatcher

from bench.errors import UnknownNameError


def nearest(name: str, candidates: Iterable[str]) -> str:
    """The candidate most like `name`, letter case aside; "" where there are no candidates."""

    def likeness(candidate: str) -> float:
        return SequenceMatcher(None, name.casefold(), candidate.casefold()).ratio()

    return max(sorted(candidates), key=likeness, default="")


def unknown(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """The error for a `name` that is not among the `known` ones; `kind` is the word for what it names."""
    known = sorted(known)
    name = name if len(name) <= 100 else f"{name[:99]}…"
    if not known:
        return UnknownNameError(f"There is no {kind} {name!r}, and none is registered: check the installation.")
    return UnknownNameError(
        f"There is no {kind} {name!r}: did you mean {nearest(name, known)!r}? (known: {', '.join(known)})"
    )
