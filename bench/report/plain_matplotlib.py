"""Matplotlib as it is brought, without what somebody else set up for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

# A notebook tells all its children to draw into its cells, and matplotlib refuses to be imported where that backend is
# not installed; figures here are drawn into files and need none. A matplotlibrc may name fonts that are not there.
_INSTEAD: dict[str, str | None] = {"MPLBACKEND": None, "MATPLOTLIBRC": os.devnull}


@contextmanager
def plain_matplotlib() -> Iterator[None]:
    """Within it matplotlib can be imported whatever MPLBACKEND and a matplotlibrc say."""
    before = {name: os.environ.get(name) for name in _INSTEAD}
    _set(_INSTEAD)
    try:
        yield
    finally:
        _set(before)


def _set(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
