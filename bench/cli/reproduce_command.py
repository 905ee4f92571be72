"""`python -m bench reproduce`: a table of the paper beside what was measured."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from bench import files
from bench.cli import summary
from bench.errors import BenchError
from bench.plan import presets
from bench.records import certificate_store
from bench.records.record import Record
from bench.records.store import read_all
from bench.text import LONGEST, one_line

OWN = Path("results/records")
REFERENCE = Path(__file__).resolve().parents[2] / "results" / "reference"  # of a clone; an installed package has none


def reproduce_table(
    table: str, records: Path | None, *, preset: str, protocol: str, image_size: int | None, out: Path, console: Console
) -> None:
    """Print and write the table; what is missing is marked as not run, with the command that runs it.

    Args:
        table: "table1", "table2", "table3", "table6" or "table14".
        records: folder of records; None: the user's own (results/records), and those that the source tree brings.
        preset, protocol, image_size: whose records are compared; None: the preset's own size.
        out: where the table is written.
        console: where it is printed.

    Raises:
        BenchError: a table, preset or protocol that is not there, or a folder without records.
    """
    # Not at the top: they need pandas, and no other command does.
    from bench.report.paper import certified, render, reproduce, tables

    if table == certified.TABLE:
        _certified(records, out, console)
        return
    recipe = tables.recipe_of(table)
    if (preset, protocol) != (recipe.preset, recipe.protocol) or image_size is not None:
        recipe = recipe.at_size(
            image_size or presets.get(preset).side(recipe.dataset), preset=preset, protocol=protocol
        )
    found_records, problems = _records(records, console)
    found = reproduce.reproduce(table, found_records, recipe=recipe, revisions=summary.revisions())
    console.print(render.terminal(found, console.width))
    for note in (*found.notes, *problems):
        console.print(f"- {one_line(note, LONGEST)}", style="dim", markup=False, highlight=False)
    moves = reproduce.sensitivity(table, found_records, recipe=recipe)
    if len(moves):
        console.print("How the robust AUC moves with steps and step size, which the paper does not give:")
        console.print(moves.to_string(index=False), markup=False, highlight=False)
    if found.absent():
        console.print(f"Not among the installed detectors: {', '.join(found.absent())}.", markup=False, highlight=False)
    commands = found.commands()
    if commands:
        console.print("To run what is missing:", highlight=False)
        for command in commands:
            console.print(f"  {command}", markup=False, highlight=False, soft_wrap=True)
    for path in render.write(found, out):
        console.print(f"Written: {path}", markup=False, highlight=False)


def _certified(records: Path | None, out: Path, console: Console) -> None:
    """Table 6, whose figures are none of an attack."""
    from bench.report.paper import certified

    own = OWN.parent if records is None else records
    certificates, problems = certificate_store.read_all(own / certificate_store.FOLDER)
    found = certified.rows(certified.of_certificates(certificates))
    console.print(certified.terminal(found, console.width))
    for note in (*certified.NOTES, *problems):
        console.print(f"- {one_line(note, LONGEST)}", style="dim", markup=False, highlight=False)
    missing = certified.commands(found)
    if missing:
        console.print("To run what is missing:", highlight=False)
    for command in missing:
        console.print(f"  {command}", markup=False, highlight=False, soft_wrap=True)
    for path in certified.write(found, out):
        console.print(f"Written: {path}", markup=False, highlight=False)


def _records(named: Path | None, console: Console) -> tuple[list[Record], list[str]]:
    """The records that are compared, and a sentence about each one that does not count."""
    folders = [OWN, *sorted(REFERENCE.glob("*/records"))] if named is None else [named / "records", named]
    folders = [folder for folder in folders if folder.is_dir()]
    if named is not None:
        folders = folders[:1]  # what a run wrote to (--out) is as good as the records in it
    found: list[Record] = []
    problems: list[str] = []
    for folder in folders:
        some, wrong = read_all(folder)
        found, problems = found + some, problems + wrong
    if named is not None and not found and not problems:
        why = "There are no records in" if folders else "There is no folder"
        raise BenchError(
            f"{why} {files.shortened(named)}; name the folder that a run wrote to (--out), or leave --records out."
        )
    if found:
        listed = ", ".join(map(str, folders))
        console.print(f"Records: {listed}", style="dim", markup=False, highlight=False, soft_wrap=True)
    return found, problems
