"""A cell's files on their way from one machine to another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench import files
from bench.errors import RecordError
from bench.records.paths import EXAMPLES_SUFFIX, SCORES_SUFFIX, companion, folder_of, record_path, safe_name
from bench.records.record import Record
from bench.records.store import read
from detectors.checkpoint import write_atomically

_BESIDE = (SCORES_SUFFIX, EXAMPLES_SUFFIX)


@dataclass(frozen=True)
class Parcel:
    """A record's text, and what lies beside it, by the ends of the files' names."""

    text: bytes
    beside: dict[str, bytes]


def pack(record: Record) -> Parcel:
    """The files of a record that was read from one. Raises RecordError where it was not."""
    if record.path is None:
        raise RecordError("This record was not read from a file, so there is nothing to send; read it first.")
    beside = {suffix: companion(record.path, suffix) for suffix in _BESIDE}
    return Parcel(
        record.path.read_bytes(), {suffix: path.read_bytes() for suffix, path in beside.items() if path.is_file()}
    )


def unpack(parcel: Parcel, folder: Path) -> Record:
    """Put a cell's files where they belong below a folder, the record last, and read it as any other.

    Raises:
        RecordError: the record does not count.
        DiskError: the disk refuses.
    """
    record = Record.from_json(parcel.text.decode())
    path = record_path(folder, record.cell)
    with files.writing(folder):
        for suffix in _BESIDE:
            if suffix in parcel.beside:
                write_atomically(companion(path, suffix), parcel.beside[suffix])
        write_atomically(path, parcel.text)
    return read(path)


def known(folder: Path, dataset: str, category: str, detector: str) -> dict[str, bytes]:
    """Every file of a detector's cells on a category, by its name: what another machine need not do again."""
    with files.writing(folder):
        found = sorted(folder_of(folder, dataset, category).glob(f"{safe_name(detector)}--*"))
        return {path.name: path.read_bytes() for path in found if path.is_file()}
