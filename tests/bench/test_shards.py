"""Shards: together the plan, none twice, alike in cost. Who is told to end does so after the cell at hand."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import pytest

from bench import files
from bench.cell import group
from bench.cell.group import never
from bench.cli import summary
from bench.errors import BenchError
from bench.plan import plan as planning
from bench.plan.devices import devices_of
from bench.plan.plan import Plan
from bench.records.paths import SCORES_SUFFIX, companion
from bench.records.store import read_all
from bench.report import folder as results
from bench.run import costs, pool, runner, shards
from bench.run import shared_folder as sharing
from bench.run.shards import Shard
from bench.run.stopping import told_to_stop

Register = Callable[..., None]
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> Iterator[None]:
    yield


class Second(fakes.Fake):
    name = "fake-2"


class Third(fakes.Fake):
    name = "fake-3"


@pytest.fixture
def plan(tmp_path: Path, folder: Path, register: Register) -> Plan:
    """Six jobs of two cells each."""
    register(fakes.Fake, Second, Third)
    return planning.make(fakes.config(tmp_path, folder, "fake", "fake-2", "fake-3", epsilons=(0.01, 0.02)))


# -- shares -----------------------------------------------------------------------------------------------------------


def test_shards_are_the_plan_and_none_does_what_another_does(plan: Plan) -> None:
    for count in range(1, 7):
        found = [Shard(number, count).jobs(plan) for number in range(1, count + 1)]
        everything = [job for share in found for job in share]
        assert sorted(everything) == sorted(plan.jobs) and len(set(everything)) == 6
        assert max(map(len, found)) - min(map(len, found)) <= 1, "of jobs that cost the same each has its share"
        assert all(share == sorted(share, key=plan.jobs.index) for share in found), "in the plan's order"


def test_shards_take_about_alike_what_takes_long_first(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds: dict[str, float | None] = {"fake": 100.0, "fake-2": 10.0, "fake-3": 1.0}
    monkeypatch.setattr(shards, "expected_seconds", lambda plan, names: seconds)
    monkeypatch.setattr(costs, "expected_seconds", lambda plan, names: seconds)
    loads = [sum(seconds[job.detector] or 0 for job in share) for share in shards.shares(plan, 2)]
    assert loads == [111, 111]
    loads = [sum(seconds[job.detector] or 0 for job in share) for share in shards.shares(plan, 3)]
    assert loads == [100, 100, 22], "no job is divided"
    seconds["fake-3"] = None
    assert [len(share) for share in shards.shares(plan, 4)] == [2, 2, 1, 1], "what is not known counts as the longest"


def test_shares_follow_from_the_plan_and_from_nothing_on_the_disk(plan: Plan) -> None:
    before = shards.shares(plan, 2)
    runner.run_plan(plan, fakes.Quiet(), jobs=before[0][:2])  # its seconds are known from now on
    again = planning.make(plan.run)
    assert shards.shares(again, 2) == before and shards.shares(plan, 2) == before


@pytest.mark.parametrize("text", ["", "3", "0/4", "5/4", "1/0", "-1/4", "1/4/2", "a/b", "1.0/2", "1/99999999", "٣/٤"])
def test_what_is_no_shard_is_a_sentence(text: str) -> None:
    with pytest.raises(BenchError, match=r"--shard .*got"):
        Shard.parse(text)


def test_more_shards_than_jobs_are_a_sentence_for_each_of_them(plan: Plan) -> None:
    for number in (1, 7):
        with pytest.raises(BenchError, match=r"7 shards don't fit: the plan has 6 fits.*use 6\."):
            Shard(number, 7).jobs(plan)


def test_shards_on_one_folder_leave_the_records_of_one_run_whatever_their_number(
    plan: Plan, tmp_path: Path, folder: Path
) -> None:
    whole = dataclasses.replace(plan.run, out=tmp_path / "whole", cache=tmp_path / "other-cache")
    runner.run_plan(planning.make(whole), fakes.Quiet())

    def done(number: int, count: int) -> runner.RunResult:
        again = planning.make(plan.run)
        return runner.run_plan(again, fakes.Quiet(), jobs=Shard(number, count).jobs(again))

    first = done(2, 3)
    assert len(first.records) == 4 and first.reused == 0
    assert done(2, 3).reused == 4
    found = [done(number, 4) for number in range(1, 5)]  # another number of shards: what is there is found by its key
    assert sum(len(result.records) for result in found) == 12 and sum(result.reused for result in found) == 4
    assert fakes.documents(plan.run.out) == fakes.documents(tmp_path / "whole")
    assert fakes.score_files(plan.run.out) == fakes.score_files(tmp_path / "whole")


def test_a_shard_leaves_records_alone_and_says_who_draws_the_tables(
    tmp_path: Path, folder: Path, register: Register, command: Callable[..., Any]
) -> None:
    register(fakes.Fake, Second)
    keep = ("--out", tmp_path / "out", "--cache", tmp_path / "cache", "--steps", 2)
    said = command(*fakes.on(folder, *keep, "--shard", "1/2", names="fake,fake-2"))
    assert said.code == 0 and "Shard 1/2: 2 cells; " in said.out and "[2/2]" in said.out
    assert f"python -m bench report {tmp_path / 'out'}" in said.out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["records"]
    said = command(*fakes.on(folder, *keep, "--shard", "3/2", names="fake,fake-2"))
    assert said.code == 2 and "1/2 to 2/2" in said.err
    said = command(*fakes.on(folder, *keep, "--shard", "2/2", "--dry-run", names="fake,fake-2"))
    assert said.code == 0 and said.out.count("fake") == 2


def test_a_report_without_the_pictures_of_single_cells_has_all_the_rest(plan: Plan) -> None:
    runner.run_plan(plan, fakes.Quiet(), jobs=plan.jobs[:1])
    out = plan.run.out
    written, problems = results.write_results(out, summary.revisions(), of_cells=False)
    kinds = {path.name.split("--")[0] for path in written if path.parent.name == "plots"}
    assert not problems and kinds == {"security-curve", "heat-map"} and (out / "leaderboard.md").is_file()
    written, _ = results.write_results(out, summary.revisions())
    kinds = {path.name.split("--")[0] for path in written if path.parent.name == "plots"}
    assert kinds >= {"histogram", "panel"}, "what was left out is not taken for drawn"


# -- an early end -----------------------------------------------------------------------------------------------------


class Stopping(fakes.Quiet):
    """Asks for the end once so many cells are done."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def done(self, record: Any, reused: bool) -> None:
        super().done(record, reused)
        if len(self.cells) == self.after:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_that_is_told_to_end_does_so_after_the_cell_at_hand(plan: Plan) -> None:
    usual = signal.getsignal(signal.SIGTERM)
    with told_to_stop() as stop:
        result = runner.run_plan(plan, Stopping(3), stop=stop)
    assert signal.getsignal(signal.SIGTERM) == usual
    assert len(result.records) == 3 and result.unfinished == 9 and not result.failed
    rest = runner.run_plan(planning.make(plan.run), fakes.Quiet(), stop=never)
    assert rest.reused == 3 and rest.unfinished == 0 and len(rest.records) == 12


def test_a_second_signal_is_the_first_once_more_and_a_later_one_ends_it_at_once() -> None:
    """Of a cluster that tells a script and its processes, each hears twice."""
    program = (
        "import os, signal, sys, time\n"
        "from bench.run import stopping\n"
        "with stopping.told_to_stop() as stop:\n"
        "    for _ in range(2):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print(stop(), flush=True)\n"
        "    later = time.monotonic() + stopping.AT_ONCE_SECONDS + 1\n"
        "    time.monotonic = lambda: later\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('still there', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == -signal.SIGTERM and done.stdout == "True\n"


def test_processes_that_are_told_to_end_as_well_leave_no_failures(tmp_path: Path, folder: Path) -> None:
    """As where a cluster tells all processes, not the first alone."""

    class Telling(Stopping):
        def done(self, record: Any, reused: bool) -> None:
            if len(self.cells) + 1 == self.after:
                for process in multiprocessing.active_children():
                    process.terminate()
            super().done(record, reused)

    plan = planning.make(fakes.config(tmp_path, folder, "brightness", "mean-image", epsilons=(0.01, 0.02)))
    with told_to_stop() as stop:
        result = runner.run_plan(plan, Telling(2), workers=2, stop=stop)
    assert not result.failed and 0 < result.unfinished < 8
    assert all(record.ok for record in read_all(tmp_path / "out" / "records")[0])


def test_processes_that_share_a_run_finish_their_cells_and_begin_none(tmp_path: Path, folder: Path) -> None:
    config = fakes.config(tmp_path, folder, "brightness", "mean-image", epsilons=(0.01, 0.02))
    plan = planning.make(config)
    with told_to_stop() as stop:
        result = runner.run_plan(plan, Stopping(2), workers=2, stop=stop)
    assert not result.failed and 2 <= len(result.records) <= 4
    assert result.unfinished == 8 - len(result.records)
    assert len(fakes.documents(tmp_path / "out")) == len(result.records), "nothing half-done, nothing untold"


def test_what_a_process_had_no_time_to_tell_counts_all_the_same(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is ended in the moment after it has written a record."""
    usual = group.Group.run

    def run(self: group.Group, reporter: Any, stop: Any = never) -> list[tuple[Any, bool]]:
        if stop():
            return []
        found = usual(self, fakes.Quiet())
        os.kill(os.getpid(), signal.SIGTERM)
        return found[:1]

    monkeypatch.setattr(group.Group, "run", run)
    with told_to_stop() as stop:
        result = runner.run_plan(plan, reporter := fakes.Quiet(), stop=stop)
    written = {document["key"] for document in fakes.documents(plan.run.out).values()}
    assert {record.key for record in result.records} == written and len(result.records) == len(written) > 1
    assert result.unfinished == 12 - len(written) and reporter.cells


# -- clocks and locks that lie ----------------------------------------------------------------------------------------


def test_a_machine_whose_clock_is_off_takes_nobodys_files_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 4e9)  # in the year 2096
    others, abandoned = tmp_path / ".record.json.1.tmp", tmp_path / ".record.json.2.tmp"
    others.touch()
    abandoned.touch()
    by_the_disk = others.stat().st_mtime
    os.utime(abandoned, (by_the_disk, by_the_disk - files.ABANDONED_SECONDS - 1))
    files.check_writable(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [others.name]


def test_pictures_of_another_machine_stay_whatever_its_lock_looks_like_from_here(tmp_path: Path) -> None:
    """Locks of many network disks are seen on the machine alone that holds them."""
    kept = {"pictures-other": "node17\nboot-of-node17", "pictures-own": "", "pictures-boot": ""}
    here = sorted(sharing._machine())
    kept["pictures-own"], kept["pictures-boot"] = here[0], f"container\n{here[-1]}"
    for name, machine in kept.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").write_text(machine)
    with sharing.shared_folder(tmp_path) as own:
        assert (own / "lock").read_text().split() == here
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([own.name, "pictures-other"])


def test_another_machine_that_writes_the_same_cell_at_the_same_time_costs_nothing(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that Slurm has given up is still alive, and rounds differently: its scores lie beside this one's record."""
    usual, collisions = group.write, []

    def write(record: Any, scores: Any, folder: Path) -> Path:
        path = usual(record, scores, folder)
        if not collisions:
            collisions.append(path)
            beside = companion(path, SCORES_SUFFIX)
            beside.write_text(beside.read_text() + "\n")
        return path

    monkeypatch.setattr(group, "write", write)
    result = runner.run_plan(plan, fakes.Quiet(), jobs=plan.jobs[:1])
    assert len(collisions) == 1 and len(result.records) == 2 and not result.failed
    found, problems = read_all(plan.run.out / "records")
    assert len(found) == 2 and not problems


# -- several devices --------------------------------------------------------------------------------------------------


def test_a_process_works_on_each_device_and_its_records_say_on_which(tmp_path: Path, folder: Path) -> None:
    """No GPU here: `cpu:0` and `cpu:1` are devices of PyTorch's, too, that compute the same."""
    devices = devices_of("cpu:0,cpu:1")
    plan = planning.make(fakes.config(tmp_path, folder, "brightness", "mean-image", device=devices[0]))
    assert pool.count(plan, None, devices) == 2 and pool.count(plan, 4, devices) == 4
    with pytest.raises(BenchError, match="--workers must be at least 2, since --device names 2; got 1"):
        pool.count(plan, 1, devices)
    result = runner.run_plan(plan, fakes.Quiet(), workers=2, devices=devices)
    assert not result.failed, [record.reason for record in result.failed]
    assert {record.environment["device_index"] for record in result.records} == {0, 1}
    alone = dataclasses.replace(plan.run, out=tmp_path / "alone", device="cpu")
    single = runner.run_plan(planning.make(alone), fakes.Quiet())
    assert [r.key for r in single.records] == [r.key for r in result.records], "where it ran is no part of a cell"
    assert all("device_index" not in record.environment for record in single.records)


@pytest.mark.parametrize("text", ["cuda:0,cuda:0", "cuda:0,", "cuda:0,cpu:0", "cuda,cuda:1", "cpu:all", "a:all", ","])
def test_devices_that_make_no_sense_are_a_sentence(text: str) -> None:
    with pytest.raises(BenchError, match="--device"):
        devices_of(text)


def test_all_devices_are_those_that_this_process_may_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    assert devices_of("cuda:all") == ("cuda:0", "cuda:1", "cuda:2")
    assert devices_of("auto") == ("auto",) and devices_of("cuda:1") == ("cuda:1",)


def test_a_command_for_one_device_refuses_several(tmp_path: Path, folder: Path) -> None:
    config = fakes.config(tmp_path, folder, "brightness", device="cuda:0,cuda:1")
    with pytest.raises(BenchError, match="name one of them"):
        config.torch_device()
