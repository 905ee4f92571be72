"""Several processes give what one gives, and none of them outlives the run."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import pytest
import torch

from bench.cell.pictures import Category
from bench.data.stored import StoredImages
from bench.errors import BenchError, DataError, RecordError
from bench.plan import plan as planning
from bench.run import pool, processes, runner, worker
from bench.run.shared_folder import shared_folder
from detectors.base import Progress

REPOSITORY = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}


def run_of_two(tmp_path: Path, folder: Path) -> list[str]:
    """A command that takes hours."""
    return [
        sys.executable,
        "-m",
        "bench",
        "run",
        "--dataset",
        "folder",
        "--data-root",
        str(folder),
        "--detectors",
        "ae,brightness",
        "--image-size",
        "32",
        "--steps",
        "100000",
        "--workers",
        "2",
        "--out",
        str(tmp_path / "out"),
        "--cache",
        str(tmp_path / "cache"),
        "--device",
        "cpu",
    ]


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> Iterator[None]:
    yield


def test_two_processes_leave_the_records_of_one(tmp_path: Path, folder: Path) -> None:
    one, two = (fakes.config(tmp_path / name, folder, "ae", "brightness") for name in ("one", "two"))
    alone = runner.run_plan(planning.make(one), fakes.Quiet())
    told = fakes.Quiet()
    shared = runner.run_plan(planning.make(two), told, workers=2)
    assert [r.key for r in shared.records] == [r.key for r in alone.records], "and in the plan's order"
    assert fakes.score_files(tmp_path / "one" / "out") == fakes.score_files(tmp_path / "two" / "out")
    assert fakes.documents(tmp_path / "one" / "out") == fakes.documents(tmp_path / "two" / "out")
    assert len(told.cells) == 4 and {step[:2] for step in told.steps} >= {("ae", "bolt"), ("ae", "nut")}
    again = runner.run_plan(planning.make(two), fakes.Quiet(), workers=2)
    assert again.reused == 4 and multiprocessing.active_children() == []


def test_workers_start_while_pictures_are_read_and_neither_happens_where_all_is_done(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    check = pool.Crew.check

    def counted(crew: pool.Crew, *words: Any, **more: Any) -> dict[str, DataError]:
        seen.append(len(multiprocessing.active_children()))
        return check(crew, *words, **more)

    monkeypatch.setattr(pool.Crew, "check", counted)
    monkeypatch.setattr(Category, "check", None)
    plan = planning.make(fakes.config(tmp_path, folder, "brightness"))
    runner.run_plan(plan, fakes.Quiet(), workers=2)
    assert runner.run_plan(plan, fakes.Quiet(), workers=2).reused == 2
    assert seen == [2] and multiprocessing.active_children() == []


def test_pictures_that_cannot_be_read_end_the_workers(tmp_path: Path, folder: Path) -> None:
    damaged = shutil.copytree(folder, tmp_path / "pictures")
    plan = planning.make(fakes.config(tmp_path, damaged, "brightness"))
    for picture in damaged.rglob("test/*/*"):
        picture.write_bytes(b"damaged")
    with pytest.raises(DataError):
        runner.run_plan(plan, fakes.Quiet(), workers=2)
    assert multiprocessing.active_children() == []


def test_the_last_group_after_a_kill_computes_with_a_workers_threads(tmp_path: Path, folder: Path) -> None:
    """Another number of threads rounds otherwise: a fit would get another hash, and its cell another key."""
    torch.set_num_threads(2)  # the fixture puts it back
    plan = planning.make(fakes.config(tmp_path, folder, "brightness"))
    first = runner.run_plan(plan, fakes.Quiet(), workers=2)
    assert {r.environment["threads"] for r in first.records} == {1}
    assert first.records[0].path is not None
    first.records[0].path.unlink()
    again = runner.run_plan(plan, fakes.Quiet(), workers=2)
    assert again.reused == 1 and {r.environment["threads"] for r in again.records} == {1}


def test_workers_are_told_to_keep_memory_and_nobody_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "7")
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    with processes._memory_kept():
        assert int(os.environ["MALLOC_MMAP_THRESHOLD_"]) > 2**30 and os.environ["MALLOC_TRIM_THRESHOLD_"] == "7"
    assert "MALLOC_MMAP_THRESHOLD_" not in os.environ and os.environ["MALLOC_TRIM_THRESHOLD_"] == "7"


def test_a_damaged_picture_costs_its_category_alone_and_is_found_before_any_fit(tmp_path: Path, folder: Path) -> None:
    damaged = shutil.copytree(folder, tmp_path / "pictures")
    (damaged / "nut/test/good/000.png").write_bytes(b"no picture")
    run = fakes.config(tmp_path, damaged, "ae", "brightness")
    told = fakes.Quiet()
    found = runner.run_plan(planning.make(run), told, workers=2)
    assert {r.category for r in found.records} == {"bolt"} and len(found.records) == 2
    assert len(found.problems) == 1 and "000.png" in found.problems[0]
    assert not any(category == "nut" for _, category, *_ in told.steps)


def test_processes_that_were_started_early_do_the_work_and_those_too_many_end(tmp_path: Path, folder: Path) -> None:
    run = fakes.config(tmp_path, folder, "brightness")
    alive: list[int] = []
    told = fakes.Quiet()
    told.done = lambda *_: alive.append(len(multiprocessing.active_children()))  # type: ignore[method-assign]
    with pool.early(run, 3) as crew:
        assert crew is not None and len(multiprocessing.active_children()) == 2, "there is no third job"
        found = runner.run_plan(planning.make(run), fakes.Quiet(), workers=2, crew=crew)
    assert len(found.records) == 2 and not found.failed and multiprocessing.active_children() == []
    with pool.Crew(3) as crew:
        assert len(multiprocessing.active_children()) == 3
        more = dataclasses.replace(run, out=tmp_path / "more")
        assert len(runner.run_plan(planning.make(more), told, workers=2, crew=crew).records) == 2
    assert alive == [2, 2] and multiprocessing.active_children() == []
    for nobody in (pool.early(run, 3), pool.early(fakes.config(tmp_path / "else", folder, "brightness"), 1)):
        with nobody as crew:
            assert crew is None, "there are records, or there is no need"
    with pytest.raises(BenchError, match="--workers"):
        pool.early(run, 0)


def test_processes_that_turn_out_not_to_be_needed_end_before_the_work_starts(tmp_path: Path, folder: Path) -> None:
    told = fakes.Quiet()
    alive: list[int] = []
    told.done = lambda *_: alive.append(len(multiprocessing.active_children()))  # type: ignore[method-assign]
    plan = planning.make(fakes.config(tmp_path, folder, "brightness", categories=("bolt",)))
    with pool.Crew(2) as crew:
        runner.run_plan(plan, told, workers=1, crew=crew)
    assert alive == [0]


def test_a_record_names_the_pictures_that_it_was_computed_on(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happens to the files after they were read, before some worker comes to them."""
    pictures = shutil.copytree(folder, tmp_path / "pictures")
    plan = planning.make(fakes.config(tmp_path, pictures, "brightness"))
    before = {name: plan.dataset.fingerprint(name) for name in plan.categories}
    check = pool.Crew.check

    def checked(crew: pool.Crew, *words: Any, **more: Any) -> dict[str, DataError]:
        found = check(crew, *words, **more)
        for picture in pictures.rglob("test/*/*.png"):
            picture.write_bytes(b"no longer a picture")
        return found

    monkeypatch.setattr(pool.Crew, "check", checked)
    result = runner.run_plan(plan, fakes.Quiet(), workers=2)
    assert [record.ok for record in result.records] == [True, True]
    assert {record.category: record.fingerprint for record in result.records} == before
    with pytest.raises(DataError):  # of the files as they are now there is no record
        runner.run_plan(planning.make(plan.run), fakes.Quiet(), workers=2)


def test_pictures_that_change_while_they_are_read_are_refused(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = shutil.copytree(folder, tmp_path / "pictures")
    plan = planning.make(fakes.config(tmp_path, pictures, "brightness"))
    category = Category(plan, "bolt")
    assert plan.dataset.fingerprint("bolt")
    source, target = sorted(pictures.glob("bolt/train/good/*.png"))[:2]
    shutil.copy(source, target)
    with pytest.raises(DataError, match="bolt were changed while they were read"):
        category.check()


def test_a_killed_worker_costs_its_own_row_and_the_others_do_the_rest(tmp_path: Path, folder: Path) -> None:
    killed: list[tuple[str, str]] = []

    class Killer(fakes.Quiet):
        def fitting(self, detector: str, category: str, fit_seed: int) -> Progress:
            if not killed and detector == "ae":
                killed.append((detector, category))
                for process in multiprocessing.active_children():  # whichever of them it is
                    os.kill(process.pid or 0, signal.SIGKILL)
            return super().fitting(detector, category, fit_seed)

    plan = planning.make(fakes.config(tmp_path, folder, "ae", "brightness"))
    found = runner.run_plan(plan, Killer(), workers=2)
    assert len(found.records) == 4 and multiprocessing.active_children() == []
    assert 1 <= len(found.failed) <= 2 and killed[0] in {(r.detector_name, r.category) for r in found.failed}
    assert all(re.search(r"was killed \(exit code -9\).*--workers 1", record.reason) for record in found.failed)
    again = runner.run_plan(planning.make(plan.run), fakes.Quiet(), workers=2)
    assert not again.failed and again.reused == 4 - len(found.failed)
    assert len(fakes.documents(tmp_path / "out")) == 4, "the failures are taken away"


def test_a_worker_that_is_killed_before_there_is_work_is_not_missed(tmp_path: Path, folder: Path) -> None:
    plan = planning.make(fakes.config(tmp_path, folder, "brightness"))
    with pool.Crew(2) as crew:
        victim = multiprocessing.active_children()[0]
        os.kill(victim.pid or 0, signal.SIGKILL)
        victim.join()
        assert not runner.run_plan(plan, fakes.Quiet(), workers=2, crew=crew).failed
    assert multiprocessing.active_children() == [] and list((tmp_path / "cache").glob("pictures-*")) == []


def test_a_worker_that_is_killed_while_it_reads_pictures_is_a_sentence(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planning.make(fakes.config(tmp_path, folder, "brightness"))
    monkeypatch.setattr(worker, "check", _end_at_once)
    with pytest.raises(BenchError, match=r"pictures of (bolt|nut) was killed \(exit code -9\).*--workers 1"):
        runner.run_plan(plan, fakes.Quiet(), workers=2)
    assert multiprocessing.active_children() == [] and list((tmp_path / "cache").glob("pictures-*")) == []


def test_what_a_worker_raises_is_raised_here_and_a_bug_is_a_sentence() -> None:
    nobody = processes.Processes(1, _begin, ())
    try:
        ((_, kind, error),) = nobody.work([processes.Task(worker.check, (None, "bolt", Path()))])
    finally:
        nobody.end()
    assert kind == "failed" and isinstance(error, RecordError)
    assert re.match(r"A worker process stopped: AttributeError: .*; report it\.", str(error))


@pytest.mark.parametrize("workers", ["2", "1"])
def test_detectors_that_end_python_cost_their_own_rows(tmp_path: Path, folder: Path, workers: str) -> None:
    """As a package of another author may: in another process, whatever it does, and however many were asked for."""
    site = tmp_path / "site"
    (site / "rude-1.0.dist-info").mkdir(parents=True)
    (site / "rude-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: rude\nVersion: 1.0\n")
    points = "".join(f"{name} = rude:{name.title()}\n" for name in ("leaves", "exits", "polite"))
    (site / "rude-1.0.dist-info" / "entry_points.txt").write_text(f"[radbench.detectors]\n{points}")
    (site / "rude.py").write_text(RUDE)
    command = run_of_two(tmp_path, folder)
    command[command.index("ae,brightness")] = "leaves,exits,polite"
    command[command.index("100000")] = "2"
    command[command.index("--workers") + 1] = workers
    environment = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join([str(site), str(REPOSITORY)]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    records = [json.loads(path.read_text()) for path in tmp_path.glob("out/records/*/*/*.json")]
    reasons = {(r["cell"]["detector"]["name"], r["status"]): r["reason"] for r in records}
    assert set(reasons) == {("leaves", "failed"), ("exits", "failed"), ("polite", "ok")} and len(records) == 6
    assert "exit code 0" in reasons["leaves", "failed"] and "sys.exit" in reasons["exits", "failed"]


RUDE = """
import os, sys
from detectors import Detector, Settings

class Polite(Detector):
    name, title, paper = "polite", "Polite", "none"

    @classmethod
    def settings_for(cls, preset, image_size):
        return Settings()

    def _fit(self, normals, *, seed, progress, workdir):
        pass

    def _score(self, x, noise):
        return (x - 0.4).square().mean(dim=(1, 2, 3))

class Leaves(Polite):
    name, title = "leaves", "Leaves"

    def _score(self, x, noise):
        os._exit(0)

class Exits(Polite):
    name, title = "exits", "Exits"

    def _fit(self, normals, *, seed, progress, workdir):
        sys.exit(0)
"""


def _begin() -> None:
    pass


def _end_at_once(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_pictures_that_are_mapped_are_those_that_were_decoded(tmp_path: Path, folder: Path) -> None:
    plan = planning.make(fakes.config(tmp_path, folder, "brightness", holdout=0))
    here, there = Category(plan, "bolt"), Category(plan, "bolt")
    decoded = [here.training.fit, here.training.held_out, here.test]
    masked = dataclasses.replace(here.test, masks=torch.rand(here.test.images[:, 0].shape) > 0.5)
    shared = here.share(tmp_path / "shared")
    there.take_over(shared)
    assert there.is_decoded and (there.subset, there.inspection) == (here.subset, here.inspection)
    of_masked = StoredImages.store(masked, tmp_path / "masked").mapped()
    mapped = [there.training.fit, there.training.held_out, there.test, of_masked]
    for one, other in zip([*decoded, masked], mapped, strict=True):
        assert (one.ids, one.defects) == (other.ids, other.defects) and one.images.dtype == other.images.dtype
        assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
        assert one.masks is other.masks is None or torch.equal(one.masks, other.masks)  # type: ignore[arg-type]
    files = {path: path.read_bytes() for path in (tmp_path / "shared").iterdir()}
    there.test.images.zero_()
    assert files == {path: path.read_bytes() for path in files}, "what one process writes is its own"
    assert not torch.equal(here.test.images, there.test.images)


def test_the_folder_that_processes_share_is_taken_away_also_after_a_kill(tmp_path: Path, folder: Path) -> None:
    cache = tmp_path / "cache"
    left, other = cache / "pictures-left", cache / "pictures-other"
    for there in (left, other):
        there.mkdir(parents=True)
        (there / "lock").touch()
    with shared_folder(cache) as own, shared_folder(cache) as second:
        assert own.is_dir() and second.is_dir() and own != second, "a run that is alive keeps its own"
        assert not left.exists() and not other.exists()
    assert list(cache.iterdir()) == []
    runner.run_plan(planning.make(fakes.config(tmp_path, folder, "brightness")), fakes.Quiet(), workers=2)
    assert list(cache.glob("pictures-*")) == []


def _hears_ctrl_c() -> None:
    """What a shell starts in the background ignores it, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_stops_all_processes_and_says_so(tmp_path: Path, folder: Path) -> None:
    command = run_of_two(tmp_path, folder)
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=ENVIRONMENT,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=_hears_ctrl_c,  # noqa: PLW1509 - it starts no thread
    )
    try:
        _wait(lambda: list(tmp_path.glob("cache/checkpoints/ae/*.json")), "nothing was fitted")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all of them
        _, said = process.communicate(timeout=60)
        _wait(lambda: not _alive(process.pid), "a worker goes on")
    finally:
        if _alive(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130 and "Traceback" not in said.decode() and b"topped" in said
    assert list(tmp_path.glob("cache/pictures-*")) == []


def test_a_disk_that_refuses_stops_the_run(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "records").write_text("in the way")
    plan = planning.make(fakes.config(tmp_path, folder, "ae", "brightness"))
    with pytest.raises(RecordError):
        runner.run_plan(plan, fakes.Quiet(), workers=2)


def test_workers_die_with_a_killed_parent(tmp_path: Path, folder: Path) -> None:
    """Otherwise they would go on beside the next run."""
    command = run_of_two(tmp_path, folder)
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=ENVIRONMENT, start_new_session=True, stdout=subprocess.DEVNULL
    )
    try:
        _wait(lambda: list(tmp_path.glob("cache/checkpoints/ae/*.json")), "nothing was fitted")
        assert process.poll() is None
        process.kill()
        process.wait()
        _wait(lambda: not _alive(process.pid), "a worker outlived its parent")
    finally:
        if _alive(process.pid):
            os.killpg(process.pid, signal.SIGKILL)


def test_the_number_of_processes_follows_threads_cores_and_plan(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool.joblib, "cpu_count", lambda: 128)
    plan = planning.make(fakes.config(tmp_path, folder, "ae", "brightness"))
    assert pool.count(plan, None) == 1, "one thread"
    torch.set_num_threads(3)
    assert pool.count(plan, None) == 3
    assert pool.count(plan, 64) == 4, "a detector on a category is not divided"
    single = dataclasses.replace(plan, categories=("bolt",), detectors=("ae",))
    assert pool.count(single, None) == 1
    with pytest.raises(BenchError, match="--workers"):
        pool.count(plan, 0)
    torch.set_num_threads(64)
    many = dataclasses.replace(plan, detectors=("ae", "brightness", "spade", "cfa") * 4)
    assert pool.count(many, None) == pool.MOST, "each holds hundreds of megabytes"
    assert pool.count(many, 20) == 20, "who asks for more gets them"
    monkeypatch.setattr(pool.joblib, "cpu_count", lambda: 2)
    assert pool.count(many, None) == 2, "more threads than a container gives cores"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="a system without affinities")
def test_a_process_that_may_use_one_core_starts_no_other(tmp_path: Path, folder: Path) -> None:
    plan = planning.make(fakes.config(tmp_path, folder, "ae", "brightness"))
    before = os.sched_getaffinity(0)
    torch.set_num_threads(8)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert pool.count(plan, None) == 1
    finally:
        os.sched_setaffinity(0, before)


def test_as_many_processes_start_as_there_is_work_left_and_they_round_as_all_would(
    tmp_path: Path, folder: Path
) -> None:
    torch.set_num_threads(2)
    plan = planning.make(fakes.config(tmp_path, folder, "brightness"))
    first = runner.run_plan(plan, fakes.Quiet(), workers=2).records[0]
    assert first.path is not None
    first.path.unlink()
    alive: list[int] = []
    told = fakes.Quiet()
    told.looked = lambda *_: alive.append(len(multiprocessing.active_children()))  # type: ignore[method-assign]
    again = runner.run_plan(planning.make(plan.run), told, workers=2)
    assert alive == [1] and again.reused == 1


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _wait(arrived: Callable[[], object], otherwise: str) -> None:
    deadline = time.monotonic() + 300
    while not arrived():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)
