"""A record and the table beside it, as files: written both or not at all, and read each once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeVar

from bench import files
from bench.errors import RecordError
from detectors.checkpoint import write_atomically


class Kept(Protocol):
    """What is kept of it once it was read: its key, and when it was written."""

    @property
    def key(self) -> str: ...

    @property
    def written(self) -> str: ...

    @property
    def path(self) -> Path | None: ...


K = TypeVar("K", bound=Kept)


def digest(table: str) -> str:
    """SHA-256 of a table. Line ends are no part of it: git may change them on the way to Windows."""
    return hashlib.sha256(table.replace("\r\n", "\n").encode(errors="surrogateescape")).hexdigest()


def write(folder: Path, path: Path, text: str, beside: Path, table: str) -> None:
    """The table first, so that whoever finds the record finds it; no table stays behind without one.

    Args:
        folder: the one above the datasets'.
        path, text: of the record.
        beside, table: of the table; "" where the record has none.

    Raises:
        DiskError: the disk refuses.
    """
    with files.writing(folder):
        was_there = path.exists()
        try:
            if table:
                write_atomically(beside, table.encode(errors="surrogateescape"))
            write_atomically(path, text.encode())
        except OSError:
            if not was_there:
                with suppress(OSError):
                    beside.unlink(missing_ok=True)
            raise


def read_each(folder: Path, read: Callable[[Path], K], what: str) -> tuple[list[K], list[str]]:
    """Every record below a folder, in the order of their paths, and a sentence about each one that does not count or
    appears twice (the newer one counts), or each folder that may not be read. Other JSON files are not looked at.

    Args:
        folder: the one above the datasets'.
        read: one record; raises RecordError where it does not count.
        what: twins are ("records of the same cell").
    """
    found: dict[str, K] = {}
    problems = [
        f"The folder {place} may not be read, so its records are missing; give yourself that right."
        for place in (folder, *sorted(folder.glob("*")), *sorted(folder.glob("*/*")))
        if os.path.isdir(place) and not os.access(place, os.R_OK | os.X_OK)  # noqa: PTH112  `Path.is_dir` may raise
    ]
    for path in sorted(folder.glob("*/*/*--*--*.json")):
        try:
            one = read(path)
        except RecordError as error:
            problems.append(str(error))
            continue
        twin = found.get(one.key)
        if twin is not None:
            problems.append(f"{twin.path} and {path} are {what}; delete one (the newer one counts).")
        if twin is None or one.written > twin.written:
            found[one.key] = one
    return list(found.values()), problems
