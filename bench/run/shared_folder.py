"""A folder in the cache for what the processes of a run share. It ends with the run, or after a kill with the next."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from bench import files
from bench.errors import RecordError
from detectors.checkpoint import TEMPORARY

if sys.platform != "win32":
    import fcntl

_PREFIX, _LOCK = "pictures-", "lock"


@contextmanager
def shared_folder(cache: Path) -> Iterator[Path]:
    """A new folder. Those of killed runs are taken away first: nobody holds their locks any more. Where there are no
    locks (Windows, some network disks), nothing is taken away."""
    for left in cache.glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError), left.open("r+") as lock:
            _hold(lock)
            shutil.rmtree(left.parent, ignore_errors=True)
    # Under another name until its lock is held, or a run that begins at the same time would take it away.
    new = Path(tempfile.mkdtemp(prefix=".new-", suffix=TEMPORARY, dir=_writable(cache)))
    folder = new
    try:
        with (new / _LOCK).open("w") as lock:
            with suppress(OSError):
                _hold(lock)
                folder = new.rename(new.with_name(_PREFIX + new.name.removeprefix(".new-").removesuffix(TEMPORARY)))
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _writable(cache: Path) -> Path:
    """The cache, or the system's folder for temporary files: a cache that others have filled may be read-only."""
    try:
        files.check_writable(cache)
    except RecordError:
        return Path(tempfile.gettempdir())
    return cache


def _hold(lock: IO[str]) -> None:
    """Raises OSError where another process holds it."""
    if sys.platform == "win32":
        raise OSError("there are no such locks")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
