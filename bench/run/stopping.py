"""A run that is told to end (SIGTERM), as a cluster tells it some time before it kills."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def told_to_stop() -> Iterator[Callable[[], bool]]:
    """Within it a SIGTERM is remembered; the function says whether one came. A second one ends the process at once.

    In another thread than the main one nothing can be heard, and nothing is.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def heard(number: int, frame: FrameType | None) -> None:
        asked.set()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    before = signal.signal(signal.SIGTERM, heard)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
