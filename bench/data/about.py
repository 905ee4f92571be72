"""Where a data set comes from and what may be done with its pictures: facts for `list datasets` and for records."""

from __future__ import annotations

from dataclasses import dataclass

CC_BY_NC_SA = "CC BY-NC-SA 4.0"
CC_BY_SA = "CC BY-SA 4.0"
CC_BY = "CC BY 4.0"
_TEXTS = {
    CC_BY_NC_SA: "https://creativecommons.org/licenses/by-nc-sa/4.0/",
    CC_BY_SA: "https://creativecommons.org/licenses/by-sa/4.0/",
    CC_BY: "https://creativecommons.org/licenses/by/4.0/",
}
_SHOWING = {
    CC_BY_NC_SA: "not commercially, with source and same licence",
    CC_BY_SA: "with source and same licence",
    CC_BY: "with source and licence",
}


@dataclass(frozen=True)
class About:
    """Of one data set.

    Attributes:
        title: as its authors call it.
        source: whom to cite.
        home: the page where it is had.
        licence: its short name, or "no licence stated".
        size: how many pictures, and gigabytes where known.
        shown: whether its pictures may be shown, where the licence alone does not say.
    """

    title: str
    source: str
    home: str
    licence: str
    size: str
    shown: str = ""

    @property
    def line(self) -> str:
        """The line that stands beside whatever is made from the data."""
        text = f" ({_TEXTS[self.licence]})" if self.licence in _TEXTS else ""
        return f"{self.title}, pictures resized: {self.source}, {self.home}, {self.licence}{text}"

    @property
    def showing(self) -> str:
        """How its pictures may be shown."""
        return self.shown or _SHOWING.get(self.licence, "ask its authors first")
