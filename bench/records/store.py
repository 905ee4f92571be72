"""Records on the disk: what one cell of the benchmark found, as JSON beside a CSV of its per-image scores.

A record is written once, atomically and after its scores: whoever finds the JSON finds the whole cell, and a run that
was killed does the cell again. Records may come from strangers: reading never runs code, checks what it needs, and
reports what is damaged instead of failing.

No figure is believed without its scores: a record carries the hash of its content and that of its scores, and whatever
can be computed from the scores is computed again when it is read (`bench.records.recount`). That tells what was
changed by accident or by hand. A forger who makes up scores and computes figures and hashes to match is not found out
by reading: only measuring the cell again would tell.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

from bench import files
from bench.errors import ContradictionError, RecordError
from bench.records import limits, pairs, recount
from bench.records.cell import Cell
from bench.records.paths import SCORES_SUFFIX, companion, record_path
from bench.records.record import Record
from bench.records.schema import check
from bench.records.score_table import Scores, parse_scores, render_scores
from detectors.files import read_ordinary

log = logging.getLogger(__name__)


def write(record: Record, scores: Scores | None, folder: Path) -> Path:
    """Write the scores, then the record. Returns the record's path; a failed cell may have no scores.

    Raises:
        RecordError: the key or a figure is wrong or not that of the scores, or a number out of its range.
        DiskError: the disk refuses (nothing half-written stays behind).
    """
    if record.ok and scores is None:
        raise RecordError("A record that claims figures needs the scores they come from; pass them.")
    path = record_path(folder, record.cell)
    table = render_scores(scores) if scores is not None else ""
    text = dataclasses.replace(record, scores_sha256=pairs.digest(table) if table else "").to_json()
    document = json.loads(text)
    cell = check(document)
    if record.ok and scores is not None:
        recount.check(cell, document["results"], scores)
    pairs.write(folder, path, text, companion(path, SCORES_SUFFIX), table)
    return path


def read(path: Path) -> Record:
    """One record, held against its scores where it has figures. Raises RecordError where one of the two is missing,
    damaged or changed, or where they do not belong together."""
    try:
        text = read_ordinary(path, limits.RECORD_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"The record {path} cannot be read ({files.why(error)}); run the cell again.") from None
    try:
        record = dataclasses.replace(Record.from_json(text), path=path)
    except RecordError as error:
        raise type(error)(f"The record {path} does not count: {error}") from None
    if record.ok:
        scores = read_scores(record)
        try:
            young = recount.check(record.cell, record.results, scores)
        except RecordError as error:
            raise type(error)(f"The record {path} does not count: {error}") from None
        record = dataclasses.replace(record, recounted=young)
    return record


def read_all(folder: Path) -> tuple[list[Record], list[str]]:
    """Every record below the folder, in the order of their paths, and a sentence about each one that does not count or
    appears twice (the newer one counts), or each folder that may not be read. Other JSON files (of checkpoints, of
    plots) are not looked at."""
    return pairs.read_each(folder, read, "records of the same cell")


def find(folder: Path, cell: Cell) -> Record | None:
    """The record of this very cell, or None where there is none or it does not count (it will be written again, which a
    warning says)."""
    path = record_path(folder, cell)
    with files.writing(folder):  # where nobody may look
        if not path.is_file():
            return None
    try:
        record = read(path)
    except RecordError as error:
        log.warning("%s That is done now.", error)
        return None
    return record if record.key == cell.key else None


def read_scores(record: Record) -> Scores:
    """The per-image scores of a record that was read from a file.

    Raises:
        RecordError: they are missing, damaged, or not the ones that the record was written for.
    """
    if record.path is None:
        raise RecordError("This record was not read from a file, so it has no scores beside it; read it first.")
    path = companion(record.path, SCORES_SUFFIX)
    try:
        text = read_ordinary(path, limits.SCORES_BYTES).decode(errors="surrogateescape")
    except OSError as error:
        raise RecordError(f"The scores {path} cannot be read ({files.why(error)}); run the cell again.") from None
    if pairs.digest(text) != record.scores_sha256:
        raise ContradictionError(
            f"The scores {path} are not those of their record (SHA-256 differs); run the cell again."
        )
    try:
        return parse_scores(text)
    except RecordError as error:
        raise RecordError(f"The scores {path} are damaged: {error}") from None
