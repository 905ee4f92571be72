"""What a stranger named cannot speak to a terminal: every control character is written out wherever it is printed."""

from __future__ import annotations

import ast
import csv
import io
import logging
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import pytest
from fake_records import make_failed, write_record
from rich.table import Table
from rich.text import Text

from bench.cli import shell, summary
from bench.cli.progress import ConsoleReporter
from bench.cli.screen import Screen
from bench.records import store
from bench.report import folder
from bench.text import VisibleFormatter, escape_csv, escape_latex, escape_markdown, one_line, plain, visible

REPOSITORY = Path(__file__).parents[2]
HOSTILE = "b\x1b[2Jo\x9b31ml\x07t\x08\udcfc\u202e"
SHOWN = r"b\x1b[2Jo\x9b31ml\x07t\x08\udcfc\u202e"


def commands_in(text: str) -> list[str]:
    return [c for c in text if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 or c == "\u202e"]


def test_control_characters_are_written_out() -> None:
    assert visible(HOSTILE) == SHOWN and visible(SHOWN) == SHOWN
    assert visible("two\nlines\tand ünïcødé 螺丝") == "two\nlines\tand ünïcødé 螺丝"
    assert one_line(f" {HOSTILE}\r\n\u2028end") == f"{SHOWN} end"
    assert one_line("x" * 400, 10) == "x" * 9 + "…"


def test_every_form_of_text_passes_through_it() -> None:
    assert escape_csv(HOSTILE) == SHOWN and plain(HOSTILE) == SHOWN
    assert escape_markdown("\x1b") == r"\\x1b" and escape_latex("\x1b") == r"\textbackslash{}x1b"


def test_the_screen_writes_out_whatever_it_is_given() -> None:
    stream = io.StringIO()
    screen = Screen(file=stream, width=200, force_terminal=True, color_system=None)
    table = Table(title=Text(HOSTILE))
    table.add_column(Text(HOSTILE))
    table.add_row(Text(HOSTILE))
    screen.print(HOSTILE, Text(HOSTILE), table, markup=False)
    screen.print(HOSTILE, soft_wrap=True, markup=False)
    assert commands_in(stream.getvalue()) == [] and "b\\x1b[2J" in stream.getvalue()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bars_are_drawn_over_and_their_names_are_not_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    screen = Screen(file=stream, width=200, force_terminal=True)
    with ConsoleReporter(screen, 1) as reporter, reporter.attacking("ae", "b\x1b[5molt", 0, "pgd", 2):
        reporter._bars.refresh()
    text = stream.getvalue()
    assert "\x1b[5m" not in text and r"b\x1b[5molt" in text and "\x1b[2K" in text


def test_all_that_is_printed_goes_to_a_screen() -> None:
    wrong = []
    for path in sorted((REPOSITORY / "bench").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Console":
                wrong.append(f"{path.relative_to(REPOSITORY)}:{node.lineno}")
    assert not wrong


def test_errors_and_logs_are_written_out(capsys: pytest.CaptureFixture[str]) -> None:
    shell.say(f"There is no {HOSTILE}.")
    assert SHOWN in capsys.readouterr().err
    record = logging.LogRecord("bench", logging.WARNING, "", 0, "The record %s is damaged.", (HOSTILE,), None)
    assert VisibleFormatter().format(record) == f"The record {SHOWN} is damaged."


def test_a_folder_of_any_name_is_a_category_that_commands_nothing(
    tmp_path: Path, command: Any, register: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    register(fakes.Fake)
    name = "b\x1b[2Jolt"
    root = fakes.write_folder(tmp_path / "data", (name,))
    words = fakes.on(root, "--steps", 2, "--out", tmp_path / "out", "--cache", tmp_path / "cache")
    for said in (command(*words), command("inspect", *words[3:9])):
        assert said.code == 0 and commands_in(said.out + said.err) == []
        assert r"b\x1b[2Jolt" in said.out
    (record,), _ = store.read_all(tmp_path / "out" / "records")
    assert record.category == name, "it is kept as it is"
    for path in (tmp_path / "out").glob("leaderboard.*"):
        assert commands_in(path.read_text()) == [], path
    lost = command(*words, "--categories", "no\x1b[2J")
    assert lost.code == 2 and r"no\x1b[2J" in lost.err and commands_in(lost.err) == []


def test_what_records_say_is_text_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_record(tmp_path / "records", detector=HOSTILE, category=HOSTILE, dataset=HOSTILE, attack=HOSTILE)
    store.write(make_failed(HOSTILE, category=HOSTILE, dataset=HOSTILE), None, tmp_path / "records")
    damaged = write_record(tmp_path / "records").path
    assert damaged is not None
    damaged.write_text('{"format": "\x1b[2J"}')
    for problem in folder.write_results(tmp_path, summary.revisions())[1]:
        shell.say(problem)
    captured = capsys.readouterr()
    assert damaged.stem in captured.err and commands_in(captured.err) == []
    with (tmp_path / "leaderboard.csv").open(newline="") as stream:
        assert {SHOWN, "elpv"} >= {line["category"] for line in csv.DictReader(stream)} > set()
    for path in tmp_path.glob("leaderboard.*"):
        assert commands_in(path.read_text()) == [], path
