"""A run as a job array of Slurm: the two scripts of it, and handing them in.

Nothing but files is shared: each element is a run of its own that does a shard of the plan (`bench.run.shards`), and
the job that follows the array draws tables and pages from the records that are there.

Some time before the limit (`WARNING_SECONDS`), or where it makes room for another job, Slurm sends the script a
SIGTERM. The script hands it on, the run ends after the cell at hand, and the element is queued again; what it had
finished it finds by its key. A cell that takes longer is killed and done again, from where its fit was, if that keeps
where it is; so an element that comes to no end gives up after `RESTARTS` starts.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import files
from bench.errors import BenchError
from bench.text import one_line
from detectors.checkpoint import write_atomically

WARNING_SECONDS, WAIT_SECONDS = 120, 100  # before the limit; of these for the cell at hand
RESTARTS = 50
# What a directive may hold: Slurm splits and unquotes these lines by rules of its own, so nothing in them needs any.
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,:=+/@-]*")
_TIME = re.compile(r"[0-9]{1,6}|[0-9]{1,6}(:[0-9]{1,2}){1,2}|[0-9]{1,4}-[0-9]{1,2}(:[0-9]{1,2}){0,2}")
_MEMORY = re.compile(r"[0-9]{1,9}[KMGT]?")

_ARRAY = """\
#!/bin/bash
{directives}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@{warning}

cd -- {folder} || exit 2
{exports}told=
tell() {{ told=yes; kill -TERM "$run" 2>/dev/null; }}
trap tell TERM
{command} --shard "${{SLURM_ARRAY_TASK_ID:?}}"/{count} &
run=$!
wait "$run"; code=$?
if [ -n "$told" ]; then  # a signal ends `wait`, not the run, which gets the time for the cell at hand
    for (( second = 0; second < {wait}; second++ )); do
        kill -0 "$run" 2>/dev/null || break
        sleep 1
    done
    kill -KILL "$run" 2>/dev/null
    wait "$run"; code=$?
    if [ "$code" -ne 0 ] && [ "$code" -ne 2 ]; then
        if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {most} ]; then
            scontrol requeue "${{SLURM_ARRAY_JOB_ID:?}}_$SLURM_ARRAY_TASK_ID" && exit 0
        else
            echo "Started {most} times and not at its end: give it more --time." >&2
        fi
    fi
fi
exit "$code"
"""

_REPORT = """\
#!/bin/bash
{directives}

cd -- {folder} || exit 2
{commands}
"""


@dataclass(frozen=True)
class Wanted:
    """What each element of an array asks Slurm for; "" or None: Slurm's own default.

    Attributes:
        elements: how many, and so how many shards.
        time: the limit of each (minutes, or hours:minutes:seconds, or days-hours).
        partition, account: names that the cluster knows.
        gres: devices, such as gpu:1.
        cpus_per_task: cores, and so threads.
        mem: memory, such as 16G.
    """

    elements: int
    time: str = ""
    partition: str = ""
    gres: str = ""
    cpus_per_task: int | None = None
    mem: str = ""
    account: str = ""

    def __post_init__(self) -> None:
        if self.elements < 1:
            raise BenchError(f"--array is how many elements share the run, 1 or more; got {self.elements}.")
        if self.cpus_per_task is not None and self.cpus_per_task < 1:
            raise BenchError(f"--cpus-per-task must be at least 1; got {self.cpus_per_task}.")
        for option, value, form, example in (
            ("--time", self.time, _TIME, "90, 4:00:00 or 1-12"),
            ("--mem", self.mem, _MEMORY, "16G"),
            ("--partition", self.partition, _WORD, "gpu"),
            ("--gres", self.gres, _WORD, "gpu:1"),
            ("--account", self.account, _WORD, "lab"),
        ):
            if value and not form.fullmatch(value):
                raise BenchError(f"{option} is handed on to Slurm, such as {example}; got {one_line(value, 60)!r}.")

    def directives(self, *, of_report: bool = False) -> str:
        """The lines that Slurm reads of a script. The report needs no array, no device, and little of the rest."""
        found = {"job-name": "radbench-report" if of_report else "radbench"}
        if not of_report:
            found["array"] = f"1-{self.elements}"
        found |= {"ntasks": "1"}
        asked = {"partition": self.partition, "account": self.account}
        if not of_report:
            asked |= {"time": self.time, "gres": self.gres, "mem": self.mem}
            asked["cpus-per-task"] = "" if self.cpus_per_task is None else str(self.cpus_per_task)
        found |= {name: value for name, value in asked.items() if value}
        return "\n".join(f"#SBATCH --{name}={value}" for name, value in found.items())


@dataclass(frozen=True)
class Scripts:
    """Two scripts on the disk, and where what they say goes."""

    array: Path
    report: Path
    logs: Path

    def submitting(self) -> list[str]:
        """The words that hand in the array; its number comes back."""
        return ["sbatch", "--parsable", f"--output={self._log('shard-%A-%a')}", str(self.array)]

    def following(self, job: str) -> list[str]:
        """The words that hand in the report, for when every element has ended, however it has."""
        return ["sbatch", f"--dependency=afterany:{job}", f"--output={self._log('report-%j')}", str(self.report)]

    def commands(self) -> list[str]:
        """Both as lines for a shell."""
        report = shlex.join(self.following("@")).replace("afterany:@", 'afterany:"${job%%;*}"')
        return [f"job=$({shlex.join(self.submitting())})", report]

    def _log(self, name: str) -> str:
        return str(self.logs).replace("\\", "\\\\").replace("%", "%%") + f"/{name}.log"  # as Slurm reads a pattern


def write(wanted: Wanted, run: Sequence[str], closing: Sequence[Sequence[str]], out: Path, folder: Path) -> Scripts:
    """Write both scripts into `out`/slurm, under names that are theirs alone: another plan's stay beside them.

    Args:
        wanted: of Slurm.
        run: the words of the run, without `--shard`.
        closing: the commands of the closing job, of which each follows if the one before succeeds.
        out: the folder of results.
        folder: where both are called.

    Raises:
        DiskError: the disk refuses.
    """
    threads = wanted.cpus_per_task
    array = _ARRAY.format(
        directives=wanted.directives(),
        warning=WARNING_SECONDS,
        wait=WAIT_SECONDS,
        most=RESTARTS,
        folder=shlex.quote(str(folder)),
        exports="" if threads is None else f"export OMP_NUM_THREADS={threads} MKL_NUM_THREADS={threads}\n",
        command=shlex.join(run),
        count=wanted.elements,
    )
    report = _REPORT.format(
        directives=wanted.directives(of_report=True),
        folder=shlex.quote(str(folder)),
        commands=" &&\n".join(map(shlex.join, closing)),
    )
    place = out.absolute() / "slurm"
    name = hashlib.sha256(array.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    scripts = Scripts(place / f"array-{name}.sh", place / f"report-{name}.sh", place)
    with files.writing(place):
        place.mkdir(parents=True, exist_ok=True)
        for path, text in ((scripts.array, array), (scripts.report, report)):
            write_atomically(path, text.encode("utf-8", "surrogateescape"))
    return scripts


def submit(scripts: Scripts) -> tuple[str, str]:
    """Hand both in. Returns the array's number and what Slurm said of the report.

    Raises:
        BenchError: there is no Slurm here, or it refuses, with its own words.
    """
    job = _sbatch(scripts.submitting()).split(";")[0].strip()
    if not re.fullmatch(r"[0-9]+", job):
        raise BenchError(f"sbatch gave no number for the array but {one_line(job, 80)!r}; look with squeue.")
    try:
        return job, _sbatch(scripts.following(job)).strip()
    except BenchError as error:
        raise BenchError(
            f"The array is handed in as job {job}, its report is not: {error} Draw it by hand at the end."
        ) from None


def _sbatch(words: list[str]) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise BenchError(
            f"This machine has no sbatch that could be called ({files.why(error)}); run the two printed commands where "
            "Slurm is."
        ) from None
    if done.returncode:
        said = one_line(done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}", 500)
        raise BenchError(f"sbatch refuses: {said.rstrip('.')}.")
    return done.stdout
