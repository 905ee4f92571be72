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

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "outside-detector"

# The checks of tests/detectors, then the command line: in one process, since most of its time goes into imports.
CONTRACT = """
import contract_checks as checks
import torch
from detector_pictures import anomalous_pictures, normal_pictures, on_the_edge_of_the_ball
import bench.cli.commands
import detectors

def build():
    return detectors.create("band-energy", image_size=32)

train, normals = normal_pictures(24, 32, seed=1), normal_pictures(24, 32, seed=2)
anomalies = anomalous_pictures(24, 32, seed=4)
detector = build().fit(train, seed=3)
images = torch.cat([normals[:3], anomalies[:2]])
for places in (images[:2], images[3:], on_the_edge_of_the_ball(images[2:4], 8 / 255, seed=5)):
    checks.check_finite_differences(detector, places)
for check in (
    checks.check_score_has_one_number_per_image, checks.check_gradient_lives, checks.check_float32_gradient,
    checks.check_ignores_batch_neighbours,
    checks.check_ignores_gradient_mode, checks.check_ignores_its_history, checks.check_stays_in_evaluation_mode,
    checks.check_ignores_global_randomness, checks.check_noise_is_honest, checks.check_follows_the_dtype,
    checks.check_refuses_what_is_no_image, checks.check_passes_nan_on, checks.check_map,
):
    check(detector, images)
checks.check_beats(detector, normals, anomalies, 95)
checks.check_fit_is_reproducible(build, detector, train, seed=3)
print("kept by", type(detector).__module__)
bench.cli.commands.main()
"""


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


def python(installed: Path, *words: object) -> str:
    """What a Python that has the example prints, run from a folder that knows nothing of it."""
    paths = (installed, ROOT, ROOT / "tests" / "detectors")
    environment = {"PYTHONPATH": os.pathsep.join(map(str, paths)), "COLUMNS": "120", "OMP_NUM_THREADS": "1"}
    return run(sys.executable, *words, env=os.environ | environment, cwd=installed)


def test_the_example_is_as_short_as_the_readme_says() -> None:
    assert len((EXAMPLE / "band_energy.py").read_text().splitlines()) < 40
    assert "examples/outside-detector" in (ROOT / "README.md").read_text()


def test_it_is_listed_and_keeps_the_contract(installed: Path) -> None:
    said = python(installed, "-c", CONTRACT, "list", "detectors")
    assert "kept by band_energy" in said and "Band energy" in said


def test_it_gets_a_record_through_the_gate(installed: Path, tmp_path: Path) -> None:
    data = fakes.write_folder(tmp_path / "data", side=48)
    where = ("--dataset", "folder", "--data-root", data, "--out", tmp_path / "out", "--cache", tmp_path / "cache")
    words = ("run", "--detectors", "band-energy", "--limit", 4, "--image-size", 48, "--steps", 2, *where)
    said = python(installed, "-m", "bench", *words)
    assert "Band energy" in said
    (path,) = (tmp_path / "out").glob("records/folder/bolt/band-energy--*.json")
    record = json.loads(path.read_text())
    assert record["status"] == "ok" and record["cell"]["detector"]["settings"] == {"bands": 4}
