"""The command line: `python -m bench run | report | inspect | fit | score | list | reproduce`."""

from __future__ import annotations

import logging
import sys
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer
from rich.logging import RichHandler

from bench import files
from bench.cell import fitting, group
from bench.cli import inspect_command, reproduce_command, score_pictures, shell, summary
from bench.cli.options import (
    BitDepth,
    Cache,
    Categories,
    DataRoot,
    DatasetName,
    Detectors,
    Device,
    FitSeed,
    FitSeeds,
    FitSeedsFor,
    GroupPattern,
    Holdout,
    ImageSize,
    Limit,
    Out,
    PresetName,
    Refit,
    Settings,
    Verbose,
    asked,
    names,
    radius,
    seeds,
)
from bench.cli.progress import ConsoleReporter
from bench.cli.screen import Screen
from bench.errors import BenchError
from bench.plan import checkpoints
from bench.plan import plan as planning
from bench.plan.request import Override, RunConfig, default_cache
from bench.plan.split import training_data
from bench.records import environment
from bench.records.paths import distinct_name
from bench.run import costs, runner
from bench.run import pool as processes
from bench.run.determinism import deterministic

app = typer.Typer(
    cls=shell.Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="RADBench: the adversarial robustness of image anomaly detectors.",
)


@app.command(cls=shell.Once)
def run(
    detectors: Detectors = "all",
    attack: Annotated[str, typer.Option(help="Names, comma-separated, or all.")] = "pgd-linf",
    dataset: DatasetName = "elpv",
    data_root: DataRoot = None,
    group_pattern: GroupPattern = "",
    bit_depth: BitDepth = None,
    categories: Categories = "all",
    preset: PresetName = "quick",
    protocol: Annotated[str, typer.Option(help="quick or paper: steps, subset, draws.")] = "quick",
    epsilon: Annotated[str, typer.Option(help="Radius on the [0, 1] scale, e.g. 2/255; several with commas.")] = "",
    steps: Annotated[int | None, typer.Option(help="Gradient steps instead of the protocol's.")] = None,
    step_size: Annotated[str, typer.Option(help="On the [0, 1] scale (default 2.5 epsilon / steps).")] = "",
    restarts: Annotated[int, typer.Option(help="Starts; all but the first are random.")] = 1,
    random_start: Annotated[bool, typer.Option("--random-start", help="Start the first time at random too.")] = False,
    keep: Annotated[str, typer.Option(help="best or last iterate instead of the protocol's.")] = "",
    eot: Annotated[
        int | None, typer.Option(help="Noise draws that each gradient is averaged over, instead of the protocol's.")
    ] = None,
    momentum: Annotated[
        float | None, typer.Option(help="Share of the direction so far in each step, instead of the protocol's.")
    ] = None,
    gradient: Annotated[
        str, typer.Option(help="score, surrogate (BPDA), map (its smooth maximum), or auto: as the protocol says.")
    ] = "auto",
    complete: Annotated[
        bool, typer.Option("--complete", help="Attack on where an image has lost all its pairs: for pixel figures.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of attack, selection and verdict noise.")] = 0,
    fit_seed: FitSeed = 0,
    fit_seeds: FitSeeds = "",
    fit_seeds_for: FitSeedsFor = "all",
    limit: Limit = None,
    holdout: Holdout = None,
    image_size: ImageSize = None,
    allow_leaks: Annotated[
        bool, typer.Option("--allow-leaks", help="Go on where test pictures are training pictures; the records say so.")
    ] = False,
    batch_size: Annotated[int | None, typer.Option(help="Images at a time; changes rounding at most.")] = None,
    device: Device = "auto",
    settings: Settings = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that share the work (default: one per CPU thread; 1 on a GPU).")
    ] = None,
    refit: Refit = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and its estimated cost.")] = False,
    out: Out = Path("results"),
    cache: Cache = None,
    verbose: Verbose = False,
) -> None:
    """Fit, attack, judge, and write leaderboards."""
    console = _console(verbose)
    config = RunConfig(
        detectors=names(detectors),
        attacks=names(attack),
        dataset=dataset,
        data_root=data_root,
        group_pattern=group_pattern,
        bit_depth=bit_depth,
        allow_leaks=allow_leaks,
        categories=None if categories == "all" else names(categories),
        preset=preset,
        protocol=protocol,
        epsilons=tuple(radius("--epsilon", e, attack) for e in names(epsilon)),
        attack_settings=asked(
            steps=steps,
            step_size=radius("--step-size", step_size, attack) if step_size else None,
            restarts=restarts,
            random_start=random_start,
            keep=keep or None,
            eot=eot,
            momentum=momentum,
            differentiate=gradient,
        ),
        complete=complete,
        holdout=holdout,
        seed=seed,
        fit_seed=fit_seed,
        fit_seeds=seeds(fit_seeds),
        fit_seeds_for=fit_seeds_for,
        limit=limit,
        image_size=image_size,
        batch_size=batch_size,
        device=device,
        refit=refit,
        overrides=tuple(Override.parse(s) for s in settings or ()),
        out=out,
        cache=cache or default_cache(),
    )
    if dry_run:
        _show_costs(planning.make(config), console)
        return
    with processes.early(config, workers) as crew:
        plan = planning.make(config)
        for folder in (config.out, config.out / "records", config.cache):
            files.check_writable(folder)
        deterministic(config.torch_device())
        with ConsoleReporter(console, plan.cells, plan.several_fits) as reporter:
            drawing = summary.DrawingReporter(reporter, out)
            result = runner.run_plan(plan, drawing, workers=processes.count(plan, workers), crew=crew)
    summary.write_results(out, console)
    summary.show_result(plan, result, console)
    shell.say(*result.problems)
    raise typer.Exit(2 if result.problems else summary.failures(result.records))


def _show_costs(plan: planning.Plan, console: Screen) -> None:
    rows, estimates = [], costs.Estimates(plan)
    for job in plan.jobs:
        detector = plan.built[job.detector, job.category]
        found_as = checkpoints.origin(detector, plan.dataset, job.category, plan.at(job.fit_seed).run)
        rows.append((job, found_as, estimates.seconds(job.detector, fits=found_as == "to be fitted")))
    summary.show_plan(plan, rows, console)


@app.command(cls=shell.Once)
def fit(
    detectors: Detectors = "all",
    dataset: DatasetName = "elpv",
    data_root: DataRoot = None,
    group_pattern: GroupPattern = "",
    bit_depth: BitDepth = None,
    categories: Categories = "all",
    preset: PresetName = "quick",
    fit_seed: FitSeed = 0,
    fit_seeds: FitSeeds = "",
    fit_seeds_for: FitSeedsFor = "all",
    limit: Limit = None,
    holdout: Holdout = None,
    image_size: ImageSize = None,
    device: Device = "auto",
    settings: Settings = None,
    refit: Refit = False,
    export: Annotated[Path | None, typer.Option(help="Also copy the checkpoints into this folder.")] = None,
    cache: Cache = None,
    verbose: Verbose = False,
) -> None:
    """Fit detectors and keep their checkpoints; a killed fit goes on where it was."""
    console = _console(verbose)
    config = RunConfig(
        detectors=names(detectors),
        dataset=dataset,
        data_root=data_root,
        preset=preset,
        fit_seed=fit_seed,
        fit_seeds=seeds(fit_seeds),
        fit_seeds_for=fit_seeds_for,
        group_pattern=group_pattern,
        bit_depth=bit_depth,
        categories=None if categories == "all" else names(categories),
        limit=limit,
        holdout=holdout,
        image_size=image_size,
        device=device,
        refit=refit,
        overrides=tuple(Override.parse(s) for s in settings or ()),
        cache=cache or default_cache(),
    )
    plan = planning.make(config)
    for folder in (config.cache, export):
        if folder is not None:
            files.check_writable(folder)
    deterministic(config.torch_device())
    plan.built.clear()  # they are built again one by one
    problems: list[str] = []
    with ConsoleReporter(console, len(plan.jobs), plan.several_fits) as reporter:
        for category, jobs in groupby(plan.jobs, key=lambda job: job.category):
            data = training_data(plan.dataset, category, plan.image_size, config)
            for _, name, seed in jobs:
                several = name in plan.several_fits
                what = f"{name} on {category}" + (f", fit {seed}" if several else "")
                fitted = group.obtain(plan.at(seed), category, data, name, reporter)
                if isinstance(fitted, str):
                    problems.append(f"{what}: {fitted}")
                    continue
                path = fitted.path
                if export is not None:
                    # One checkpoint's name says nothing of its detector: it lies in the detector's own folder.
                    folder = export if len(plan.detectors) == 1 else export / distinct_name(name)
                    stem = f"{plan.dataset.name}-{category}-{preset}" + (f"-fit{seed}" if several else "")
                    path = fitting.export(fitted, folder, distinct_name(stem))
                console.print(
                    f"{what}: {fitted.origin}, {fitted.fit_seconds:.0f} s of fitting: {path}",
                    markup=False,
                    highlight=False,
                    soft_wrap=True,
                )
    shell.say(*problems)
    raise typer.Exit(2 if problems else 0)


@app.command(cls=shell.Once)
def score(
    images: Annotated[list[Path], typer.Argument(help="Pictures of parts.")],
    detector: Annotated[str, typer.Option(help="A detector, fitted on --dataset and --category.")] = "freerad",
    dataset: DatasetName = "elpv",
    data_root: DataRoot = None,
    group_pattern: GroupPattern = "",
    bit_depth: BitDepth = None,
    category: Annotated[str, typer.Option(help="Whose normals it was fitted on.")] = "mono",
    checkpoint: Annotated[str, typer.Option(help="A checkpoint file or shipped name, instead of the above.")] = "",
    preset: PresetName = "quick",
    fit_seed: FitSeed = 0,
    limit: Limit = None,
    holdout: Holdout = None,
    image_size: ImageSize = None,
    draws: Annotated[int, typer.Option(help="Noise draws of a random detector.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    device: Device = "auto",
    settings: Settings = None,
    cache: Cache = None,
) -> None:
    """Score pictures with a fitted detector: higher is more anomalous."""
    console = Screen(stderr=as_json)  # the way to a fitted detector must not get into the JSON
    config = RunConfig(
        detectors=(detector,),
        dataset=dataset,
        data_root=data_root,
        categories=(category,),
        preset=preset,
        group_pattern=group_pattern,
        bit_depth=bit_depth,
        fit_seed=fit_seed,
        limit=limit,
        holdout=holdout,
        image_size=image_size,
        device=device,
        overrides=tuple(Override.parse(s) for s in settings or ()),
        cache=cache or default_cache(),
    )
    if not checkpoint:
        files.check_writable(config.cache)
    found = score_pictures.score_files(images, config, checkpoint=checkpoint or None, draws=draws, console=console)
    if as_json:
        sys.stdout.write(score_pictures.as_json(found))
    else:
        console.print(score_pictures.as_table(found))
        console.print(found.explanation, style="dim", markup=False, highlight=False)


@app.command(cls=shell.Once)
def report(
    folder: Annotated[Path, typer.Argument(help="A folder with records in it, as `run --out` leaves it.")] = Path(
        "results"
    ),
) -> None:
    """Draw leaderboards and plots again, from records alone."""
    console = Screen()
    if not (folder / "records").is_dir():
        raise BenchError(f"There is no folder {folder / 'records'}; name the folder that a run wrote to (--out).")
    for path in summary.write_results(folder, console):
        console.print(f"Written: {path}", markup=False, highlight=False, soft_wrap=True)


@app.command(cls=shell.Once)
def inspect(
    dataset: DatasetName = "elpv",
    data_root: DataRoot = None,
    group_pattern: GroupPattern = "",
    bit_depth: BitDepth = None,
    categories: Categories = "all",
    preset: PresetName = "quick",
    limit: Limit = None,
    holdout: Holdout = None,
    image_size: ImageSize = None,
) -> None:
    """Look at a dataset before believing a figure: leaks, what was left out, what gives the classes away."""
    config = RunConfig(
        detectors=(),
        dataset=dataset,
        data_root=data_root,
        group_pattern=group_pattern,
        bit_depth=bit_depth,
        categories=None if categories == "all" else names(categories),
        preset=preset,
        limit=limit,
        holdout=holdout,
        image_size=image_size,
    )
    raise typer.Exit(inspect_command.inspect(config, Screen()))


@app.command("list", cls=shell.Once)
def list_names(
    what: Annotated[str, typer.Argument(help="detectors, attacks, datasets or presets")],
    refused: Annotated[bool, typer.Option("--refused", help="With the detectors that cannot be had, and why.")] = False,
) -> None:
    """Say what there is."""
    screen = Screen()
    screen.print(summary.listing(what, refused=refused, width=screen.width))


@app.command("reproduce", cls=shell.Once)
def reproduce_table(
    table: Annotated[str, typer.Argument(help="table1, table2, table3 or table14")],
    records: Annotated[Path, typer.Option(help="Folder of records.")] = Path("results/records"),
    preset: Annotated[str, typer.Option(help="Whose records to compare.")] = "paper",
    protocol: Annotated[str, typer.Option(help="Whose records to compare.")] = "paper",
    image_size: ImageSize = None,
    out: Out = Path("results"),
) -> None:
    """Put a table of the paper beside what was measured; what is missing is marked as not run."""
    reproduce_command.reproduce_table(
        table, records, preset=preset, protocol=protocol, image_size=image_size, out=out, console=Screen()
    )


def _console(verbose: bool) -> Screen:
    environment.commit()  # of the code that this process has loaded: the tree may change under a long run
    if verbose:
        logging.getLogger("bench").setLevel(logging.DEBUG)
    return Screen()


def main() -> None:
    """Run the command line; what the user can mend becomes one sentence and exit code 2."""
    handler = RichHandler(console=Screen(stderr=True), show_time=False, show_path=False, markup=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    code = shell.run(app)
    if code:
        raise SystemExit(code)
