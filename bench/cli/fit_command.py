"""`python -m bench fit`: checkpoints, and copies of them."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from bench import files
from bench.cell import fitting, group
from bench.cli import cache_folder, shell
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
    PresetName,
    Refit,
    Settings,
    Verbose,
    expanded,
    request,
    seeds,
)
from bench.cli.progress import ConsoleReporter
from bench.plan import plan as planning
from bench.plan.split import training_data
from bench.records.paths import distinct_name
from bench.run.determinism import deterministic


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
    export: Annotated[
        Path | None, typer.Option(help="Also copy the checkpoints into this folder.", callback=expanded)
    ] = None,
    cache: Cache = None,
    verbose: Verbose = False,
) -> None:
    """Fit detectors and keep their checkpoints; a killed fit goes on where it was."""
    console = shell.console(verbose)
    config = request(
        detectors=detectors,
        dataset=dataset,
        data_root=data_root,
        preset=preset,
        fit_seed=fit_seed,
        fit_seeds=seeds(fit_seeds),
        fit_seeds_for=fit_seeds_for,
        group_pattern=group_pattern,
        bit_depth=bit_depth,
        categories=categories,
        limit=limit,
        holdout=holdout,
        image_size=image_size,
        device=device,
        refit=refit,
        settings=settings,
        cache=cache,
    )
    plan = planning.make(config)
    cache_folder.check(plan)
    if export is not None:
        files.check_writable(export)
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
