"""`python -m bench verify`: whether a claim holds, level by level."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.padding import Padding
from rich.text import Text

from bench import files
from bench.cli import shell
from bench.cli.options import (
    BatchSize,
    BitDepth,
    Cache,
    DataRoot,
    Device,
    GroupPattern,
    Refit,
    Verbose,
    asked,
    expanded,
)
from bench.cli.progress import ConsoleReporter
from bench.cli.screen import Screen
from bench.errors import BenchError
from bench.plan.of_record import Machine
from bench.plan.request import default_cache
from bench.records.certificate import Certificate
from bench.records.certificate_store import FOLDER as CERTIFICATES
from bench.records.record import Record
from bench.submission import archive, pack
from bench.text import one_line, plural
from bench.verify import stated
from bench.verify.again import Try
from bench.verify.finding import FAILS_CODE, HOLDS_CODE, LEVELS, UNJUDGED_CODE, Finding, Outcome, exit_code, worst
from bench.verify.levels import Verification, findings
from bench.verify.stated import Claim

_STYLES = {Outcome.HOLDS: "green", Outcome.FAILS: "bold red", Outcome.UNJUDGED: "yellow"}


def verify(
    place: Annotated[
        Path, typer.Argument(help="A record, the folder of a run, or an archive of `submit`.", callback=expanded)
    ],
    level: Annotated[
        int,
        typer.Option(
            help="1: figures follow from scores. 2: kept images are scored again. 3: the cell is run again. 4: with "
            "another seed or attack."
        ),
    ] = 1,
    seed: Annotated[int | None, typer.Option(help="Of level 4 (default: the record's, plus 1).")] = None,
    attack: Annotated[str, typer.Option(help="Of level 4: another attack in the same ball.")] = "",
    protocol: Annotated[str, typer.Option(help="Of level 4: whose settings of the attack are taken.")] = "",
    steps: Annotated[int | None, typer.Option(help="Of level 4: gradient steps.")] = None,
    restarts: Annotated[int | None, typer.Option(help="Of level 4: starts.")] = None,
    data_root: DataRoot = None,
    group_pattern: GroupPattern = "",
    bit_depth: BitDepth = None,
    batch_size: BatchSize = None,
    device: Device = "auto",
    refit: Refit = False,
    out: Annotated[
        Path | None, typer.Option(help="Keep the records that levels 3 and 4 make here.", callback=expanded)
    ] = None,
    cache: Cache = None,
    verbose: Verbose = False,
) -> None:
    """Say whether a claim holds. Exit code 0: it does; 1: it does not; 2: it cannot be judged."""
    console = shell.console(verbose)
    wanted = Try(seed, attack, protocol, asked(steps=steps, restarts=restarts))
    if level not in LEVELS:
        raise BenchError(f"--level is one of {', '.join(map(str, LEVELS))}; got {level}.")
    if level < 4 and (wanted.changes_the_attack or seed is not None):
        raise BenchError("--seed, --attack, --protocol, --steps and --restarts are of --level 4; add that.")
    with TemporaryDirectory(prefix="radbench-verify-") as private:
        at, checkpoints, problems = _unpacked(place, Path(private), console)
        machine = Machine(
            data_root=data_root,
            group_pattern=group_pattern,
            bit_depth=bit_depth,
            device=device,
            batch_size=batch_size,
            refit=refit,
            cache=cache or (default_cache() if level > 1 else Path()),
        )
        if out is not None and level > 2:
            files.check_writable(out)
        work = Path(private) / "made-again" if out is None else out
        verification = Verification(level, machine, work, wanted, checkpoints)
        seen: dict[str, Path] = {}
        codes = [_judged(path, verification, console, seen) for path in stated.files_of(at)]
    if len(codes) > 1:
        console.print(_together(codes), style="bold", markup=False, highlight=False)
    shell.say(*problems)
    raise typer.Exit(worst([*codes, UNJUDGED_CODE if problems else HOLDS_CODE]))


def _unpacked(place: Path, private: Path, console: Screen) -> tuple[Path, Path | None, list[str]]:
    """Where the claims lie, the checkpoints that came with them, and what is wrong with the archive beside them; of an
    archive it is printed whose it is."""
    if place.suffix.lower() != archive.SUFFIX:
        return place, None, []
    folder = private / "archive"
    archive.unpack(place, folder)
    if not any((folder / name).is_dir() for name in (stated.RECORDS, CERTIFICATES)):
        raise BenchError(f"{place} holds no record and no certificate; submit names what it packs.")
    card = pack.read_card(folder)
    told = f"Submitted by {card.submitter}; licence {card.licence}; hyperparameters chosen on: {card.chosen_on}"
    console.print(one_line(told, 500), markup=False, highlight=False, soft_wrap=True)
    return folder, folder / archive.CHECKPOINTS, list(pack.check(folder))


def _judged(path: Path, asked: Verification, console: Screen, seen: dict[str, Path]) -> int:
    """Print what is found of one claim. Returns its exit code. `seen`: the claims before it, by their keys; of two that
    are of one cell nobody knows which one counts."""
    claim = stated.read(path)
    if claim.what is not None and claim.finding.outcome is Outcome.HOLDS:
        twin = seen.setdefault(claim.what.key, path)
        if twin != path:
            told = f"{one_line(twin, 500)} and this are of one cell; delete the one that does not hold."
            claim = replace(claim, finding=Finding(1, Outcome.UNJUDGED, told))
    console.print(_title(claim), style="bold", markup=False, highlight=False, soft_wrap=True)
    found: list[Finding] = []
    cells = len(claim.what.cell.attack.warm_from) + 1 if isinstance(claim.what, Record) else 1
    with ConsoleReporter(console, cells * max(asked.level - 2, 1)) as reporter:
        for finding in findings(claim, asked, reporter):
            found.append(finding)
            text = Text(one_line(finding, 2000), style=_STYLES[finding.outcome])
            console.print(Padding(text, (0, 0, 0, 2)))
    return exit_code(found, asked.level)


def _title(claim: Claim) -> str:
    what = claim.what
    if isinstance(what, Record):
        name = f"{what.detector_name} on {what.category}, {what.attack_name}, {what.protocol}"
        return one_line(f"{name}: {claim.path}", 500)
    if isinstance(what, Certificate):
        return one_line(f"{what.claim.detector.name} on {what.claim.category}, certificate: {claim.path}", 500)
    return one_line(claim.path, 500)


def _together(codes: Iterable[int]) -> str:
    found = list(codes)
    words = {HOLDS_CODE: "hold", FAILS_CODE: "do not hold", UNJUDGED_CODE: "cannot be judged"}
    counted = ", ".join(f"{found.count(code)} {text}" for code, text in words.items() if code in found)
    return f"{plural(len(found), 'claim')}: {counted}."
