"""What a disk may refuse: told apart from a detector's own errors, and found before a long run rather than after it."""

from __future__ import annotations

import errno
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.errors import BenchError, DiskError
from detectors.checkpoint import TEMPORARY, write_atomically

ABANDONED_SECONDS = 24 * 3600  # nobody writes one file for so long

# A full or failing disk, or a limit on the size of files: nothing that a detector's code can do about it, and no reason
# to blame it.
_REFUSALS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG})
_RIGHTS = frozenset({errno.EACCES, errno.EPERM})  # which may change in mid-run


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
    where, again = shortened(folder), "and run the same command again: it goes on."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk is full at {where}; free some space or choose another folder {again}"
    if error.errno == errno.EFBIG:
        return f"A file at {where} is larger than this system or its ulimit -f allows; raise that limit {again}"
    return f"Cannot use {where} ({why(error)}); mend that or choose another place {again}"


def why(error: Exception) -> str:
    """The reason alone, where an OSError's own text would name the file once more."""
    return str(getattr(error, "strerror", None) or error)


def shortened(path: Path | str) -> str:
    """A path may have thousands of characters; its end is what tells it apart."""
    text = str(path)
    return text if len(text) <= 300 else f"{text[:100]}…{text[-150:]}"


def at_home(path: Path | str) -> Path:
    """The path with ~ and ~user replaced by the home folder, as shells do, which leave them alone in --out=~/x and in
    variables. Raises BenchError where there is no such."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise BenchError(f"{shortened(path)} names a home folder that is not there; write the path out.") from None


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


def check_writable(folder: Path) -> None:
    """Make the folder and write to it once; what a killed process has left half-written there a day ago is removed.
    Raises DiskError where that cannot be done."""
    # Of this process alone: of many machines on one folder another would take it away before it is looked at.
    probe = folder / f".writable-{secrets.token_hex(8)}{TEMPORARY}"
    try:
        write_atomically(probe, b"")
        now = probe.stat().st_mtime
        probe.unlink(missing_ok=True)  # two runs may ask at once
    except OSError as error:  # whatever it is, the user has chosen the folder
        raise DiskError(sentence(error, folder)) from None
    _sweep(folder, now)


def _sweep(folder: Path, now: float) -> None:
    """`now` is by the clock of the disk, as are the times of its files: this machine's may be days off."""
    for left in folder.rglob(f".*{TEMPORARY}"):
        with suppress(OSError):
            found = left.lstat()
            if now - found.st_mtime < ABANDONED_SECONDS:
                continue
            if stat.S_ISDIR(found.st_mode):
                shutil.rmtree(left)
            elif stat.S_ISREG(found.st_mode):
                left.unlink()
