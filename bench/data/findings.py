"""What looking at a category found: sentences that a reader of its figures must know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.text import one_line


@dataclass(frozen=True)
class Finding:
    """One thing that is odd.

    Attributes:
        kind: "bit depth", "leak", "groups", "duplicates", "near-duplicates", "shortcut", "masks" or "left out".
        brief: a few words, for one line about the whole category.
        sentence: what was found, with counts and an example, and what to do.
        refuses: whether a run refuses the category for it.
    """

    kind: str
    brief: str
    sentence: str
    refuses: bool = False

    def __post_init__(self) -> None:
        # File names are strangers' text; what is kept here is printed and written into records.
        object.__setattr__(self, "brief", one_line(self.brief, 120))
        object.__setattr__(self, "sentence", one_line(self.sentence, 500))


def such_as(names: Sequence[str]) -> str:
    """ "000.png" or, of several, "such as 000.png"; names are cut, for they may be of any length."""
    example = one_line(min(names), 100)
    return example if len(names) == 1 else f"such as {example}"
