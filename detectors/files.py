"""Reading files that anybody may have put there: only ordinary ones, and no more of them than makes sense."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


class OddFileError(OSError):
    """A file that is not read; `strerror` says what it is ("no ordinary file", "larger than 4096 MiB")."""


def open_ordinary(path: Path) -> BinaryIO:
    """The file, open for reading.

    Raises:
        OddFileError: it is a folder, a device (which may have no end) or a named pipe (which may never begin), or leads
            to one.
        OSError: as `open`.
    """
    _check_ordinary(path, path.stat())  # before it is opened: some devices do something then
    stream: BinaryIO = open(path, "rb", opener=_at_once)  # noqa: SIM115 - the caller closes it
    try:
        _check_ordinary(path, os.fstat(stream.fileno()))  # what has been opened: the name may lead elsewhere by now
    except OSError:
        stream.close()
        raise
    return stream


def read_ordinary(path: Path, most: int) -> bytes:
    """The whole content of an ordinary file, at most `most` bytes.

    Raises:
        OddFileError: it is none (`open_ordinary`), or larger.
        OSError: as `open`.
    """
    with open_ordinary(path) as stream:
        # The size is asked first, lest gigabytes be read in vain; that it is true shows when they are read.
        if os.fstat(stream.fileno()).st_size <= most and len(content := stream.read(most + 1) or b"") <= most:
            return content
    raise OddFileError(errno.EFBIG, f"larger than {most >> 20} MiB", str(path))


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe would wait for somebody who writes


def _check_ordinary(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OddFileError(errno.EINVAL, "no ordinary file", str(path))
