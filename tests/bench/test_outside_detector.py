"""The example of a detector from outside, as a stranger has it: installed by pip, found by its entry point, and run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import pytest

from detectors import contract

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "outside-detector"
TESTS = "test_band_energy.py"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the example as pip installs it; nothing comes from a network."""
    place = tmp_path_factory.mktemp("outside")
    source = shutil.copytree(EXAMPLE, place / "source")  # a build leaves folders behind
    offline = ("--no-index", "--no-deps", "--no-build-isolation", "--quiet")
    run(sys.executable, "-m", "pip", "install", *offline, "--target", place / "site", source)
    return place / "site"


def run(*words: object, **more: Any) -> str:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def python(installed: Path, *words: object, where: Path | None = None) -> str:
    """What a Python that has the example prints, run from a folder that knows nothing of it."""
    paths = os.pathsep.join(map(str, (installed, ROOT)))
    environment = {"PYTHONPATH": paths, "COLUMNS": "120", "OMP_NUM_THREADS": "1"}
    return run(sys.executable, *words, env=os.environ | environment, cwd=where or installed)


def test_the_example_is_as_short_as_the_readme_says() -> None:
    assert len((EXAMPLE / "band_energy.py").read_text().splitlines()) < 40
    assert "examples/outside-detector" in (ROOT / "README.md").read_text()


def test_its_own_tests_say_that_it_keeps_the_contract(installed: Path, tmp_path: Path) -> None:
    shutil.copy(EXAMPLE / TESTS, tmp_path)  # away from its source: what is tested is what pip installed
    said = python(installed, "-m", "pytest", "-p", "no:cacheprovider", "-v", TESTS, where=tmp_path)
    for case in contract.CASES:
        assert f"::test_contract[{case.name}] PASSED" in said
    assert "::test_it_finds_defects PASSED" in said


def test_it_is_listed(installed: Path) -> None:
    assert "Band energy" in python(installed, "-m", "bench", "list", "detectors")


def test_it_gets_a_record_through_the_gate(installed: Path, tmp_path: Path) -> None:
    data = fakes.write_folder(tmp_path / "data", side=48)
    where = ("--dataset", "folder", "--data-root", data, "--out", tmp_path / "out", "--cache", tmp_path / "cache")
    words = ("run", "--detectors", "band-energy", "--limit", 4, "--image-size", 48, "--steps", 2, *where)
    said = python(installed, "-m", "bench", *words)
    assert "Band energy" in said
    (path,) = (tmp_path / "out").glob("records/folder/bolt/band-energy--*.json")
    record = json.loads(path.read_text())
    assert record["status"] == "ok" and record["cell"]["detector"]["settings"] == {"bands": 4}
