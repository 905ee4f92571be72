"""`python -m bench transfer`: adversarial images made on each detector, judged on all of them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

from bench.cell.attacking import Tick
from bench.cell.provenance import about
from bench.cell.transfer import Ground, matrix
from bench.cell.verdict import Draws
from bench.cli import comparison, shell
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
    asked,
    names,
    radius,
    request,
)
from bench.cli.progress import ConsoleReporter
from bench.cli.run_command import show_costs
from bench.cli.screen import Screen
from bench.errors import BenchError
from bench.plan import plan as planning
from bench.plan import presets, protocols
from bench.plan.plan import Plan
from bench.records import comparison as files_of
from bench.records import transfer as records
from bench.records.transfer import TransferMatrix
from bench.report import transfer as report
from bench.report.plain_matplotlib import plain_matplotlib

FOLDER = "transfer"  # below --out


def transfer(
    detectors: Detectors = "all",
    attack: Annotated[
        str | None,
        typer.Option(help="One for each detector, e.g. pgd-linf (default: the protocol's; of quick, pgd-linf)."),
    ] = None,
    dataset: DatasetName = "elpv",
    data_root: DataRoot = None,
    group_pattern: GroupPattern = "",
    bit_depth: BitDepth = None,
    categories: Categories = "all",
    preset: PresetName = "quick",
    protocol: Annotated[str, typer.Option(help="quick, paper, strict-lite or strict: how hard it attacks.")] = "quick",
    epsilon: Annotated[str, typer.Option(help="Radius on the [0, 1] scale, e.g. 2/255.")] = "",
    steps: Annotated[int | None, typer.Option(help="Gradient steps instead of the protocol's.")] = None,
    restarts: Annotated[int, typer.Option(help="Starts; all but the first are random.")] = 1,
    gradient: Annotated[
        str, typer.Option(help="score, surrogate (BPDA), map (its smooth maximum), or auto: as the protocol says.")
    ] = "auto",
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and its estimated cost.")] = False,
    out: Out = Path("results"),
    cache: Cache = None,
    verbose: Verbose = False,
) -> None:
    """Make adversarial images on each detector and judge them on all: masked gradients show."""
    console = shell.console(verbose)
    attack = ",".join(protocols.get(protocol).default_attacks) if attack is None else attack
    plan = planning.make(
        request(
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
            attack_settings=asked(steps=steps, restarts=restarts, differentiate=gradient),
            complete=True,
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
    _check_one_attack(plan)
    if dry_run:
        show_costs(plan, console)
        return
    comparison.run(plan, lambda fits, reporter: _one_category(plan, fits, reporter, console), console)


def _check_one_attack(plan: Plan) -> None:
    """Raise BenchError where one matrix would not be enough."""
    for name in plan.detectors:
        found = plan.attacks_on(name)
        if len(found) != 1:
            raise BenchError(
                f"A matrix has one attack in one ball, and {name} would get {len(found)} of them; name one attack and "
                "one --epsilon (or one attack for deterministic and one for stochastic detectors)."
            )


def _one_category(plan: Plan, fits: comparison.Fits, reporter: ConsoleReporter, console: Screen) -> bool:
    """Print and write a category's matrix. Returns whether a detector has no figures."""
    category, run = fits.category, plan.run
    rules = protocols.get(run.protocol)
    attacks = {name: plan.attacks_on(name)[0] for name in plan.detectors}

    def shown(kind: str, name: str) -> AbstractContextManager[Tick]:
        total = len(category.test) if kind == "attack" else 1 + len(plan.detectors)
        what = attacks[name].name if kind == "attack" else "verdict"
        found: AbstractContextManager[Tick] = reporter.attacking(name, category.name, run.fit_seed, what, total)
        return found

    ground = Ground(
        category.test,
        Draws(rules.verdict_draws, run.seed),
        run.batch_size or presets.get(run.preset).batch_size,
        run.torch_device(),
        shown,
    )
    fitted = {name: found.detector for name, found in fits.fitted.items()}
    found = matrix(ground, fitted, attacks, names=plan.detectors, reasons=fits.reasons)
    console.print()
    console.print(f"{plan.dataset.name} {category.name}", style="bold", markup=False, highlight=False)
    console.print(report.matrix_table(found, console.width))
    for note in report.notes(found):
        console.print(note, markup=False, highlight=False)
    comparison.say_failed(console, category.name, found.reasons)
    asked_of = {name: a.settled(fitted[name]).describe() for name, a in attacks.items() if name in fitted}
    _write(plan, found, about(plan, category, fits.fitted) | {"asked": asked_of} | found.document(), console)
    return bool(found.reasons)


def _write(plan: Plan, found: TransferMatrix, content: dict[str, object], console: Screen) -> None:
    folder = plan.run.out / FOLDER
    name = f"transfer-{found.attack}"
    written = files_of.write(records.render(found), content, folder, name)
    with plain_matplotlib():  # not at the top: matplotlib takes a second
        from bench.report import transfer_map
    place = f"{content['dataset']} {content['category']}"
    written += transfer_map.write_map(found, place, folder / files_of.stem(content, name))
    for path in written:
        console.print(f"Written: {path}", markup=False, highlight=False, soft_wrap=True)
