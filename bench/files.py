"""What a disk may refuse: told apart from a detector's own errors, and found before a long run rather than after it."""

from __future__ import annotations

import errno
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.errors import DiskError
from detectors.checkpoint import TEMPORARY, write_atomically

ABANDONED_SECONDS = 24 * 3600  # nobody writes one file for so long

# A full or failing disk, or a limit on the size of files: nothing that a detector's code can do about it, and no reason
# to blame it.
_REFUSALS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG})
# Besides, in a folder of the user's choice: its rights, which may change in mid-run, and what else is in the way.
_RIGHTS = frozenset({errno.EACCES, errno.EPERM})
_WRONG_FOLDER = _RIGHTS | {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG}


def refused(error: OSError, folder: Path | None = None) -> bool:
    """Whether the disk, and not the program, is at fault; in a folder of the user's choice its rights count, too."""
    if error.errno in _REFUSALS:
        return True
    name = error.filename
    return (
        folder is not None
        and error.errno in _RIGHTS
        and isinstance(name, str | Path)
        and Path(name).absolute().is_relative_to(folder.absolute())
    )


def sentence(error: OSError, folder: Path | str) -> str:
    """What to tell the user."""
    again = "and run the same command again: it goes on."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk is full at {folder}; free some space or choose another folder {again}"
    if error.errno == errno.EFBIG:
        return f"A file at {folder} is larger than this system or its ulimit -f allows; raise that limit {again}"
    return f"{folder} cannot be written to ({error.strerror or error}); mend that or choose another folder {again}"


@contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """Within it a disk that refuses raises DiskError; any other OSError, of a detector's own code perhaps, passes."""
    try:
        yield
    except OSError as error:
        if not refused(error, folder):
            raise
        raise DiskError(sentence(error, folder)) from None


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Within it, where files of ours are written and nothing else is done, any OSError is a DiskError."""
    try:
        yield
    except OSError as error:
        raise DiskError(sentence(error, folder)) from None


def read_ordinary(path: Path, most: int) -> bytes:
    """A stranger's file, of `most` bytes at most. Raises OSError where it cannot be read, is larger or no ordinary file
    (reading a named pipe would wait for ever)."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is no ordinary file")
    if found.st_size > most:
        raise OSError(f"it is larger than {most >> 20} MiB")
    return path.read_bytes()


def check_writable(folder: Path) -> None:
    """Make the folder and write to it once; what a killed process has left half-written there a day ago is removed.
    Raises DiskError where that cannot be done."""
    probe = folder / ".writable"
    try:
        write_atomically(probe, b"")
        probe.unlink(missing_ok=True)  # two runs may ask at once
    except OSError as error:
        if not refused(error) and error.errno not in _WRONG_FOLDER:
            raise
        raise DiskError(sentence(error, folder)) from None
    _sweep(folder)


def _sweep(folder: Path) -> None:
    for left in folder.rglob(f".*{TEMPORARY}"):
        with suppress(OSError):
            if left.is_file() and time.time() - left.lstat().st_mtime > ABANDONED_SECONDS:
                left.unlink()
