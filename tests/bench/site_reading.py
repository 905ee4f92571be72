"""Sites of made-up records, and their pages as a browser would take them apart, for tests."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from fake_records import make_scores, write_record

from bench.records.record import Record, Revisions
from bench.report.site import build

LOADED = {"src", "href", "data", "action", "poster", "srcset", "formaction", "background", "xlink:href"}


class Parsed(HTMLParser):
    """Elements with their attributes, and the text outside of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.data = ""
        self._within: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "script":
            self._within.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == "script" and self._within:
            self._within.pop()

    def handle_data(self, data: str) -> None:
        if self._within:
            self.data += data
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def ids(self) -> set[str]:
        return {attributes["id"] for _, attributes in self.elements if "id" in attributes}

    @property
    def payload(self) -> dict[str, Any]:
        """What the first page holds for its script."""
        return dict(json.loads(self.data))


def pages(site: Path) -> dict[Path, Parsed]:
    return {path: Parsed(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}


def links(page: Parsed) -> list[tuple[str, str, str]]:
    """Element, attribute and address of whatever leads or loads somewhere."""
    found = [(tag, name, value) for tag, attrs in page.elements for name, value in attrs.items() if name in LOADED]
    return [entry for entry in found if entry[2] != "data:,"]


def target(path: Path, address: str) -> tuple[Path, str]:
    """The file that a relative address leads to, and its anchor."""
    parts = urlsplit(address)
    assert not parts.scheme and not parts.netloc, address
    return (path.parent / unquote(parts.path)).resolve() if parts.path else path, parts.fragment


def site_of(folder: Path, *, revisions: Revisions | None = None) -> Path:
    page, problems = build.build([folder], folder / "site", revisions or Revisions())
    assert not problems
    return page.parent


def some(folder: Path) -> list[Record]:
    """Two categories, a baseline, several fits, two radii, another attack on one fit, a failed cell."""
    fits = [{"fit_seed": seed, "checkpoint": str(seed) * 64} for seed in (0, 1, 2)]
    made = [
        write_record(folder / "records", make_scores(seed=n, robust_shift=shift), category=category, **fields)
        for category in ("mono", "poly")
        for n, (fields, shift) in enumerate(
            [
                *(({"detector": "ae"} | fit, 0.5) for fit in fits),
                ({"detector": "ae", "epsilon": 4 / 255}, 0.2),
                ({"detector": "freerad", "draws": 1}, 1.5),
                ({"detector": "freerad", "steps": 60, "changed": {"steps": 60}}, 0.9),
                ({"detector": "brightness"}, 1.0),
            ]
        )
    ]
    return made
