"""What the commands that compare detectors on one category share: fits, progress, and the same words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

import typer
from rich.console import Console

from bench import files
from bench.cell.fitting import Fitted
from bench.cell.pictures import Category
from bench.cell.provenance import fitted_ones
from bench.cli import cache_folder, shell
from bench.cli.progress import ConsoleReporter
from bench.cli.screen import Screen
from bench.errors import DataError
from bench.plan.plan import Plan
from bench.run.determinism import deterministic
from bench.text import one_line


@dataclass(eq=False)
class Fits:
    """The detectors of a category, as far as they could be had.

    Attributes:
        category: its pictures.
        fitted: by name; reasons: why others are not there.
    """

    category: Category
    fitted: dict[str, Fitted] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


def run(plan: Plan, one_category: Callable[[Fits, ConsoleReporter], bool], console: Screen) -> NoReturn:
    """Every category in turn, with all of its detectors, and the end of the command: 2 where something failed.

    Args:
        plan: what is asked.
        one_category: prints and writes what was found; returns whether a detector has no figures.
        console: to print on.
    """
    prepare(plan)
    problems: list[str] = []
    failed = False
    with ConsoleReporter(console, len(plan.jobs)) as reporter:
        for category in categories(plan, reporter, problems):
            failed |= one_category(fits(plan, category, reporter), reporter)
    shell.say(*problems)
    raise typer.Exit(2 if problems or failed else 0)


def prepare(plan: Plan) -> None:
    """Before anything is fitted: places to write to, and the same bits from the same command. Raises DiskError."""
    cache_folder.check(plan)
    files.check_writable(plan.run.out)
    deterministic(plan.run.torch_device())
    plan.built.clear()  # they are built again one by one


def categories(plan: Plan, reporter: ConsoleReporter, problems: list[str]) -> Iterator[Category]:
    """The categories whose pictures can be used, all of which are decoded before any fit; a sentence among the problems
    for each of the others."""
    usable = []
    for name in plan.categories:
        category = Category(plan, name)
        try:
            category.check()
        except DataError as error:
            problems.append(one_line(error, 1000))
            continue
        reporter.looked(category.inspection)
        usable.append(category)
    for category in usable:
        yield category
        category.forget()


def fits(plan: Plan, category: Category, reporter: ConsoleReporter) -> Fits:
    """Every detector of the plan on a category: from a checkpoint, or fitted now."""
    found = Fits(category)
    for name, fitted in fitted_ones(plan, category, reporter):
        if isinstance(fitted, str):
            found.reasons[name] = fitted
        else:
            found.fitted[name] = fitted
    return found


def say_failed(console: Console, category: str, reasons: Mapping[str, str]) -> None:
    """A line for each detector without figures."""
    for name, reason in reasons.items():
        console.print(f"Failed: {name} on {category}: {reason}", style="bold red", markup=False, highlight=False)
