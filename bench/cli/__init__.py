"""The command line."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench import packages
from bench.cli import exits

__all__ = ["main"]


def main() -> None:
    """`python -m bench` and the command `radbench`. What they need is imported here: Ctrl-C is heard meanwhile, and
    whatever stands in the way of our packages has been told before anything of it is run."""
    problem = packages.foreign()
    if problem:
        sys.stderr.write(f"Error: {problem}\n")
        raise SystemExit(2)
    with _stopped_at_once():
        from bench.cli import commands
    commands.main()


@contextmanager
def _stopped_at_once() -> Iterator[None]:
    """Within it Ctrl-C ends the program with a sentence. An exception could come up anywhere in the modules that are
    being imported, which may make something else of it; and nothing is lost as yet."""

    def stop(*_: Any) -> None:
        os.write(2, f"Error: {exits.STOPPED_SENTENCE}\n".encode())
        os._exit(exits.STOPPED)

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored, by a shell; or not in the shell
        yield
        return
    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
