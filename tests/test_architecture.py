"""Who may import whom, as docs/architecture.md draws it: no arrow climbs, and there is no circle."""

from __future__ import annotations

import ast
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import attacks
from attacks.registry import get_class

ROOT = Path(__file__).parents[1]
PACKAGES = ("attacks", "bench", "certificates", "detectors")

# What each part of `bench` may import of the others. `data` finds its datasets by name, so it never sees who uses them.
BENCH = {
    "errors": set(),
    "packages": set(),
    "text": {"errors"},
    "names": {"errors"},
    "files": {"errors"},
    "metrics": {"errors"},
    "data": {"errors", "text", "names", "files"},
    "records": {"errors", "text", "files", "metrics"},
    "inspection": {"errors", "text", "metrics", "data"},
    "plan": {"errors", "text", "names", "files", "metrics", "data", "records"},
    "cell": {"errors", "text", "files", "metrics", "data", "records", "inspection", "plan"},
    "run": {"errors", "text", "files", "data", "records", "inspection", "plan", "cell"},
    "report": {"errors", "text", "names", "files", "metrics", "records"},
    "diagnosis": {"errors", "text", "metrics", "data", "records", "cell", "report"},
    "verify": {"errors", "text", "files", "metrics", "data", "records", "plan", "cell", "run", "report"},
    "submission": {"errors", "text", "files", "records", "verify"},
}
ABOVE = {"__init__", "__main__", "api", "cli"}  # may import all of it; nobody imports them
# Which modules of the other packages attacks and detectors may see: what an attack needs to know of a detector.
OF_DETECTORS = {"detectors.base", "detectors.noise", "detectors.errors"}


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> Iterator[tuple[str, bool]]:
    """Modules of the four packages that a file imports, wherever in it, and whether it does so within a function."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    inner = {id(n) for function in functions for n in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{name} imports relatively"
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [b if b in known else node.module for b in below]
        else:
            continue
        for module in found:
            if module.split(".")[0] in PACKAGES:
                assert module in known, f"{name} imports {module}, which is not there"
                yield module, id(node) in inner


def edges() -> list[tuple[str, str, bool]]:
    known = modules()
    return sorted({(n, to, late) for n, path in known.items() for to, late in imports(n, path, known) if n != to})


def unit(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def test_no_arrow_of_bench_climbs() -> None:
    wrong = [
        f"{name} imports {to}"
        for name, to, _ in edges()
        if name.startswith("bench")
        and to.startswith("bench")
        and unit(name) != unit(to)
        and unit(name) not in ABOVE
        and unit(to) not in BENCH[unit(name)]
    ]
    assert not wrong


def test_every_part_of_bench_has_its_place() -> None:
    assert {unit(name) for name in modules() if name.startswith("bench")} == BENCH.keys() | ABOVE


def test_attacks_certificates_and_detectors_stand_on_their_own() -> None:
    wrong = []
    for name, to, _ in edges():
        home, other = name.split(".")[0], to.split(".")[0]
        if home in ("certificates", "detectors") and other != home:
            wrong.append(f"{name} imports {to}")
        if home == "attacks" and other != "attacks" and to not in OF_DETECTORS:
            wrong.append(f"{name} imports {to}")
    assert not wrong


def test_there_is_no_circle() -> None:
    """Imports for types alone and within functions count: one that dodges a circle is a circle."""
    arrows: dict[str, set[str]] = {}
    for name, to, _ in edges():
        arrows.setdefault(name, set()).add(to)
    done: set[str] = set()

    def walk(name: str, way: tuple[str, ...]) -> None:
        if name in way:
            pytest.fail("A circle: " + " -> ".join((*way[way.index(name) :], name)))
        if name in done:
            return
        for to in sorted(arrows.get(name, ())):
            walk(to, (*way, name))
        done.add(name)

    sys.setrecursionlimit(10_000)
    for name in sorted(arrows):
        walk(name, ())


def test_an_import_within_a_function_is_of_what_takes_seconds() -> None:
    """Matplotlib and pandas do, and what stands on them; and PyTorch, before there is anybody to hear Ctrl-C."""
    plots = {"bench.report.plots", "bench.report.certificate_plots", "bench.report.example_panel"}
    slow = plots | {"bench.report.paper", "bench.cli.commands"}
    slow.add("bench.report.transfer_map")
    late = {(name, to) for name, to, is_late in edges() if is_late}
    assert {to for _, to in late if not to.startswith("bench.report.paper")} <= slow


def test_an_attacks_settings_are_named_by_the_command_line_and_by_protocols_alone() -> None:
    """Whatever else a plan and a run do with them holds for any attack. Records name them, and so do reports."""
    settings = {f.name for name in attacks.names() for f in dataclasses.fields(get_class(name).settings_class)}
    assert {"steps", "eot", "differentiate"} <= settings
    found = []
    for folder in ("plan", "run"):
        for path in sorted((ROOT / "bench" / folder).glob("*.py")):
            if path.name == "protocols.py":
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                words = {
                    ast.Constant: lambda n: n.value,
                    ast.keyword: lambda n: n.arg,
                    ast.arg: lambda n: n.arg,
                    ast.Attribute: lambda n: n.attr,
                }
                word = words[type(node)](node) if type(node) in words else None
                if isinstance(word, str) and word in settings - {
                    "selection_draws",
                    "samples",
                }:  # a verdict's, a certificate's
                    found.append(f"{path.name}: {word}")
    assert not found
