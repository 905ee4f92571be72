"""What the pages of a site say of words and flags, made from docs/glossary.md and docs/flags.md.

The documents are no part of the installed package, so their texts go into it: `python -m tests.site_texts` writes the
file anew, and tests/bench/test_site.py holds it against the documents.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILE = ROOT / "bench" / "report" / "site" / "texts.json"


def text() -> str:
    """The whole file's content."""
    found = {"terms": _terms(), "flags": _flags(), "marks": _marks()}
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def plain(markdown: str) -> str:
    """Without code marks, emphasis and links; what stands in brackets only to link goes with its brackets."""
    without = re.sub(r" ?\(\[[^\]]*\]\([^)]*\)\)", "", markdown)
    without = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", without)
    return " ".join(re.sub(r"[`*]", "", without).split())


def _rows(page: str, columns: int) -> list[list[str]]:
    lines = re.findall(r"^\| .* \|$", page, re.MULTILINE)
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in cells if len(row) == columns and row[0] not in ("term", "number")]


def _read(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def _terms() -> dict[str, str]:
    return {plain(term): plain(meaning) for term, meaning in _rows(_read("glossary.md"), 2)}


def _flags() -> list[dict[str, str]]:
    page, found = _read("flags.md"), []
    sections = dict(re.findall(r"^### (\d+)\. (.*?)(?=^##|\Z)", page, re.DOTALL | re.MULTILINE))
    for number, sentence, raised in _rows(page, 3):
        if number in sections:
            told = dict(
                re.findall(r"^\*(Means|Do)\*: (.*?)(?=^\*|\n\n|\Z)", sections[number], re.DOTALL | re.MULTILINE)
            )
            found.append(
                {
                    "number": number,
                    "flag": plain(sentence),
                    "raised": plain(raised),
                    "means": plain(told.get("Means", "")),
                    "do": plain(told.get("Do", "")),
                }
            )
    return found


def _marks() -> dict[str, str]:
    """By mark what to do; what it means the code itself says."""
    found = re.search(r"^## Marks in tables\n(.*?)(?=^## |\Z)", _read("flags.md"), re.DOTALL | re.MULTILINE)
    return {mark: plain(do) for mark, _, do in _rows(found[1] if found else "", 3) if mark != "mark"}


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
