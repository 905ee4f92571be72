"""A cell's files on their way from one machine to another."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench import files
from bench.errors import RecordError
from bench.records.paths import (
    EXAMPLES_SUFFIX,
    IMAGES_SUFFIX,
    SCORES_SUFFIX,
    companion,
    folder_of,
    record_path,
    safe_name,
)
from bench.records.record import Record
from bench.records.store import read
from detectors.checkpoint import write_atomically

_BESIDE = (SCORES_SUFFIX, EXAMPLES_SUFFIX, IMAGES_SUFFIX)


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


class Known:
    """What an earlier run has left of a category, so that another machine need not do it again."""

    def __init__(self, folder: Path, dataset: str, category: str) -> None:
        """Look once, and read of each record whose it is: what comes later is of other fits than those to be done.

        Raises:
            DiskError: the disk refuses.
        """
        self._paths: dict[tuple[str, int], list[Path]] = {}
        with files.writing(folder):
            for path in sorted(folder_of(folder, dataset, category).glob("*--*--*.json")):
                with suppress(OSError, ValueError, TypeError, KeyError):  # damaged: it is done anew
                    cell = json.loads(path.read_bytes())["cell"]
                    self._paths.setdefault((safe_name(cell["detector"]["name"]), int(cell["fit_seed"])), []).append(
                        path
                    )

    def files(self, detector: str, fit_seed: int, *, with_images: bool) -> dict[str, bytes]:
        """The files of one fit's cells, by their names; the adversarial images, which are large, on request alone."""
        found: dict[str, bytes] = {}
        for path in self._paths.get((safe_name(detector), fit_seed), ()):
            for suffix in (".json", SCORES_SUFFIX, EXAMPLES_SUFFIX, *[IMAGES_SUFFIX] * with_images):
                file = companion(path, suffix)
                with suppress(OSError):
                    found[file.name] = file.read_bytes()
        return found
