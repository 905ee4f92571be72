"""How a user wants a folder's pictures to be read, where their files don't say it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bench.errors import DataError
from bench.text import one_line

LEAST_BITS, MOST_BITS = 8, 16


@dataclass(frozen=True)
class Reading:
    """What changes the reading of a data set; the default changes nothing.

    Attributes:
        group_pattern: a regular expression with one capture group, searched in each picture's id; what it captures is
            the picture's group (`bench.data.groups`). "" means groups.csv, where there is one.
        bit_depth: of the camera whose values lie in 16-bit grey files, 8 to 16; None: they use all 16.

    Raises:
        DataError: a pattern that is none or has not one capture group, a depth out of range.
    """

    group_pattern: str = ""
    bit_depth: int | None = None

    def __post_init__(self) -> None:
        if self.bit_depth is not None and not LEAST_BITS <= self.bit_depth <= MOST_BITS:
            raise DataError(
                f"--bit-depth is the number of bits that the camera gave, {LEAST_BITS} to {MOST_BITS}; got "
                f"{self.bit_depth}."
            )
        try:
            count = re.compile(self.group_pattern).groups
        except (re.error, RecursionError, OverflowError) as error:
            raise DataError(
                f"--group-pattern {one_line(self.group_pattern, 80)!r} is no regular expression ({error}); correct it."
            ) from None
        if self.group_pattern and count != 1:
            raise DataError(
                f"--group-pattern needs one pair of capturing parentheses around what pictures of one group share, and "
                f"{one_line(self.group_pattern, 80)!r} has {count}; e.g. 'lot(\\d+)_'."
            )

    @property
    def options(self) -> str:
        """The options that were given, as a user would say them; "" for none."""
        given = {"--group-pattern": bool(self.group_pattern), "--bit-depth": self.bit_depth is not None}
        return " and ".join(name for name, is_given in given.items() if is_given)
