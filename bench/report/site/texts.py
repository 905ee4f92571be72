"""What words, marks and flags mean, as docs/glossary.md and docs/flags.md have it (`tests/site_texts.py`)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from bench.report.marks import MARKS, MEANING, SHORTCUTS

PAGE = "meaning.html"
LONGEST = 2000  # of a flag whose kind is looked up


@dataclass(frozen=True)
class Flag:
    """A section of docs/flags.md."""

    number: str
    flag: str
    raised: str
    means: str
    do: str


@dataclass(frozen=True)
class Mark:
    """A sign in tables, what it means and what to do."""

    name: str
    sign: str
    means: str
    do: str


@dataclass(frozen=True)
class Texts:
    """All of them; terms by their name in lower case."""

    terms: dict[str, str]
    flags: tuple[Flag, ...]
    marks: tuple[Mark, ...]

    def term(self, name: str) -> str:
        """What a word means. Raises KeyError for one that the glossary lacks."""
        return self.terms[name.lower()]

    def link(self, sentence: str) -> str:
        """Where a flag is explained, from the sentence that a table says; the page's beginning for an attack's own."""
        for flag, pattern in zip(self.flags, _patterns(), strict=True):
            if pattern.search(sentence[:LONGEST]):
                return f"{PAGE}#flag-{flag.number}"
        return PAGE


@cache
def texts() -> Texts:
    """As they come with the package."""
    found = json.loads((files("bench.report.site") / "texts.json").read_text(encoding="utf-8"))
    signs = {MARKS[name]: (name, MEANING[name]) for name in MARKS} | {
        sign: (name.replace("_", " "), meaning) for name, (sign, meaning) in SHORTCUTS.items()
    }
    terms = {term.lower(): meaning for term, meaning in found["terms"].items()}
    parts = {part: meaning for term, meaning in terms.items() for part in term.split(", ")}
    return Texts(
        parts | terms,
        tuple(Flag(**flag) for flag in found["flags"]),
        tuple(Mark(name, sign, means, found["marks"].get(sign, "")) for sign, (name, means) in signs.items()),
    )


@cache
def _patterns() -> tuple[re.Pattern[str], ...]:
    """The flags with a number or a range for each capital: "12", "12 to 40", and "NAME" for whatever is named."""
    return tuple(re.compile(_pattern(flag.flag)) for flag in texts().flags)


def _pattern(flag: str) -> str:
    head = re.sub(r" \(.*\)$", "", flag)  # what stands in brackets at the end is an explanation
    return re.sub(r"\b(?:[NMK]|NAME|REASON)\b", r"[^;]{1,80}", re.escape(head).replace(r"\ ", " "))
