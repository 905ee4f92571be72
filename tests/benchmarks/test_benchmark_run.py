"""The README's run: wall clock of the first and of the second time, and peak memory.

    python -m tox -e benchmarks -- tests/benchmarks/test_benchmark_run.py -s

Limits on two idle cores, everything installed: the first run 600 s with all detectors, the second 20 s, 4 GB.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from pytest_benchmark.fixture import BenchmarkFixture


def _run(tmp_path: Path) -> float:
    command = [sys.executable, "-m", "bench", "run", "--detectors", "all", "--attack", "pgd-linf"]
    command += ["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    started = time.monotonic()
    subprocess.run(command, check=True, env=environment)
    return time.monotonic() - started


def test_the_readmes_run_keeps_its_limits(tmp_path: Path, benchmark: BenchmarkFixture) -> None:
    first = benchmark.pedantic(_run, args=(tmp_path,), rounds=1)
    second = _run(tmp_path)
    unit = 2**30 if sys.platform == "darwin" else 2**20
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / unit
    benchmark.extra_info.update(second_run_seconds=second, peak_memory_gib=memory)
    sys.stdout.write(f"\nfirst run {first:.0f} s, second run {second:.1f} s, peak memory {memory:.2f} GiB\n")
    assert first < 600
    assert second < 20
    assert memory < 4
