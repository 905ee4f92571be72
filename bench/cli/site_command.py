"""Pages made from records: what `report --html` does, and a run at its end."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench.cli import summary
from bench.errors import BenchError, DiskError
from bench.report.site import build
from bench.text import LONGEST, one_line

log = logging.getLogger(__name__)
SEVERAL = Path("results") / build.FOLDER  # where the pages of several folders go, unless somebody says


def write(folders: Sequence[Path], site: Path | None, console: Console) -> Path:
    """The pages of these folders of results, in FOLDER/site where it is one. Says what could not be used, and returns
    the first page.

    Raises:
        BenchError: a folder holds nothing that pages could be made of.
        DiskError: the disk refuses.
    """
    for folder in folders:
        if not any((folder / name).is_dir() for name in build.SOURCES):
            raise BenchError(f"There is no folder {folder / 'records'}; name the folder that a run wrote to (--out).")
    place = site if site is not None else folders[0] / build.FOLDER if len(folders) == 1 else SEVERAL
    page, problems = build.build(folders, place, summary.revisions())
    for problem in problems:
        console.print(f"Warning: {one_line(problem, LONGEST)}", style="yellow", markup=False, highlight=False)
    return page


def write_after_run(out: Path, console: Console) -> None:
    """The same at the end of a run, whose records must not be lost for a page."""
    try:
        # Not anew: a run that computes nothing ends in seconds. The tables have said what does not count.
        page, _ = build.build([out], out / build.FOLDER, summary.revisions(), anew=False)
    except DiskError:
        raise
    except Exception as error:
        log.debug("While making pages:", exc_info=error)
        console.print(
            f"Warning: The pages could not be made ({type(error).__name__}: {one_line(error, 200)}); records and "
            "leaderboards are complete: python -m bench report --html tries it again.",
            style="yellow",
            markup=False,
            highlight=False,
        )
        return
    console.print(f"Pages: {page}", markup=False, highlight=False, soft_wrap=True)
