"""`detectors`, `attacks` and `certificates` are names that others give to their packages and folders, too."""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

NAMES = ("detectors", "attacks", "certificates")  # what is installed beside `bench`


def foreign() -> str:
    """What stands in the way of one of our packages, and what to do, as a sentence; "" where nothing does.

    Python takes the first of a name: the current folder's (of `python -m`) or the script's, then that of PYTHONPATH,
    then what is installed; a folder counts also without an `__init__.py`. Nothing is imported for it.
    """
    for name in NAMES:
        ours = Path(__file__).resolve().parents[1] / name
        spec: ModuleSpec | None = None
        with suppress(ValueError):  # a module of that name that somebody put together by hand
            spec = find_spec(name)
        found = _place(spec)
        if found is None:
            return f"RADBench's package {name!r} is not where it was installed ({ours}); install RADBench again."
        if found != ours:
            return f"Another {name!r} hides RADBench's own: {found}; {_remedy(found)}."
    return ""


def _place(spec: ModuleSpec | None) -> Path | None:
    """The folder of a package, with a regular one's `__init__.py` or without; the file of a module."""
    if spec is None:
        return None
    folders = list(spec.submodule_search_locations or ())
    place = folders[0] if folders else spec.origin
    return None if place is None else Path(place).resolve()


def _remedy(found: Path) -> str:
    first = Path(sys.path[0] if sys.path else "").resolve()
    if found.parent == first:
        return (
            "run the command radbench instead of python -m bench, which does not look into the current folder, or "
            "rename what is there"
        )
    return "uninstall or rename it, or install RADBench into an environment of its own (python -m venv)"
