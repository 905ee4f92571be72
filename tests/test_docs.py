"""The documents say what the code does: links lead somewhere, commands parse, and nothing that is listed is missing."""

from __future__ import annotations

import ast
import csv
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import settings_page
import test_architecture
import typer

import attacks
from attacks.registry import families as attack_families
from attacks.registry import get_class
from bench.cli.commands import app
from bench.plan import protocols
from bench.plan.build import OPEN_SETTING_REVISION
from bench.records.certificate import Certificate, Claim, Smoothing
from bench.records.record import Record
from bench.report import signs
from bench.report.marks import MARKS, MEANING, SHORTCUTS
from detectors import contract, registry

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# What a user's own runs leave in results/ is none of ours.
PLACES = ("*.md", "docs/**/*.md", "examples/**/*.md", "results/README.md", "results/reference/**/*.md")
PAGES = sorted(page for place in PLACES for page in ROOT.glob(place))
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def words(text: str) -> str:
    """Without line breaks and white space at the ends of words."""
    return " ".join(text.split())


def rows(text: str) -> list[list[str]]:
    """The cells of all tables, headings and rules included."""
    return [[cell.strip() for cell in line.strip("| \n").split(" |")] for line in text.splitlines() if line[:1] == "|"]


# -- links and commands -----------------------------------------------------------------------------------------------


def prose(text: str) -> str:
    """Without fenced blocks, indented code and code spans: what is shown there is no link."""
    text = re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "code", re.sub(r"^ {4}.*$", "", text, flags=re.MULTILINE))


def anchors(text: str) -> set[str]:
    """Of its headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE
    ):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        number = 1
        while (name := slug if number == 1 else f"{slug}-{number - 1}") in found:
            number += 1
        found.add(name)
    return found


@every_page
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(\s*([^)\s]+)\s*\)", prose(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name} links to {target}, which is not there"
        assert there.is_relative_to(ROOT), f"{page.name} links to {target}, outside of the repository"
        if anchor:
            assert anchor in anchors(there.read_text(encoding="utf-8")), f"{page.name}: no heading for {target}"


def commands(text: str) -> Iterator[list[str]]:
    """What follows `python -m bench` wherever it is shown, as the shell splits it."""
    code = re.findall(r"^ {4}.*$", text, re.MULTILINE) + re.findall(r"`([^`\n]+)`", text)
    for line in code:
        for part in re.split(r"&&|\|", words(line)):
            found = re.match(r"\s*python -m bench (.*)", part)
            if found:
                yield shlex.split(found[1], comments=True)


@every_page
def test_every_command_that_is_shown_parses(page: Path) -> None:
    group: Any = typer.main.get_command(app)
    for name, *options in commands(page.read_text(encoding="utf-8")):
        assert name in group.commands, f"{page.name}: there is no command {name}"
        if options == ["--help"]:
            continue
        group.commands[name].make_context(name, list(options))  # raises where an option is not there


def test_commands_are_found_where_they_are_shown() -> None:
    assert len(list(commands(text_of("docs/usage.md")))) > 10
    assert ["run", "--detectors", "all", "--attack", "pgd-linf"] in list(commands(text_of("README.md")))


def test_code_cites_documents_that_are_there() -> None:
    written_by_a_run = {"certificates.md", "defects.md", "leaderboard.md", "TABLE.md"}
    for path in [
        p
        for package in ("attacks", "bench", "certificates", "detectors", "examples")
        for p in (ROOT / package).rglob("*.py")
    ]:
        for cited in re.findall(r"[\w./-]*\w\.md\b", path.read_text(encoding="utf-8")):
            assert cited in written_by_a_run or (ROOT / cited).is_file(), f"{path} cites {cited}"


def test_files_that_documents_name_are_there() -> None:
    made_by_the_reader = {"detectors/contrast.py", "attacks/uniform.py", "bench/data/table.py"}
    made_by_the_reader |= {"tests/detectors/test_contrast.py"}
    for page in [*ROOT.glob("*.md"), *DOCS.glob("*.md"), ROOT / "results" / "README.md"]:
        named = re.findall(
            r"\b(?:attacks|bench|certificates|detectors|tests)/[\w/]+\.py\b", page.read_text(encoding="utf-8")
        )
        for name in {*named} - made_by_the_reader:
            assert (ROOT / name).is_file(), f"{page.name} names {name}"


def test_lines_are_no_longer_than_120() -> None:
    for page in [*ROOT.glob("*.md"), *DOCS.glob("*.md")]:
        long = [line for line in page.read_text(encoding="utf-8").splitlines() if len(line) > 120]
        assert not long, f"{page.name}: {long[0]}"


# -- nothing is missing -----------------------------------------------------------------------------------------------


def test_settings_are_as_the_code_has_them() -> None:
    has_anomalib = any(f.prefix == "anomalib" and f.members() for f in registry.families())
    written, found = text_of("docs/settings.md"), settings_page.page(with_anomalib=has_anomalib)
    for title in re.findall(r"^## (.*)$", found, re.MULTILINE):
        same = settings_page.section(written, title) == settings_page.section(found, title)
        assert same, f"{title}: out of date; run python -m tests.settings_page"


def test_every_setting_says_what_it_is() -> None:
    page = text_of("docs/settings.md")
    mute = [name for name, rest in re.findall(r"^- `([\w.]+)` = ((?:.|\n  )*)", page, re.MULTILINE) if ": " not in rest]
    assert not mute, f"no line in the docstring's Attributes: {mute}"


def constants(function: str, path: str) -> list[str]:
    """The texts in a function's code, docstring aside; of an f-string its fixed parts."""
    tree = ast.parse(text_of(path))
    (found,) = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == function]
    return [
        node.value
        for statement in found.body[1:]
        for node in ast.walk(statement)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def sentences(path: str) -> list[str]:
    """What the signs of a module say: the texts that become a `sentence`, of an f-string its fixed parts."""
    found = []
    for node in ast.walk(ast.parse(text_of(path))):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if isinstance(node, ast.Assign | ast.AugAssign) and [getattr(t, "id", "") for t in targets] == ["sentence"]:
            found += [n.value for n in ast.walk(node.value) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return [words(text) for text in found if len(text.split()) > 2]


def test_every_flag_is_explained() -> None:
    page = words(text_of("docs/flags.md"))
    of_a_record = sentences("bench/report/signs.py")
    of_a_diagnosis = [s for name in ("steadiness", "sweep", "others") for s in sentences(f"bench/diagnosis/{name}.py")]
    assert len(of_a_record) > 10 and len(of_a_diagnosis) > 6
    for sentence in of_a_record + of_a_diagnosis:
        assert sentence in page, f"docs/flags.md lacks {sentence!r}"


def test_thresholds_are_those_of_the_flags() -> None:
    told = {row[1]: row[2] for row in rows(settings_page.section(text_of("docs/flags.md"), "Flags")) if len(row) == 3}
    noise = told["plain noise of the attack's size did more than the attack on N % of the images"]
    assert noise.endswith(f"above {signs.NOISE_WON_SHARE}")
    gained = told["the attack gained nothing on N % of the images"]
    assert f"below {signs.GAIN_SHARE};" in gained
    assert gained.endswith(f"below {signs.STOCHASTIC_GAIN_SHARE}")
    late = told["not converged: N % of the attack's gain came in the last fifth of its steps"]
    assert late.endswith(f"above {signs.LATE_SHARE}")


def test_every_flag_has_a_section_of_its_own() -> None:
    page = text_of("docs/flags.md")
    numbered = [row[0] for row in rows(settings_page.section(page, "Flags")) if row[0].isdigit()]
    assert numbered == re.findall(r"^### (\d+)\. ", page, re.MULTILINE)


def test_every_indicator_and_mark_is_explained() -> None:
    page = text_of("docs/flags.md")
    names = [
        *constants("indicators", "bench/cell/results.py"),
        *constants("_early_stop", "bench/cell/results.py"),
        *constants("describe", "bench/cell/more_draws.py"),
        *constants("describe", "bench/cell/selection_held.py"),
        *constants("share_of", "bench/cell/in_turn.py"),
    ]
    for name in names:
        assert not re.fullmatch(r"[a-z_]{5,}", name) or f"`{name}`" in page, f"docs/flags.md lacks {name}"
    for mark, meaning in [*((MARKS[name], MEANING[name]) for name in MARKS), *SHORTCUTS.values()]:
        assert f"| {mark} | {meaning} |" in page, f"docs/flags.md lacks {mark}"


def test_every_field_of_a_record_is_explained() -> None:
    page = text_of("docs/records.md")
    names = {field.name for field in fields(Record)} - {"path", "others", "lacking", "recounted"} | {"content_sha256"}
    for path in sorted((ROOT / "results" / "reference").glob("*/records/**/*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        cell, results = record["cell"], record["results"]
        names |= {*record, *cell, *cell["protocol"], *cell["subset"], *cell["draws"], *cell["detector"], *results}
        names |= {*results.get("clean", ()), *(results.get("pixel") or ()), *record["gate"], *record["seconds"]}
    for name in sorted(names):
        assert f"`{name}`" in page, f"docs/records.md lacks {name}"


def test_every_field_of_a_certificate_is_explained() -> None:
    page = text_of("docs/records.md")
    names = {field.name for kind in (Certificate, Claim, Smoothing) for field in fields(kind)}
    for name in sorted(names - {"path", "others", "lacking"}):
        assert f"`{name}`" in page, f"docs/records.md lacks {name}"


def test_the_import_table_is_the_one_that_is_kept() -> None:
    drawn = {
        row[0].strip("`"): set(filter(None, row[1].split(", "))) if len(row) > 1 else set()
        for row in rows(settings_page.section(text_of("docs/architecture.md"), "Who imports whom"))
        if re.fullmatch(r"`\w+`", row[0])
    }
    assert drawn == test_architecture.BENCH


def test_every_package_is_on_the_map() -> None:
    drawn = settings_page.section(text_of("docs/architecture.md"), "The map")
    for package in ("attacks", "bench", "certificates", "detectors"):
        for path in (ROOT / package).rglob("__init__.py"):
            name = path.parent.relative_to(ROOT)
            known = name.name if name.parts[-2:-1] in ((), ("bench",), ("detectors",)) else "/".join(name.parts[-2:])
            assert f"{known}/" in drawn or name.parent.name == "report", f"docs/architecture.md lacks {name}"


def test_revisions_are_those_of_the_changelog() -> None:
    told = {row[0]: row[1] for row in rows(settings_page.section(text_of("CHANGELOG.md"), "Revisions today"))[2:]}
    own = [registry.get(name) for name in registry.names() if registry.get(name).__module__.startswith("detectors.")]
    found = {f"detector `{cls.name}`": cls.revision for cls in own}
    found |= {f"attack `{name}`": get_class(name).revision for name in attacks.names()}
    found |= {f"protocol `{p.name}`": p.version for p in protocols.PROTOCOLS}
    found |= {
        f"detectors `{family.prefix}:NAME`": max(family.revisions.values())
        for family in registry.families()
        if family.revisions
    }
    found |= {f"attacks `{f.prefix}:NAME`": max(f.revisions.values()) for f in attack_families()}
    found["open settings (`k = auto`)"] = OPEN_SETTING_REVISION
    expected = {name: str(number) for name, number in found.items()}
    assert told == expected, "bring the table Revisions today in CHANGELOG.md up to date: a row for each new name"


def test_every_case_of_the_contract_is_explained() -> None:
    page = text_of("docs/contract.md")
    asked = settings_page.section(page, "What is asked, and which false robustness it catches")
    told = {row[0].strip("`") for row in rows(asked)}
    assert {case.name for case in contract.CASES} == {name for name in told if "_" in name}


# -- the examples run -------------------------------------------------------------------------------------------------

RUN = """
import importlib.util, sys
for name in ("contrast", "uniform", "table"):
    spec = importlib.util.spec_from_file_location(name, f"{name}.py")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
from bench.cli.commands import main
main()
"""


def example(name: str) -> str:
    """The code of CONTRIBUTING.md that belongs into a file."""
    found = re.search(
        rf"`[\w/]+/{name}\.py`:\n\n```python\n(.*?)^```", text_of("CONTRIBUTING.md"), re.DOTALL | re.MULTILINE
    )
    assert found is not None, f"CONTRIBUTING.md has no example {name}.py"
    return found[1]


def test_the_examples_of_contributing_run_together(tmp_path: Path) -> None:
    """The detector under the attack on the dataset, in a process of its own: what it registers is no part of others."""
    import numpy as np
    from PIL import Image

    for name in ("contrast", "uniform", "table"):
        (tmp_path / f"{name}.py").write_text(example(name), encoding="utf-8")
    draws, listed = np.random.default_rng(0), [["file", "split", "defect"]]
    for split, defect, count in (("train", "good", 40), ("test", "good", 12), ("test", "scratch", 12)):
        for number in range(count):
            picture = np.clip(120 + draws.normal(0, 20, (32, 32)), 0, 255)
            picture[12:16, 4:28] += 60 * (defect == "scratch")
            listed.append([f"{split}-{defect}-{number}.png", split, defect])
            Image.fromarray(picture.clip(0, 255).astype("uint8")).save(tmp_path / listed[-1][0])
    with (tmp_path / "labels.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(listed)
    line = "run --dataset table --data-root . --detectors contrast --attack uniform-linf,pgd-linf --image-size 32"
    done = subprocess.run(
        [sys.executable, "-c", RUN, *line.split(), "--workers", "1", "--out", "out", "--cache", "cache"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    records = [json.loads(path.read_text()) for path in (tmp_path / "out" / "records").rglob("*.json")]
    assert {record["cell"]["attack"]["name"] for record in records} == {"uniform-linf", "pgd-linf"}
    for record in records:
        assert record["status"] == "ok", record["reason"]
        assert record["results"]["clean"]["auc"] > 90
