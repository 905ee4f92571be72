"""Between the commands and the shell: exit codes, and one sentence for what went wrong and can be mended."""

from __future__ import annotations

import io
import logging
import os
import sys
import traceback
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from attacks.errors import AttackError
from bench import files
from bench.cell.memory import OUT_OF_MEMORY, is_out_of_memory
from bench.cli.exits import STOPPED, STOPPED_SENTENCE, UNREAD
from bench.cli.screen import Screen, UnreadError
from bench.errors import BenchError
from bench.records import environment
from bench.text import one_line, visible
from detectors.errors import DetectorError

LARGEST = 2**63 - 1  # of a whole number: what PyTorch and files hold
# The base of all that typer has to say about a command line; older versions take it from click, newer ones bring it.
_ClickError: type[Any] = typer.BadParameter.__mro__[2]


class StoppedError(Exception):
    """Ctrl-C; typer would turn a KeyboardInterrupt into an exit without a word."""


class Commands(TyperGroup):
    """A group of commands that lets Ctrl-C and the end of a pipe through."""

    def invoke(self, ctx: Any) -> Any:
        """Raises StoppedError, UnreadError."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise StoppedError from None
        except BrokenPipeError:
            raise UnreadError from None


class Once(TyperCommand):
    """A command that refuses an option which is given twice, where the first would be lost without a word, and what no
    option can be: numbers of hundreds of digits, texts that no file can be called by."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As in typer. Raises BadParameter."""
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for parameter, times in Counter(order).items():
            if times > 1 and parameter.param_type_name == "option" and not parameter.multiple:
                raise typer.BadParameter(
                    f"{parameter.opts[0]} is given {times} times, and only the last would count; give it once (several "
                    "names with commas)"
                )
        rest = list(super().parse_args(ctx, args))
        for name, value in ctx.params.items():
            for part in value if isinstance(value, list | tuple) else (value,):
                _check_value(name, part)
        return rest


def _check_value(name: str, value: object) -> None:
    option = name.replace("_", "-")
    if isinstance(value, int) and abs(value) > LARGEST:
        raise typer.BadParameter(f"{option} has {len(str(abs(value)))} digits, which is no number to work with")
    if isinstance(value, str | Path) and "\0" in str(value):
        raise typer.BadParameter(f"{option} has a character in it that no name can have (NUL)")


def run(app: typer.Typer) -> int:
    """Run the command that the command line names. Returns its exit code: 1, after a traceback, for a bug."""
    for stream in _texts():
        stream.reconfigure(errors="replace")  # what the terminal's encoding lacks must not cost a table
    try:
        # Not standalone: there, typer prints boxes for wrong options and swallows Ctrl-C.
        code = app(standalone_mode=False)
        for stream in _texts():
            stream.flush()
        return code if isinstance(code, int) else 0
    except _ClickError as error:
        text = str(error.format_message()).rstrip(".")
        if text:  # without one, no command was named and typer has printed the help
            say(f"{text}; see python -m bench --help.")
    except (BenchError, DetectorError, AttackError) as error:
        say(str(error))
        return int(getattr(error, "exit_code", 2))
    except (UnreadError, BrokenPipeError):
        return _unread()
    except OSError as error:
        if not files.refused(error) and error.filename is None:
            return _unexpected()
        say(files.sentence(error, error.filename or "the folder of results or checkpoints"))
    except (StoppedError, KeyboardInterrupt):
        say(STOPPED_SENTENCE)
        return STOPPED
    except SystemExit as error:  # nothing of ours does that, and as an exit code it might be read as success
        if isinstance(error.__context__, BrokenPipeError):  # but for rich, where typer prints a help
            return _unread()
        say(
            f"Something that this command ran called sys.exit ({error.code}): a detector, an attack or a package of "
            "another author; raise an error there instead, or leave it out."
        )
    except Exception as error:
        if not is_out_of_memory(error):
            return _unexpected()
        say(f"This process {OUT_OF_MEMORY}; what was finished is kept.")
    return 2


def _unexpected() -> int:
    """Show where the program went wrong, as Python would, but for what a name in the message could do to a terminal.
    Returns Python's exit code."""
    sys.stderr.write(visible(traceback.format_exc()))
    return 1


def _unread() -> int:
    """What is still to be written goes nowhere; Python would complain about it at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in _texts():
        os.dup2(nowhere, stream.fileno())
    return UNREAD


def _texts() -> Iterable[io.TextIOWrapper]:
    """Standard output and error, as far as they are there."""
    return [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper)]


def console(verbose: bool) -> Screen:
    """The screen of a command that works for long."""
    environment.commit()  # of the code that this process has loaded: the tree may change under a long run
    if verbose:
        logging.getLogger("bench").setLevel(logging.DEBUG)
    return Screen()


def say(*problems: str) -> None:
    """Print what went wrong to the standard error, one line each, without what a file's name could do to a terminal."""
    console = Screen(stderr=True)
    for problem in problems:
        text = f"Error: {one_line(problem, 2000)}"
        console.print(text, style="bold red", markup=False, highlight=False, soft_wrap=True)
