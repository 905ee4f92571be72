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
    """A new folder. Those of killed runs are taken away first: nobody holds their locks any more. Where there are no
    locks (Windows, some network disks), nothing is taken away."""
    cache.mkdir(parents=True, exist_ok=True)
    for left in cache.glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError), left.open("r+") as lock:
            _hold(lock)
            shutil.rmtree(left.parent, ignore_errors=True)
    # Under another name until its lock is held, or a run that begins at the same time would take it away.
    new = Path(tempfile.mkdtemp(prefix="new-", dir=cache))
    folder = new
    try:
        with (new / _LOCK).open("w") as lock:
            with suppress(OSError):
                _hold(lock)
                folder = new.rename(new.with_name(_PREFIX + new.name))
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _hold(lock: IO[str]) -> None:
    """Raises OSError where another process holds it."""
    if sys.platform == "win32":
        raise OSError("there are no such locks")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
