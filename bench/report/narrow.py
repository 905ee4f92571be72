"""A terminal that is too narrow for a table: its rows as a list, in which every name is whole."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group
from rich.padding import Padding
from rich.text import Text

COLUMNS = 72  # below it a table squeezes its names, in the end to nothing


def listed(lines: Iterable[tuple[int, str]]) -> Group:
    """Lines with their depths, 0 and more; a long one goes on below its own beginning."""
    return Group(*(Padding(Text(text), (0, 0, 0, 2 * depth)) for depth, text in lines))
