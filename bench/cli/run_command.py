"""`python -m bench run`: the cells of a plan, and the tables that follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import files
from bench.cell.group import never
from bench.cli import cache_folder, exits, shell, summary
from bench.cli.options import (
    AllowLeaks,
    BatchSize,
    BitDepth,
    Cache,
    Categories,
    DataRoot,
    DatasetName,
    Detectors,
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
from bench.plan.devices import devices_of
from bench.plan.request import RunConfig
from bench.run import costs, runner
from bench.run import pool as processes
from bench.run.determinism import deterministic
from bench.run.executor import Stop
from bench.run.shards import Shard
from bench.run.stopping import told_to_stop


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
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda, cuda:1; cuda:0,cuda:1 or cuda:all for a process on each.")
    ] = "auto",
    settings: Settings = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that share the work (default: one per CPU thread; 1 on a GPU).")
    ] = None,
    shard: Annotated[str, typer.Option(help="Do one of several shares, 3/8: see docs/scale.md.")] = "",
    refit: Refit = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and its estimated cost.")] = False,
    out: Out = Path("results"),
    cache: Cache = None,
    verbose: Verbose = False,
) -> None:
    """Fit, attack, judge, and write leaderboards."""
    options = dict(locals())  # all of them, and nothing else as yet
    console = shell.console(verbose)
    config, devices = config_of(options)
    share = Shard.parse(shard) if shard else None
    if dry_run:
        show_costs(planning.make(config), console, share)
        return
    if share is not None:
        raise typer.Exit(_do_share(config, console, share, workers, devices))
    plan, result = execute(config, console, workers=workers, devices=devices)
    summary.write_results(out, console)
    summary.show_result(plan, result, console)
    shell.say(*result.problems)
    raise typer.Exit(2 if result.problems else summary.failures(result.records))


def config_of(options: Mapping[str, Any]) -> tuple[RunConfig, tuple[str, ...]]:
    """The request that the options of `run` make, on the first of the devices that they name; and all of these.

    Raises:
        BenchError, AttackError: what the user can mend.
    """
    given = dict(options)
    take = given.pop
    for of_the_command in ("workers", "shard", "dry_run", "verbose"):
        take(of_the_command)
    rules = protocols.get(given["protocol"])
    asked_for = take("attack")
    attack = ",".join(rules.default_attacks) if asked_for is None else asked_for
    several, fit_seeds_for = seeds(take("fit_seeds")), take("fit_seeds_for")
    if not several and not given["fit_seed"]:
        several, fit_seeds_for = rules.fit_seeds, rules.fit_seeds_for if rules.fit_seeds else fit_seeds_for
    step_size = take("step_size")
    attack_settings = asked(
        steps=take("steps"),
        step_size=radius("--step-size", step_size, attack) if step_size else None,
        restarts=take("restarts"),
        random_start=take("random_start"),
        keep=take("keep") or None,
        eot=take("eot"),
        momentum=take("momentum"),
        differentiate=followed(take("gradient"), bpda=take("bpda")),
        force=take("force"),
    )
    devices = devices_of(take("device"))
    config = request(
        attacks=names(attack),
        epsilons=tuple(radius("--epsilon", e, attack) for e in names(take("epsilon"))),
        attack_settings=attack_settings,
        fit_seeds=several,
        fit_seeds_for=fit_seeds_for,
        device=devices[0],
        **given,
    )
    return config, devices


def _do_share(config: RunConfig, console: Screen, share: Shard, workers: int | None, devices: Sequence[str]) -> int:
    """Do a shard's share of the request. It leaves records alone: tables and plots are of all shards, and none of them
    knows when the last one ends. Returns the exit code."""
    with told_to_stop() as stop:
        _, result = execute(config, console, workers=workers, devices=devices, share=share, stop=stop)
    summary.show_share(result, config.out, share, console)
    shell.say(*result.problems)
    if result.unfinished:
        return exits.UNFINISHED
    return 2 if result.problems else summary.failures(result.records)


def execute(
    config: RunConfig,
    console: Screen,
    *,
    workers: int | None,
    devices: Sequence[str] = (),
    share: Shard | None = None,
    stop: Stop = never,
) -> tuple[planning.Plan, runner.RunResult]:
    """Do what is missing of a request, with progress on the console.

    Args:
        config: the request.
        console: where to.
        workers: how many processes share it; None: as `bench.run.pool` thinks best.
        devices: of this machine that share it, where there are several; the request's is the first of them.
        share: of the plan that is to be done; None: all.
        stop: says when to end early.

    Raises:
        BenchError, DetectorError, AttackError, WeightsError: what the user can mend.
    """
    for device in devices:
        replace(config, device=device).torch_device()
    starting = processes.early(config, workers, devices) if share is None else nullcontext()
    with starting as crew:
        plan = planning.make(config)
        jobs = plan.jobs if share is None else share.jobs(plan)
        files.check_writable(config.out)
        cache_folder.check(plan)
        files.check_writable(config.out / "records")
        deterministic(config.torch_device())
        cells = sum(len(plan.attacks_on(job.detector)) for job in jobs)
        with ConsoleReporter(console, cells, plan.several_fits) as reporter:
            return plan, runner.run_plan(
                plan,
                reporter if share else summary.DrawingReporter(reporter, config.out),
                workers=processes.count(plan, workers, devices),
                crew=crew,
                jobs=jobs,
                devices=devices,
                stop=stop,
            )


def show_costs(plan: planning.Plan, console: Screen, share: Shard | None = None) -> None:
    """What --dry-run prints, of a share of the plan or of all."""
    rows, estimates = [], costs.Estimates(plan)
    for job in plan.jobs if share is None else share.jobs(plan):
        found_as = cache_folder.origin(plan, job)
        rows.append((job, found_as, estimates.seconds(job.detector, fits=found_as == "to be fitted")))
    summary.show_plan(plan, rows, console)
