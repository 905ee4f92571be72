"""What the system refuses (a full disk, missing rights, no memory, no processes) is said in words that point there."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import pytest
import torch
from bench_fakes import on
from fake_records import make_record, make_scores, write_record

from bench import files
from bench.cell import memory
from bench.cli import summary
from bench.errors import BenchError, DiskError
from bench.plan import plan as planning
from bench.records import store
from bench.report import folder as results
from bench.run import pool, worker
from detectors.base import Progress


def error(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EFBIG, errno.EIO])
def test_a_disk_that_refuses_is_no_error_of_a_detectors_code(tmp_path: Path, number: int) -> None:
    with pytest.raises(DiskError, match="run the same command again: it goes on"), files.guarded(tmp_path):
        raise error(number, tmp_path / "file")


def test_too_large_a_file_is_said_as_such(tmp_path: Path) -> None:
    assert "ulimit" in files.sentence(error(errno.EFBIG, tmp_path), tmp_path)


def test_rights_count_in_the_users_folder_and_other_errors_of_a_detectors_code_do_not(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="Permission denied"), files.guarded(tmp_path):
        raise error(errno.EACCES, tmp_path / "below" / "file")
    for other in (error(errno.EACCES, Path("/proc/1/mem")), error(errno.EEXIST, tmp_path / "its own folder")):
        with pytest.raises(OSError, match=r"\[Errno"), files.guarded(tmp_path):
            raise other


def test_a_stamp_that_is_no_text_is_no_stamp(tmp_path: Path) -> None:
    write_record(tmp_path / "records")
    stamp = tmp_path / "plots" / results.STAMP
    stamp.parent.mkdir()
    stamp.write_bytes(b"\xff\xfe")
    assert results.write_results(tmp_path, summary.revisions())[1] == []
    assert len(stamp.read_bytes()) == 64


def test_a_file_where_the_records_should_be_is_a_sentence(tmp_path: Path, folder: Path, command: Any) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "records").write_text("in the way")
    said = command(*on(folder, "--out", out, "--cache", tmp_path / "cache", names="brightness"))
    assert said.code == 2 and said.err.count("\n") == 1 and "records" in said.err and "Traceback" not in said.err
    assert "There is no folder" in command("report", out).err
    assert store.read_all(out / "records") == ([], [])
    with pytest.raises(DiskError, match=r"Cannot use .*records \("):
        store.write(make_record(), make_scores(), out / "records")


@pytest.mark.parametrize("writer", ["bench.records.pairs.write_atomically", "bench.cell.group.write_atomically"])
def test_rights_that_are_lost_in_mid_run_are_a_sentence(
    tmp_path: Path, folder: Path, command: Any, no_plots: None, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    def denied(path: Path, data: bytes) -> None:
        raise error(errno.EACCES, path)

    monkeypatch.setattr(writer, denied)
    words = on(folder, "--steps", 1, "--out", tmp_path / "out", "--cache", tmp_path / "cache", names="brightness")
    said = command(*words)
    assert said.code == 2 and "Permission denied" in said.err and "it goes on" in said.err
    assert "Traceback" not in said.err and "error in its code" not in said.err
    monkeypatch.undo()


def test_a_folder_that_may_not_be_read_does_not_go_missing_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = write_record(tmp_path, category="locked").path
    assert locked is not None and store.read_all(tmp_path)[1] == []
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked.parent)  # root may read everything
    assert f"The folder {locked.parent} may not be read" in store.read_all(tmp_path)[1][0]


class Hungry(fakes.Fake):
    """Its fit needs more memory than there is: what it raises is for the test to say."""

    name = "hungry"
    raised: Exception = MemoryError()

    def _fit(self, images: torch.Tensor, *, seed: int, progress: Progress, workdir: Path | None = None) -> Any:
        raise self.raised


@pytest.mark.parametrize(
    "raised",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_a_lack_of_memory_is_nobodys_bug(
    tmp_path: Path, folder: Path, register: Callable[..., None], monkeypatch: pytest.MonkeyPatch, raised: Exception
) -> None:
    register(Hungry)
    monkeypatch.setattr(Hungry, "raised", raised)
    (record,) = fakes.run(fakes.config(tmp_path, folder, "hungry", categories=("bolt",))).records
    assert not record.ok and "ran out of memory" in record.reason and "error in its code" not in record.reason


class Narrow(fakes.Linear):
    """On a device on which no more than `room` images fit; the gate looks at seven at a time."""

    name = "narrow"
    room = 7

    def _score(self, x: torch.Tensor, noise: Any) -> torch.Tensor:
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super()._score(x, noise)


def test_a_batch_that_does_not_fit_is_halved_which_is_said_and_changes_no_figure(
    tmp_path: Path, folder: Path, register: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    register(fakes.Linear, Narrow)
    settings = {"categories": ("bolt",), "batch_size": 30}
    (record,) = fakes.run(fakes.config(tmp_path, folder, "narrow", **settings)).records
    (plenty,) = fakes.run(fakes.config(tmp_path, folder, fakes.Linear.name, **settings)).records
    assert record.ok, record.reason
    warned = [m for m in caplog.messages if m.startswith("Out of memory: going on with batches of ")]
    assert [m.split()[-2] for m in warned] == ["6"], "from the batch at hand: phase by phase, and no more than needed"
    found, expected = store.read_scores(record), store.read_scores(plenty)
    assert found.clean == pytest.approx(expected.clean, rel=1e-5) and found.robust == pytest.approx(
        expected.robust, rel=1e-5
    )


def test_a_single_image_that_does_not_fit_is_a_sentence(
    tmp_path: Path, folder: Path, register: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    register(Narrow)
    monkeypatch.setattr(Narrow, "room", 0)
    (record,) = fakes.run(fakes.config(tmp_path, folder, "narrow", categories=("bolt",))).records
    assert not record.ok and "memory" in record.reason and "error in its code" not in record.reason


def test_other_errors_are_still_a_bug() -> None:
    assert not memory.is_out_of_memory(RuntimeError("shape mismatch")) and not memory.is_out_of_memory(ValueError())


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (MemoryError(), "This process ran out of memory"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/some/place"),
            "Cannot use /some/place (Permission denied); mend",
        ),
        (OSError(errno.EFBIG, "File too large", "/some/place"), "larger than this system or its ulimit"),
    ],
)
def test_what_reaches_the_shell_is_a_sentence(
    command: Any, monkeypatch: pytest.MonkeyPatch, raised: Exception, words: str
) -> None:
    def refuse(*anything: object, **more: object) -> None:
        raise raised

    monkeypatch.setattr("bench.cli.summary.listing", refuse)
    said = command("list", "detectors")
    assert said.code == 2 and words in said.err and "Traceback" not in said.err


@pytest.mark.parametrize("what", ["Pipe", "Process"])
def test_a_system_without_room_for_processes_is_not_a_full_results_folder(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def refuse(*anything: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(f"multiprocessing.context.SpawnContext.{what}", refuse)
    with pytest.raises(BenchError, match=r"more processes \(No space left.*--workers 1") as error, pool.Crew(2):
        pass
    assert not isinstance(error.value, DiskError) and multiprocessing.active_children() == []


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="a system without signals")
def test_a_worker_that_crashed_did_not_lack_memory(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "check", _crash)
    plan = planning.make(fakes.config(tmp_path, folder, "brightness", categories=("bolt",)))
    said = pytest.raises(BenchError, match=r"pictures of bolt crashed \(SIGSEGV\).*compiled code.*--workers 1")
    with said as found, pool.Crew(1) as crew:
        crew.check(plan, ["bolt"], fakes.Quiet(), jobs=1, workers=1)
    assert "memory" not in str(found.value) and "memory" not in pool._how_it_ended(-signal.SIGTERM)
    assert "want of memory" in pool._how_it_ended(-signal.SIGKILL) and "(exit code 1)" in pool._how_it_ended(1)


def _crash(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)
