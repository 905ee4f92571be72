"""`python -m bench reproduce`: a table of the paper beside what was measured."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from bench.cli import summary
from bench.plan import presets
from bench.records.store import read_all


def reproduce_table(
    table: str, records: Path, *, preset: str, protocol: str, image_size: int | None, out: Path, console: Console
) -> None:
    """Print and write the table; what is missing is marked as not run, with the command that runs it.

    Args:
        table: "table1", "table2", "table3" or "table14".
        records: folder of records.
        preset, protocol, image_size: whose records are compared; None: the preset's own size.
        out: where the table is written.
        console: where it is printed.

    Raises:
        BenchError: a table, preset or protocol that is not there.
    """
    # Not at the top: they need pandas, and no other command does.
    from bench.report.paper import render, reproduce, tables

    recipe = tables.recipe_of(table)
    if (preset, protocol) != (recipe.preset, recipe.protocol) or image_size is not None:
        recipe = recipe.at_size(
            image_size or presets.get(preset).side(recipe.dataset), preset=preset, protocol=protocol
        )
    found_records, problems = read_all(records)
    found = reproduce.reproduce(table, found_records, recipe=recipe, revisions=summary.revisions())
    console.print(render.terminal(found, console.width))
    for note in (*found.notes, *problems):
        console.print(f"- {note}", style="dim", markup=False, highlight=False)
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
