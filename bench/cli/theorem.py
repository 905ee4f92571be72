"""The paper's Theorem E.1 shown in numbers: on Gaussians always, and on attacked images where a run is named."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cell.attacked_pairs import attacked_pairs
from bench.cell.attacking import Tick
from bench.cell.pictures import Category
from bench.cli import comparison
from bench.cli.progress import ConsoleReporter
from bench.cli.screen import Screen
from bench.errors import BenchError, CellError
from bench.metrics.kl_estimates import kl_estimates
from bench.plan import plan as planning
from bench.plan.plan import Plan
from bench.plan.request import RunConfig
from bench.text import attack_text
from detectors.noise import NoiseSeed

if TYPE_CHECKING:
    from bench.report.paper.theorem import OnImages

MOST_IMAGES = 400  # the memory grows with their square


def show(config: RunConfig | None, out: Path, console: Screen, *, images: int = 60, command: str = "") -> None:
    """Print what was found, and write it as theorem-e1.csv, .md, .png and .pdf.

    Args:
        config: one detector on one category under one attack with one epsilon; None, or without detectors: the
            Gaussians alone, for which no data are needed.
        out: where the files are written.
        console: where the text is printed.
        images: how many test images are attacked, half of them anomalous, 2 to 400.
        command: what shows it on attacked images, to be named where this does not.

    Raises:
        BenchError, DetectorError, AttackError: a request that is more than one cell, data that cannot be had, a
            detector that cannot be fitted or breaks the contract.
    """
    # Not at the top: it needs pandas and matplotlib.
    from bench.report.paper import theorem

    on_images = None
    if config is not None and config.detectors:
        plan = planning.make(config)
        _check_one_cell(plan, images)
        on_images = _on_images(plan, console, images)
    gaussians = theorem.on_gaussians()
    for heading, said in theorem.sentences(gaussians, on_images).items():
        console.print(heading, style="bold", markup=False, highlight=False)
        console.print(" ".join(said), markup=False, highlight=False)
    if on_images is not None:
        console.print(theorem.terminal(on_images.found, console.width))
    if on_images is None:
        more = f"; --run adds {images} attacked images:\n  {command}" if command else "."
        console.print(f"On Gaussians alone{more}", markup=False, highlight=False, soft_wrap=True)
    for path in theorem.write(gaussians, on_images, out):
        console.print(f"Written: {path}", markup=False, highlight=False, soft_wrap=True)


def _check_one_cell(plan: Plan, images: int) -> None:
    """Raise BenchError, before any fit, where one curve would not be enough, or the images too few or too many."""
    if not 2 <= images <= MOST_IMAGES:
        raise BenchError(f"Name 2 to {MOST_IMAGES} images; got {images}.")
    if len(plan.jobs) != 1 or plan.cells != 1:
        raise BenchError(
            f"The theorem is shown on one detector, category, attack and epsilon, and this names {plan.cells} cells; "
            "name one of each."
        )


def _on_images(plan: Plan, console: Screen, images: int) -> OnImages:
    from bench.report.paper.theorem import OnImages

    name, category = plan.detectors[0], Category(plan, plan.categories[0])
    attack = plan.attacks_on(name)[0]
    comparison.prepare(plan)
    category.check()
    with ConsoleReporter(console, len(plan.jobs)) as reporter:
        fits = comparison.fits(plan, category, reporter)
        if name in fits.reasons:
            raise CellError(fits.reasons[name])

        def shown(kind: str, of: str) -> AbstractContextManager[Tick]:
            found: AbstractContextManager[Tick] = reporter.attacking(
                of, category.name, plan.run.fit_seed, attack.name, min(images, len(category.test))
            )
            return found

        detector = fits.fitted[name].detector
        pairs = attacked_pairs(category, name, detector, attack.settled(detector), images=images, shown=shown)
    noise = NoiseSeed(plan.run.seed).source("theorem", pairs.ids)
    threat = attack.threat.at(plan.image_size)
    how = attack_text(attack.name, threat.epsilon, attack.norm)
    place = f"{plan.dataset.name} {category.name}, {name}, {how}"
    return OnImages(place, kl_estimates(pairs.clean, pairs.attacked, noise))
