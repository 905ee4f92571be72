"""Options that several commands share, and how their words are read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from attacks.errors import AttackError
from attacks.registry import get_class
from attacks.threat import parse_epsilon
from bench import files
from bench.errors import BenchError
from bench.plan import protocols
from bench.plan.request import Override, RunConfig, default_cache


def expanded(given: Any) -> Any:
    """A path, or several, with ~ as the user's home: in --out=~/x the shell leaves it alone. Raises BenchError."""
    if isinstance(given, list):
        return [files.at_home(path) for path in given]
    return None if given is None else files.at_home(given)


Detectors = Annotated[str, typer.Option(help="Names, comma-separated, or all.")]
DatasetName = Annotated[str, typer.Option(help="See `list datasets`.")]
DataRoot = Annotated[Path | None, typer.Option(help="Where the dataset lies.", callback=expanded)]
GroupPattern = Annotated[
    str, typer.Option(help="Regular expression; what its parentheses capture in a file's name is the group (folder).")
]
BitDepth = Annotated[int | None, typer.Option(help="Of the camera whose values lie in 16-bit files (folder), e.g. 12.")]
Categories = Annotated[str, typer.Option(help="Comma-separated, or all.")]
PresetName = Annotated[str, typer.Option(help="quick or paper: image size and network sizes.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")]
Devices = Annotated[
    str,
    typer.Option("--device", help="auto, cpu, cuda, cuda:1; cuda:0,cuda:1 or cuda:all for a process on each."),
]
FitSeed = Annotated[int, typer.Option(help="Seed of fitting; shipped checkpoints have 0.")]
FitSeeds = Annotated[
    str, typer.Option(help="Several, e.g. 0,1,2: fit as often, and show the mean and the spread over fits.")
]
FitSeedsFor = Annotated[
    str, typer.Option(help="Who gets all of --fit-seeds: all whose fit is random, or chaotic (the others the first).")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="DETECTOR.SETTING[@CATEGORY]=VALUE, e.g. freerad.k@mono=100.")
]
ImageSize = Annotated[int | None, typer.Option(help="Side of the input pictures instead of the preset's.")]
Limit = Annotated[int | None, typer.Option(help="At most so many training normals, and test images per class.")]
Holdout = Annotated[int | None, typer.Option(help="Training normals kept from every fit instead of the preset's.")]
Seed = Annotated[int, typer.Option(help="Seed of attack, selection and verdict noise.")]
AllowLeaks = Annotated[
    bool, typer.Option("--allow-leaks", help="Go on where test pictures are training pictures; the records say so.")
]
BatchSize = Annotated[int | None, typer.Option(help="Images at a time; changes rounding at most.")]
ShardOption = Annotated[str, typer.Option("--shard", help="Do one of several shares, 3/8: see docs/scale.md.")]
Refit = Annotated[bool, typer.Option("--refit", help="Fit again even where a checkpoint is there.")]
Cache = Annotated[
    Path | None,
    typer.Option(help="Checkpoint cache (default: RADBENCH_CACHE or ~/.cache/radbench).", callback=expanded),
]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show where a detector or attack that failed went wrong.")]
Out = Annotated[Path, typer.Option(help="Folder for records, leaderboards and plots.", callback=expanded)]


def request(
    *, detectors: str, categories: str, settings: list[str] | None, cache: Path | None, **others: Any
) -> RunConfig:
    """A request in the words of the command line; `others` are fields of `RunConfig` as they are."""
    return RunConfig(
        detectors=names(detectors),
        categories=None if categories == "all" else names(categories),
        overrides=tuple(Override.parse(s) for s in settings or ()),
        cache=cache or default_cache(),
        **others,
    )


def radius(option: str, text: str, attack: str) -> float:
    """An epsilon or step size on [0, 1], or in units of the attacks' own; checked as l-inf unless every attack has the
    same other norm."""
    norms = set() if attack == "all" else {get_class(name).norm for name in names(attack)}
    try:
        return parse_epsilon(text, norm=norms.pop() if len(norms) == 1 else "linf")
    except AttackError as error:  # which speaks of an epsilon, whatever was parsed
        raise BenchError(f"{option}: {str(error).removeprefix('epsilon ')}") from None


def asked(**settings: Any) -> dict[str, Any]:
    """The attack's settings that the user asked for; the other options are as they are."""
    return {name: value for name, value in settings.items() if value not in (None, protocols.UNASKED.get(name))}


def followed(gradient: str | None, *, bpda: bool) -> str:
    """Whose gradient is to be followed. Raises BenchError where --gradient and --bpda disagree."""
    if bpda and gradient not in (None, "surrogate"):
        raise BenchError(f"--bpda follows the surrogate's gradient and --gradient says {gradient}; give one of them.")
    return "surrogate" if bpda else gradient or "auto"


def names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def seeds(text: str) -> tuple[int, ...]:
    if not all(part.removeprefix("-").isdecimal() for part in names(text)):
        raise BenchError(f"--fit-seeds takes whole numbers with commas between them, e.g. 0,1,2; got {text!r}.")
    return tuple(map(int, names(text)))
