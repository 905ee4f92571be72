"""The paper's Figures 1 and 2 and its Theorem E.1, of any detector and any pictures."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from itertools import chain

from bench.cli import summary, theorem
from bench.cli.options import request
from bench.cli.reproduced import Where, categories_of, check_categories, known_categories, records_of, usual_protocol
from bench.cli.run_command import execute, show_costs
from bench.cli.screen import Screen
from bench.data import registry as datasets
from bench.errors import BenchError
from bench.names import unknown
from bench.plan import plan as planning
from bench.plan import protocols
from bench.plan.request import RunConfig
from bench.records.record import Record
from detectors import registry

FIGURES = {"figure1": "ocr-gan", "figure2": "freerad"}  # whose pictures the paper shows
THEOREM = "theorem-e1"
IMAGES = 60  # of the theorem's curve
# Whose categories are known without a --data-root, the packaged one first; no two have one of the same name.
NAMED = ("elpv", "mvtec", "cifar10")


def show(which: str, where: Where, console: Screen) -> list[str]:
    """Draw a figure from the newest record that has its pictures; with --run measure a cell first. Returns what went
    wrong."""
    from bench.report.paper import figures

    if where.dataset is not None:
        check_categories(where, where.dataset)
    if which == "figure2" and where.detector is not None and not registry.get(where.detector).has_reconstruction:
        raise BenchError(f"{where.detector} does not reconstruct, so it has no Figure 2; name one that does: freerad.")
    if where.dry_run:
        _say_cost(which, "is drawn from a cell's record and its two examples", where, FIGURES[which], console)
        return []
    odd: list[str] = []
    if where.run:
        _, result = execute(_one_cell(where, FIGURES[which]), console, workers=where.workers)
        odd = [*result.problems, *(f"{r.detector_name} on {r.category}: {r.reason}" for r in result.failed)]
        summary.write_results(where.out, console)
        where.has_run()
    known, problems = records_of(where, console)
    category = None if where.categories is None else where.categories[0]
    dataset = where.dataset
    if dataset is None and category is not None:
        dataset = _dataset_with(category, known)
    written = figures.draw(which, known, where.out, detector=where.detector, dataset=dataset, category=category)
    for problem in problems:
        console.print(f"- {problem}", style="dim", markup=False, highlight=False)
    for path in written:
        console.print(f"Written: {path}", markup=False, highlight=False, soft_wrap=True)
    return odd


def show_theorem(where: Where, console: Screen) -> None:
    """Theorem E.1 on Gaussians; with --run, where a data set is named, on attacked images as well."""
    if where.dataset is not None:
        check_categories(where, where.dataset)
    if where.dry_run:
        what = f"is shown on Gaussians in closed form and, of a --dataset, on {IMAGES} attacked images"
        _say_cost(THEOREM, what, where, "freerad", console)
        return
    if where.run and where.dataset is not None:
        theorem.show(_one_cell(where, "freerad"), where.out, console, images=IMAGES)
        return
    theorem.show(None, where.out, console, images=IMAGES, command=_command(where))


def _say_cost(name: str, what: str, where: Where, detector: str, console: Screen) -> None:
    """What --run would do: of the theorem, which attacks fewer images than the cell has, no more than this."""
    if where.dataset is None:
        console.print(f"{name} {what}; --dataset says of which pictures.", markup=False, highlight=False)
        return
    console.print(f"{name} {what}. With --run at most this is done:", markup=False, highlight=False)
    show_costs(planning.make(_one_cell(where, detector)), console)


def _command(where: Where) -> str:
    """What shows the theorem on images: of the data set that was named, or of the packaged one, small."""
    is_named = where.dataset is not None
    dataset = where.dataset or NAMED[0]
    categories = known_categories(dataset, where.data_root if is_named else None)
    if where.categories is not None and is_named:
        categories = where.categories
    preset = where.preset if is_named else "quick"
    usual = usual_protocol(preset)
    options = {
        "--dataset": dataset,
        "--data-root": (where.data_root or "DIR") if datasets.find(dataset).needs_root else None,
        "--categories": categories[0] if categories else None,
        "--detector": where.detector,
        "--preset": preset,
        "--protocol": where.protocol if is_named and where.protocol != usual else None,
        "--image-size": where.image_size,
        "--limit": where.limit,
    }
    words = [word for name, value in options.items() if value is not None for word in (name, str(value))]
    return shlex.join(["python", "-m", "bench", "reproduce", THEOREM, "--run", *words])


def _dataset_with(category: str, known: Sequence[Record]) -> str | None:
    """The data set whose category it is, by the records or by its name; None where records of several have it. Raises
    UnknownNameError."""
    of_records = {record.dataset for record in known if record.category == category}
    by_name = {name: known_categories(name, None) for name in NAMED}
    candidates = of_records or {name for name, categories in by_name.items() if category in categories}
    if not candidates:
        everywhere = {*(record.category for record in known), *chain.from_iterable(by_name.values())}
        raise unknown("category", category, everywhere)
    return candidates.pop() if len(candidates) == 1 else None


def _one_cell(where: Where, detector: str) -> RunConfig:
    """The first category of the data that were named, under the protocol's first attack."""
    if where.dataset is None:
        raise BenchError("Name the pictures: --dataset, and --data-root where it has none of its own.")
    opened = datasets.get(where.dataset, where.data_root)
    _, categories = categories_of(where, opened.categories(), where.dataset)
    return request(
        detectors=where.detector or detector,
        attacks=protocols.get(where.protocol).default_attacks[:1],
        dataset=where.dataset,
        data_root=where.data_root,
        categories=categories[0],
        preset=where.preset,
        protocol=where.protocol,
        limit=where.limit,
        image_size=where.image_size,
        device=where.devices[0],
        settings=None,
        out=where.out,
        cache=where.cache,
    )
