"""The command line: `python -m bench run | slurm | report | inspect | certify | diagnose | transfer | ...`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.logging import RichHandler

from bench.cli import (
    certify_command,
    diagnose_command,
    distance_command,
    fit_command,
    inspect_command,
    merge_command,
    reproduce_command,
    run_command,
    score_pictures,
    shell,
    site_command,
    slurm_command,
    submit_command,
    summary,
    transfer_command,
    verify_command,
)
from bench.cli.options import (
    BitDepth,
    Cache,
    Categories,
    DataRoot,
    DatasetName,
    Device,
    FitSeed,
    GroupPattern,
    Holdout,
    ImageSize,
    Limit,
    PresetName,
    Settings,
    expanded,
    names,
)
from bench.cli.screen import Screen
from bench.errors import BenchError
from bench.plan.request import Override, RunConfig, default_cache
from bench.records import certificate_store

app = typer.Typer(
    cls=shell.Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="RADBench: the adversarial robustness of image anomaly detectors.",
)
app.command(cls=shell.Once)(run_command.run)
app.command(cls=shell.Once)(fit_command.fit)
app.command(cls=shell.Once)(certify_command.certify)
app.command(cls=shell.Once)(distance_command.distance)
app.command(cls=shell.Once)(transfer_command.transfer)
app.command("slurm", cls=shell.Once)(slurm_command.slurm_array)
app.command(cls=shell.Once)(verify_command.verify)
app.command(cls=shell.Once)(submit_command.submit)
app.command(cls=shell.Once)(merge_command.merge)
app.command("diagnose", cls=shell.Once)(diagnose_command.command)
app.command(cls=shell.Once)(reproduce_command.reproduce)


@app.command(cls=shell.Once)
def score(
    images: Annotated[list[Path], typer.Argument(help="Pictures of parts, or folders of them.", callback=expanded)],
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
    found = score_pictures.score_files(images, config, checkpoint=checkpoint or None, draws=draws, console=console)
    if as_json:
        sys.stdout.write(score_pictures.as_json(found))
    else:
        console.print(score_pictures.as_table(found))
        console.print(found.explanation, style="dim", markup=False, highlight=False)
    shell.say(*found.problems)
    raise typer.Exit(2 if found.problems else 0)


@app.command(cls=shell.Once)
def report(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Folders with records in them, as `run --out` leaves them (default: results).",
            callback=expanded,
            show_default=False,
        ),
    ] = None,
    html: Annotated[
        bool, typer.Option("--html", help="Make pages of them all, in FOLDER/site, instead of tables and plots.")
    ] = False,
    site: Annotated[
        Path | None, typer.Option(help="Where the pages go (of several folders: results/site).", callback=expanded)
    ] = None,
    no_pictures: Annotated[
        bool, typer.Option("--no-pictures", help="Without the two pictures of each cell: of thousands they take hours.")
    ] = False,
) -> None:
    """Draw leaderboards and plots again, or make pages, from records alone."""
    console = Screen()
    if site is not None and not html:
        raise BenchError("--site says where pages go; add --html.")
    given = folders or [Path("results")]
    if html:
        page = site_command.write(given, site, console)
        console.print(f"Written: {page}", markup=False, highlight=False, soft_wrap=True)
        return
    for folder in given:
        has_records, has_certificates = ((folder / name).is_dir() for name in ("records", certificate_store.FOLDER))
        if not (has_records or has_certificates):
            raise BenchError(f"There is no folder {folder / 'records'}; name the folder that a run wrote to (--out).")
        written = summary.write_results(folder, console, anew=True, of_cells=not no_pictures) if has_records else []
        for path in [*written, *certify_command.write_certificates(folder, console)]:
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
        cache=Path(),  # nothing is kept: it works without a home folder
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


def main() -> None:
    """Run the command line; what the user can mend becomes one sentence and exit code 2."""
    handler = RichHandler(console=Screen(stderr=True), show_time=False, show_path=False, markup=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    code = shell.run(app)
    if code:
        raise SystemExit(code)
