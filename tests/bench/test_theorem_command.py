"""Theorem E.1 from a request to its files: attacked images, the table, the curves, the text."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import bench_fakes as fakes
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from bench.cell.attacked_pairs import attacked_pairs
from bench.cell.pictures import Category
from bench.cli import theorem as command
from bench.cli.screen import Screen
from bench.errors import BenchError, CellError
from bench.metrics.falling import Curve
from bench.metrics.kl_estimates import KLEstimates, kl_estimates
from bench.plan import plan as planning
from bench.plan.request import RunConfig
from bench.report.paper import theorem
from bench.text import escape_markdown
from detectors.noise import NoiseSeed

Register = Callable[..., None]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """The command wants deterministic algorithms; other tests want what they had."""
    before = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture(scope="module")
def gaussians() -> theorem.OnGaussians:
    return theorem.on_gaussians()


@pytest.fixture(scope="module")
def found() -> KLEstimates:
    clean = fakes.image_set(4, 4, side=8).pixels() / 4 + 0.4
    noise = NoiseSeed(0).source("theorem", [str(i) for i in range(8)])
    return kl_estimates(clean, clean + 0.01, noise, timesteps=(1, 50, 100, 1000), draws=8, repeats=3)


def screen() -> tuple[Screen, io.StringIO]:
    text = io.StringIO()
    return Screen(file=text, width=100), text


# -- the pairs --------------------------------------------------------------------------------------------------------


def category_of(config: RunConfig) -> Category:
    return Category(planning.make(config), "bolt")


def test_pairs_are_attacked_test_images_half_of_each_class(tmp_path: Path, folder: Path, register: Register) -> None:
    register(fakes.Linear)
    category = category_of(fakes.config(tmp_path, folder, "linear", categories=("bolt",), epsilons=(0.02,)))
    detector, attack = fakes.fitted(fakes.Linear, fakes.SIDE), category.plan.attacks[0]
    found = attacked_pairs(category, "linear", detector, attack, images=7)
    assert found.clean.shape == found.attacked.shape == (6, 3, fakes.SIDE, fakes.SIDE)
    assert found.labels.tolist().count(1) == found.labels.tolist().count(-1) == 3
    assert set(found.ids) < set(category.test.ids)
    change = found.attacked - found.clean
    assert change.abs().amax() == pytest.approx(0.02, abs=1e-6)
    moved = detector.score(found.attacked) - detector.score(found.clean)
    assert (moved * found.labels > 0).all(), "uphill on y * A(x)"
    all_of_them = attacked_pairs(category, "linear", detector, attack, images=1000)
    assert all_of_them.ids == category.test.ids
    part = [all_of_them.ids.index(name) for name in found.ids]
    torch.testing.assert_close(all_of_them.attacked[part], found.attacked, rtol=0, atol=1e-6)
    with pytest.raises(BenchError, match="2 images or more"):
        attacked_pairs(category, "linear", detector, attack, images=1)


# -- the command ------------------------------------------------------------------------------------------------------


def test_without_data_it_is_shown_on_gaussians(tmp_path: Path) -> None:
    console, text = screen()
    command.show(None, tmp_path, console)
    assert {path.name for path in tmp_path.iterdir()} == {f"theorem-e1.{kind}" for kind in ("md", "csv", "png", "pdf")}
    table = pd.read_csv(tmp_path / "theorem-e1.csv")
    assert len(table) == 1001 and set(table["estimate"]) == {"closed form"} and (table["kl"].diff()[1:] < 0).all()
    assert "Does it never grow? yes." in text.getvalue() and "On Gaussians alone" in text.getvalue()


def test_on_attacked_images_it_writes_all_estimates(tmp_path: Path, folder: Path, register: Register) -> None:
    register(fakes.Linear)
    console, text = screen()
    config = fakes.config(tmp_path, folder, "linear", categories=("bolt",))
    command.show(config, tmp_path / "paper", console, images=8)
    table = pd.read_csv(tmp_path / "paper/theorem-e1.csv").set_index("estimate")
    assert set(table.index) == {
        "closed form",
        "exact densities",
        "exact densities, projected",
        "two samples, projected",
    }
    full = table.loc["exact densities"]
    assert set(full["data"]) == {"folder bolt, linear, pgd-linf at l-inf epsilon 2/255"}
    assert (full["kl"] <= full["bound"] + 4 * full["error"] + 1e-9).all() and (full["kl"].diff()[1:] < 0).all()
    assert table.loc["two samples, projected", "bias"].notna().all()
    written = (tmp_path / "paper/theorem-e1.md").read_text()
    assert "8 clean images and their attacked copies" in written and "in 3072 dimensions" in written
    said = " ".join(text.getvalue().split())
    assert "8 clean images and their attacked copies" in said and "exact densities: yes" in said


def test_more_than_one_cell_and_a_broken_detector_are_sentences(
    tmp_path: Path, folder: Path, register: Register
) -> None:
    register(fakes.Fake, fakes.BrokenFit)
    console, _ = screen()
    for several in ({"categories": None}, {"categories": ("bolt",), "epsilons": (0.01, 0.02)}):
        with pytest.raises(BenchError, match="this names 2 cells"):
            command.show(fakes.config(tmp_path, folder, "fake", **several), tmp_path, console)
    for count in (1, 401):
        with pytest.raises(BenchError, match="2 to 400 images"):
            command.show(fakes.config(tmp_path, folder, "fake", categories=("bolt",)), tmp_path, console, images=count)
    broken = fakes.config(tmp_path, folder, fakes.BrokenFit.name, categories=("bolt",))
    with pytest.raises(CellError):
        command.show(broken, tmp_path / "none", console)
    assert not (tmp_path / "none").exists()
    still = fakes.config(tmp_path, folder, "fake", categories=("bolt",), epsilons=(0.0,))
    with pytest.raises(CellError, match="changed no image"):
        command.show(still, tmp_path / "none", console, images=4)


# -- what is written --------------------------------------------------------------------------------------------------


def test_the_text_says_what_the_theorem_does_not(gaussians: theorem.OnGaussians, found: KLEstimates) -> None:
    text = theorem.markdown(gaussians, theorem.OnImages("a | b", found))
    kl = found.full.kl
    assert f"In nats: {kl[1]:.3g} at t = 50; {kl[2]:.3g} at t = 100." in text
    below = found.full.timesteps[np.flatnonzero(kl < 1)[0]]
    assert f"It is below one nat from t = {below} on." in text and escape_markdown("a | b") in text
    assert gaussians.gap < 1e-5 and f"to {gaussians.gap:.0e} of its value" in text


def test_a_growth_is_said_with_its_place(gaussians: theorem.OnGaussians, found: KLEstimates) -> None:
    grown = replace(found, full=Curve("exact densities", found.full.timesteps, np.array([[4.0, 2.0, 3.0, 1.0]])))
    text = theorem.markdown(gaussians, theorem.OnImages("here", grown))
    assert "exact densities: no, it grows by 1 nats from t = 50 to 100" in text
    bad = replace(gaussians, curve=Curve("closed form", np.arange(3), np.array([[3.0, 1.0, 2.0]])))
    assert "no, it grows by 1 nats from t = 1 to 2." in theorem.markdown(bad)


@pytest.mark.parametrize("width", [40, 80])
def test_the_table_fits_the_terminal(found: KLEstimates, width: int) -> None:
    text = io.StringIO()
    console = Screen(file=text, width=width)
    console.print(theorem.terminal(found, width))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert any(f"{found.full.kl[1]:.3g}" in line for line in lines)


def test_the_curves_are_drawn_with_logarithmic_axes(
    tmp_path: Path, gaussians: theorem.OnGaussians, found: KLEstimates
) -> None:
    figure = theorem.theorem_figure(gaussians, theorem.OnImages("here", found))
    left, right = figure.axes
    assert left.get_xscale() == left.get_yscale() == right.get_yscale() == "log"
    np.testing.assert_allclose(left.lines[0].get_ydata(), gaussians.curve.kl[1:])
    np.testing.assert_allclose(right.lines[0].get_ydata(), found.full.kl)
    np.testing.assert_allclose(right.lines[-1].get_ydata(), found.bound)
    png = theorem.write(gaussians, theorem.OnImages("here", found), tmp_path)[2]
    drawn = np.asarray(Image.open(png).convert("RGB")).reshape(-1, 3)
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73)):
        assert (np.abs(drawn.astype(int) - colour).max(axis=1) < 3).sum() > 50
