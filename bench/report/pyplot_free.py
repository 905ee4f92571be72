"""Matplotlib without the backend that somebody else chose."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_backend() -> Iterator[None]:
    """Within it matplotlib can be imported whatever MPLBACKEND says.

    A notebook tells all its children to draw into its cells, and matplotlib refuses to be imported where that backend
    is not installed. Figures here are drawn into files and need none.
    """
    asked = os.environ.pop("MPLBACKEND", None)
    try:
        yield
    finally:
        if asked is not None:
            os.environ["MPLBACKEND"] = asked
