"""`python -m bench run`: the cells of a plan, and the tables that follow from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench import files
from bench.cli import cache_folder, shell, site_command, summary
from bench.cli.options import (
    AllowLeaks,
    BatchSize,
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
    Seed,
    Settings,
    Verbose,
    asked,
    followed,
    names,
    radius,
    request,
    seeds,
)
from bench.cli.progress import ConsoleReporter
from bench.cli.screen import Screen
from bench.plan import plan as planning
from bench.plan import protocols
from bench.plan.request import RunConfig
from bench.records import kept_images
from bench.run import costs, runner
from bench.run import pool as processes
from bench.run.determinism import deterministic


def run(
    detectors: Detectors = "all",
    attack: Annotated[
        str | None, typer.Option(help="Names, comma-separated, or all (default: the protocol's; of quick, pgd-linf).")
    ] = None,
    dataset: DatasetName = "elpv",
    data_root: DataRoot = None,
    group_pattern: GroupPattern = "",
    bit_depth: BitDepth = None,
    categories: Categories = "all",
    preset: PresetName = "quick",
    protocol: Annotated[str, typer.Option(help="quick, paper, strict-lite or strict: how hard it attacks.")] = "quick",
    epsilon: Annotated[str, typer.Option(help="Radius on the [0, 1] scale, e.g. 2/255; several with commas.")] = "",
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Start each epsilon from the next smaller one's images; end at an AUC of 0.")
    ] = False,
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
        str | None,
        typer.Option(help="score, surrogate, map (its smooth maximum), or auto: as the protocol says (auto)."),
    ] = None,
    bpda: Annotated[bool, typer.Option("--bpda", help="The same as --gradient surrogate.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="autoattack-* on stochastic detectors, too, which it overestimates.")
    ] = False,
    complete: Annotated[
        bool, typer.Option("--complete", help="Attack on where an image has lost all its pairs: for pixel figures.")
    ] = False,
    seed: Seed = 0,
    fit_seed: FitSeed = 0,
    fit_seeds: FitSeeds = "",
    fit_seeds_for: FitSeedsFor = "all",
    limit: Limit = None,
    holdout: Holdout = None,
    image_size: ImageSize = None,
    allow_leaks: AllowLeaks = False,
    batch_size: BatchSize = None,
    device: Device = "auto",
    settings: Settings = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that share the work (default: one per CPU thread; 1 on a GPU).")
    ] = None,
    refit: Refit = False,
    keep_images: Annotated[
        bool, typer.Option("--keep-images", help="Keep the adversarial images, for `verify` (12 bytes a pixel).")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and its estimated cost.")] = False,
    out: Out = Path("results"),
    cache: Cache = None,
    verbose: Verbose = False,
) -> None:
    """Fit, attack, judge, and write leaderboards."""
    console = shell.console(verbose)
    rules = protocols.get(protocol)
    attack = ",".join(rules.default_attacks) if attack is None else attack
    several = seeds(fit_seeds)
    if not several and not fit_seed:
        several, fit_seeds_for = rules.fit_seeds, rules.fit_seeds_for if rules.fit_seeds else fit_seeds_for
    config = request(
        detectors=detectors,
        attacks=names(attack),
        dataset=dataset,
        data_root=data_root,
        group_pattern=group_pattern,
        bit_depth=bit_depth,
        allow_leaks=allow_leaks,
        categories=categories,
        preset=preset,
        protocol=protocol,
        epsilons=tuple(radius("--epsilon", e, attack) for e in names(epsilon)),
        sweep=sweep,
        attack_settings=asked(
            steps=steps,
            step_size=radius("--step-size", step_size, attack) if step_size else None,
            restarts=restarts,
            random_start=random_start,
            keep=keep or None,
            eot=eot,
            momentum=momentum,
            differentiate=followed(gradient, bpda=bpda),
            force=force,
        ),
        complete=complete,
        holdout=holdout,
        seed=seed,
        fit_seed=fit_seed,
        fit_seeds=several,
        fit_seeds_for=fit_seeds_for,
        limit=limit,
        image_size=image_size,
        batch_size=batch_size,
        device=device,
        refit=refit,
        keep_images=keep_images,
        settings=settings,
        out=out,
        cache=cache,
    )
    if dry_run:
        show_costs(planning.make(config), console)
        return
    plan, result = execute(config, console, workers=workers)
    summary.write_results(out, console)
    summary.show_result(plan, result, console)
    if keep_images:
        console.print(kept_images.sentence(result.records), markup=False, highlight=False)
    site_command.write_after_run(out, console)
    shell.say(*result.problems)
    raise typer.Exit(2 if result.problems else summary.failures(result.records))


def execute(config: RunConfig, console: Screen, *, workers: int | None) -> tuple[planning.Plan, runner.RunResult]:
    """Do what is missing of a request, with progress on the console.

    Raises:
        BenchError, DetectorError, AttackError, WeightsError: what the user can mend.
    """
    with processes.early(config, workers) as crew:
        plan = planning.make(config)
        files.check_writable(config.out)
        cache_folder.check(plan)
        files.check_writable(config.out / "records")
        deterministic(config.torch_device())
        with ConsoleReporter(console, plan.cells, plan.several_fits) as reporter:
            drawing = summary.DrawingReporter(reporter, config.out)
            return plan, runner.run_plan(plan, drawing, workers=processes.count(plan, workers), crew=crew)


def show_costs(plan: planning.Plan, console: Screen) -> None:
    """What --dry-run prints."""
    rows, estimates = [], costs.Estimates(plan)
    for job in plan.jobs:
        found_as = cache_folder.origin(plan, job)
        rows.append((job, found_as, estimates.seconds(job.detector, fits=found_as == "to be fitted")))
    summary.show_plan(plan, rows, console)
