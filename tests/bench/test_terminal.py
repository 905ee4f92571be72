"""What a run leaves to look at: drawn once for the same records, and never forgotten after a kill."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from fake_records import write_record
from rich.console import Console

from bench import terminal
from bench.records import Record


class Drawing:
    """Stands in for the plots: counts, and can be killed."""

    def __init__(self) -> None:
        self.calls, self.killed = 0, False

    def __call__(self, found: Sequence[Record], folder: Path, revisions: object) -> tuple[list[Path], list[str]]:
        self.calls += 1
        folder.mkdir(parents=True, exist_ok=True)
        if self.killed:
            raise KeyboardInterrupt
        return [], []


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch) -> Drawing:
    found = Drawing()
    monkeypatch.setattr(terminal.plots, "write_all", found)
    return found


def _write(out: Path, category: str) -> None:
    write_record(out / "records", category=category)


def test_plots_of_the_same_records_are_drawn_once(tmp_path: Path, drawing: Drawing) -> None:
    _write(tmp_path, "mono")
    for _ in range(2):
        terminal.write_results(tmp_path, Console(quiet=True))
    assert drawing.calls == 1


def test_a_new_record_is_drawn(tmp_path: Path, drawing: Drawing) -> None:
    _write(tmp_path, "mono")
    terminal.write_results(tmp_path, Console(quiet=True))
    _write(tmp_path, "poly")
    terminal.write_results(tmp_path, Console(quiet=True))
    assert drawing.calls == 2


def test_a_run_that_was_killed_while_drawing_draws_the_next_time(tmp_path: Path, drawing: Drawing) -> None:
    _write(tmp_path, "mono")
    terminal.write_results(tmp_path, Console(quiet=True))
    _write(tmp_path, "poly")
    drawing.killed = True
    with pytest.raises(KeyboardInterrupt):
        terminal.write_results(tmp_path, Console(quiet=True))
    drawing.killed = False
    terminal.write_results(tmp_path, Console(quiet=True))
    assert drawing.calls == 3


def test_records_of_a_family_can_become_stale_too() -> None:
    """Without making the class, which would import anomalib after every run."""
    assert terminal.revisions().detectors["anomalib:patchcore"] == 1
