"""The tables of the paper that attacks fill: shown, planned, run."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

from bench.cli import summary
from bench.cli.options import request
from bench.cli.reproduced import Where, categories_of, records_of, say_commands
from bench.cli.run_command import execute, show_costs
from bench.cli.screen import Screen
from bench.plan import plan as planning
from bench.plan import presets, protocols
from bench.plan.request import RunConfig
from bench.text import LONGEST, one_line


def show(name: str, where: Where, planned: set[Hashable], console: Screen) -> list[str]:
    """Show a table; with --run measure first what is missing. `planned`: the cells that a dry run has named already.
    Returns what went wrong."""
    from bench.report.paper import measured, render, tables
    from bench.report.paper.recipe import Recipe
    from bench.report.paper.sensitivity import sensitivity

    def recipe() -> Recipe:
        if name == "sensitivity":
            dataset, categories = categories_of(where, tables.MVTEC, "mvtec")
            shown = categories if where.categories is not None else categories[:1]
            found = sensitivity(shown).on(dataset, shown)
        else:
            usual = tables.recipe_of(name)
            found = usual.on(*categories_of(where, usual.categories, usual.dataset))
        found = replace(found, limit=where.limit)
        # Pictures of 32 pixels are attacked at their own size at every preset: the table is of that size.
        is_small = found.image_size < presets.get(where.preset).image_size and found.is_papers
        usual_side = found.image_size if is_small else presets.get(where.preset).side(found.dataset)
        side = usual_side if where.image_size is None else where.image_size
        same = (where.preset, where.protocol, side) == (found.preset, found.protocol, found.image_size)
        return found if same else found.at_size(side, preset=where.preset, protocol=where.protocol)

    chosen = recipe()
    known, problems = records_of(where, console)
    found = measured.reproduce(name, known, recipe=chosen, revisions=summary.revisions())
    if where.dry_run:
        console.print(chosen.title, style="bold", markup=False, highlight=False)
        for run in found.runs(planned):
            console.print(f"\n{run.command()}", markup=False, highlight=False, soft_wrap=True)
            show_costs(planning.make(_config(run, where)), console)
        if not found.runs(planned):
            console.print("Nothing else is missing." if found.runs() else "Nothing is missing.")
        planned |= {found.place(*cell) for cell in found.missing}
        return []
    odd: list[str] = []
    if where.run and found.runs():
        for run in found.runs():
            console.print(run.command(), style="dim", markup=False, highlight=False, soft_wrap=True)
            _, result = execute(_config(run, where), console, workers=where.workers, devices=where.devices)
            odd += result.problems
            odd += [f"{r.detector_name} on {r.category}: {r.reason}" for r in result.failed]
        summary.write_results(where.out, console)
        where.has_run()
        known, problems = records_of(where, console)
        found = measured.reproduce(name, known, recipe=chosen, revisions=summary.revisions())
    console.print(render.terminal(found, console.width))
    for note in (*found.notes, *problems):
        console.print(f"- {one_line(note, LONGEST)}", style="dim", markup=False, highlight=False)
    if found.absent():
        console.print(f"Not among the installed detectors: {', '.join(found.absent())}.", markup=False, highlight=False)
    say_commands([run.command() for run in found.runs()], console)
    for path in render.write(found, where.out):
        console.print(f"Written: {path}", markup=False, highlight=False)
    return odd


def _config(run: Any, where: Where) -> RunConfig:
    """What `bench.report.paper.recipe.Wanted` says, as a request."""
    rules = protocols.get(run.protocol)
    return request(
        detectors=",".join(run.detectors),
        attacks=(run.threat.attack,),
        dataset=run.dataset,
        data_root=where.data_root,
        categories=",".join(run.categories),
        preset=run.preset,
        protocol=run.protocol,
        epsilons=(run.epsilon,),
        attack_settings=run.threat.asked,
        fit_seeds=rules.fit_seeds,
        fit_seeds_for=rules.fit_seeds_for if rules.fit_seeds else "all",
        holdout=run.holdout,
        limit=where.limit,
        image_size=run.image_size,
        device=where.devices[0],
        settings=list(run.settings),
        out=where.out,
        cache=where.cache,
    )
