"""`python -m bench merge`: the records of several places in one folder."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from bench import files
from bench.cli import shell
from bench.cli.options import expanded
from bench.cli.screen import Screen
from bench.records.certificate_store import FOLDER as CERTIFICATES
from bench.submission import archive
from bench.submission.merge import merged, write
from bench.text import plural
from bench.verify.finding import FAILS_CODE, UNJUDGED_CODE
from bench.verify.stated import RECORDS


def merge(
    places: Annotated[
        list[Path], typer.Argument(help="Records, folders of runs, or archives of `submit`.", callback=expanded)
    ],
    out: Annotated[
        Path, typer.Option(help="Where they go; what is there already is among them.", callback=expanded)
    ] = Path("results"),
) -> None:
    """Put records together. Where two of one cell state other figures nothing is written (exit code 1)."""
    screen = Screen()
    with TemporaryDirectory(prefix="radbench-merge-") as private:
        there = [out] if any((out / name).is_dir() and any((out / name).iterdir()) for name in _FOLDERS) else []
        found = merged([*there, *(_unpacked(place, Path(private) / str(n)) for n, place in enumerate(places))])
        shell.say(*found.conflicts, *found.problems)
        if found.conflicts or found.problems:
            screen.print("Nothing was written.", style="bold", markup=False, highlight=False)
            raise typer.Exit(FAILS_CODE if found.conflicts else UNJUDGED_CODE)
        files.check_writable(out)
        written = write(found, out)
    doubles = f"; {found.doubles} more said the same" if found.doubles else ""
    screen.print(
        f"{plural(len(written), 'record')} in {out}{doubles}. Draw its tables with: python -m bench report {out}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


_FOLDERS = (RECORDS, CERTIFICATES)


def _unpacked(place: Path, private: Path) -> Path:
    if place.suffix.lower() != archive.SUFFIX:
        return place
    archive.unpack(place, private)
    return private
