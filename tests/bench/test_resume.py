"""kill -9 at any moment: the same command finishes the rest, and gives the numbers of an unbroken run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import bench_fakes as fakes
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE = 300.0  # seconds; a broken test should end some day
# Snapshots at every chance instead of once a minute.
DRIVER = "import detectors.freerad.training as t; t.SNAPSHOT_SECONDS = 0.0; from bench.cli.commands import main; main()"
FREERAD = ("work_size=16", "unet.channels=8", "k=50", "map_images=2", "map_draws=1", "training.batch_size=2")


def words(root: Path, data: Path, *detectors: str, sets: tuple[str, ...] = ()) -> list[str]:
    chosen = [word for setting in sets for word in ("--set", setting)]
    return [
        "run",
        "--dataset",
        "folder",
        "--data-root",
        str(data),
        "--image-size",
        "32",
        "--device",
        "cpu",
        "--detectors",
        ",".join(detectors),
        "--steps",
        "3",
        "--out",
        str(root / "out"),
        "--cache",
        str(root / "cache"),
        *chosen,
    ]


def killed_when(arrived: Callable[[], object], command: list[str]) -> None:
    """Start the command in a process group of its own and kill -9 it as soon as something has happened."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, *command],
        cwd=REPOSITORY,
        env=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        deadline = time.monotonic() + PATIENCE
        while not arrived():
            assert process.poll() is None, (process.stdout.read() if process.stdout else b"").decode()
            assert time.monotonic() < deadline, "nothing happened"
            time.sleep(0.002)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.fixture(autouse=True)
def _as_in_the_process(one_thread: None) -> Iterator[None]:
    yield


def same_as_unbroken(tmp_path: Path, broken: Path, command: Callable[..., object], whole: list[str]) -> None:
    command(*whole)
    unbroken = tmp_path / "unbroken"
    assert len(fakes.documents(unbroken / "out")) == len(fakes.score_files(unbroken / "out")) > 0
    assert fakes.score_files(broken / "out") == fakes.score_files(unbroken / "out")
    assert fakes.documents(broken / "out") == fakes.documents(unbroken / "out")
    here, there = ({p.relative_to(r) for p in r.rglob("*") if ".tmp" not in p.name} for r in (broken, unbroken))
    assert here == there  # checkpoints and pictures, too, and no working folders


@pytest.mark.usefixtures("no_plots")
def test_a_run_killed_after_its_first_record_ends_as_an_unbroken_one(
    tmp_path: Path, folder: Path, command: Callable[..., fakes.Any]
) -> None:
    broken = tmp_path / "broken"
    started = words(broken, folder, "ae", "brightness")
    killed_when(lambda: list(broken.glob("out/records/*/*/*.json")), started)
    survivors = {path: path.read_bytes() for path in broken.glob("out/records/*/*/*.json")}
    assert 1 <= len(survivors) < 4
    assert command(*started).code == 0
    assert all(path.read_bytes() == content for path, content in survivors.items())  # not computed again
    same_as_unbroken(tmp_path, broken, command, words(tmp_path / "unbroken", folder, "ae", "brightness"))


@pytest.mark.usefixtures("no_plots")
def test_a_freerad_fit_killed_on_its_way_goes_on_and_ends_with_the_same_scores(
    tmp_path: Path, command: Callable[..., fakes.Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = fakes.write_folder(tmp_path / "data", ("bolt",), train=6, test=2)
    sets = tuple(f"freerad.{setting}" for setting in (*FREERAD, "training.iterations=100"))
    broken = tmp_path / "broken"
    started = words(broken, data, "freerad", sets=sets)
    killed_when(lambda: list(broken.glob("cache/checkpoints/freerad/*.work/freerad-snapshot.safetensors")), started)
    assert not list(broken.glob("cache/checkpoints/freerad/*.json"))  # it was killed before its end
    steps: list[int] = []

    def listen(self: object, detector: str, category: str, fit_seed: int) -> Callable[..., None]:
        return lambda done, total, note="": steps.append(done)

    with monkeypatch.context() as patched:
        patched.setattr("bench.cli.progress.ConsoleReporter.fitting", listen)
        assert command(*started).code == 0
    assert 50 < steps[0] <= 100  # from the snapshot, not from the start
    same_as_unbroken(tmp_path, broken, command, words(tmp_path / "unbroken", data, "freerad", sets=sets))
