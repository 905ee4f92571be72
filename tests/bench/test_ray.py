"""Runs on a Ray cluster of two machines, both of them this one, of which one is lost in the middle."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import pytest
import torch

from bench.cli.run_command import _ray as asked_for
from bench.errors import BenchError, RecordError
from bench.plan import plan as planning
from bench.records import kept_images, parcel
from bench.records.store import read_all
from bench.run import ray_task, runner
from bench.run.ray_executor import RETRIES, RayExecutor, Share

REPOSITORY = Path(__file__).parents[2]
try:
    import ray
    from ray.cluster_utils import Cluster
except ImportError:
    ray = None
needs_ray = pytest.mark.skipif(ray is None, reason="Ray is not installed: python -m tox -e ray")


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> Iterator[None]:
    yield


# -- without Ray ------------------------------------------------------------------------------------------------------


def test_without_ray_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(BenchError, match=r"\.\[ray\]"):
        RayExecutor()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("clouds", "auto", None, 1, None), "clouds"),
        (("local", "auto", 0.5, 1, None), "--executor ray"),
        (("local", "auto", None, 2, None), "--executor ray"),
        (("ray", "auto", None, 1, 4), "--workers"),
        (("ray", "cuda:1", None, 1, None), "cuda:1"),
        (("ray", "cpu", 0.5, 1, None), "--device cpu"),
        (("ray", "cuda", 0.0, 1, None), "--device cuda"),
    ],
)
def test_options_that_contradict_one_another_are_a_sentence(words: tuple[Any, ...], sentence: str) -> None:
    with pytest.raises(BenchError, match=sentence):
        asked_for(*words)


@pytest.mark.parametrize(("gpus", "cpus"), [(-0.5, 1), (1.5, 1), (2.0, 1), (float("nan"), 1), (0.5, 0)])
def test_a_share_that_no_machine_gives_is_a_sentence(gpus: float, cpus: int) -> None:
    with pytest.raises(BenchError, match=r"--ray-[gc]pus"):
        Share(gpus, cpus)


def test_a_cells_files_arrive_as_they_were_sent(tmp_path: Path, folder: Path) -> None:
    config = fakes.config(tmp_path, folder, "brightness", categories=("bolt",), keep_images=True)
    (record,) = fakes.run(config).records
    sent = parcel.pack(record)
    arrived = parcel.unpack(sent, tmp_path / "elsewhere")
    assert arrived.key == record.key and parcel.pack(arrived) == sent and len(sent.beside) == 3
    assert torch.equal(kept_images.read(arrived), kept_images.read(record)), "and are those that the record names"
    damaged = dataclasses.replace(sent, beside={name: data[:-9] for name, data in sent.beside.items()})
    with pytest.raises(RecordError):
        parcel.unpack(damaged, tmp_path / "damaged")


def test_what_goes_along_with_a_task_is_of_its_own_fit(tmp_path: Path, folder: Path) -> None:
    config = fakes.config(
        tmp_path, folder, "ae", "brightness", categories=("bolt",), keep_images=True, fit_seeds=(0, 1)
    )
    first, second, alone = fakes.run(config).records
    assert [r.cell.fit_seed for r in (first, second, alone)] == [0, 1, 0] and first.path and second.path and alone.path
    second.path.write_bytes(b"{")
    known = parcel.Known(tmp_path / "out" / "records", "folder", "bolt")
    assert known.files("ae", 1, with_images=True) == {}, "of a damaged one nothing"
    for record, detector in ((first, "ae"), (alone, "brightness")):
        assert record.path is not None
        sent, stem = parcel.pack(record), record.path.name.removesuffix(".json")
        found = known.files(detector, 0, with_images=True)
        assert found == {f"{stem}.json": sent.text, **{stem + end: data for end, data in sent.beside.items()}}
        fewer = known.files(detector, 0, with_images=False)
        assert set(found) - set(fewer) == {f"{stem}.images.safetensors"}


def test_what_is_told_at_every_step_is_told_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now, told = [100.0], []

    class Posts:
        def put_nowait(self, batch: Any) -> None:
            told.append(batch)

    monkeypatch.setattr(ray_task.time, "monotonic", lambda: now[0])
    post = ray_task._Post(Posts(), fakes.planning.Job("bolt", "ae", 0))
    for step in range(100):
        now[0] += 0.1
        post.say(("fit", step, 100, ""))
    post.say(("attacking", "pgd-linf", 12))
    post.say(("done", "a record", False))
    assert 9 <= len(told) <= 12 and all(len(words) == 1 for _, words in told), "of a fit where it is now"
    assert told[-1] == (("bolt", "ae", 0), [("attacking", "pgd-linf", 12)])
    for _ in range(3):
        post.say(("attack", 0.25, ""))
    post.say(("attacked",))
    assert told[-1][1] == [*[("attack", 0.25, "")] * 3, ("attacked",)], "of an attack every share of an image"


# -- with Ray ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray's own spelling); else a busy machine leaves them nothing
    os.environ["OMP_NUM_THREADS"] = "1"
    paths = [str(REPOSITORY), str(REPOSITORY / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    ray.init(address=found.address, logging_level="WARNING")
    yield found
    ray.shutdown()
    found.shutdown()


class Killer(fakes.Quiet):
    """Takes a machine away once so many cells are there."""

    def __init__(self, cluster: Any, node: Any, after: int) -> None:
        super().__init__()
        self.cluster, self.node, self.after = cluster, node, after

    def done(self, record: Any, reused: bool) -> None:
        super().done(record, reused)
        if len(self.cells) == self.after:
            self.cluster.remove_node(self.node, allow_graceful=False)


@needs_ray
def test_a_machine_that_is_lost_costs_no_cell_and_figures_are_those_of_one_process(
    cluster: Any, tmp_path: Path, folder: Path
) -> None:
    radii = (0.01, 0.02)
    one, other = (
        fakes.config(tmp_path / n, folder, "ae", "brightness", "mean-image", epsilons=radii, keep_images=True)
        for n in ("one", "ray")
    )
    alone = runner.run_plan(planning.make(one), fakes.Quiet())
    second = cluster.add_node(num_cpus=1)
    told = Killer(cluster, second, 3)
    with RayExecutor(0.0) as executor:
        found = runner.run_plan(planning.make(other), told, executor=executor)
    assert not found.failed, [r.reason for r in found.failed]
    assert [r.key for r in found.records] == [r.key for r in alone.records]
    assert len(told.cells) == 12 == len(list((tmp_path / "ray" / "out").rglob("*--*.json"))), "each once"
    assert fakes.documents(tmp_path / "ray" / "out") == fakes.documents(tmp_path / "one" / "out")
    assert fakes.score_files(tmp_path / "ray" / "out") == fakes.score_files(tmp_path / "one" / "out")
    assert any(step[0] == "ae" for step in told.steps), "of a fit one hears how far it is"
    _, problems = read_all(tmp_path / "ray" / "out" / "records")
    assert not problems
    for here, there in zip(alone.records, found.records, strict=True):
        assert torch.equal(kept_images.read(here), kept_images.read(there)), (
            "the images came along, as they were scored"
        )
    again = runner.run_plan(planning.make(other), fakes.Quiet())
    assert again.reused == 12, "so there is nothing left to do"


class Losing:
    """Ray, but of cells whose turns come up their machine is gone before they have come over."""

    def __init__(self, *turns: int) -> None:
        self.turns, self.count = turns, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(ray, name)

    def get(self, reference: Any) -> Any:
        self.count += 1
        if self.count in self.turns:
            raise ray.exceptions.ObjectLostError(reference.hex(), "", "")
        return ray.get(reference)


@needs_ray
@pytest.mark.parametrize("turns", [(1,), (2,), (2, 3), (1, 4), (2, 3, 4, 5)])
def test_a_finished_cell_that_is_lost_on_its_way_costs_no_cell(
    cluster: Any, tmp_path: Path, folder: Path, turns: tuple[int, ...]
) -> None:
    config = fakes.config(tmp_path, folder, "brightness", categories=("bolt",), epsilons=(0.01, 0.02, 0.03))
    told = fakes.Quiet()
    with RayExecutor(0.0) as executor:
        executor._ray = Losing(*turns)
        found = runner.run_plan(planning.make(config), told, executor=executor)
    if len(turns) > RETRIES:
        assert [r.status for r in found.records] == ["ok", "failed", "failed"]
        assert "lost for good" in found.failed[0].reason
    else:
        assert [r.status for r in found.records] == ["ok"] * 3 and found.reused == 0
        assert executor._ray.count == 3 + len(turns), "what is here is not fetched again"
    assert len(told.cells) == 3, "each once"


@needs_ray
def test_a_run_goes_on_also_where_the_driver_has_no_checkpoint(cluster: Any, tmp_path: Path, folder: Path) -> None:
    """As on machines with caches of their own: the records that are there go along."""
    config = fakes.config(tmp_path, folder, "brightness", epsilons=(0.01, 0.02))
    with RayExecutor(0.0) as executor:
        first = runner.run_plan(planning.make(config), fakes.Quiet(), executor=executor)
    assert len(first.records) == 4 and first.records[0].path is not None
    first.records[0].path.unlink()
    shutil.rmtree(config.cache)
    with RayExecutor(0.0) as executor:
        again = runner.run_plan(planning.make(config), fakes.Quiet(), executor=executor)
    assert again.reused == 3 and len(again.records) == 4


@needs_ray
def test_a_machine_with_other_pictures_and_a_cluster_without_room_are_sentences(
    cluster: Any, tmp_path: Path, folder: Path
) -> None:
    with pytest.raises(BenchError, match="No machine of this Ray cluster"), RayExecutor(1.0):
        pass
    with pytest.raises(BenchError, match="64 CPUs"), RayExecutor(0.0, 64):
        pass
    pictures = shutil.copytree(folder, tmp_path / "pictures")
    plan = planning.make(fakes.config(tmp_path, pictures, "brightness", categories=("bolt",)))
    with RayExecutor(0.0) as executor, pytest.raises(BenchError, match=r"On the machine .*: .*bolt"):
        executor.check(plan, ["bolt"], fakes.Quiet(), jobs=1, workers=1)
        shutil.rmtree(pictures / "bolt" / "test")
        groups = {job: runner.Group(runner.Category(plan, "bolt"), job.detector, job.fit_seed) for job in plan.jobs}
        list(executor.work(plan, groups, lambda: False))
