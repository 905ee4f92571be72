"""What a run leaves to look at: drawn once for the same records, and never forgotten after a kill."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from fake_records import write_record
from rich.console import Console

from bench.cli import summary
from bench.inspection.inspection import Inspection
from bench.records.record import Record
from bench.report import folder, plots
from detectors import anomalib_family
from detectors.base import Progress, silent

REPOSITORY = Path(__file__).parents[2]


class Drawing:
    """Stands in for the plots: counts, and can be killed."""

    def __init__(self) -> None:
        self.calls, self.killed = 0, False

    def __call__(
        self, found: Sequence[Record], folder: Path, revisions: object, *, of_cells: bool
    ) -> tuple[list[Path], list[str]]:
        self.calls += 1
        folder.mkdir(parents=True, exist_ok=True)
        if self.killed:
            raise KeyboardInterrupt
        return [], []


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch) -> Drawing:
    found = Drawing()
    monkeypatch.setattr(plots, "write_all", found)
    return found


def _write(out: Path, category: str) -> None:
    write_record(out / "records", category=category)


def test_plots_of_the_same_records_are_drawn_once(tmp_path: Path, drawing: Drawing) -> None:
    _write(tmp_path, "mono")
    for _ in range(2):
        summary.write_results(tmp_path, Console(quiet=True))
    assert drawing.calls == 1


def test_a_new_record_is_drawn(tmp_path: Path, drawing: Drawing) -> None:
    _write(tmp_path, "mono")
    summary.write_results(tmp_path, Console(quiet=True))
    _write(tmp_path, "poly")
    summary.write_results(tmp_path, Console(quiet=True))
    assert drawing.calls == 2


def test_a_run_that_was_killed_while_drawing_draws_the_next_time(tmp_path: Path, drawing: Drawing) -> None:
    _write(tmp_path, "mono")
    summary.write_results(tmp_path, Console(quiet=True))
    _write(tmp_path, "poly")
    drawing.killed = True
    with pytest.raises(KeyboardInterrupt):
        summary.write_results(tmp_path, Console(quiet=True))
    drawing.killed = False
    summary.write_results(tmp_path, Console(quiet=True))
    assert drawing.calls == 3


def test_records_of_a_family_can_become_stale_too() -> None:
    """Without making the class, which would import anomalib after every run."""
    assert summary.revisions().detectors["anomalib:patchcore"] == anomalib_family.REVISION


class Silent:
    """A reporter that notes the cells it is told of."""

    def __init__(self) -> None:
        self.told: list[tuple[str, bool]] = []

    def looked(self, inspection: Inspection) -> None:
        pass

    def fitting(self, detector: str, category: str, fit_seed: int) -> Progress:
        return silent

    def attacking(self, detector: str, category: str, fit_seed: int, attack: str, images: int) -> Any:
        return nullcontext()

    def done(self, record: Record, reused: bool) -> None:
        self.told.append((record.category, reused))


def test_a_new_cell_is_drawn_as_soon_as_it_is_done_and_not_again_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reporter = Silent()
    drawing = summary.DrawingReporter(reporter, tmp_path)
    new = write_record(tmp_path / "records", category="mono")
    drawing.done(new, False)
    drawing.done(write_record(tmp_path / "records", category="poly"), True)
    assert reporter.told == [("mono", False), ("poly", True)]
    (picture,) = (tmp_path / "plots").glob("histogram--*.png")
    assert "mono" in picture.name, "a record that was there already waits for the end"
    asked: list[str] = []
    honest = plots.histogram_figure

    def watched(record: Record, scores: Any) -> Any:
        asked.append(record.category)
        return honest(record, scores)

    monkeypatch.setattr(plots, "histogram_figure", watched)
    summary.write_results(tmp_path, Console(quiet=True))
    assert asked == ["poly"]
    again = write_record(tmp_path / "records", category="mono", written="2031-01-01T00:00:00+00:00")
    assert new.path is not None and again.path == new.path
    os.utime(again.path, (0, 0))  # as of a copy that keeps old times
    summary.write_results(tmp_path, Console(quiet=True))
    assert asked == ["poly", "mono"], "another record of the same cell"


def test_a_picture_that_cannot_be_drawn_now_does_not_stop_the_run(tmp_path: Path) -> None:
    record = write_record(tmp_path / "records")
    (tmp_path / "plots").write_text("a file where the folder should be")
    reporter = Silent()
    summary.DrawingReporter(reporter, tmp_path).done(record, False)
    assert reporter.told == [(record.category, False)]


def test_a_notebooks_backend_and_a_users_matplotlibrc_are_not_looked_for(tmp_path: Path) -> None:
    """Jupyter sets MPLBACKEND for its children; where that backend is missing, matplotlib cannot be imported."""
    _write(tmp_path, "mono")
    own = tmp_path / "matplotlibrc"
    own.write_text("font.family: Not Installed\ntext.usetex: True\nno.such.key: 1\n")
    asked = {**os.environ, "MPLBACKEND": "module://not_installed.backend", "MATPLOTLIBRC": str(own)}
    words = [sys.executable, "-m", "bench", "report", str(tmp_path)]
    done = subprocess.run(words, env=asked, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stdout and list((tmp_path / "plots").glob("*.png"))
    assert done.stderr == ""


def test_what_cannot_be_drawn_costs_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a backend that is not there")

    monkeypatch.setattr(plots, "write_all", broken)
    _write(tmp_path, "mono")
    written, problems = folder.write_results(tmp_path, summary.revisions())
    assert {path.name for path in written} == {"leaderboard.csv", "leaderboard.md", "leaderboard.tex"}
    assert len(problems) == 1 and "python -m bench report" in problems[0]
    monkeypatch.undo()
    assert folder.write_results(tmp_path, summary.revisions())[1] == [], "it is tried again"


def test_no_error_in_drawing_stops_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a map that is not finite")

    monkeypatch.setattr(plots, "histogram_figure", broken)
    reporter = Silent()
    record = write_record(tmp_path / "records")
    summary.DrawingReporter(reporter, tmp_path).done(record, False)
    assert reporter.told == [(record.category, False)]
