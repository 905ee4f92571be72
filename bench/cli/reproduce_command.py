"""`python -m bench reproduce`: an experiment of the paper beside what was measured, and the runs that are missing."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Annotated

import typer

from attacks.errors import AttackError
from bench.cli import reproduce_certified, reproduce_figures, reproduce_tables, shell
from bench.cli.options import (
    Cache,
    Categories,
    DataRoot,
    Devices,
    ImageSize,
    Limit,
    Out,
    PresetName,
    Verbose,
    expanded,
    names,
)
from bench.cli.reproduced import Where, usual_protocol
from bench.cli.screen import Screen
from bench.errors import BenchError, CellError, DiskError
from bench.names import unknown
from bench.plan.devices import devices_of
from bench.plan.request import RunConfig
from bench.text import one_line
from detectors import registry
from detectors.errors import DetectorError

ALL = "all"


def reproduce(
    what: Annotated[
        list[str], typer.Argument(help="table1 ... table14, figure1, figure2, theorem-e1, sensitivity, or all.")
    ],
    records: Annotated[
        Path | None,
        typer.Option(help="Folder of records (default: results/records, and those of a clone).", callback=expanded),
    ] = None,
    run: Annotated[bool, typer.Option("--run", help="Measure what is missing.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what --run would do, and its cost.")] = False,
    dataset: Annotated[
        str | None, typer.Option(help="Pictures other than the paper's, e.g. elpv (see `list datasets`).")
    ] = None,
    data_root: DataRoot = None,
    categories: Categories = "",
    detector: Annotated[
        str | None, typer.Option(help="Of figure1, figure2 and theorem-e1 (default: any; freerad).")
    ] = None,
    preset: PresetName = "paper",
    protocol: Annotated[
        str, typer.Option(help="How hard it attacks (default: paper; at another preset than paper: quick).")
    ] = "",
    image_size: ImageSize = None,
    limit: Limit = None,
    device: Devices = "auto",
    workers: Annotated[int | None, typer.Option(help="Processes that share the work, as of `run`.")] = None,
    out: Out = Path("results"),
    cache: Cache = None,
    verbose: Verbose = False,
) -> None:
    """Put experiments of the paper beside what was measured, and measure what is missing (--run)."""
    # Not at the top: they need pandas, and no other command does.
    from bench.report.paper import certified, tables

    numbered = sorted((*tables.RECIPES, certified.TABLE), key=lambda name: int(name.removeprefix("table")))
    known = (*numbered, *reproduce_figures.FIGURES, reproduce_figures.THEOREM, "sensitivity")
    for name in what:
        if name not in (*known, ALL):
            raise unknown("table", name, (*known, ALL))
    chosen = protocol or usual_protocol(preset)
    RunConfig((), preset=preset, protocol=chosen, image_size=image_size, limit=limit)  # which checks these
    if workers is not None and workers < 1:
        raise BenchError(f"--workers must be at least 1; got {workers}.")
    if detector is not None:
        registry.get(detector)  # with the nearest name where there is none
    where = Where(
        records,
        preset,
        chosen,
        image_size,
        dataset,
        data_root,
        None if categories in ("", ALL) else tuple(dict.fromkeys(names(categories))),
        limit,
        devices_of(device),
        workers,
        run,
        dry_run,
        out,
        cache,
        detector,
    )
    console = shell.console(verbose)
    asked = known if ALL in what else tuple(dict.fromkeys(what))
    problems: list[str] = []
    planned: set[Hashable] = set()
    skipped: dict[str, list[str]] = {}  # experiments by the sentence that says why they cannot be shown
    for name in asked:
        try:
            problems += _show(name, where, planned, console)
        except DiskError:
            raise
        except CellError as error:
            if len(asked) == 1:
                raise
            problems.append(f"{name}: {error}")
        except (BenchError, DetectorError, AttackError) as error:
            if len(asked) == 1:
                raise
            skipped.setdefault(one_line(error, 2000), []).append(name)
        else:
            console.print()
    sentences = [f"{', '.join(of)}: {sentence}" for sentence, of in skipped.items()]
    # The theorem, which needs no data, can always be shown: that it was says nothing of what was asked.
    if ALL not in what or {name for of in skipped.values() for name in of} >= set(asked) - {reproduce_figures.THEOREM}:
        problems += sentences
    else:
        for sentence in sentences:
            console.print(f"Not shown: {sentence}", markup=False, highlight=False, soft_wrap=True)
    shell.say(*problems)
    raise typer.Exit(2 if problems else 0)


def _show(name: str, where: Where, planned: set[Hashable], console: Screen) -> list[str]:
    """Show an experiment. Returns what went wrong."""
    from bench.report.paper import certified

    if name == certified.TABLE:
        return reproduce_certified.show(where, console)
    if name == reproduce_figures.THEOREM:
        reproduce_figures.show_theorem(where, console)
        return []
    if name in reproduce_figures.FIGURES:
        return reproduce_figures.show(name, where, console)
    return reproduce_tables.show(name, where, planned, console)
