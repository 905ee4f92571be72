"""Terminals of all kinds: names are whole at any width, and bars are drawn over on true terminals alone."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace
from typing import Any

import pytest
from fake_records import make_record
from rich.console import RenderableType

from bench.cli import progress, summary
from bench.cli.progress import ConsoleReporter
from bench.cli.screen import Screen, is_animated
from bench.plan.plan import Job
from bench.report import leaderboard, write
from bench.report.paper import measured, render, tables

DETECTORS = ("freerad", "anomalib:reverse_distillation")
CATEGORIES = ("toothbrush", "monocrystalline_silicon")


def shown(width: int, made: RenderableType) -> str:
    """Without line breaks and what tables are drawn with."""
    stream = io.StringIO()
    Screen(file=stream, width=width).print(made)
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= width and "…" not in stream.getvalue()
    return re.sub(r"\s+", " ", stream.getvalue())


@pytest.mark.parametrize("width", [36, 40, 50, 71])
def test_names_and_figures_are_whole_on_a_narrow_terminal(width: int) -> None:
    (board,) = leaderboard.build([make_record(detector=d, category=c) for d in DETECTORS for c in CATEGORIES])
    text = shown(width, write.terminal(board, width))
    for needed in ("FreeRAD", *DETECTORS[1:], *CATEGORIES, "average", "robust AUC", "[91.3, 100.0]"):
        assert needed in text
    listed = shown(width, summary.listing("detectors", width=width))
    assert all(name in listed for name in ("file-order", "fastflow", "ocr-gan"))
    found = measured.reproduce("table2", [], recipe=tables.recipe_of("table2"), revisions=summary.revisions())
    printed = shown(width, render.terminal(found, width))
    assert "metal_nut freerad" in printed and "clean: paper" in printed and "not run" in printed


@pytest.mark.parametrize("width", [72, 80, 200])
def test_a_table_that_has_the_room_is_one(width: int) -> None:
    (board,) = leaderboard.build([make_record(detector=d, category=c) for d in DETECTORS for c in CATEGORIES])
    text = shown(width, write.terminal(board, width))
    assert "━" in text and "FreeRAD" in text


@pytest.mark.parametrize("width", [40, 80])
def test_a_plans_names_are_whole(width: int) -> None:
    stream = io.StringIO()
    plan: Any = SimpleNamespace(
        cells=1, dataset=SimpleNamespace(name="elpv"), image_size=128, several_fits=(), attacks=()
    )
    summary.show_plan(plan, [(Job("mono", "x" * 30, 0), "fitted", 60.0)], Screen(file=stream, width=width))
    assert re.sub(r"[\s│]", "", stream.getvalue()).count("x" * 30) == 1 and "…" not in stream.getvalue()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def said(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, **environment: str) -> tuple[bool, str]:
    """Whether bars are drawn over, and what a run with one step leaves on a console of such an environment."""
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"TERM": "xterm"} | environment).items():
        monkeypatch.setenv(name, value)
    screen = Screen(file=stream, width=80)
    with ConsoleReporter(screen, 1) as reporter, reporter.attacking("ae", "mono", 0, "pgd", 10) as tick:
        tick(5, "attack")
    return is_animated(screen), stream.getvalue()


def test_a_true_terminal_shows_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    animated, text = said(Terminal(), monkeypatch)
    assert animated and "\x1b[2K" in text and "pgd on ae mono: 5/10" not in text


@pytest.mark.parametrize(
    ("stream", "environment"),
    [(Terminal, {"TERM": "dumb"}), (io.StringIO, {"FORCE_COLOR": "1"}), (io.StringIO, {})],
    ids=["dumb", "FORCE_COLOR", "pipe"],
)
def test_elsewhere_there_are_plain_lines(
    monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO], environment: dict[str, str]
) -> None:
    animated, text = said(stream(), monkeypatch, **environment)
    assert not animated and "pgd on ae mono: 5/10" in text
    assert not re.search(r"\x1b\[(\d*[A-K]|\?25)", text), "no cursor is moved in a log"
