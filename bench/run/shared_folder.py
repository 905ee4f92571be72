"""A folder in the cache for what the processes of a run share. It ends with the run, or after a kill with the next."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl

_PREFIX, _LOCK = "pictures-", "lock"


@contextmanager
def shared_folder(cache: Path) -> Iterator[Path]:
    """A new folder. Those of killed runs are taken away first: nobody holds their locks any more."""
    cache.mkdir(parents=True, exist_ok=True)
    for left in cache.glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError), left.open("r+") as lock:
            _hold(lock)
            shutil.rmtree(left.parent, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=cache))
    try:
        with (folder / _LOCK).open("w") as lock:
            _hold(lock)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _hold(lock: IO[str]) -> None:
    """Raises OSError where another process holds it."""
    if sys.platform == "win32":
        raise OSError("there are no such locks")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
