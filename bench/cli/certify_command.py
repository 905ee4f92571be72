"""`python -m bench certify`: bounds that no attack of a given radius can break, and what follows from them."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table
from rich.text import Text

from bench import files
from bench.cell.planned_samples import planned
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
    ShardOption,
    Verbose,
    names,
    request,
)
from bench.cli.progress import ConsoleReporter
from bench.cli.screen import Screen
from bench.errors import BenchError, DiskError
from bench.plan import plan as planning
from bench.plan import protocols
from bench.plan.certify import AUTO, CertifyConfig, check
from bench.records import certificate_store
from bench.records.certificate import Certificate
from bench.records.store import read_all
from bench.report import certificate_tables, narrow
from bench.report.certificates import boards, estimate, label
from bench.report.folder import write_results
from bench.report.plain_matplotlib import plain_matplotlib
from bench.run import costs
from bench.run.certify import CertifyResult, certify_plan
from bench.run.determinism import deterministic
from bench.run.shards import Shard
from bench.run.stopping import told_to_stop
from bench.text import LONGEST, one_line, plural

log = logging.getLogger(__name__)
MEANING = (
    "Certified AUC: no change of the images within the radius can bring the smoothed detector's AUC below it; an image "
    "that the samples cannot bound counts as lost."
)


def certify(
    detectors: Detectors = "all",
    sigma: Annotated[str, typer.Option(help="Standard deviations of the noise on [0, 1].")] = "0.05,0.1,0.25",
    samples: Annotated[int, typer.Option(help="Scores under noise of each test image.")] = 10_000,
    radii: Annotated[str, typer.Option(help="l2 radii on [0, 1], rising (default: 0 to 0.75 by 0.05).")] = "",
    linf_radii: Annotated[
        str, typer.Option(help="l-inf radii of exact certificates.")
    ] = "0,0.5/255,1/255,2/255,4/255,8/255",
    rule: Annotated[str, typer.Option(help="percentile, exceedance, paper (uncertified); several with commas.")] = (
        "percentile"
    ),
    p: Annotated[str, typer.Option(help="Which percentile, or auto: chosen on held-out normals.")] = "0.5",
    alpha: Annotated[float, typer.Option(help="Risk that some bound of a certificate does not hold.")] = 0.001,
    attack: Annotated[str, typer.Option(help="l2 attack on the smoothed detector.")] = "apgd-l2",
    attack_radii: Annotated[str, typer.Option(help="l2 radii to attack it at, e.g. 0.1,0.25 (default: none).")] = "",
    attack_steps: Annotated[int | None, typer.Option(help="Its steps (default: 10).")] = None,
    match_noise: Annotated[
        bool, typer.Option("--match-noise", help="Tell detectors that can be told (freerad) how much noise there is.")
    ] = False,
    dataset: DatasetName = "elpv",
    data_root: DataRoot = None,
    group_pattern: GroupPattern = "",
    bit_depth: BitDepth = None,
    categories: Categories = "all",
    preset: PresetName = "quick",
    protocol: Annotated[str, typer.Option(help="Whose test images: quick (60 + 60 of a category) or paper (all).")] = (
        "quick"
    ),
    seed: Seed = 0,
    fit_seed: FitSeed = 0,
    limit: Limit = None,
    holdout: Holdout = None,
    image_size: ImageSize = None,
    allow_leaks: AllowLeaks = False,
    batch_size: BatchSize = None,
    device: Device = "auto",
    settings: Settings = None,
    shard: ShardOption = "",
    refit: Refit = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print how many passes it takes, and how long.")] = False,
    out: Out = Path("results"),
    cache: Cache = None,
    verbose: Verbose = False,
) -> None:
    """Certify: bounds of each image's score under any change within a radius, and the AUC that is left for sure."""
    console = shell.console(verbose)
    usual = CertifyConfig()
    asked = CertifyConfig(
        sigmas=tuple(dict.fromkeys(numbers("--sigma", sigma))),
        samples=samples,
        radii=numbers("--radii", radii) if radii else usual.radii,
        linf_radii=numbers("--linf-radii", linf_radii),
        rules=tuple(dict.fromkeys(names(rule))),
        ps=tuple(_percentile(text) for text in names(p)),
        alpha=alpha,
        attack=attack,
        attack_steps=attack_steps,
        attack_radii=numbers("--attack-radii", attack_radii),
        match_noise=match_noise,
    )
    config = request(
        detectors=detectors,
        attacks=protocols.get(protocol).default_attacks,
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
    share = Shard.parse(shard) if shard else None
    plan = planning.make(config)
    check(plan, asked)
    jobs = plan.jobs if share is None else share.jobs(plan)
    if dry_run:
        show_costs(plan, asked, jobs, console)
        return
    files.check_writable(config.out)
    cache_folder.check(plan)
    files.check_writable(config.cache)
    deterministic(config.torch_device())
    with CertificateReporter(console, plan.several_fits) as reporter:
        if share is None:
            result = certify_plan(plan, asked, reporter)
        else:
            with told_to_stop() as stop:
                result = certify_plan(plan, asked, reporter, jobs=jobs, stop=stop)
            raise typer.Exit(_show_share(result, out, share, console))
    if (out / "records").is_dir():  # whose leaderboards have a column for what is certified
        write_results(out, summary.revisions())
    written = write_certificates(out, console)
    _show_result(result.certificates, console)
    console.print(f"{plural(len(result.certificates), 'certificate')}; {result.seconds:.0f} s.", highlight=False)
    for path in written[:1]:
        console.print(f"Tables and plots: {path} and beside it", markup=False, highlight=False, soft_wrap=True)
    if plan.dataset.licence:
        console.print(f"Data: {plan.dataset.licence}", style="dim", markup=False, highlight=False)
    shell.say(*result.problems)
    raise typer.Exit(2 if result.problems else 0)


def _show_share(result: CertifyResult, out: Path, share: Shard, console: Screen) -> int:
    """What one of several shards has certified; tables are of all of them. Returns the exit code."""
    done = f"{plural(len(result.certificates), 'certificate')}; {result.seconds:.0f} s"
    summary.print_share(share, done, plural(result.unfinished, "fit") if result.unfinished else "", out, console)
    shell.say(*result.problems)
    if result.unfinished:
        return exits.UNFINISHED
    return 2 if result.problems else 0


def write_certificates(out: Path, console: Screen) -> list[Path]:
    """Tables and plots of all certificates below `out`; nothing where there are none. Returns what was written; says
    what went wrong."""
    folder = out / certificate_store.FOLDER
    if not folder.is_dir():
        return []
    found, problems = certificate_store.read_all(folder)
    revisions = summary.revisions()
    written = certificate_tables.write(found, out, revisions)
    try:
        with plain_matplotlib():
            from bench.report import certificate_plots

        written += certificate_plots.write_all(found, read_all(out / "records")[0], out / "plots", revisions)
    except DiskError:
        raise
    except Exception as error:
        log.debug("While drawing:", exc_info=error)
        problems.append(f"The plots could not be drawn ({type(error).__name__}: {one_line(error, 200)}); report it.")
    for problem in problems:
        console.print(f"Warning: {one_line(problem, LONGEST)}", style="yellow", markup=False, highlight=False)
    return written


class CertificateReporter(ConsoleReporter):
    """A `CertifyReporter` on a console."""

    def __init__(self, console: Screen, several: Collection[str]) -> None:
        super().__init__(console, 0, several)
        self._bars.update(self._cells, visible=False)  # there are no cells

    def certified(self, certificate: Certificate, reused: bool) -> None:
        """One line for each certificate."""
        what = one_line(f"{label(certificate)} on {certificate.claim.category}", 120)
        if reused:
            self.console.print(f"{what}: already there", style="dim", markup=False, highlight=False)
            return
        last = certificate.claim.radii[-1]
        middle = certificate.claim.radii[len(certificate.claim.radii) // 2]
        told = ", ".join(f"{estimate(certificate, r).value:.1f} at {r:.3g}" for r in dict.fromkeys((middle, last)))
        self.console.print(f"{what}: AUC {certificate.clean_auc:.1f}, certified {told}", markup=False, highlight=False)


def numbers(option: str, text: str) -> tuple[float, ...]:
    """ "0,0.05,2/255" as numbers. Raises BenchError."""
    return tuple(_number(option, part) for part in names(text))


def _number(option: str, text: str) -> float:
    above, slash, below = text.partition("/")
    try:
        value = float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError, OverflowError):
        value = math.nan
    if math.isnan(value):
        raise BenchError(f"{option} takes numbers with commas between them, e.g. 0.05,0.1 or 2/255; got {text!r:.60}.")
    return value


def _percentile(text: str) -> float | Literal["auto"]:
    return AUTO if text == AUTO else _number("--p", text)


def _show_result(certificates: list[Certificate], console: Screen) -> None:
    for board in boards(certificates, summary.revisions()):
        console.print()
        console.print(certificate_tables.terminal(board, console.width))
        for note in board.notes():
            console.print(note, markup=False, highlight=False)
    console.print(MEANING, markup=False, highlight=False)


def show_costs(plan: planning.Plan, asked: CertifyConfig, jobs: Sequence[planning.Job], console: Screen) -> None:
    """Forward passes and gradients of one image, and seconds, of each detector and category."""
    estimates = costs.Estimates(plan)
    table = Table(title=Text(f"Certificates on {plan.dataset.name} at {plan.image_size} px"), title_justify="left")
    for column in ("detector", "category", "checkpoint"):
        table.add_column(column, overflow="fold")
    table.add_column("passes left", justify="right", no_wrap=True)
    if asked.attack_radii:
        table.add_column("gradients", justify="right", no_wrap=True)
    table.add_column("about", justify="right", no_wrap=True)
    lines: list[tuple[int, str]] = []
    seconds, noise, unknown = 0.0, costs.noise_seconds(plan.image_size), False
    for job in jobs:
        total, done, gradients = planned(plan, asked, job)
        each = estimates.pass_seconds(job.detector)
        own = 0.0 if each is None else (total - done) * (each[0] + noise) + gradients * (each[1] + noise)
        about = "not known" if each is None else summary.duration(own)
        seconds += own
        unknown |= each is None and done < total
        of = f"{total - done:,}" + (f" of {total:,}" if done else "")
        row = one_line(job.detector, 40), one_line(job.category, 40), cache_folder.origin(plan, job)
        of_attack = (f"{gradients:,}",) if asked.attack_radii else ()
        table.add_row(*map(Text, row), of, *of_attack, about)
        beside = "".join(f"; gradients: {number}" for number in of_attack)
        lines += [(0, " on ".join(row[:2])), (1, f"{row[2]}; passes left: {of}{beside}; about: {about}")]
    console.print(narrow.listed(lines) if console.width < narrow.COLUMNS else table)
    attacks = " Gradients are the attack's on the smoothed detector." if asked.attack_radii else ""
    told = summary.duration(seconds) + (", and what is not known" if unknown else "")
    console.print(
        f"A pass is of one image. Estimated time in all, fits aside: {told}.{attacks} Nothing was run.",
        markup=False,
        highlight=False,
    )
