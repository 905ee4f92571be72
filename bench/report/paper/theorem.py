"""The paper's Theorem E.1 in numbers: KL(p_t || q_t) over the timesteps of the diffusion, as a curve, a table, a text.

On two Gaussians it has a closed form; of attacked images it is estimated (`bench.metrics.kl_estimates`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Group
from rich.table import Table
from rich.text import Text

from bench import files
from bench.metrics.diffused import ddpm, example_pair, identity_gap, kl_over_time
from bench.metrics.falling import Curve, Judgement, judge
from bench.metrics.kl_estimates import KLEstimates
from bench.metrics.ranking import Floats
from bench.report import narrow
from bench.report.fonts import drawable
from bench.report.style import COLOURS, MARKERS, TEXT_WIDTH, save, style
from bench.text import escape_csv, escape_markdown, markdown_table
from detectors.checkpoint import write_atomically

NAME = "theorem-e1"
GAUSSIANS = "two Gaussians"
PAPER_K = (50, 300)  # from which to which timestep the paper diffuses
NAT = 1.0


@dataclass(frozen=True, eq=False)
class OnGaussians:
    """The closed form at every timestep, and how well the proof's identity holds there.

    Attributes:
        curve: KL(p_t || q_t), t = 0..T.
        gap: the largest difference of the identity's two sides over t = 1..T, as a share.
        dimensions: of the Gaussians.
    """

    curve: Curve
    gap: float
    dimensions: int


@dataclass(frozen=True, eq=False)
class OnImages:
    """What was found on attacked images, and a line that says which (`place`)."""

    place: str
    found: KLEstimates


def on_gaussians() -> OnGaussians:
    """The theorem on `example_pair`, under the paper's schedule."""
    p, q = example_pair()
    process = ddpm()
    curve = Curve("closed form", process.timesteps, kl_over_time(p, q, process)[None])
    gap = float(identity_gap(p, q, ddpm(range(1, len(process.timesteps)))).max())
    return OnGaussians(curve, gap, len(p.mean))


def theorem_figure(gaussians: OnGaussians, images: OnImages | None = None) -> Figure:
    """KL over t, both logarithmic: left the Gaussians, right the images with two standard errors and, dashed, the bound
    of the pairs. Grey: the timesteps that the paper diffuses to."""
    with style():
        columns = 1 if images is None else 2
        figure = Figure(figsize=(TEXT_WIDTH / 2 * columns, 2.7), layout="constrained")
        panels = figure.subplots(1, columns, squeeze=False)[0]
        _draw(panels[0], gaussians.curve, 0, marked=False)
        panels[0].set_title(f"two Gaussians, {gaussians.dimensions} dimensions", loc="left")
        if images is not None:
            found = images.found
            for number, curve in enumerate(found.curves):
                _draw(panels[1], curve, number, marked=True)
            steps = found.full.timesteps
            panels[1].plot(steps, found.bound, "--", color="0.4", linewidth=0.9, label="pairs alone (bound)", zorder=1)
            panels[1].set_title(drawable(images.place, 56), loc="left", fontsize=7)
        for axes in panels:
            axes.axvspan(*PAPER_K, color="0.9", linewidth=0, zorder=0)
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xlabel("timestep t")
            axes.legend(frameon=False, loc="lower left", fontsize=7)
        panels[0].set_ylabel("KL$(p_t\\,\\|\\,q_t)$ in nats")
    return figure


def frame(gaussians: OnGaussians, images: OnImages | None = None) -> pd.DataFrame:
    """A line for each value of each curve; error is the standard error, 0 of exact values, and bound that of the pairs,
    NaN where there is none. bias is against the exact densities in the same projection, of the two samples alone."""
    parts = [_rows(GAUSSIANS, gaussians.curve)]
    if images is not None:
        found = images.found
        parts += [
            _rows(images.place, found.full, bound=found.bound),
            _rows(images.place, found.projected),
            _rows(images.place, found.two_sample, bias=found.bias),
        ]
    return pd.concat(parts, ignore_index=True)


def sentences(gaussians: OnGaussians, images: OnImages | None = None) -> dict[str, list[str]]:
    """What the theorem says, and what was found on Gaussians and on images, by heading, as plain text."""
    curve = gaussians.curve
    said = {
        "The theorem": [
            "Of any two distributions p and q, KL(p_t || q_t) never grows as both are diffused.",
            "The paper proves it in the limit of many small steps; it holds of the discrete chain as well, whose "
            "marginals are the same.",
            "It says that the divergence falls, not that it is small at the timestep that a detector diffuses to.",
        ],
        "On two Gaussians": [
            f"Of {gaussians.dimensions} dimensions, with other means and other covariances, in closed form: "
            f"{curve.kl[0]:.3g} nats at t = 0, {curve.kl[-1]:.2g} at t = {curve.timesteps[-1]}.",
            f"Does it never grow? {_answer(judge(curve))}.",
            "The proof's identity, d KL / dt = -beta / 2 times the Fisher divergence, agrees with finite differences "
            f"to {gaussians.gap:.0e} of its value at every t from 1 on.",
        ],
    }
    if images is not None:
        found = images.found
        answers = "; ".join(f"{curve.name}: {_answer(judge(curve))}" for curve in found.curves)
        said["On images"] = [
            f"{images.place}: {found.images} clean images and their attacked copies, as two mixtures of as many "
            f"Gaussians in {found.values} dimensions.",
            *_size(found),
            "KL is convex: in the mean it is no smaller than that of what the images are drawn from.",
            f"The projection keeps {found.dimensions} orthonormal directions, in which "
            f"{100 * found.share:.2g} % of the perturbations' squared length lies.",
            f"The two samples have {found.samples} points each; their estimate, from {found.neighbours} nearest "
            "neighbours, is biased by what the last column says.",
            f"Does it never grow? {answers}.",
        ]
    return said


def cells(found: KLEstimates) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of estimates, in nats with standard errors over noise draws."""
    header = ["t", *(curve.name for curve in found.curves), "bias of the two samples"]
    rows = [
        [str(t), *(_value(curve.kl[i], curve.error[i]) for curve in found.curves), f"{found.bias[i]:+.2g}"]
        for i, t in enumerate(found.full.timesteps)
    ]
    return header, rows


def markdown(gaussians: OnGaussians, images: OnImages | None = None) -> str:
    """All of it, and the table of what was found on images."""
    text = "## Theorem E.1: diffusion brings clean and attacked data together\n"
    for heading, said in sentences(gaussians, images).items():
        text += f"\n**{heading}.** {' '.join(map(escape_markdown, said))}\n"
    if images is not None:
        header, rows = cells(images.found)
        table = markdown_table([escape_markdown(name) for name in header], rows)
        text += f"\n{table}\nIn nats, with the standard error over noise draws; the images are given.\n"
    return text


def terminal(found: KLEstimates, width: int = 80) -> Table | Group:
    """The table for rich, within so many columns."""
    header, rows = cells(found)
    if width < 80:
        lines = [(0, "KL(p_t || q_t) in nats")]
        for row in rows:
            lines += [
                (0, f"t {row[0]}"),
                *((1, f"{name}: {value}") for name, value in zip(header[1:], row[1:], strict=True)),
            ]
        return narrow.listed(lines)
    table = Table(title=Text("KL(p_t || q_t) in nats"), box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for name in header:
        table.add_column(Text(name), justify="right")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def write(gaussians: OnGaussians, images: OnImages | None, folder: Path) -> list[Path]:
    """Write theorem-e1.csv, .md, .png and .pdf, each atomically. Raises DiskError where the disk refuses."""
    texts = {
        ".csv": frame(gaussians, images).to_csv(index=False, lineterminator="\n", float_format="%.10g"),
        ".md": markdown(gaussians, images),
    }
    with files.writing(folder):
        for suffix, text in texts.items():
            write_atomically(folder / f"{NAME}{suffix}", text.encode())
    pictures = save(theorem_figure(gaussians, images), folder / NAME, vector=True)
    return [*(folder / f"{NAME}{suffix}" for suffix in texts), *pictures]


def _draw(axes: Axes, curve: Curve, number: int, *, marked: bool) -> None:
    """What is not above 0 has no place on a logarithmic axis, and neither has t = 0."""
    shown = (curve.kl > 0) & (curve.timesteps > 0)
    steps, values, error = curve.timesteps[shown], curve.kl[shown], curve.error[shown]
    axes.plot(steps, values, MARKERS[number] + "-" if marked else "-", color=COLOURS[number], label=curve.name)
    if not curve.is_exact:
        low = np.maximum(values - 2 * error, values * 1e-3)
        axes.fill_between(steps, low, values + 2 * error, color=COLOURS[number], alpha=0.25, linewidth=0)


def _rows(place: str, curve: Curve, *, bound: Floats | None = None, bias: Floats | None = None) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "data": escape_csv(place),
            "estimate": curve.name,
            "t": curve.timesteps,
            "kl": curve.kl,
            "error": curve.error,
            "bound": np.nan if bound is None else bound,
            "bias": np.nan if bias is None else bias,
        }
    )


def _size(found: KLEstimates) -> list[str]:
    """How far apart the distributions still are where the paper diffuses to."""
    steps, kl = found.full.timesteps, found.full.kl
    there = "; ".join(
        f"{value:.3g} at t = {t}" for t, value in zip(steps, kl, strict=True) if PAPER_K[0] <= t <= PAPER_K[1]
    )
    below = np.flatnonzero(kl < NAT)
    end = f"It is below one nat from t = {steps[below[0]]} on." if len(below) else "It is nowhere below one nat."
    return [*([f"In nats: {there}."] if there else []), end]


def _value(value: float, error: float) -> str:
    return f"{value:.3g} ± {error:.1g}" if error > 1e-9 * abs(value) else f"{value:.3g}"


def _answer(found: Judgement) -> str:
    if found.answer == "no":
        assert found.growth is not None
        start, end, growth = found.growth
        return f"no, it grows by {growth:.2g} nats from t = {start} to {end}"
    if found.answer == "undecided":
        return f"undecided, {found.shown} of {found.steps} steps are shown to fall, and no growth is"
    return "yes"
