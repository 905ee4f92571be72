"""What was found of a claim, level by level."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

LEVELS = (1, 2, 3, 4)
HOLDS_CODE, FAILS_CODE, UNJUDGED_CODE = 0, 1, 2  # exit codes


class Outcome(Enum):
    """Whether a claim stands."""

    HOLDS = "holds"
    FAILS = "does not hold"
    UNJUDGED = "cannot be judged"


@dataclass(frozen=True)
class Finding:
    """What one level says of one claim.

    Attributes:
        level: 1, its figures follow from its scores; 2, its images have these scores; 3, its cell was made again; 4,
            somebody tried once more.
        outcome: whether it stands.
        sentence: why. It may hold what a stranger wrote, and is to be made harmless where it is printed.
    """

    level: int
    outcome: Outcome
    sentence: str

    def __str__(self) -> str:
        return f"{self.level} {self.outcome.value}: {self.sentence}"


class UnjudgedError(Exception):
    """Something is not there that a level needs; the text is a sentence on what."""


def exit_code(findings: Iterable[Finding], asked: int) -> int:
    """Of all levels of one claim: 1 where one does not hold, else 2 where the one that was asked for could not be
    judged. What level 2 could not judge, level 3 has made up for; what level 3 could not, no other try makes up for."""
    found = list(findings)
    if any(one.outcome is Outcome.FAILS for one in found):
        return FAILS_CODE
    held = {one.level for one in found if one.outcome is Outcome.HOLDS}
    return HOLDS_CODE if {asked, min(asked, 3)} <= held else UNJUDGED_CODE


def worst(codes: Iterable[int]) -> int:
    """Of several claims: what does not hold weighs most."""
    found = set(codes)
    return next((code for code in (FAILS_CODE, UNJUDGED_CODE) if code in found), HOLDS_CODE)
