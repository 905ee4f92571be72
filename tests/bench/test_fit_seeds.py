"""`--fit-seeds`: each fit is a group of cells of its own, from its checkpoint to its record."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bench.cell import pictures
from bench.errors import BenchError
from bench.plan import plan as planning
from bench.plan.request import Override, RunConfig
from bench.records.record import Record
from bench.report import fits
from bench.run import runner
from bench.run.pool import count
from detectors import checkpoint
from detectors.base import Progress

Register = Callable[..., None]
SMALL_AE = tuple(
    Override(name, setting, None, value)
    for name in ("ae", "apae")
    for setting, value in {"epochs": 1, "work_size": 16, "levels": 2, "channels": 2}.items()
)


class Random(fakes.Fake):
    """Its fit is its seed."""

    name = "random"
    title = "Random"

    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        type(self).fits += 1
        progress(1, 2)
        self.level.fill_(float(seed))

    def value(self, x: Tensor, noise: Any) -> Tensor:
        mixed = (1 + self.level) * fakes.linear_weights(x.shape[-1]).to(x) + 1
        return (mixed * x).sum(dim=(1, 2, 3))


class Chaotic(Random):
    """Declares it."""

    name = "chaotic"
    training_is_chaotic = True


class Unseeded(fakes.Fake):
    """Its fit draws nothing."""

    name = "unseeded"
    fit_is_seeded = False


class FailsOnce(Random):
    """Its fit with seed 1 is broken."""

    name = "fails-once"
    title = "Fails once"

    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        if seed == 1:
            raise IndexError("a bug in this fit")
        super()._fit(normals, seed=seed, progress=progress, workdir=workdir)


ALL = (Random, Chaotic, Unseeded)


@pytest.fixture(autouse=True)
def _registered(register: Register, one_thread: None) -> Iterator[None]:
    register(*ALL, FailsOnce)
    yield


def three(root: Path, data: Path, *names: str, **changes: Any) -> RunConfig:
    return fakes.config(root, data, *names, **({"fit_seeds": (0, 1, 2), "categories": ("bolt",)} | changes))


def seeds_of(records: list[Record]) -> dict[str, list[int]]:
    return {
        name: [fits.fit_seed(r) for r in records if r.detector_name == name]
        for name in {r.detector_name: 0 for r in records}
    }


def test_every_random_fit_is_made_once_per_seed_and_one_that_draws_nothing_once(tmp_path: Path, folder: Path) -> None:
    config = three(tmp_path, folder, "random", "chaotic", "unseeded", epsilons=(0.01, 0.02))
    plan = planning.make(config)
    assert plan.cells == (3 + 3 + 1) * 2 and len(plan.jobs) == 7
    records = fakes.run(config).records
    assert seeds_of(records) == {"random": [0, 0, 1, 1, 2, 2], "chaotic": [0, 0, 1, 1, 2, 2], "unseeded": [0, 0]}
    assert [cls.fits for cls in ALL] == [3, 3, 1]
    assert len({r.key for r in records}) == len(records) == 14
    stored = {r.checkpoint["key"] for r in records if r.detector_name == "random"}
    assert len(stored) == 3, "each fit has its own checkpoint"


def test_all_seeds_can_be_for_the_chaotic_alone(tmp_path: Path, folder: Path) -> None:
    config = three(tmp_path, folder, "random", "chaotic", "unseeded", fit_seeds=(4, 5), fit_seeds_for="chaotic")
    plan = planning.make(config)
    assert {name: plan.fit_seeds(name) for name in plan.detectors} == {
        "random": (4,),
        "chaotic": (4, 5),
        "unseeded": (0,),
    }
    assert plan.several_fits == {"chaotic"}


def test_a_fit_of_several_is_the_fit_of_its_seed_alone(tmp_path: Path, folder: Path) -> None:
    fakes.run(three(tmp_path / "three", folder, "random", "unseeded"))
    for seed in (0, 1, 2):
        alone = fakes.config(tmp_path / "alone", folder, "random", "unseeded", fit_seed=seed, categories=("bolt",))
        fakes.run(alone)
    assert fakes.documents(tmp_path / "three" / "out") == fakes.documents(tmp_path / "alone" / "out")
    assert fakes.score_files(tmp_path / "three" / "out") == fakes.score_files(tmp_path / "alone" / "out")


def test_a_run_goes_on_with_the_fits_that_are_missing(tmp_path: Path, folder: Path) -> None:
    first = fakes.run(three(tmp_path, folder, "random", "unseeded", fit_seeds=(0, 1)))
    more = fakes.run(three(tmp_path, folder, "random", "unseeded"))
    assert (first.reused, more.reused, len(more.records)) == (0, 3, 4)
    assert (Random.fits, Unseeded.fits) == (3, 1)
    lost = next(r for r in more.records if fits.fit_seed(r) == 1)
    assert lost.path is not None
    lost.path.unlink()
    again = fakes.Quiet()
    assert fakes.run(three(tmp_path, folder, "random", "unseeded"), again).reused == 3
    assert Random.fits == 3, "the checkpoint is still there"
    assert [reused for *_, reused in again.cells] == [True, True, True, False]


def test_the_pictures_of_a_category_are_decoded_once_for_all_fits(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten: list[str] = []
    honest = pictures.Category.forget

    def watched(category: pictures.Category) -> None:
        forgotten.append(category.name)
        honest(category)

    monkeypatch.setattr(pictures.Category, "forget", watched)
    fakes.run(three(tmp_path, folder, "unseeded", "random", categories=None))
    assert forgotten == ["bolt", "nut"]


def test_two_processes_leave_the_records_of_one(tmp_path: Path, folder: Path) -> None:
    one, two = (three(tmp_path / name, folder, "ae", "brightness", overrides=SMALL_AE[:4]) for name in ("one", "two"))
    alone = runner.run_plan(planning.make(one), fakes.Quiet())
    told = fakes.Quiet()
    plan = planning.make(two)
    assert count(plan, 64) == 4, "three fits of AE, and one of brightness"
    shared = runner.run_plan(plan, told, workers=2)
    assert [r.key for r in shared.records] == [r.key for r in alone.records], "and in the plan's order"
    assert seeds_of(shared.records) == {"ae": [0, 1, 2], "brightness": [0]}
    assert fakes.score_files(tmp_path / "one" / "out") == fakes.score_files(tmp_path / "two" / "out")
    assert fakes.documents(tmp_path / "one" / "out") == fakes.documents(tmp_path / "two" / "out")
    assert runner.run_plan(planning.make(two), fakes.Quiet(), workers=2).reused == 4


def test_ae_and_apae_share_each_fits_network(tmp_path: Path, folder: Path) -> None:
    records = fakes.run(three(tmp_path, folder, "ae", "apae", overrides=SMALL_AE, fit_seeds=(0, 1))).records
    assert all(r.ok for r in records)
    assert [r.checkpoint.get("network_from") for r in records] == [None, None, "ae", "ae"]
    networks: dict[tuple[str, int], dict[str, Tensor]] = {}
    for path in (tmp_path / "cache").glob("checkpoints/*/*.safetensors"):
        seed = checkpoint.read_description(path)["fit"]["seed"]
        tensors = load_file(path)
        networks[path.parent.name, seed] = {k: v for k, v in tensors.items() if k.startswith("network.")}
    assert len(networks) == 4

    def same(a: tuple[str, int], b: tuple[str, int]) -> bool:
        return all(torch.equal(networks[a][k], networks[b][k]) for k in networks[a])

    assert same(("ae", 0), ("apae", 0)) and same(("ae", 1), ("apae", 1)) and not same(("ae", 0), ("ae", 1))


@pytest.mark.usefixtures("no_plots")
def test_what_is_printed_names_the_fit_where_there_are_several(
    tmp_path: Path, folder: Path, command: Callable[..., fakes.Any]
) -> None:
    words = fakes.on(
        folder,
        "--categories",
        "bolt",
        "--steps",
        3,
        "--out",
        tmp_path / "out",
        "--cache",
        tmp_path / "cache",
        "--fit-seeds",
        "0,1,2",
        names="random,unseeded,fails-once",
    )
    planned = command(*words, "--dry-run").out
    assert "7 cells" in planned and "random, fit 2" in planned and "unseeded, fit" not in planned
    said = command(*words)
    assert said.code == 2
    assert "random bolt fit 2 pgd-linf: clean" in said.out and "unseeded bolt pgd-linf: clean" in said.out
    printed = " ".join(said.out.split())
    assert "Failed: fails-once on bolt, fit 1: fitting fails-once raised IndexError" in printed
    assert "Fits: 3 for Fails once, Random; 1 for the others." in printed
    assert "(3 fits)" in printed and re.search(r"\(2 fits\) \S*x", printed)


def test_fits_are_exported_side_by_side(tmp_path: Path, folder: Path, command: Callable[..., fakes.Any]) -> None:
    words = (
        "fit",
        "--detectors",
        "random",
        "--dataset",
        "folder",
        "--data-root",
        folder,
        "--image-size",
        fakes.SIDE,
        "--categories",
        "bolt",
        "--cache",
        tmp_path / "cache",
        "--export",
        tmp_path / "exported",
    )
    assert command(*words).code == 0
    said = command(*words, "--fit-seeds", "0,1")
    assert "random on bolt, fit 1: fitted" in said.out
    names = {path.name for path in (tmp_path / "exported").glob("*.safetensors")}
    assert names == {f"folder-bolt-quick{fit}.safetensors" for fit in ("", "-fit0", "-fit1")}


@pytest.mark.parametrize(
    ("wrong", "needed"),
    [
        (("--fit-seeds", "0,x"), "whole numbers"),
        (("--fit-seeds", "0,-1"), "0 or more"),
        (("--fit-seeds", "0,1", "--fit-seed", 2), "one of them"),
        (("--fit-seeds", "0,1", "--fit-seeds-for", "some"), "all, chaotic"),
    ],
)
def test_seeds_that_cannot_be_meant_are_refused(safe: Callable[..., str], wrong: tuple[Any, ...], needed: str) -> None:
    assert needed in safe("run", "--detectors", "brightness", *wrong)


def test_the_same_seed_twice_is_one_fit_and_one_seed_stays_one(tmp_path: Path, folder: Path) -> None:
    assert planning.make(three(tmp_path, folder, "random", fit_seeds=(2, 2, 0))).fit_seeds("random") == (2, 0)
    single = planning.make(three(tmp_path, folder, "random", fit_seeds=(), fit_seed=7))
    assert single.fit_seeds("random") == (7,) and not single.several_fits
    with pytest.raises(BenchError, match="--fit-seeds-for"):
        RunConfig(detectors=("ae",), fit_seeds_for="none")
