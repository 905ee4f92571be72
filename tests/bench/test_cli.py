"""The command line: what it prints in 80 columns, and what it leaves alone."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import pytest

import attacks
import detectors
from attacks.registry import get_class
from bench import cli
from bench.cli import reproduced, shell
from bench.data import registry as datasets
from bench.records import store
from bench.records.paths import distinct_name

REFERENCE = reproduced.REFERENCE
Command = Callable[..., Any]
Register = Callable[..., None]


def on(root: Path, out: Path, *more: object, names: str = "fake") -> tuple[object, ...]:
    words = ("run", "--detectors", names, "--dataset", "folder", "--data-root", root, "--image-size", 32, "--steps", 3)
    return (*words, "--out", out / "out", "--cache", out / "cache", "--device", "cpu", *more)


def too_wide(text: str) -> list[str]:
    """Lines that do not fit into 80 columns; a path or a command to be copied may not."""
    return [line for line in text.splitlines() if len(line) > 80 and "/" not in line]


def test_a_run_ends_with_a_table_its_meaning_and_where_the_files_are(
    command: Command, folder: Path, tmp_path: Path, register: Register
) -> None:
    register(fakes.Noisy)
    words = on(folder, tmp_path, names="noisy,brightness")
    said = command(*words)
    flat = " ".join(said.out.split())
    assert said.code == 0 and said.err == ""
    assert too_wide(said.out) == []
    for word in ("bolt", "nut", "average", "Noisy", "Brightness", "clean AUC", "robust AUC", "PGD", "32x32"):
        assert word in said.out, word
    for text in (
        "6 normal and 6 anomalous",
        "95 % intervals",
        "Brightness alone reaches",
        "how often an anomalous image scores",
        "l-inf epsilon 2/255",
        "no licence for them",
        "4 cells",
    ):
        assert text in flat, text
    found, problems = store.read_all(tmp_path / "out" / "records")
    assert len(found) == 4 and not problems
    for record in found:  # every figure of the table is a record's
        assert record.clean is not None and f"{record.clean.auc:.1f}" in said.out
    for name in ("leaderboard.csv", "leaderboard.md", "leaderboard.tex", "plots"):
        assert (tmp_path / "out" / name).exists(), name
    assert {record.command for record in found} == {"python -m bench " + " ".join(map(str, words))}


@pytest.mark.usefixtures("no_plots")
def test_a_second_run_says_that_everything_was_there(
    command: Command, folder: Path, tmp_path: Path, register: Register
) -> None:
    register(fakes.Fake)
    first, second = (command(*on(folder, tmp_path)) for _ in range(2))
    assert "already there" not in first.out and second.out.count("already there") == 2
    assert "2 of them from earlier runs" in second.out
    assert fakes.Fake.fits == 2
    assert command(*on(folder, tmp_path, "--refit")).code == 0 and fakes.Fake.fits == 4


@pytest.mark.usefixtures("no_plots")
def test_a_limited_run_is_marked_in_the_record_and_in_the_table(
    command: Command, folder: Path, tmp_path: Path, register: Register
) -> None:
    register(fakes.Fake)
    said = command(*on(folder, tmp_path, "--limit", 4))
    (first, _), _ = store.read_all(tmp_path / "out" / "records")
    assert not first.full_run and "--limit 4" in first.limits[0] and first.subset.normals == 4
    flat = " ".join(said.out.split())
    assert "† not a full run (the limits are in the record): --image-size 32, --limit 4, --steps" in flat


def test_a_dry_run_prints_the_plan_and_writes_and_fits_nothing(
    command: Command, folder: Path, tmp_path: Path, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(fakes.Fake)
    monkeypatch.setattr("bench.run.runner.run_plan", lambda plan, reporter, **more: pytest.fail("it ran"))
    said = command(*on(folder, tmp_path, "--dry-run", "--attack", "all", names="fake,brightness"))
    assert said.code == 0 and fakes.Fake.fits == 0 and list(tmp_path.iterdir()) == []
    assert too_wide(said.out) == []
    flat = " ".join(said.out.split())
    each = [name for name in attacks.names() if not get_class(name).for_stochastic]
    assert f"{4 * len(each)} cells" in flat and "to be fitted" in flat and "Nothing was run" in flat
    assert "pgd-linf" in flat and "pgd-l2" in flat


def test_a_strict_run_attacks_with_autoattack_and_fits_with_three_seeds(
    tmp_path: Path, folder: Path, command: Command, register: Register
) -> None:
    register(fakes.Noisy)
    words = ("run", "--dry-run", "--detectors", "ae,noisy", "--dataset", "folder", "--data-root", folder)
    words = (*words, "--image-size", 32, "--out", tmp_path / "out", "--cache", tmp_path / "cache")
    said = command(*words, "--protocol", "strict")
    assert "autoattack-linf" in said.out and "autoattack-rand-linf" in said.out
    assert "fit 2" in said.out
    plain = command(*words)
    assert "pgd-linf" in plain.out and "fit 2" not in plain.out


@pytest.mark.usefixtures("no_plots")
def test_a_dry_run_knows_what_is_fitted_already(
    command: Command, folder: Path, tmp_path: Path, register: Register
) -> None:
    register(fakes.Fake)
    command(*on(folder, tmp_path, "--categories", "nut"))
    said = command(*on(folder, tmp_path, "--dry-run"))
    rows = [[cell.strip() for cell in line.split("│")] for line in said.out.splitlines() if "│ fake" in line]
    assert {row[2]: row[3] for row in rows} == {"bolt": "to be fitted", "nut": "cached"}


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("detectors", (*detectors.names(), "anomalib:NAME")),
        ("attacks", attacks.names()),
        ("datasets", datasets.names()),
        ("presets", ("quick", "paper", "protocol quick", "protocol paper")),
    ],
)
def test_list_shows_everything_there_is(command: Command, what: str, names: tuple[str, ...]) -> None:
    said = command("list", what)
    assert said.code == 0 and said.err == "" and all(len(line) <= 80 for line in said.out.splitlines())
    assert [name for name in names if not any(line.startswith(name) for line in said.out.splitlines())] == []


def test_list_says_of_each_data_set_its_licence_and_where_it_is_had(command: Command) -> None:
    said = command("list", "datasets").out.split()
    for about in (datasets.find(name).about for name in datasets.names() if name != "folder"):
        assert about is not None and about.home in said, "an address in one piece"
        assert about.licence.split()[0] in said


def test_a_member_of_a_family_goes_the_way_of_every_detector(command: Command, folder: Path, tmp_path: Path) -> None:
    name = "purify:brightness"
    short = ("--set", f"{name}.purifier.training.iterations=1", "--set", f"{name}.purifier.k@nut=50")
    said = command(*on(folder, tmp_path, *short, names=name))
    assert said.code == 0 and said.err == ""
    found, problems = store.read_all(tmp_path / "out" / "records")
    assert {record.detector_name for record in found} == {name} and len(found) == 2 and not problems
    steps = {r.category: r.detector.settings["purifier"]["k"] for r in found}
    assert steps == {"bolt": 100, "nut": 50}
    assert all(":" not in path.name for path in tmp_path.rglob("*")), "no file name that other systems refuse"
    (bolt,) = {r.detector.checkpoint_sha256 for r in found if r.category == "bolt"}
    fit = ("fit", "--dataset", "folder", "--data-root", folder, "--image-size", 32, "--cache", tmp_path / "cache")
    said = command(*fit, *short, "--detectors", f"{name},brightness", "--export", tmp_path / "export")
    path = tmp_path / "export" / distinct_name(name) / "folder-bolt-quick.safetensors"
    assert said.code == 0 and path.with_suffix(".json").is_file()
    assert hashlib.sha256(path.read_bytes()).hexdigest() == bolt
    assert detectors.load(path).name == name
    said = command("list", "detectors")
    assert "purify:NAME" in said.out and "NAME: ae" in said.out


@pytest.mark.parametrize("table", ["table1", "table4", "table6", "table11", "table14"])
def test_reproduce_marks_what_was_not_run(
    command: Command, tmp_path: Path, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduced, "REFERENCE", tmp_path / "none")
    said = command("reproduce", table, "--out", tmp_path / "out")
    assert said.code == 0 and said.err == ""
    assert "not run" in said.out and f"python -m bench {'certify' if table == 'table6' else 'run'} " in said.out
    assert [line for line in too_wide(said.out) if "python -m bench" not in line] == []
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".csv", ".md"}


def test_reproduce_shows_the_records_that_a_clone_brings(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = command("reproduce", "table2", "--out", tmp_path / "out")
    (screw,) = [line for line in said.out.splitlines() if line.startswith("screw ") and " freerad " in line]
    assert said.code == 0 and "not run" not in screw
    named = command("reproduce", "table2", "--records", REFERENCE / "screw-paper", "--out", tmp_path / "out")
    assert screw in named.out.splitlines()


@pytest.mark.parametrize("name", ["not-there", "empty"])
def test_reproduce_with_a_folder_that_has_no_records_is_a_sentence(command: Command, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty" / "records").mkdir(parents=True)
    said = command("reproduce", "table1", "--records", tmp_path / name, "--out", tmp_path / "out")
    assert said.code == 2 and str(tmp_path / name) in said.err and "--records" in said.err
    assert not (tmp_path / "out").exists()


def test_one_of_a_kind_is_not_several(command: Command, folder: Path, tmp_path: Path, register: Register) -> None:
    register(fakes.Fake)
    words = (
        "run",
        "--detectors",
        "fake",
        "--dataset",
        "folder",
        "--data-root",
        folder,
        "--image-size",
        32,
        "--dry-run",
    )
    one = command(*words, "--categories", "bolt", "--steps", 1, "--out", tmp_path).out
    assert "1 cell on folder" in one and "1 step)" in one
    two = command(*words, "--steps", 2).out
    assert "2 cells on folder" in two and "2 steps)" in two


@pytest.mark.usefixtures("no_plots")
def test_fit_keeps_checkpoints_for_a_run_and_exports_them_apart(
    command: Command, folder: Path, tmp_path: Path, register: Register
) -> None:
    register(fakes.Fake, fakes.Linear)
    words = ("--dataset", "folder", "--data-root", folder, "--image-size", 32, "--cache", tmp_path / "cache")
    said = command("fit", "--detectors", "fake,linear", *words, "--export", tmp_path / "package")
    assert said.code == 0 and said.out.count("fitted,") == 4
    exported = {str(path.relative_to(tmp_path / "package")) for path in (tmp_path / "package").rglob("*.safetensors")}
    assert exported == {f"{d}/folder-{c}-quick.safetensors" for d in ("fake", "linear") for c in ("bolt", "nut")}
    alone = command("fit", "--detectors", "fake", "--categories", "nut", *words, "--export", tmp_path / "alone")
    assert alone.code == 0 and (tmp_path / "alone" / "folder-nut-quick.json").is_file()
    assert "cached" in alone.out
    run = command(*on(folder, tmp_path, names="fake,linear"))
    assert run.code == 0 and run.out.count("(cached checkpoint") == 4


def test_a_detector_that_cannot_be_fitted_does_not_stop_the_others(
    command: Command, folder: Path, tmp_path: Path, register: Register
) -> None:
    register(fakes.BrokenFit, fakes.Linear)
    words = ("--dataset", "folder", "--data-root", folder, "--image-size", 32, "--cache", tmp_path / "cache")
    said = command("fit", "--detectors", "broken-fit,linear", *words)
    assert said.code == 2 and said.out.count("linear on") == 2
    assert said.err.count("Error: broken-fit on") == 2 and "Traceback" not in said.err


@pytest.mark.usefixtures("no_plots")
def test_verbose_shows_where_a_detector_went_wrong(
    command: Command, folder: Path, tmp_path: Path, register: Register, caplog: pytest.LogCaptureFixture
) -> None:
    register(fakes.Broken)
    command(*on(folder, tmp_path, names="broken"))
    assert "zoo.py" not in caplog.text
    assert command(*on(folder, tmp_path, "--verbose", names="broken")).code == 2
    assert "zoo.py" in caplog.text


def test_ctrl_c_says_that_nothing_is_lost(
    command: Command, folder: Path, tmp_path: Path, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(fakes.Fake)

    def stop(plan: Any, reporter: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.run.runner.run_plan", stop)
    said = command(*on(folder, tmp_path))
    assert said.code == shell.STOPPED == 130
    assert "same command goes on" in said.err and "Traceback" not in said.err


def test_an_unexpected_error_of_our_own_is_not_hidden(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(what: str, **more: bool) -> None:
        raise AssertionError("a bug in \x1b[2J")

    monkeypatch.setattr("bench.cli.summary.listing", broken)
    said = command("list", "detectors")
    assert said.code == 1 and "Traceback" in said.err
    assert "AssertionError: a bug in \\x1b[2J" in said.err, "and does nothing to a terminal"


def test_help_names_the_commands(command: Command) -> None:
    said = command("--help")
    assert said.code == 0
    assert all(name in said.out for name in ("run", "fit", "score", "distance", "transfer", "list", "reproduce"))
    assert command().code == 2  # no command: the help, and not a success


def test_a_wrong_option_is_a_sentence(command: Command) -> None:
    said = command("run", "--epsilom", "2/255")
    assert said.code == 2 and said.err.startswith("Error: No such option: --epsilom")
    assert len(said.err.splitlines()) == 1 and "--help" in said.err


def test_the_module_and_the_installed_script_run_the_same_function() -> None:
    import bench.__main__

    assert bench.__main__.main is cli.main
    assert '"bench.cli:main"' in (Path(__file__).parents[2] / "pyproject.toml").read_text()


def test_records_say_what_was_typed(
    command: Command, folder: Path, tmp_path: Path, register: Register, no_plots: None
) -> None:
    register(fakes.Fake)
    command(*on(folder, tmp_path, "--epsilon", "1/255,2/255"))
    found = [json.loads(p.read_text()) for p in (tmp_path / "out").glob("records/*/*/*.json")]
    assert sorted(r["cell"]["attack"]["epsilon"] * 255 for r in found) == pytest.approx([1, 1, 2, 2])
    assert all("--epsilon 1/255,2/255" in r["command"] for r in found) and sys.argv[0] == "python -m bench"


def test_the_list_of_detectors_fits_on_a_screen_and_says_why_others_are_refused_when_asked(command: Command) -> None:
    short, long = command("list", "detectors"), command("list", "detectors", "--refused")
    assert len(short.out.splitlines()) <= 45 and "--refused" in short.out
    assert any(line.startswith("anomalib:winclip") for line in long.out.splitlines())
    assert long.out.count(" refused ") > 5 > short.out.count(" refused ")
