"""The terminal: every command writes to it through `Screen`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, RenderableType
from rich.segment import Segment

from bench.text import visible


class UnreadError(BaseException):
    """Nobody reads any more what is printed (`| head`). No Exception: it is no fault of the cell that is at work."""


class Screen(Console):
    """A rich console on which control characters in what is printed are written out: folders, files and records have
    the names that strangers gave them, and every sentence may hold one. Cursor and colours are rich's own segments.
    Where nobody reads it, it says so; rich's own would exit without a word."""

    def render(self, renderable: RenderableType, options: Any = None) -> Iterable[Segment]:
        """As in rich; the one place that everything passes on its way to the terminal, tables and bars included."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Raises UnreadError."""
        raise UnreadError


def is_animated(console: Console) -> bool:
    """Whether bars can be drawn over: on a true terminal that moves its cursor. FORCE_COLOR only colours a log, and
    TERM=dumb names a terminal that shows plain lines."""
    return console.is_interactive and console.file.isatty()
