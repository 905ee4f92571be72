"""Everything that is drawn from a folder's records: leaderboards, plots and example panels."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from bench import files
from bench.errors import DiskError
from bench.records import certificate_store
from bench.records.record import Record, Revisions
from bench.records.store import read_all
from bench.report import write
from bench.report.plain_matplotlib import plain_matplotlib
from bench.text import one_line
from detectors.checkpoint import write_atomically

log = logging.getLogger(__name__)
STAMP = ".drawn"


def write_results(
    out: Path, revisions: Revisions, *, anew: bool = False, of_cells: bool = True
) -> tuple[list[Path], list[str]]:
    """Leaderboards, plots and panels from all records in `out`/records.

    Leaderboards first: what is only drawn costs nothing that was computed, whatever a drawing library says. Drawing
    takes most of a run that computes nothing, so plots stay as they are while they are those of the records. A stamp
    beside them, written last, says of which: a run that was killed before it had drawn draws the next time.

    Args:
        out: the folder; `records` lies in it.
        revisions: of the code at hand, which say what is out of date.
        anew: look whether each picture is there, whatever the stamp says.
        of_cells: with the pictures of each cell, of which there may be thousands.

    Returns:
        What was written, and a sentence about whatever does not count or could not be drawn.

    Raises:
        DiskError: the disk refuses.
    """
    records, problems = read_all(out / "records")
    written, records, odd = _tabled(records, out, revisions)
    problems += odd
    stamp, drawn = out / "plots" / STAMP, _state(records).encode()
    with files.writing(out / "plots"):
        if not anew and stamp.is_file() and stamp.read_bytes() == drawn:
            return written, problems
    try:
        with plain_matplotlib():  # not at the top: matplotlib takes a second, in which workers can start
            from bench.report import plots

        plotted, not_drawn = plots.write_all(records, out / "plots", revisions, of_cells=of_cells)
    except DiskError:
        raise
    except Exception as error:
        log.debug("While drawing:", exc_info=error)
        problems.append(
            f"Not everything could be drawn ({type(error).__name__}: {one_line(error, 200)}); records and leaderboards "
            "are complete: python -m bench report draws the rest again."
        )
        return written, problems
    if of_cells and not not_drawn:
        with files.writing(out / "plots"):
            write_atomically(stamp, drawn)
    # The pictures share one notice of their licence.
    return list(dict.fromkeys(written + plotted)), problems + not_drawn


def _tabled(records: list[Record], out: Path, revisions: Revisions) -> tuple[list[Path], list[Record], list[str]]:
    """Write the leaderboards. Returns their paths, the records that are in them, and a sentence about each one that is
    not: whatever a stranger's record holds that no check has thought of, it costs no other one's row."""
    certificates, _ = certificate_store.read_all(out / certificate_store.FOLDER)  # who makes tables of them complains
    try:
        return write.write(records, out, revisions, certificates), records, []
    except DiskError:
        raise
    except Exception as error:
        log.debug("While making tables:", exc_info=error)
    kept, problems = [], []
    for record in records:
        try:
            write.texts([record], revisions)
            kept.append(record)
        except Exception as error:
            problems.append(
                f"The record {record.path} is left out, for it cannot be put into a table ({type(error).__name__}: "
                f"{one_line(error, 200)}); report it, or delete the file and run the cell again."
            )
    try:
        return write.write(kept, out, revisions, certificates), kept, problems
    except DiskError:
        raise
    except Exception as error:
        log.debug("While making tables:", exc_info=error)
        problems.append(
            f"The column of certificates is left out, for one of them cannot be put into a table "
            f"({type(error).__name__}: {one_line(error, 200)}); report it, or delete {out / certificate_store.FOLDER}."
        )
        return write.write(kept, out, revisions), kept, problems


def _state(records: Sequence[Record]) -> str:
    """A hash of which records there are, each as it was last written."""
    return hashlib.sha256("\n".join(sorted(r.stamp for r in records)).encode()).hexdigest()
