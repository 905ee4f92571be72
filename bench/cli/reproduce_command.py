"""`python -m bench reproduce`: an experiment of the paper beside what was measured, and the runs that are missing."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import files
from bench.cli import shell, summary
from bench.cli.certify_command import CertificateReporter, write_certificates
from bench.cli.options import (
    Cache,
    Categories,
    DataRoot,
    Device,
    ImageSize,
    Limit,
    Out,
    PresetName,
    Verbose,
    expanded,
    names,
    request,
)
from bench.cli.run_command import execute, show_costs
from bench.cli.screen import Screen
from bench.data import registry as datasets
from bench.errors import BenchError
from bench.names import unknown
from bench.plan import plan as planning
from bench.plan import presets, protocols
from bench.plan.certify import CertifyConfig
from bench.plan.request import RunConfig
from bench.records import certificate_store
from bench.records.record import Record
from bench.records.store import read_all
from bench.run.certify import certify_plan
from bench.run.determinism import deterministic
from bench.text import LONGEST, one_line

OWN = Path("results/records")
REFERENCE = Path(__file__).resolve().parents[2] / "results" / "reference"  # of a clone; an installed package has none
ALL = "all"


@dataclass(frozen=True)
class Where:
    """Where and how the experiments are looked at and run: the options of the command."""

    records: Path | None
    preset: str
    protocol: str
    image_size: int | None
    dataset: str | None
    data_root: Path | None
    categories: tuple[str, ...] | None
    limit: int | None
    device: str
    workers: int | None
    run: bool
    dry_run: bool
    out: Path
    cache: Path | None


def reproduce(
    what: Annotated[list[str], typer.Argument(help="table1 ... table14, sensitivity, or all.")],
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
    preset: PresetName = "paper",
    protocol: Annotated[
        str, typer.Option(help="How hard it attacks (default: paper; at another preset than paper: quick).")
    ] = "",
    image_size: ImageSize = None,
    limit: Limit = None,
    device: Device = "auto",
    workers: Annotated[int | None, typer.Option(help="Processes that share the work, as of `run`.")] = None,
    out: Out = Path("results"),
    cache: Cache = None,
    verbose: Verbose = False,
) -> None:
    """Put experiments of the paper beside what was measured, and measure what is missing (--run)."""
    # Not at the top: they need pandas, and no other command does.
    from bench.report.paper import certified, tables

    known = (*tables.RECIPES, certified.TABLE, "sensitivity")
    for name in what:
        if name not in (*known, ALL):
            raise unknown("table", name, (*known, ALL))
    presets.get(preset)
    chosen = protocol or ("paper" if preset == "paper" else "quick")
    protocols.get(chosen)
    where = Where(
        records,
        preset,
        chosen,
        image_size,
        dataset,
        data_root,
        None if categories in ("", ALL) else names(categories),
        limit,
        device,
        workers,
        run,
        dry_run,
        out,
        cache,
    )
    console = shell.console(verbose)
    asked = sorted(known, key=_place) if ALL in what else list(dict.fromkeys(what))
    problems: list[str] = []
    planned: set[Hashable] = set()
    for name in asked:
        if name == certified.TABLE:
            problems += _certified(where, console)
        else:
            problems += _table(name, where, planned, console)
        console.print()
    shell.say(*problems)
    raise typer.Exit(2 if problems else 0)


def _place(name: str) -> tuple[int, str]:
    digits = name.removeprefix("table")
    return (int(digits), "") if digits.isdecimal() else (1000, name)


def _categories(where: Where, papers: tuple[str, ...], papers_dataset: str) -> tuple[str, tuple[str, ...]]:
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


# -- tables of attacks ------------------------------------------------------------------------------------------------


def _table(name: str, where: Where, planned: set[Hashable], console: Screen) -> list[str]:
    """Show a table; with --run measure first what is missing. `planned`: the cells that a dry run has named already.
    Returns what went wrong."""
    from bench.report.paper import measured, render, tables
    from bench.report.paper.recipe import Recipe

    def recipe() -> Recipe:
        if name == "sensitivity":
            dataset, categories = _categories(where, tables.MVTEC, "mvtec")
            found = replace(tables.sensitivity(categories[0]), dataset="mvtec").on(dataset, categories[:1])
        else:
            usual = tables.recipe_of(name)
            found = usual.on(*_categories(where, usual.categories, usual.dataset))
        side = where.image_size or presets.get(where.preset).side(found.dataset)
        same = (where.preset, where.protocol, side) == (found.preset, found.protocol, found.image_size)
        return found if same else found.at_size(side, preset=where.preset, protocol=where.protocol)

    chosen = recipe()
    known, problems = _records(where, console)
    found = measured.reproduce(name, known, recipe=chosen, revisions=summary.revisions())
    if where.dry_run:
        console.print(chosen.title, style="bold", markup=False, highlight=False)
        for run in found.runs(planned):
            console.print(f"\n{run.command()}", markup=False, highlight=False, soft_wrap=True)
            show_costs(planning.make(_config(run, where)), console)
        if not found.runs(planned):
            console.print("Nothing else is missing." if found.runs() else "Nothing is missing.")
        planned |= {found.place(*cell) for cell in found.missing}
        return []
    odd: list[str] = []
    if where.run and found.runs():
        for run in found.runs():
            console.print(run.command(), style="dim", markup=False, highlight=False, soft_wrap=True)
            _, result = execute(_config(run, where), console, workers=where.workers)
            odd += result.problems
            odd += [f"{r.detector_name} on {r.category}: {r.reason}" for r in result.failed]
        summary.write_results(where.out, console)
        known, problems = _records(where, console)
        found = measured.reproduce(name, known, recipe=chosen, revisions=summary.revisions())
    console.print(render.terminal(found, console.width))
    for note in (*found.notes, *problems):
        console.print(f"- {one_line(note, LONGEST)}", style="dim", markup=False, highlight=False)
    if found.absent():
        console.print(f"Not among the installed detectors: {', '.join(found.absent())}.", markup=False, highlight=False)
    _say_commands([run.command() for run in found.runs()], console)
    for path in render.write(found, where.out):
        console.print(f"Written: {path}", markup=False, highlight=False)
    return odd


def _config(run: Any, where: Where) -> RunConfig:
    """What `bench.report.paper.recipe.Wanted` says, as a request."""
    rules = protocols.get(run.protocol)
    return request(
        detectors=",".join(run.detectors),
        attacks=(run.threat.attack,),
        dataset=run.dataset,
        data_root=where.data_root,
        categories=",".join(run.categories),
        preset=run.preset,
        protocol=run.protocol,
        epsilons=(run.epsilon,),
        attack_settings=run.threat.asked,
        fit_seeds=rules.fit_seeds,
        fit_seeds_for=rules.fit_seeds_for if rules.fit_seeds else "all",
        holdout=run.holdout,
        limit=where.limit,
        image_size=run.image_size,
        device=where.device,
        settings=list(run.settings),
        out=where.out,
        cache=where.cache,
    )


def _records(where: Where, console: Screen) -> tuple[list[Record], list[str]]:
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


def _say_commands(commands: Sequence[str], console: Screen) -> None:
    if commands:
        console.print("To run what is missing (or --run):", highlight=False)
    for command in commands:
        console.print(f"  {command}", markup=False, highlight=False, soft_wrap=True)


# -- Table 6 ----------------------------------------------------------------------------------------------------------


def _certified(where: Where, console: Screen) -> list[str]:
    """Table 6, whose figures are none of an attack."""
    from bench.report.paper import certified

    dataset, categories = _categories(where, certified.CATEGORIES, "mvtec")
    side = where.image_size or presets.get(where.preset).side(dataset)
    recipe = certified.CertifiedRecipe(dataset, categories, where.preset, where.protocol, side)
    own = where.out if where.records is None or where.run else where.records

    def look() -> tuple[tuple[certified.CertifiedRow, ...], list[str]]:
        certificates, wrong = certificate_store.read_all(own / certificate_store.FOLDER)
        return certified.rows(recipe, certified.of_certificates(certificates, recipe)), wrong

    found, problems = look()
    missing = certified.missing(found)
    odd: list[str] = []
    if where.dry_run:
        console.print(recipe.title, style="bold", markup=False, highlight=False)
        _say_commands(recipe.commands(missing), console)
        return []
    if where.run and missing:
        asked = CertifyConfig(
            sigmas=(certified.SIGMA,),
            samples=recipe.samples,
            radii=(0.0, recipe.radius),
            rules=("percentile", "paper"),
        )
        config = request(
            detectors=",".join(dict.fromkeys(row.detector for row in missing)),
            attacks=protocols.get(where.protocol).default_attacks,
            dataset=dataset,
            data_root=where.data_root,
            categories=",".join(row.category for row in missing),
            preset=where.preset,
            protocol=where.protocol,
            limit=where.limit,
            image_size=side,
            device=where.device,
            settings=None,
            out=where.out,
            cache=where.cache,
        )
        plan = planning.make(config)
        deterministic(config.torch_device())
        with CertificateReporter(console, plan.several_fits) as reporter:
            odd += certify_plan(plan, asked, reporter).problems
        write_certificates(where.out, console)
        found, problems = look()
    console.print(certified.terminal(found, console.width, recipe=recipe))
    judged = certified.finding(found)
    told = f" ({judged.found})" if judged.found else ""
    console.print(f"- {judged.holds}: {certified.CLAIM}{told}", markup=False, highlight=False)
    for note in (*certified.NOTES, *problems):
        console.print(f"- {one_line(note, LONGEST)}", style="dim", markup=False, highlight=False)
    _say_commands(recipe.commands(certified.missing(found)), console)
    for path in certified.write(found, where.out, recipe):
        console.print(f"Written: {path}", markup=False, highlight=False)
    return odd
