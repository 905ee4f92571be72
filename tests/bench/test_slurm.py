"""Scripts for Slurm, with stand-ins for its commands: what is asked for, quoted, killed, queued again and ended."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import pytest

from bench.errors import BenchError
from bench.run import slurm
from bench.run.slurm import Wanted

REPOSITORY = Path(__file__).parents[2]
Command = Callable[..., Any]
EVIL = 'it\'s $(touch hacked) `touch hacked` "100%" ; & \\ \n é'
# Says what it was called with. The stand-in for sbatch gives a number, as --parsable does.
CALLED = f"#!{sys.executable}\nimport json, os, sys\nprint(json.dumps([os.getcwd(), *sys.argv[1:]]))\n"
SBATCH = '#!/bin/bash\nprintf "%s\\n" "$*" >> "$SLURM_SEEN"\necho "77;cluster"\n'
SCONTROL = '#!/bin/bash\nprintf "%s\\n" "$*" >> "$SLURM_SEEN"\n'


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which stand-ins write what they were called with."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("sbatch", SBATCH), ("scontrol", SCONTROL), ("python", CALLED)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    found = tmp_path / "seen"
    found.touch()
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_SEEN", str(found))
    return found


def words_for(folder: Path, root: Path, *more: object) -> list[object]:
    keep = ("--out", root / "out", "--cache", root / "cache", "--device", "cpu", "--gres", "")
    return ["slurm", *fakes.on(folder, *keep, *more, names="brightness,mean-image")[1:]]


def scripts(out: Path) -> tuple[Path, Path]:
    (array,), (report,) = out.glob("slurm/array-*.sh"), out.glob("slurm/report-*.sh")
    return array, report


def element(script: Path, number: int, restarts: int = 0) -> dict[str, Any]:
    """How a machine of Slurm's starts an element."""
    told = {"SLURM_ARRAY_TASK_ID": number, "SLURM_ARRAY_JOB_ID": 77, "SLURM_RESTART_COUNT": restarts}
    environment = {**os.environ, **{k: str(v) for k, v in told.items()}, "PYTHONPATH": str(REPOSITORY)}
    return {"args": ["bash", str(script)], "env": environment, "text": True}


def test_what_is_asked_for_stands_in_the_script_and_both_commands_are_printed(
    tmp_path: Path, folder: Path, command: Command, seen: Path
) -> None:
    asked = ("--time", "1-12", "--partition", "gpu", "--cpus-per-task", 4, "--mem", "16G", "--account", "lab")
    said = command(*words_for(folder, tmp_path, "--array", 3, *asked))
    assert said.code == 0, said.err
    array, report = scripts(tmp_path / "out")
    directives = re.findall(r"^#SBATCH --(.*)$", array.read_text(), re.MULTILINE)
    assert directives == [
        "job-name=radbench",
        "array=1-3",
        "ntasks=1",
        "partition=gpu",
        "account=lab",
        "time=1-12",
        "mem=16G",
        "cpus-per-task=4",
        "requeue",
        "open-mode=append",
        "signal=B:TERM@120",
    ]
    assert "export OMP_NUM_THREADS=4 MKL_NUM_THREADS=4\n" in array.read_text()
    assert "4 cells, 4 fits; 3 elements of at most 2 fits each." in said.out
    first, second = said.out.splitlines()[-2:]
    assert str(array) in first and str(report) in second and seen.read_text() == ""
    done = subprocess.run(["bash", "-c", f"{first}\n{second}"], capture_output=True, text=True, check=True)
    called = seen.read_text().splitlines()
    assert called[0].startswith("--parsable") and called[1].startswith("--dependency=afterany:77 ") and done.stdout


def test_a_gpu_for_each_element_is_what_is_usual(tmp_path: Path, folder: Path, command: Command) -> None:
    words = words_for(folder, tmp_path, "--array", 1)
    del words[words.index("--gres") : words.index("--gres") + 2]
    assert command(*words).code == 0
    assert "#SBATCH --gres=gpu:1\n" in scripts(tmp_path / "out")[0].read_text()


def test_devices_are_those_of_the_elements_machine(tmp_path: Path, folder: Path, command: Command) -> None:
    """The machine where scripts are written may have none."""
    words = words_for(folder, tmp_path, "--array", 1)
    place = words.index("--device") + 1
    for device in ("cuda:all", "cuda:0,cuda:1", "auto"):
        words[place] = device
        assert command(*words).code == 0
        assert any(f" --device={device} " in path.read_text() for path in (tmp_path / "out").glob("slurm/array-*.sh"))
    for device in ("cpu:all", "all", "gpu:all", "gpu", "cuda:0,cuda:0", "cuda:0,cpu:1", "cuda:0,cuda:all"):
        words[place] = device
        assert "device" in command(*words).err


def test_submit_hands_in_the_array_and_then_the_report(
    tmp_path: Path, folder: Path, command: Command, seen: Path
) -> None:
    said = command(*words_for(folder, tmp_path, "--array", 2, "--submit"))
    assert said.code == 0 and "Handed in: array 77." in said.out
    array, report = scripts(tmp_path / "out")
    called = seen.read_text().splitlines()
    assert len(called) == 2 and called[0].endswith(str(array)) and called[1].endswith(str(report))


def test_every_argument_is_quoted(tmp_path: Path, folder: Path, command: Command, seen: Path) -> None:
    root = tmp_path / EVIL.replace("/", "")
    pattern = f"([a-z]+)|{EVIL.replace('(', '').replace(')', '')}"  # one group, as the option wants it
    python = str(tmp_path / "tools" / "python")
    said = command(*words_for(folder, root, "--array", 1, "--group-pattern", pattern, "--python", python, "--submit"))
    assert said.code == 0, said.err
    array, report = scripts(root / "out")
    assert subprocess.run(["bash", "-n", str(array)], check=False).returncode == 0
    done = subprocess.run(**element(array, 1), capture_output=True, check=True)
    where, *called = json.loads(done.stdout)
    assert called[:3] == ["-m", "bench", "run"] and called[-2:] == ["--shard", "1/1"] and where == str(Path.cwd())
    assert f"--out={root / 'out'}" in called and f"--group-pattern={pattern}" in called
    assert "--detectors=brightness,mean-image" in called
    done = subprocess.run(["bash", str(report)], capture_output=True, text=True, check=True)
    tables, pages = map(json.loads, done.stdout.splitlines())
    assert tables[1:] == ["-m", "bench", "report", str(root / "out")]
    assert pages[1:] == ["-m", "bench", "report", "--html", str(root / "out")]
    assert not list(Path.cwd().glob("hacked")) and not list(tmp_path.rglob("hacked"))
    printed = said.out[said.out.index("job=$(") : said.out.index(")\nsbatch ")]
    assert shlex.split(printed.removeprefix("job=$("))[-1] == str(array)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"elements": 0}, "--array"),
        ({"time": "soon"}, "--time"),
        ({"time": "1:00\n#SBATCH --uid=root"}, "--time"),
        ({"mem": "16 GB"}, "--mem"),
        ({"partition": "a b"}, "--partition"),
        ({"gres": "gpu:1 --wrap=x"}, "--gres"),
        ({"account": "-x"}, "--account"),
        ({"cpus_per_task": 0}, "--cpus-per-task"),
    ],
)
def test_what_slurm_could_misread_is_a_sentence(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BenchError, match=sentence):
        Wanted(**({"elements": 2} | changed))


def test_a_plan_with_fewer_fits_than_elements_is_a_sentence(tmp_path: Path, folder: Path, command: Command) -> None:
    said = command(*words_for(folder, tmp_path, "--array", 5))
    assert said.code == 2 and "5 shards don't fit: the plan has 4 fits" in said.err
    assert not (tmp_path / "out").exists()


def test_a_machine_without_slurm_and_one_that_refuses_say_so(
    tmp_path: Path, folder: Path, command: Command, seen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sbatch = tmp_path / "tools" / "sbatch"
    sbatch.write_text("#!/bin/bash\necho 'sbatch: error: invalid partition specified: gpus' >&2\nexit 1\n")
    said = command(*words_for(folder, tmp_path, "--array", 2, "--submit"))
    assert said.code == 2 and "invalid partition specified: gpus" in said.err
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    said = command(*words_for(folder, tmp_path, "--array", 2, "--submit"))
    assert said.code == 2 and "no sbatch" in said.err and "Traceback" not in said.err


def test_an_element_that_never_ends_gives_up(tmp_path: Path, seen: Path) -> None:
    """A stand-in for a run that is told to end and says that something is left."""
    run = [sys.executable, "-c", "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(75)); time.sleep(60)"]
    written = slurm.write(Wanted(1), run, [["true"]], tmp_path / "out", tmp_path)
    for restarts, code in ((0, 0), (slurm.RESTARTS, 75)):
        process = subprocess.Popen(**element(written.array, 1, restarts), stderr=subprocess.PIPE)
        time.sleep(1.5)  # its Python has to begin
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
        assert process.returncode == code and ("more --time" in said) == (code == 75)
    assert seen.read_text().splitlines() == ["requeue 77_1"]


def test_a_cell_that_takes_too_long_is_killed_before_slurm_kills_the_script(tmp_path: Path, seen: Path) -> None:
    run = [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"]
    script = slurm.write(Wanted(1), run, [["true"]], tmp_path / "out", tmp_path).array
    waits = f"second < {slurm.WAIT_SECONDS};"
    assert waits in script.read_text() and slurm.WAIT_SECONDS < slurm.WARNING_SECONDS
    script.write_text(script.read_text().replace(waits, "second < 2;"))
    process = subprocess.Popen(**element(script, 1))
    time.sleep(1.5)  # its Python has to begin
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0 and seen.read_text().splitlines() == ["requeue 77_1"]


def test_many_elements_on_one_folder_with_kills_leave_the_records_of_one_run(
    tmp_path: Path, folder: Path, command: Command, seen: Path
) -> None:
    """The first is told to end, the second one's machine goes down. Slurm starts both again."""
    more = ("--epsilon", "1/255,2/255,4/255", "--steps", 300, "--array", 2, "--python", sys.executable)
    assert command(*words_for(folder, tmp_path, *more)).code == 0
    array, _ = scripts(tmp_path / "out")
    records = tmp_path / "out" / "records"

    def started(restarts: int) -> list[subprocess.Popen[str]]:
        return [
            subprocess.Popen(
                **element(array, number, restarts),
                stdout=(tmp_path / f"{number}-{restarts}.log").open("w"),
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            for number in (1, 2)
        ]

    first, second = started(0)
    try:
        _wait(lambda: len(_done(tmp_path, 1)) > 0 and len(_done(tmp_path, 2)) > 0, [first, second])
        first.send_signal(signal.SIGTERM)  # to the script alone, as `B:` says
        os.killpg(second.pid, signal.SIGKILL)
        assert first.wait(120) == 0 and second.wait(120) == -signal.SIGKILL
    finally:
        for process in (first, second):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert seen.read_text().splitlines() == ["requeue 77_1"], "of the other Slurm knows by itself"
    assert "Told to end: " in (tmp_path / "1-0.log").read_text()
    kept = {path: path.read_bytes() for path in records.rglob("*.json")}
    assert 0 < len(kept) < 12
    for process in started(1):
        assert process.wait(300) == 0
    found = list(records.rglob("*.json"))
    assert len(found) == 12 and all(json.loads(path.read_text())["status"] == "ok" for path in found)
    assert all(path.read_bytes() == before for path, before in kept.items()), "what was there was not done again"
    said = [cell for name in ("1-0", "1-1", "2-0", "2-1") for cell in _done(tmp_path, *map(int, name.split("-")))]
    assert set(Counter(said).values()) <= {2, 3} and 11 <= len(said) <= 12, "of one the killed may not have told"
    assert len(set(said)) == 4


def _done(root: Path, number: int, restarts: int = 0) -> list[str]:
    """The cells that an element says it has done, as its log has them."""
    text = (root / f"{number}-{restarts}.log").read_text()
    return re.findall(r"^\[\d+/\d+\] (\S+ \S+ .*?): clean .*$", text, re.MULTILINE)


def _wait(arrived: Callable[[], object], processes: Sequence[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + 300
    while not arrived():
        assert time.monotonic() < deadline and all(p.poll() is None for p in processes), "an element ended"
        time.sleep(0.05)
