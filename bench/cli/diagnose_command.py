"""`python -m bench diagnose`: is an attack on a detector to be believed?"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bench import files
from bench.cell import group
from bench.cli import cache_folder, comparison, exits, shell
from bench.cli.options import (
    AllowLeaks,
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
    PresetName,
    Seed,
    Settings,
    Verbose,
    expanded,
    names,
    radius,
    request,
)
from bench.cli.progress import ConsoleReporter
from bench.diagnosis import advice
from bench.diagnosis.diagnosis import Diagnosis, diagnose, questions
from bench.errors import BenchError
from bench.plan import plan as planning
from bench.plan import presets
from bench.plan.build import build
from bench.plan.plan import Plan
from bench.plan.split import TrainingData
from bench.run.determinism import deterministic
from bench.text import one_line, threat_text
from detectors.base import Detector
from detectors.checkpoint import write_atomically

SOURCES = ("mean-image", "brightness")  # whose adversarial images are tried on the others: they fit in no time


def command(
    detectors: Detectors = "all",
    attack: Annotated[str, typer.Option(help="The attack that is looked at.")] = "pgd-linf",
    dataset: DatasetName = "elpv",
    data_root: DataRoot = None,
    group_pattern: GroupPattern = "",
    bit_depth: BitDepth = None,
    categories: Categories = "all",
    preset: PresetName = "quick",
    protocol: Annotated[str, typer.Option(help="Whose settings the attack has.")] = "quick",
    epsilon: Annotated[str, typer.Option(help="Radius on the [0, 1] scale, e.g. 2/255.")] = "",
    images: Annotated[int, typer.Option(help="Test images of each class.")] = 10,
    seed: Seed = 0,
    fit_seed: FitSeed = 0,
    limit: Limit = None,
    holdout: Holdout = None,
    image_size: ImageSize = None,
    allow_leaks: AllowLeaks = False,
    device: Device = "auto",
    settings: Settings = None,
    out: Annotated[
        Path | None, typer.Option(help="Also write what was found into this file, as JSON.", callback=expanded)
    ] = None,
    cache: Cache = None,
    verbose: Verbose = False,
) -> None:
    """Ask all that speaks against believing an attack on a detector, on few images. Exit code 3: some flag is up."""
    console = shell.console(verbose)
    if images < 2:
        raise BenchError(f"--images must be at least 2 of each class; got {images}.")
    radii = tuple(radius("--epsilon", e, attack) for e in names(epsilon))
    if len(radii) > 1:
        raise BenchError("--epsilon is one radius here: others are tried around it anyway; give one.")
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
        epsilons=radii,
        seed=seed,
        fit_seed=fit_seed,
        limit=limit,
        holdout=holdout,
        image_size=image_size,
        device=device,
        settings=settings,
        cache=cache,
    )
    plan = planning.make(config)
    cache_folder.check(plan)
    if out is not None:
        out = out.absolute()  # a stranger's detector may change the current folder
        if out.is_dir():
            raise BenchError(f"--out is a file for JSON here, and {out} is a folder; name a file in it.")
        files.check_writable(out.parent)
    deterministic(config.torch_device())
    plan.built.clear()  # they are built again one by one
    found: list[Diagnosis] = []
    problems: list[str] = []
    with ConsoleReporter(console, len(plan.jobs)) as reporter:
        for category in comparison.categories(plan, reporter, problems):
            data = category.training
            sources = [_source(name, category.name, plan, data) for name in SOURCES]
            for _, name, fit in (job for job in plan.jobs if job.category == category.name):
                fitted = group.obtain(plan.at(fit), category.name, data, name, reporter)
                if isinstance(fitted, str):
                    problems.append(f"{name} on {category.name}: {fitted}")
                    continue
                found += _diagnosed(plan, category.name, data, fitted.detector, sources, images, reporter, console)
    if out is not None:
        with files.writing(out.parent):
            write_atomically(out, (json.dumps([one.describe() for one in found], indent=2) + "\n").encode())
    shell.say(*problems)
    up = sum(len(one.flags) for one in found)
    raise typer.Exit(2 if problems else exits.FLAGGED if up else 0)


def _source(name: str, category: str, plan: Plan, data: TrainingData) -> Detector:
    device = plan.run.torch_device()
    return build(name, category, plan.image_size, plan.run).to(device).fit(data.fit.pixels().to(device), seed=0)


def _diagnosed(
    plan: Plan,
    category: str,
    data: TrainingData,
    detector: Detector,
    sources: list[Detector],
    images: int,
    reporter: ConsoleReporter,
    console: Console,
) -> list[Diagnosis]:
    """A detector under each attack that is for its kind, printed as soon as it is known."""
    test, done = plan.dataset.test(category, plan.image_size, per_class=images), []
    others = [source for source in sources if source.name != detector.name]
    for attack in plan.attacks_on(detector.name):
        count = questions(detector, attack, others)
        with reporter.attacking(detector.name, category, plan.run.fit_seed, attack.name, count) as tick:
            diagnosis = diagnose(
                detector,
                attack,
                test,
                data.held_out,
                others,
                category=category,
                seed=plan.run.seed,
                batch_size=presets.get(plan.run.preset).batch_size,
                device=plan.run.torch_device(),
                tell=partial(tick, 1),
            )
        show(diagnosis, console)
        done.append(diagnosis)
    return done


def show(found: Diagnosis, console: Console) -> None:
    """Print a table of what was looked at, at 80 columns, and what to do about each flag."""
    radius_text = threat_text(found.epsilon, found.norm)
    head = f"{found.detector} on {found.category}, {found.attack}, {radius_text}, {found.images} images"
    if found.clean_auc is not None and found.robust_auc is not None:
        head += f": clean AUC {found.clean_auc:.1f}, robust {found.robust_auc:.1f}"
    console.print(Text(f"\n{one_line(head)}", style="bold"))
    table = Table(box=None, pad_edge=False, show_edge=False)
    table.add_column("indicator", overflow="fold", max_width=40)
    table.add_column("number", justify="right")
    table.add_column("limit")
    table.add_column("verdict")
    for sign in found.signs:
        verdict = Text(f"FLAG {sign.flag}", style="bold yellow") if sign.is_up else Text("ok")
        number = "-" if sign.number is None else f"{sign.number:.3g}"
        table.add_row(Text(one_line(sign.name, 80)), number, Text(sign.limit), verdict)
    console.print(table)
    if found.areas:
        console.print(Text("AUC by epsilon: " + ", ".join(f"{e} {area:.1f}" for e, area in found.areas.items())))
    for sign in found.flags:
        console.print(Text(f"FLAG {sign.flag}: {one_line(sign.sentence, 600)}.", style="yellow"))
        console.print(Padding(Text(advice.BY_FLAG[sign.flag]), (0, 0, 0, 2)))
    if found.flags:
        console.print(Text("docs/flags.md has a section for each number.", style="dim"))
