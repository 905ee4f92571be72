"""The paper's Figures 1 and 2 and its Theorem E.1, of any detector and any pictures."""

from __future__ import annotations

from bench.cli import summary, theorem
from bench.cli.options import request
from bench.cli.reproduced import Where, categories_of, records_of
from bench.cli.run_command import execute
from bench.cli.screen import Screen
from bench.data import registry as datasets
from bench.errors import BenchError
from bench.plan import protocols
from bench.plan.request import RunConfig

FIGURES = {"figure1": "ocr-gan", "figure2": "freerad"}  # whose pictures the paper shows
THEOREM = "theorem-e1"
IMAGES = 60  # of the theorem's curve


def show(which: str, where: Where, console: Screen) -> list[str]:
    """Draw a figure from the newest record that has its pictures; with --run measure a cell first. Returns what went
    wrong."""
    from bench.report.paper import figures

    if where.dry_run:
        console.print(f"{which} is drawn from a cell's record and its two examples.", highlight=False)
        return []
    odd: list[str] = []
    if where.run:
        _, result = execute(_one_cell(where, FIGURES[which]), console, workers=where.workers)
        odd = [*result.problems, *(f"{r.detector_name} on {r.category}: {r.reason}" for r in result.failed)]
        summary.write_results(where.out, console)
    known, problems = records_of(where, console)
    category = None if where.categories is None else where.categories[0]
    written = figures.draw(which, known, where.out, detector=where.detector, dataset=where.dataset, category=category)
    for problem in problems:
        console.print(f"- {problem}", style="dim", markup=False, highlight=False)
    for path in written:
        console.print(f"Written: {path}", markup=False, highlight=False, soft_wrap=True)
    return odd


def show_theorem(where: Where, console: Screen) -> None:
    """Theorem E.1 on Gaussians, and on attacked images where a data set is named."""
    if where.dataset is None or where.dry_run:
        if where.dry_run:
            console.print(f"{THEOREM}: on Gaussians in closed form; with --dataset on {IMAGES} attacked images, too.")
            return
        theorem.show(None, where.out, console)
        return
    theorem.show(_one_cell(where, "freerad"), where.out, console, images=IMAGES)


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
