"""Everything that is drawn from a folder's records: leaderboards, plots and example panels."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from bench.errors import RecordError
from bench.records.record import Record, Revisions
from bench.records.store import read_all
from bench.report import write
from bench.report.pyplot_free import no_backend
from bench.text import one_line
from detectors.checkpoint import write_atomically

log = logging.getLogger(__name__)
STAMP = ".drawn"


def write_results(out: Path, revisions: Revisions) -> tuple[list[Path], list[str]]:
    """Leaderboards, plots and panels from all records in `out`/records.

    Leaderboards first: what is only drawn costs nothing that was computed, whatever a drawing library says. Drawing
    takes most of a run that computes nothing, so plots stay as they are while they are those of the records. A stamp
    beside them, written last, says of which: a run that was killed before it had drawn draws the next time.

    Args:
        out: the folder; `records` lies in it.
        revisions: of the code at hand, which say what is out of date.

    Returns:
        What was written, and a sentence about whatever does not count or could not be drawn.

    Raises:
        RecordError: the disk refuses.
    """
    records, problems = read_all(out / "records")
    written = write.write(records, out, revisions)
    stamp, drawn = out / "plots" / STAMP, _state(records)
    if stamp.is_file() and stamp.read_text() == drawn:
        return written, problems
    try:
        with no_backend():  # not at the top: matplotlib takes a second, in which workers can start
            from bench.report import example_panel, plots

        plotted, without_scores = plots.write_all(records, out / "plots", revisions)
        written += plotted
        problems += without_scores
        for record in (r for r in records if r.ok):
            written += example_panel.write_panel(record, out / "plots")
    except (RecordError, OSError):
        raise
    except Exception as error:
        log.debug("While drawing:", exc_info=error)
        problems.append(
            f"Not everything could be drawn ({type(error).__name__}: {one_line(error, 200)}); records and leaderboards "
            "are complete: python -m bench report draws the rest again."
        )
        return written, problems
    write_atomically(stamp, drawn.encode())
    return written, problems


def _state(records: Sequence[Record]) -> str:
    """A hash of which records there are, each as it was last written."""
    return hashlib.sha256("\n".join(sorted(r.stamp for r in records)).encode()).hexdigest()
