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
from bench.cli import cache_folder, exits, shell, site_command, summary
from bench.cli.options import (
    AllowLeaks,
    BatchSize,
    BitDepth,
    Cache,
    Categories,
    DataRoot,
    DatasetName,
    Detectors,
    Devices,
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
    ShardOption,
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
from bench.errors import BenchError
from bench.names import unknown
from bench.plan import plan as planning
from bench.plan import protocols
from bench.plan.devices import devices_of
from bench.plan.request import RunConfig
from bench.records import kept_images
from bench.run import costs, runner
from bench.run import pool as processes
from bench.run.determinism import deterministic
from bench.run.executor import Executor, Stop
from bench.run.ray_executor import RayExecutor
from bench.run.shards import Shard
from bench.run.stopping import told_to_stop
from bench.text import one_line

LOCAL, RAY = "local", "ray"
OF_THE_COMMAND = ("workers", "executor", "ray_gpus", "ray_cpus", "shard", "dry_run", "verbose")  # not of the request


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
    device: Devices = "auto",
    settings: Settings = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that share the work (default: one per CPU thread; 1 on a GPU).")
    ] = None,
    executor: Annotated[
        str, typer.Option(help="local: this machine; ray: a Ray cluster (pip install -e .[ray]).")
    ] = LOCAL,
    ray_gpus: Annotated[
        float | None, typer.Option(help="A task's share of a GPU, e.g. 0.5 (default: 1 where the cluster has any).")
    ] = None,
    ray_cpus: Annotated[int, typer.Option(help="A Ray task's CPUs, and so threads.")] = 1,
    shard: ShardOption = "",
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
    options = dict(locals())  # all of them, and nothing else as yet
    console = shell.console(verbose)
    config, devices = config_of(options)
    elsewhere = _ray(executor, device, ray_gpus, ray_cpus, workers)
    if elsewhere is not None:  # this machine computes nothing, and may have no GPU
        config, devices = replace(config, device="cpu"), ()
    share = Shard.parse(shard) if shard else None
    if dry_run:
        show_costs(planning.make(config), console, share)
        return
    with elsewhere or nullcontext() as there:
        if share is not None:
            raise typer.Exit(_do_share(config, console, share, workers, devices, there))
        plan, result = execute(config, console, workers=workers, devices=devices, executor=there)
    summary.write_results(out, console)
    summary.show_result(plan, result, console)
    if keep_images:
        console.print(kept_images.sentence(result.records), markup=False, highlight=False)
    site_command.write_after_run(out, console)
    shell.say(*result.problems)
    raise typer.Exit(2 if result.problems else summary.failures(result.records))


def config_of(options: Mapping[str, Any]) -> tuple[RunConfig, tuple[str, ...]]:
    """The request that the options of `run` make, on the first of the devices that they name; and all of these.

    Raises:
        BenchError, AttackError: what the user can mend.
    """
    given = dict(options)
    take = given.pop
    for of_the_command in OF_THE_COMMAND:
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


def _ray(executor: str, device: str, gpus: float | None, cpus: int, workers: int | None) -> RayExecutor | None:
    """Who does the work where it is not this machine. Raises BenchError where options contradict one another."""
    if executor == LOCAL:
        if gpus is not None or cpus != 1:
            raise BenchError("--ray-gpus and --ray-cpus are for --executor ray; leave them out, or add it.")
        return None
    if executor != RAY:
        raise unknown("executor", executor, (LOCAL, RAY))
    if workers is not None:
        raise BenchError("--workers is for this machine's processes; Ray starts as many tasks as --ray-cpus leaves.")
    usual = {"auto": gpus, "cpu": 0.0, "cuda": 1.0 if gpus is None else gpus}
    if device not in usual or (device == "cpu" and gpus) or (device == "cuda" and gpus == 0):
        raise BenchError(
            f"--device {one_line(device, 40)}: each Ray task sees the GPU that Ray gives it; say --device cuda or cpu, "
            "and with --ray-gpus how much of one."
        )
    return RayExecutor(usual[device], cpus)


def _do_share(
    config: RunConfig,
    console: Screen,
    share: Shard,
    workers: int | None,
    devices: Sequence[str],
    executor: Executor | None,
) -> int:
    """Do a shard's share of the request. It leaves records alone: tables and plots are of all shards, and none of them
    knows when the last one ends. Returns the exit code."""
    with told_to_stop() as stop:
        _, result = execute(
            config, console, workers=workers, devices=devices, executor=executor, share=share, stop=stop
        )
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
    executor: Executor | None = None,
    share: Shard | None = None,
    stop: Stop = never,
) -> tuple[planning.Plan, runner.RunResult]:
    """Do what is missing of a request, with progress on the console.

    Args:
        config: the request.
        console: where to.
        workers: how many processes share it; None: as `bench.run.pool` thinks best.
        devices: of this machine that share it, where there are several; the request's is the first of them.
        executor: who does it, instead of this machine.
        share: of the plan that is to be done; None: all.
        stop: says when to end early.

    Raises:
        BenchError, DetectorError, AttackError, WeightsError: what the user can mend.
    """
    for device in devices:
        replace(config, device=device).torch_device()
    is_whole = share is None and executor is None
    starting = processes.early(config, workers, devices) if is_whole else nullcontext()
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
                executor=executor,
                stop=stop,
            )


def show_costs(plan: planning.Plan, console: Screen, share: Shard | None = None) -> None:
    """What --dry-run prints, of a share of the plan or of all."""
    rows, estimates = [], costs.Estimates(plan)
    for job in plan.jobs if share is None else share.jobs(plan):
        found_as = cache_folder.origin(plan, job)
        rows.append((job, found_as, estimates.seconds(job.detector, fits=found_as == "to be fitted")))
    summary.show_plan(plan, rows, console)
