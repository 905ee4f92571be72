"""Between the commands and the shell: exit codes, and one sentence for what went wrong and can be mended."""

from __future__ import annotations

import io
import sys
import traceback
from collections import Counter
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from attacks.errors import AttackError
from bench import files
from bench.cell.memory import OUT_OF_MEMORY, is_out_of_memory
from bench.cli.screen import Screen
from bench.errors import BenchError
from bench.text import one_line, visible
from detectors.errors import DetectorError

STOPPED = 130  # what shells report for a program that Ctrl-C ended
# The base of all that typer has to say about a command line; older versions take it from click, newer ones bring it.
_ClickError: type[Any] = typer.BadParameter.__mro__[2]


class StoppedError(Exception):
    """Ctrl-C; typer would turn a KeyboardInterrupt into an exit without a word."""


class Commands(TyperGroup):
    """A group of commands that lets Ctrl-C through."""

    def invoke(self, ctx: Any) -> Any:
        """Raises StoppedError."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise StoppedError from None


class Once(TyperCommand):
    """A command that refuses an option which is given twice: the first would be lost without a word."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As in typer. Raises BadParameter."""
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for parameter, times in Counter(order).items():
            if times > 1 and parameter.param_type_name == "option" and not parameter.multiple:
                raise typer.BadParameter(
                    f"{parameter.opts[0]} is given {times} times, and only the last would count; give it once (several "
                    "names with commas)"
                )
        return list(super().parse_args(ctx, args))


def run(app: typer.Typer) -> int:
    """Run the command that the command line names. Returns its exit code: 1, after a traceback, for a bug."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what the terminal's encoding lacks must not cost a table
            stream.reconfigure(errors="replace")
    try:
        # Not standalone: there, typer prints boxes for wrong options and swallows Ctrl-C.
        code = app(standalone_mode=False)
        return code if isinstance(code, int) else 0
    except _ClickError as error:
        text = str(error.format_message()).rstrip(".")
        if text:  # without one, no command was named and typer has printed the help
            say(f"{text}; see python -m bench --help.")
    except (BenchError, DetectorError, AttackError) as error:
        say(str(error))
        return int(getattr(error, "exit_code", 2))
    except (StoppedError, KeyboardInterrupt):
        say("Stopped; what was finished is kept, and the same command goes on from there.")
        return STOPPED
    except PermissionError as error:
        say(f"{error.filename}: {error.strerror}; give yourself that right and run the same command again: it goes on.")
    except OSError as error:
        if not files.refused(error):
            return _unexpected()
        say(files.sentence(error, error.filename or "the folder of results or checkpoints"))
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


def say(*problems: str) -> None:
    """Print what went wrong to the standard error, one line each, without what a file's name could do to a terminal."""
    console = Screen(stderr=True)
    for problem in problems:
        text = f"Error: {one_line(problem, 2000)}"
        console.print(text, style="bold red", markup=False, highlight=False, soft_wrap=True)
