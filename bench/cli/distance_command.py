"""`python -m bench distance`: how near each detector's threshold is to the test images."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from attacks.fab import FAB, FABSettings
from bench.cell import distance as cell
from bench.cell.group import STRANGE, reason_of
from bench.cell.provenance import about
from bench.cli import cache_folder, comparison, shell
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
    request,
)
from bench.cli.progress import ConsoleReporter
from bench.cli.screen import Screen
from bench.errors import BenchError
from bench.plan import plan as planning
from bench.plan import presets
from bench.plan.plan import Plan
from bench.records import comparison as files_of
from bench.records import distances as records
from bench.report import transfer as report
from bench.text import norm_text, plural

FOLDER = "distance"  # below --out
NORMS = ("linf", "l2")


def distance(
    detectors: Detectors = "all",
    norm: Annotated[str, typer.Option(help="linf or l2.")] = "linf",
    dataset: DatasetName = "elpv",
    data_root: DataRoot = None,
    group_pattern: GroupPattern = "",
    bit_depth: BitDepth = None,
    categories: Categories = "all",
    preset: PresetName = "quick",
    protocol: Annotated[str, typer.Option(help="Whose test images; of quick 60 of each class.")] = "quick",
    iterations: Annotated[int, typer.Option(help="Of FAB from each start; each is a gradient and a score.")] = 100,
    starts: Annotated[int, typer.Option(help="The clean image, then random ones.")] = 2,
    draws: Annotated[int, typer.Option(help="Noise draws whose mean decides, of a stochastic detector.")] = 10,
    seed: Seed = 0,
    fit_seed: FitSeed = 0,
    limit: Limit = None,
    holdout: Holdout = None,
    image_size: ImageSize = None,
    allow_leaks: AllowLeaks = False,
    batch_size: BatchSize = None,
    device: Device = "auto",
    settings: Settings = None,
    refit: Refit = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done.")] = False,
    out: Out = Path("results"),
    cache: Cache = None,
    verbose: Verbose = False,
) -> None:
    """Say how near a threshold is: the smallest change that flips each decision (FAB)."""
    console = shell.console(verbose)
    if norm not in NORMS:
        raise BenchError(f"--norm is one of {', '.join(NORMS)}; got {norm!r}.")
    fab = FAB(norm, FABSettings(iterations=iterations, starts=starts, draws=draws))
    plan = planning.make(
        request(
            detectors=detectors,
            attacks=(f"pgd-{norm}",),  # a plan names one; this is not run
            dataset=dataset,
            data_root=data_root,
            group_pattern=group_pattern,
            bit_depth=bit_depth,
            allow_leaks=allow_leaks,
            categories=categories,
            preset=preset,
            protocol=protocol,
            holdout=holdout,
            seed=seed,
            fit_seed=fit_seed,
            limit=limit,
            image_size=image_size,
            batch_size=batch_size,
            device=device,
            refit=refit,
            settings=settings,
            out=out,
            cache=cache,
        )
    )
    cell.check_held_out(plan)
    if dry_run:
        _show_plan(plan, fab, console)
        return
    comparison.run(plan, lambda fits, reporter: _one_category(plan, fab, fits, reporter, console), console)


def _one_category(plan: Plan, fab: FAB, fits: comparison.Fits, reporter: ConsoleReporter, console: Screen) -> bool:
    """Print and write the distances of a category. Returns whether a detector has none."""
    category, run = fits.category, plan.run
    found, blind = [], {}
    for name, fitted in fits.fitted.items():
        if not fitted.detector.sees_pixels:
            blind[name] = "it sees no pixels, so no change of them leads to its threshold"
            continue
        with reporter.attacking(name, category.name, run.fit_seed, "fab", len(category.test)) as tick:
            try:
                distances = cell.measure(
                    fitted.detector,
                    fab,
                    category.test,
                    category.training.held_out,
                    run.seed,
                    batch_size=run.batch_size or presets.get(run.preset).batch_size,
                    device=run.torch_device(),
                    tick=tick,
                )
            except STRANGE as error:
                fits.reasons[name] = reason_of(error, f"fab on {name}")
                continue
        found.append(distances)
    title = f"{plan.dataset.name} {category.name}: median {norm_text(fab.norm)} distance to the threshold"
    console.print()
    console.print(report.distance_table(found, fits.reasons | blind, fab.norm, title, console.width))
    for note in [*report.distance_notes(found), *(f"{name}: {why}." for name, why in blind.items())]:
        console.print(note, markup=False, highlight=False)
    comparison.say_failed(console, category.name, fits.reasons)
    content = about(plan, category, fits.fitted) | {"asked": {"norm": fab.norm, **asdict(fab.settings)}}
    content |= records.document(found, fits.reasons | blind)
    for path in files_of.write(records.render(found), content, run.out / FOLDER, f"distance-{fab.norm}"):
        console.print(f"Written: {path}", markup=False, highlight=False, soft_wrap=True)
    return bool(fits.reasons)


def _show_plan(plan: Plan, fab: FAB, console: Screen) -> None:
    for job in plan.jobs:
        where = f"{job.detector} on {job.category}: {cache_folder.origin(plan, job)}"
        console.print(where, markup=False, highlight=False)
    settings = fab.settings
    per_image = settings.iterations * settings.starts
    images = "all" if plan.per_class is None else f"{plan.per_class} normal and {plan.per_class} anomalous at most"
    console.print(
        f"FAB in {norm_text(fab.norm)}: {plural(per_image, 'gradient')} and as many scores for each image (times "
        f"{plural(settings.draws, 'draw')} of a stochastic detector, twice along a second gradient); test images: "
        f"{images}. Nothing was run.",
        highlight=False,
    )
