"""`python -m bench submit`: records, scores, checkpoints and a card in one archive, checked as its readers will."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli import shell
from bench.cli.options import Cache, expanded
from bench.cli.screen import Screen
from bench.errors import BenchError
from bench.plan.request import default_cache
from bench.submission import archive
from bench.submission.card import Card
from bench.submission.eval_results import Hub
from bench.submission.pack import Packing, pack
from bench.text import one_line, plural


def submit(
    places: Annotated[list[Path], typer.Argument(help="Records, or folders of runs.", callback=expanded)],
    name: Annotated[str, typer.Option(help="Who claims it.")] = "",
    licence: Annotated[str, typer.Option(help="Of the code and the weights, e.g. Apache-2.0.")] = "",
    chosen_on: Annotated[str, typer.Option(help="On what images hyperparameters were chosen.")] = "",
    contact: Annotated[str, typer.Option(help="Where an answer reaches you.")] = "",
    code: Annotated[str, typer.Option(help="Where the code is.")] = "",
    paper: Annotated[str, typer.Option(help="Where the method or the attack is described.")] = "",
    notes: Annotated[str, typer.Option(help="Whatever else a reader must know.")] = "",
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints/--no-checkpoints", help="Pack those that are in the cache.")
    ] = True,
    images: Annotated[
        bool, typer.Option("--images/--no-images", help="Pack adversarial images that were kept.")
    ] = True,
    hub_dataset: Annotated[
        str, typer.Option(help="ORG/NAME of a benchmark on the Hugging Face Hub: write entries for it, too.")
    ] = "",
    out: Annotated[Path, typer.Option(help="The archive.", callback=expanded)] = Path("submission.zip"),
    cache: Cache = None,
) -> None:
    """Pack a claim for others to verify: records, scores, checkpoints, images and a card."""
    screen = Screen()
    if out.suffix.lower() != archive.SUFFIX:
        raise BenchError(f"--out is an archive's name, which ends in {archive.SUFFIX}; got {one_line(out, 200)}.")
    card = Card(name, licence, chosen_on, contact, code, paper, notes)
    hub = Hub(hub_dataset, code if code.startswith("https://") else "") if hub_dataset else None
    packing = Packing(cache or default_cache(), checkpoints=checkpoints, images=images, hub=hub)
    card, entries = pack(places, card, packing, out)
    size = out.stat().st_size / 2**20
    screen.print(
        f"Written: {out} ({plural(len(entries), 'file')}, {size:.1f} MiB)",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    for source in card.detectors:
        text = one_line(f"{source.name}: {source.package} {source.version}; its checkpoint {source.checkpoint}.", 300)
        screen.print(text, markup=False, highlight=False, soft_wrap=True)
    shell.say(*(f"{s.name} has no package: say in --notes where its code is." for s in card.detectors if not s.version))
