"""A run that is told to end (SIGTERM), as a cluster tells it some time before it kills."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# Signals within them are one: a cluster tells a script and its processes, and the script tells them, too.
AT_ONCE_SECONDS = 2.0


@contextmanager
def told_to_stop() -> Iterator[Callable[[], bool]]:
    """Within it a SIGTERM is remembered; the function says whether one came. A later one ends the process at once.

    In another thread than the main one nothing can be heard, and nothing is.
    """
    asked, first = threading.Event(), 0.0
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def heard(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if not asked.is_set():
            first = time.monotonic()
            asked.set()
        elif time.monotonic() - first > AT_ONCE_SECONDS:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, heard)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
