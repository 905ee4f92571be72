"""docs/settings.md, made from the frozen dataclasses and their docstrings; test_docs.py holds the file against it.

Write the file anew with `python -m tests.settings_page`.
"""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attacks import registry as attack_registry
from bench.plan import presets, protocols
from detectors import registry as detector_registry
from detectors.base import Detector

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
WIDTH = 120
# The member that stands for a family whose members differ in the inner detector alone.
FAMILY_OF = {"purify": "spade", "smooth": "spade"}
NOT_SAID = "version"  # of an installed package: another one on each machine

USUAL = "from Python"
OF_AN_ATTACK = "- `attack_settings`: below, beside each of an attack's own."
INTRODUCTION = """# Settings

Every setting of every detector and attack, with its value at each preset or protocol. This page is made from the code:
`python -m tests.settings_page` writes it, and `tests/test_docs.py` fails where it is out of date. Don't edit it by
hand; edit the docstring of the dataclass that holds the setting.

Detectors are set with `--set DETECTOR.SETTING=VALUE`, for one category with `--set DETECTOR.SETTING@CATEGORY=VALUE`,
and from Python with `bench.fit(DETECTOR, SETTING=VALUE)`. A setting with a dot lies in a part of the settings. Values
are those at the preset's own image size; one value means that both presets share it. A tuple cannot be set from the
command line. An attack's first value is that from Python, and that of each protocol that is not named beside another.
A change of any setting is another detector: another checkpoint, another record, and a row that says so.
"""


def page(*, with_anomalib: bool = True) -> str:
    """The whole file's text."""
    parts = [INTRODUCTION, "## Presets\n", *_rows_of(presets.PRESETS), "\n## Protocols\n"]
    parts += [
        *_rows_of(protocols.PROTOCOLS, but=("attack_settings", "statement", "attacks")),
        OF_AN_ATTACK,
        "\n## Attacks\n",
        *_attacks(),
    ]
    parts += ["\n## Detectors\n", *_detectors()]
    if with_anomalib:
        parts += ["\n## Models of anomalib\n", *_anomalib()]
    return "\n".join(parts) + "\n"


def section(text: str, title: str) -> str:
    """What stands under a heading of the second level; "" where there is no such."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return "" if found is None else found[1].strip()


def described(cls: type) -> dict[str, str]:
    """The attributes that the docstrings of a dataclass and its bases explain, by name."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        lines = (base.__doc__ or "").partition("Attributes:\n")[2].splitlines()
        indent = next((len(line) - len(line.lstrip()) for line in lines if line.strip()), 0)
        names: list[str] = []
        for line in lines:
            start = re.match(r"((?:\w+, )*\w+): (.*)", line[indent:])
            if start and not line[:indent].strip():
                names = start[1].split(", ")
                found |= dict.fromkeys(names, start[2].strip())
            elif line[: indent + 1].strip():
                names = []  # a heading within the list
            else:
                found |= {name: f"{found[name]} {line.strip()}".strip() for name in names}
    return found


def flat(settings: Any, within: str = "") -> Iterator[tuple[str, Any, str]]:
    """Each setting by its dotted name, its value, and what its docstring says."""
    texts = described(type(settings))
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from flat(value, f"{within}{field.name}.")
        elif field.name != NOT_SAID:
            yield within + field.name, value, texts.get(field.name, "")


def _rows_of(things: tuple[Any, ...], but: tuple[str, ...] = ()) -> list[str]:
    """Presets or protocols side by side."""
    values = {thing.name: {name: value for name, value, _ in flat(thing)} for thing in things}
    texts = described(type(things[0]))
    lines = []
    for name in values[things[0].name]:
        if name not in ("name", *but):
            lines.append(_line(name, {one: of[name] for one, of in values.items()}, texts.get(name, "")))
    return lines


def _attacks() -> list[str]:
    lines = []
    alike: dict[type, list[str]] = {}
    for name in attack_registry.names():
        alike.setdefault(attack_registry.get_class(name).settings_class, []).append(name)
    for cls, names in alike.items():
        known = {field.name for field in dataclasses.fields(cls)}
        lines.append(f"### {', '.join(f'`{name}`' for name in names)}\n")
        for name, value, text in flat(cls()):
            values = {USUAL: value}
            for protocol in protocols.PROTOCOLS:
                values[protocol.name] = protocol.attack_settings.get(name, value)
            if name in known:
                lines.append(_line(name, values, text))
        lines.append("")
    return lines[:-1]


def _detectors() -> list[str]:
    own = [
        name for name in detector_registry.names() if detector_registry.get(name).__module__.startswith("detectors.")
    ]
    lines = [line for name in own for line in _detector(name)]
    for prefix, member in FAMILY_OF.items():
        lines += _detector(f"{prefix}:{member}", title=f"`{prefix}:NAME`", but="inner.")
        lines[-1:] = ["- `inner.SETTING`: each setting of the inner detector, as above at `NAME`.", ""]
    return lines[:-1]


def _anomalib() -> list[str]:
    family = next(f for f in detector_registry.families() if f.prefix == "anomalib")
    lines = [line for member in family.members() for line in _detector(f"{family.prefix}:{member}")]
    return lines[:-1]


def _detector(name: str, *, title: str = "", but: str = "\0") -> list[str]:
    cls: type[Detector] = detector_registry.get(name)
    at = {p.name: cls.settings_for(p.name, p.image_size) for p in presets.PRESETS}
    values = {preset: {key: value for key, value, _ in flat(settings)} for preset, settings in at.items()}
    lines = [f"### {title or f'`{name}`'}\n"]
    for key, _, text in flat(next(iter(at.values()))):
        if not key.startswith(but):
            lines.append(_line(key, {preset: of[key] for preset, of in values.items()}, text))
    if len(lines) == 1:
        lines.append("There is nothing to set.")
    return [*lines, ""]


def _line(name: str, values: Mapping[str, Any], text: str) -> str:
    shown = {where: _shown(value) for where, value in values.items()}
    if len(set(shown.values())) == 1:
        told = next(iter(shown.values()))
    else:
        alike: dict[str, list[str]] = {}
        for where, value in shown.items():
            alike.setdefault(value, []).append(where)
        # The usual value holds wherever no other is named.
        told = ", ".join(value if USUAL in where else f"{value} ({', '.join(where)})" for value, where in alike.items())
    whole = f"- `{name}` = {told}" + (f": {text}" if text else "")
    return textwrap.fill(whole, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _shown(value: Any) -> str:
    if isinstance(value, tuple) and value and all(isinstance(one, str) for one in value):
        return f"`{', '.join(value)}`"
    return f"`{value:.6g}`" if isinstance(value, float) else f"`{value!r}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
