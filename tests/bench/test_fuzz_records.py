"""Mutated records and score files: each is read or refused with our own error, and none costs a good record its row."""

from __future__ import annotations

import copy
import io
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_records import make_failed, make_record, make_scores, write_record
from rich.console import Console

from bench.errors import RecordError
from bench.records import pairs, store
from bench.records.cell import canonical_sha256
from bench.records.paths import SCORES_SUFFIX, companion
from bench.records.schema import content_sha256
from bench.records.score_table import parse_scores, render_scores
from bench.report import folder, leaderboard, plots, write
from bench.run import costs

SEED, MUTANTS = 20251128, 250
HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 10**12, -(10**12), 2**64, 10**400, -(10**400), 0.5, -0.5, 1e308, -1e308, 5e-324),
    *(float("nan"), float("inf"), "", "\x1b[2J", "\udc80", "\ud800", "x" * 100_000, "=1+1", "$\\frac{", "null", "9"),
    *([], {}, [[]], [None] * 1000, {"a": {"b": None}}, ["\x1b]0;x\x07"], {"auc": 50.0}),
)


def places(value: Any, so_far: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every entry of a document, tables included."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, entry in entries:
        yield (*so_far, name)
        yield from places(entry, (*so_far, name))


def at(document: Any, way: tuple[Any, ...]) -> Any:
    for step in way:
        document = document[step]
    return document


def sealed(document: dict[str, Any]) -> str:
    """With the hashes that such content has, where it has any: what only the other checks can find."""
    if isinstance(document.get("cell"), dict):
        document["key"] = canonical_sha256(document["cell"])
    document["content_sha256"] = content_sha256(document)
    return json.dumps(document)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


def replaced(document: dict[str, Any], chance: random.Random) -> str:
    for _ in range(chance.choice((1, 1, 2))):
        *way, last = chance.choice(list(places(document)))
        at(document, tuple(way))[last] = copy.deepcopy(chance.choice((*HOSTILE, nested(40), nested(600))))
    return sealed(document)


def removed(document: dict[str, Any], chance: random.Random) -> str:
    *way, last = chance.choice(list(places(document)))
    del at(document, tuple(way))[last]
    return sealed(document)


def doubled(document: dict[str, Any], chance: random.Random) -> str:
    name = chance.choice(list(document))
    return json.dumps(document)[:-1] + f", {json.dumps(name)}: {json.dumps(document[name])}}}"


def flipped(data: bytes, chance: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        found[chance.randrange(len(found))] ^= 1 << chance.randrange(8)
    return bytes(found)


def cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def other_number(data: bytes, chance: random.Random) -> bytes:
    """Another entry in one line of a score file."""
    lines = data.splitlines()
    number = chance.randrange(1, len(lines))
    entries = lines[number].split(b",")
    numbers = (b"nan", b"inf", b"-1e308", b"1e999", b"999999999999", b"-1", b"1" * 5000)
    entries[chance.randrange(len(entries))] = chance.choice((*numbers, b"", b'"', b"\xff", b"\x00", b"a,b"))
    lines[number] = b",".join(entries)
    return b"\n".join(lines) + b"\n"


def lines_moved(data: bytes, chance: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    chance.choice((lines.reverse, lines.pop, lambda: lines.append(lines[-1])))()
    return b"".join(lines)


OF_RECORDS = (replaced, replaced, replaced, removed, doubled)
OF_BYTES: tuple[Callable[[bytes, random.Random], bytes], ...] = (flipped, cut)
OF_SCORES = (other_number, lines_moved, flipped, cut)


def mutated(document: dict[str, Any], scores: bytes, chance: random.Random) -> tuple[bytes, bytes]:
    """A record that is changed in one way, or its scores; mostly with hashes that fit."""
    kind = chance.random()
    if kind < 0.25 and scores:
        scores = chance.choice(OF_SCORES)(scores, chance)
        document["scores_sha256"] = pairs.digest(scores.decode(errors="surrogateescape"))
        return sealed(document).encode(), scores
    if kind < 0.85:
        try:
            return chance.choice(OF_RECORDS)(copy.deepcopy(document), chance).encode(), scores
        except (RecordError, ValueError, RecursionError):  # content that has no hash, not even a forged one
            pass
    return chance.choice(OF_BYTES)(sealed(document).encode(), chance), scores


@pytest.fixture
def mutants(tmp_path: Path) -> list[Path]:
    """Beside a good record, each in a category of its own."""
    records, chance = tmp_path / "records", random.Random(SEED)
    write_record(records, make_scores(normals=6, anomalies=6), category="good one", detector="spade")
    sources = []
    for protocol, draws in (("quick", 1), ("strict", 2)):
        scores = make_scores(normals=6, anomalies=6, draws=draws)
        sources.append(store.write(make_record(scores, protocol=protocol), scores, tmp_path / "sources"))
    sources.append(store.write(make_failed(), None, tmp_path / "sources"))
    paths = []
    for number in range(MUTANTS):
        source = sources[number % 7 % 3]
        document, table = json.loads(source.read_text()), companion(source, SCORES_SUFFIX)
        document["cell"]["category"] = f"c{number}"
        record, scores_of = mutated(document, table.read_bytes() if table.exists() else b"", chance)
        paths.append(records / "elpv" / f"c{number}" / source.name)
        paths[-1].parent.mkdir()
        paths[-1].write_bytes(record)
        if scores_of:
            companion(paths[-1], SCORES_SUFFIX).write_bytes(scores_of)
    return paths


def test_a_mutant_is_a_record_or_our_own_error_and_costs_no_good_one_its_row(
    tmp_path: Path, mutants: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "write_all", lambda *anything, **more: ([], []))
    found, problems = store.read_all(tmp_path / "records")  # anything but a RecordError would end the test
    assert len(mutants) / 10 < len(found) < len(mutants), "mutations are all harmless, or all found by their hashes"
    assert len(problems) >= len(mutants) - len(found)
    for path in mutants:
        if not any(record.path == path for record in found):
            assert any(str(path.with_suffix("")) in problem for problem in problems), f"nothing is said of {path}"
    _, said = folder.write_results(tmp_path, leaderboard.Revisions())
    assert said == problems, "a mutant was read that no table can hold"
    text = (tmp_path / "leaderboard.md").read_text()
    assert "good one" in text and "SPADE" in text
    assert "\x1b" not in text + (tmp_path / "leaderboard.csv").read_text() + (tmp_path / "leaderboard.tex").read_text()
    console = Console(file=io.StringIO(), width=80)
    for board in leaderboard.build(found):
        console.print(write.terminal(board), *board.notes(), markup=False)
    costs.from_records(found, 1.0)


def test_mutated_score_files_parse_or_raise_our_own_error() -> None:
    chance = random.Random(SEED)
    data = render_scores(make_scores(normals=4, anomalies=4, draws=2)).encode()
    outcomes = set()
    for _ in range(400):
        mutant = chance.choice(OF_SCORES)(data, chance).decode(errors="surrogateescape")
        try:
            parse_scores(mutant)
            outcomes.add("read")
        except RecordError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
