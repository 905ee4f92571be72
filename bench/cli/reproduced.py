"""Where experiments of the paper are looked at and run: what `python -m bench reproduce` is asked, and its records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import files
from bench.cli.screen import Screen
from bench.data import registry as datasets
from bench.errors import BenchError
from bench.names import unknown
from bench.records.record import Record
from bench.records.store import read_all

OWN = Path("results/records")
REFERENCE = Path(__file__).resolve().parents[2] / "results" / "reference"  # of a clone; an installed package has none


@dataclass(frozen=True)
class Where:
    """Where and how the experiments are looked at and run: the options of the command. What is done in one process is
    done on the first of the devices."""

    records: Path | None
    preset: str
    protocol: str
    image_size: int | None
    dataset: str | None
    data_root: Path | None
    categories: tuple[str, ...] | None
    limit: int | None
    devices: tuple[str, ...]
    workers: int | None
    run: bool
    dry_run: bool
    out: Path
    cache: Path | None
    detector: str | None = None


def categories_of(where: Where, papers: tuple[str, ...], papers_dataset: str) -> tuple[str, tuple[str, ...]]:
    """The data set and the categories that are looked at. Raises BenchError where the data set lacks one."""
    name = where.dataset or papers_dataset
    if name == papers_dataset:
        for category in where.categories or ():
            if category not in papers and where.data_root is None:
                raise unknown("category", category, papers)
        if where.categories is None or set(where.categories) <= set(papers):
            return name, where.categories or papers
    opened = datasets.get(name, where.data_root)
    for category in where.categories or ():
        opened.check_category(category)
    return name, where.categories or opened.categories()


def records_of(where: Where, console: Screen) -> tuple[list[Record], list[str]]:
    """The records that are compared, and a sentence about each one that does not count."""
    named = where.records
    own = [where.out / "records"] if where.out != OWN.parent else []
    folders = [*own, OWN, *sorted(REFERENCE.glob("*/records"))] if named is None else [named / "records", named]
    folders = [folder for folder in folders if folder.is_dir()]
    if named is not None:
        folders = folders[:1]  # what a run wrote to (--out) is as good as the records in it
        folders += [folder for folder in own if where.run and folder.is_dir() and folder not in folders]
    found: list[Record] = []
    problems: list[str] = []
    for folder in folders:
        some, wrong = read_all(folder)
        found, problems = found + some, problems + wrong
    if named is not None and not found and not problems and not where.run:
        why = "There are no records in" if folders else "There is no folder"
        raise BenchError(
            f"{why} {files.shortened(named)}; name the folder that a run wrote to (--out), or leave --records out."
        )
    if found:
        listed = ", ".join(map(str, folders))
        console.print(f"Records: {listed}", style="dim", markup=False, highlight=False, soft_wrap=True)
    return found, problems


def say_commands(commands: Sequence[str], console: Screen) -> None:
    """What a user types, or --run does."""
    if commands:
        console.print("To run what is missing (or --run):", highlight=False)
    for command in commands:
        console.print(f"  {command}", markup=False, highlight=False, soft_wrap=True)
