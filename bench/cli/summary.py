"""What a run prints at its end, and what `bench list` prints."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

import attacks
from attacks.registry import Family, families, get_class
from bench.cell.group import Reporter
from bench.data import registry as datasets
from bench.data.base import Dataset
from bench.errors import BenchError
from bench.plan import presets, protocols
from bench.plan.plan import Job, Plan
from bench.records.record import Record, Revisions
from bench.report import fits, folder, leaderboard, members, narrow, write
from bench.report.plain_matplotlib import plain_matplotlib
from bench.report.site import sources
from bench.run.runner import RunResult
from bench.run.shards import Shard
from bench.text import LONGEST, is_ball, one_line, plural, threat_text
from detectors import registry as detector_registry

log = logging.getLogger(__name__)

MEANING = (
    "AUC: how often an anomalous image scores above a normal one, in per cent (50 is chance). Robust: after every "
    "image, normal or anomalous, was changed within the threat model to mislead this very detector; a stronger attack "
    "can only lower it."
)


def revisions() -> Revisions:
    """The revisions of the code at hand: what makes a record stale."""
    of_families = {f"{f.prefix}:{name}": n for f in detector_registry.families() for name, n in f.revisions.items()}
    of_attacks = {f"{f.prefix}:{name}": n for f in families() for name, n in f.revisions.items()}
    return Revisions(
        detectors={name: detector_registry.get(name).revision for name in detector_registry.names()} | of_families,
        attacks={name: get_class(name).revision for name in attacks.names()} | of_attacks,
        protocols={p.name: p.version for p in protocols.PROTOCOLS},
        fits=_fits,
    )


def _fits(protocol: str, detector: str) -> int:
    known, cls = {p.name: p for p in protocols.PROTOCOLS}, sources.installed(detector)
    return protocols.fits_asked(known[protocol], cls) if protocol in known and cls is not None else 1


def write_results(out: Path, console: Console, *, anew: bool = False, of_cells: bool = True) -> list[Path]:
    """Leaderboards, plots and panels from all records below `out`; `anew` looks at each picture that should be there;
    `of_cells`: with those of each cell. Returns what was written; says what went wrong."""
    written, problems = folder.write_results(out, revisions(), anew=anew, of_cells=of_cells)
    for problem in problems:
        console.print(f"Warning: {one_line(problem, LONGEST)}", style="yellow", markup=False, highlight=False)
    return written


class DrawingReporter:
    """Passes everything on to a reporter, and draws each new cell's pictures while others are still being computed.

    What cannot be drawn now is tried again, and said, by `write_results`.
    """

    def __init__(self, reporter: Reporter, out: Path) -> None:
        self._reporter, self._plots = reporter, out / "plots"
        self.looked, self.fitting, self.attacking = reporter.looked, reporter.fitting, reporter.attacking

    def done(self, record: Record, reused: bool) -> None:
        """Told of a cell that has its record."""
        self._reporter.done(record, reused)
        if record.ok and not reused:
            try:
                with plain_matplotlib():
                    from bench.report import example_panel, plots

                plots.write_histogram(record, self._plots)
                example_panel.write_panel(record, self._plots)
            except Exception as error:  # whatever it is, hours of other cells must not be lost for a picture
                log.debug("A picture was left for the end:", exc_info=error)


def show_result(plan: Plan, result: RunResult, console: Console) -> None:
    """The leaderboard of the run's own records, what it means, and where the files are."""
    for board in leaderboard.build(result.records, revisions()):
        console.print()
        for fact in board.facts:
            console.print(fact, style="dim", markup=False, highlight=False)
        console.print(write.terminal(board, console.width))
        told = (*write.terminal_notes(board), *members.sentences(board))
        for note in (*board.notes(), *told, *_shortcuts(board), MEANING):
            console.print(note, markup=False, highlight=False)
    for record in result.failed:
        fit = f", fit {fits.fit_seed(record)}" if record.detector_name in plan.several_fits else ""
        console.print(
            f"Failed: {record.detector_name} on {record.category}{fit}: {record.reason}",
            style="bold red",
            markup=False,
            highlight=False,
        )
    out = plan.run.out
    console.print(
        f"\nRecords: {out / 'records'}   Leaderboard: {out / 'leaderboard.md'} (.csv, .tex)   Plots: {out / 'plots'}",
        markup=False,
        highlight=False,
    )
    reused = f", {result.reused} of them from earlier runs" if result.reused else ""
    console.print(
        f"{plural(len(result.records), 'cell')}{reused}; {result.seconds:.0f} s.", markup=False, highlight=False
    )
    if plan.dataset.licence:
        console.print(f"Data: {plan.dataset.licence}", style="dim", markup=False, highlight=False)


def show_share(result: RunResult, out: Path, share: Shard, console: Console) -> None:
    """What one of several shards has done; tables are of all of them."""
    for record in result.failed:
        told = f"Failed: {record.detector_name} on {record.category}: {record.reason}"
        console.print(told, style="bold red", markup=False, highlight=False)
    reused = f", {result.reused} of them from earlier runs" if result.reused else ""
    done = f"{plural(len(result.records), 'cell')}{reused}; {result.seconds:.0f} s"
    print_share(share, done, plural(result.unfinished, "cell") if result.unfinished else "", out, console)


def print_share(share: Shard, done: str, left: str, out: Path, console: Console) -> None:
    """What a shard has done, what it had to leave ("3 cells"; nothing where it is empty), and where all of it is."""
    lines = [f"Shard {share}: {done}."]
    if left:
        lines.append(f"Told to end: {left} left; the same command goes on from there.")
    lines.append(f"It is in {out}; tables and plots of all shards: python -m bench report {out}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _shortcuts(board: leaderboard.Leaderboard) -> list[str]:
    """How far brightness alone, and file order alone, separate each category."""
    told = {"brightness": "where darker is anomalous", "file_order": "where the farther file is normal"}
    lines = []
    for shortcut, turned in told.items():
        found: dict[str, float] = {}
        for row in board.rows:
            for category, cell in row.cells.items():
                stated = cell.records[0].results.get(shortcut)
                value = stated.get("separability") if isinstance(stated, dict) else None
                if isinstance(value, float):
                    found[category] = value
        if found:
            listed = ", ".join(f"{one_line(category, 40)} {value:.0f}" for category, value in sorted(found.items()))
            name = shortcut.replace("_", " ")
            lines.append(f"{name.capitalize()} alone reaches (AUC, or 100 - AUC {turned}; 50 is chance): {listed}.")
    return lines


def show_plan(plan: Plan, estimates: Sequence[tuple[Job, str, float | None]], console: Console) -> None:
    """What a run would do: rows of (job, checkpoint, seconds)."""
    title = f"{plural(plan.cells, 'cell')} on {plan.dataset.name} at {plan.image_size} px"
    table = Table(title=Text(title))
    for column in ("detector", "category", "checkpoint"):
        table.add_column(column, overflow="fold")
    table.add_column("about", justify="right")
    lines = [(0, title)]
    for job, origin, seconds in estimates:
        about = "not known" if seconds is None else duration(seconds)
        fit = f", fit {job.fit_seed}" if job.detector in plan.several_fits else ""
        names = one_line(job.detector, 40) + fit, one_line(job.category, 40)
        table.add_row(*map(Text, names), origin, about)
        lines += [(0, " on ".join(names)), (1, f"{origin}; about: {about}")]
    console.print(narrow.listed(lines) if console.width < narrow.COLUMNS else table)
    known = [seconds for *_, seconds in estimates if seconds is not None]
    console.print(f"Attacks: {', '.join(_attack_text(a.describe()) for a in plan.attacks)}.", highlight=False)
    more = "" if len(known) == len(estimates) else " (without those not known)"
    in_all = duration(sum(known)) if known else "not known"
    more = more if known else ""
    console.print(
        f"Estimated time in all: {in_all}{more} of one process; several share it (--workers). Nothing was run.",
        highlight=False,
    )


def _attack_text(described: dict[str, object]) -> str:
    steps = described.get("steps")
    budget = f", {plural(steps, 'step')}" if isinstance(steps, int) else ""
    epsilon, norm = float(described["epsilon"]), str(described["norm"])  # type: ignore[arg-type]
    size = f"epsilon {epsilon:.6g}" if is_ball(norm) else threat_text(epsilon, norm)
    return f"{described['name']} ({size}{budget})"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def listing(what: str, *, refused: bool = False, width: int = 80) -> Table | Group:
    """The table of `bench list` within so many columns; `refused`: with what cannot be had, and why. Raises BenchError
    for an unknown kind."""
    table = Table(box=None, pad_edge=False)
    rows: list[tuple[str, ...]]
    if what == "detectors":
        header: tuple[str, ...] = ("name", "method", "noise", "source")
        classes = [detector_registry.get(name) for name in detector_registry.names()]
        rows = [(c.name, c.title, "random" if c.is_stochastic else "none", c.paper) for c in classes]
        for family in detector_registry.families():
            rows += _family_rows(family, refused=refused)
    elif what == "attacks":
        header = ("name", "what it does")
        rows = [(name, get_class(name).summary) for name in attacks.names()]
        for group in families():
            of_group = _family_rows(group, refused=refused)
            rows += [(name, "; ".join(filter(None, rest))) for name, *rest in of_group]
    elif what == "datasets":
        header = ("name", "what it is")
        rows = [(name, *_about(datasets.find(name))) for name in datasets.names()]
        if width >= narrow.COLUMNS:
            rows = [(name, "\n".join(lines)) for name, *lines in rows]
    elif what == "presets":
        header = ("name", "what it is")
        rows = [(p.name, p.summary) for p in presets.PRESETS]
        rows += [(f"protocol {p.name}", p.statement) for p in protocols.PROTOCOLS]
    else:
        raise BenchError(f"There is no list of {what!r}; ask for detectors, attacks, datasets or presets.")
    if width < narrow.COLUMNS:
        return narrow.listed(
            line for name, *rest in rows for line in ((0, name), (1, "; ".join(cell for cell in rest if cell)))
        )
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _about(dataset: type[Dataset]) -> list[str]:
    """Of a data set what `list` says, line by line."""
    about, needs = dataset.about, "needs --data-root" if dataset.needs_root else "needs nothing"
    if about is None:  # the user's own
        return [dataset.summary, dataset.licence, needs]
    facts = f"{about.licence}; {about.size}; {needs}"
    return [dataset.summary, facts, about.home, f"to be shown: {about.showing}"]


def _family_rows(family: detector_registry.Family | Family, *, refused: bool) -> list[tuple[str, ...]]:
    """A family with its members in one line, and those that are refused: how many, or each with its reason."""
    members = ", ".join(family.members()) or "not installed"
    if family.refused and not refused:
        members += f" ({len(family.refused)} more are refused: --refused says why)"
    rows: list[tuple[str, ...]] = [(f"{family.prefix}:NAME", family.summary, "", f"NAME: {members}")]
    if refused:
        rows += [(f"{family.prefix}:{name}", "refused", "", reason) for name, reason in family.refused.items()]
    return rows


def failures(records: Sequence[Record]) -> int:
    """The exit code of a run with these records: 2 where a cell failed."""
    return 2 if any(not record.ok for record in records) else 0
