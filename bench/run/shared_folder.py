"""A folder in the cache for what the processes of a run share. It ends with the run, or after a kill with the next."""

from __future__ import annotations

import platform
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
_BOOT = Path("/proc/sys/kernel/random/boot_id")  # of Linux; containers of one machine have it in common
_LONGEST = 1000


@contextmanager
def shared_folder(cache: Path) -> Iterator[Path]:
    """A new folder. Those of this machine's killed runs are taken away first: nobody holds their locks any more. What
    another machine's lock is worth nobody here can know: many network disks keep locks on each machine for itself.
    Where there are no locks (Windows), nothing is taken away."""
    here = _machine()
    for left in cache.glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError, UnicodeDecodeError), left.open("r+") as lock:
            there = set(lock.read(_LONGEST).split())
            if there and not there & here:
                continue
            _hold(lock)
            shutil.rmtree(left.parent, ignore_errors=True)
    # Under another name until its lock is held, or a run that begins at the same time would take it away.
    new = Path(tempfile.mkdtemp(prefix=".new-", suffix=TEMPORARY, dir=_writable(cache)))
    folder = new
    try:
        with (new / _LOCK).open("w") as lock:
            with suppress(OSError):
                _hold(lock)
                lock.write("\n".join(sorted(here)))
                lock.flush()
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


def _machine() -> set[str]:
    """What tells this machine from others: its name, which outlives a boot, and its boot, which containers share."""
    found = {platform.node()} - {""}
    with suppress(OSError):
        found.add(_BOOT.read_text().strip())
    return found


def _hold(lock: IO[str]) -> None:
    """Raises OSError where another process holds it."""
    if sys.platform == "win32":
        raise OSError("there are no such locks")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
