"""`python -m bench reproduce --run`: what is missing is measured, once, and stands in the table afterwards."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import bench_fakes as fakes
import pytest
import torch
from conftest import Said
from fake_certificates import make_table, write_certificate
from fake_records import write_record
from torch import Tensor, nn

from bench.cell import group
from bench.cli import reproduce_command, reproduce_tables, reproduced
from bench.errors import BenchError, CellError, DiskError
from bench.records import store
from detectors.noise import Noise
from detectors.settings import Settings

Command = Callable[..., Said]
OTHERS = ("ocr-gan", "spade", "cflow", "fastflow", "cfa", "pls", "rae")


@dataclass(frozen=True)
class TinySettings(Settings):
    """As many of FreeRAD's as the paper's tables change."""

    k: int | str = "auto"
    denoising_steps: int = 1
    filter_size: int = 5
    score_draws: int = 1


class Tiny(fakes.Noisy):
    """Stands for FreeRAD: it draws noise, and its scale falls with k."""

    name = "freerad"
    title = "FreeRAD"
    auto_choices: ClassVar[dict[str, tuple[int, ...]]] = {"k": (25, 50)}
    surrogate_holds_reconstruction = True

    def __init__(self, settings: TinySettings, image_size: int) -> None:
        super().__init__(settings, image_size)  # type: ignore[arg-type]
        self.weight = nn.Parameter(torch.zeros(()), requires_grad=False)

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> Any:
        return TinySettings()

    def choose(self, setting: str, value: int, normals: Tensor, *, seed: int) -> Any:
        return self

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        k = self.settings.k if isinstance(self.settings.k, int) else 50
        return super().value(x, noise) / k


class Projecting(fakes.Fake):
    """Stands for APAE: it has another gradient to follow."""

    name = "apae"
    title = "APAE"
    has_surrogate = True

    def _surrogate_score(self, x: Tensor, noise: Noise) -> Tensor:
        return 2 * self.value(x, noise)


@pytest.fixture
def reproduce(
    command: Command,
    register: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    small: Path,
    tmp_path: Path,
) -> Command:
    register(
        Tiny, Projecting, *(type("Other", (fakes.Fake,), {"name": name, "title": name.upper()}) for name in OTHERS)
    )
    monkeypatch.setattr(reproduced, "REFERENCE", tmp_path / "none")
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> Said:
        there = ("--dataset", "folder", "--data-root", small, "--preset", "quick", "--image-size", 16)
        return command("reproduce", *words, *there, "--out", tmp_path / "out", "--cache", tmp_path / "cache")

    return call


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fakes.write_folder(tmp_path_factory.mktemp("small"), ("bolt", "nut"), train=60, test=6, side=16)


def records(tmp_path: Path) -> list[Any]:
    found, problems = store.read_all(tmp_path / "out" / "records")
    assert not problems
    return found


@pytest.mark.usefixtures("no_plots")
def test_what_is_missing_is_run_once_and_fills_the_table(reproduce: Command, tmp_path: Path) -> None:
    before = reproduce("table8")
    assert before.code == 0 and before.out.count("not run") == 15 and "not measured: Different data sets" in before.out
    assert not (tmp_path / "out" / "records").exists()
    said = reproduce("table8", "--run")
    assert said.code == 0 and "not run" not in said.out, said.err
    found = records(tmp_path)
    ks = sorted((r.category, r.detector.settings["k"]) for r in found)
    assert ks == [(c, k) for c in ("bolt", "nut") for k in (25, 50, 100, 200, 300)]
    assert {r.epsilon for r in found} == {0.0}  # clean images alone: nothing is attacked
    assert "Ours: folder, which is not the paper's data" in " ".join(said.out.split())
    fits = Tiny.fits
    again = reproduce("table8", "--run")
    assert Tiny.fits == fits and again.out.count("python -m bench run") == 0 and len(records(tmp_path)) == 10
    text = (tmp_path / "out" / "table8.md").read_text()
    assert "**no**" in text or "**undecided**" in text  # of this score every k has the same ranks


def test_several_devices_share_what_is_run(reproduce: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    class AskedError(Exception):
        pass

    def execute(config: Any, console: Any, *, workers: int | None, devices: tuple[str, ...]) -> Any:
        raise AskedError(config.device, workers, devices)

    monkeypatch.setattr(reproduce_tables, "execute", execute)
    for words, asked in (
        (("--device", "cpu:0,cpu:1"), ("cpu:0", None, ("cpu:0", "cpu:1"))),
        (("--workers", 3), ("auto", 3, ("auto",))),
    ):
        said = reproduce("table8", "--run", *words)
        assert said.code == 1 and f"AskedError: {asked}" in said.err
    assert "--device" in reproduce("table8", "--run", "--device", "cpu:0,cuda:0").err


@pytest.mark.usefixtures("no_plots")
def test_a_run_that_was_interrupted_goes_on(
    reproduce: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, count = group.Group.run, [0]

    def stopping(self: group.Group, *given: Any) -> Any:
        count[0] += 1
        if count[0] == 4:
            raise KeyboardInterrupt
        return honest(self, *given)

    monkeypatch.setattr(group.Group, "run", stopping)
    assert reproduce("table9", "--run").code != 0
    first = {r.key: r.written for r in records(tmp_path)}
    assert len(first) == 3
    monkeypatch.setattr(group.Group, "run", honest)
    assert reproduce("table9", "--run").code == 0
    second = {r.key: r.written for r in records(tmp_path)}
    assert len(second) == 10 and all(second[key] == written for key, written in first.items())


@pytest.mark.usefixtures("no_plots")
def test_bpda_and_the_chosen_k_come_from_the_runs_that_the_tables_ask_for(reproduce: Command, tmp_path: Path) -> None:
    said = reproduce("table4", "table7", "--run", "--categories", "bolt")
    assert said.code == 0 and "not run" not in said.out, said.err
    follows = {(r.detector_name, r.norm, r.attack.settings["differentiate"]) for r in records(tmp_path) if r.epsilon}
    each = {"apae": ("auto", "surrogate"), "pls": ("score",), "freerad": ("score", "surrogate")}
    assert follows == {(name, norm, g) for name, known in each.items() for g in known for norm in ("linf", "l2")}
    assert not [r for r in records(tmp_path) if r.epsilon == 0]  # Table 4's cells say what k was chosen
    chosen = next(r.checkpoint["chosen"] for r in records(tmp_path) if r.detector_name == "freerad")
    assert chosen["setting"] == "k" and chosen["value"] in (25, 50) and "held-out" in chosen["judged_on"]
    table = (tmp_path / "out" / "table7.md").read_text()
    assert re.search(rf"\| bolt \| freerad \|.*\| {chosen['value']} \|", table)


def test_a_dry_run_of_all_names_every_cell_once_and_does_nothing(reproduce: Command, tmp_path: Path) -> None:
    said = reproduce("all", "--dry-run")
    assert said.code == 0, said.err
    assert not (tmp_path / "out").exists() and not (tmp_path / "cache").exists()
    for number in range(1, 15):
        assert f"Table {number}:" in said.out
    commands = [line for line in said.out.splitlines() if line.startswith("python -m bench run")]
    assert len(commands) == len(set(commands))
    assert sum("--bpda" in c for c in commands) == 2 and sum("--eot 20" in c for c in commands) == 2
    assert sum("denoising_steps=100" in c for c in commands) == 1  # of Tables 10 and 11
    assert "autoattack-rand-l2" in said.out and "--protocol strict-lite" in said.out
    assert "python -m bench certify --dataset folder" in said.out and "theorem-e1" in said.out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("table15",), "did you mean 'table1'"),
        (("figure3",), "did you mean 'figure"),
        (("table2", "--categories", "bold"), "did you mean 'bolt'"),
        (("table2", "--preset", "quik"), "did you mean 'quick'"),
        (("table2", "--protocol", "hard"), "protocol"),
        (("table2", "--dataset", "mvtec", "--categories", "screws"), "did you mean 'screw'"),
        (("figure2",), "python -m bench run"),
        (("figure2", "--detector", "spade"), "spade does not reconstruct"),
        (("figure2", "--detector", "sapde"), "did you mean 'spade'"),
        (("table2", "--image-size", "0"), "--image-size must lie in"),
        (("table2", "--limit", "0", "--dry-run"), "--limit must be at least 1"),
        (("table2", "--workers", "0"), "--workers must be at least 1"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(
    command: Command,
    register: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    small: Path,
    tmp_path: Path,
    words: tuple[str, ...],
    sentence: str,
) -> None:
    monkeypatch.setattr(reproduced, "REFERENCE", tmp_path / "none")
    monkeypatch.chdir(tmp_path)
    there = () if "--dataset" in words else ("--dataset", "folder", "--data-root", small)
    said = command("reproduce", *words, *there, "--out", tmp_path / "out")
    (line,) = said.err.strip().splitlines()
    assert said.code == 2 and sentence in line
    assert not (tmp_path / "out").exists()


def test_theorem_e1_needs_no_data(command: Command, tmp_path: Path) -> None:
    said = command("reproduce", "theorem-e1", "--out", tmp_path / "out")
    assert said.code == 0 and "Gaussians" in said.out
    assert (tmp_path / "out" / "theorem-e1.csv").exists()
    assert "theorem-e1 --run --dataset elpv --categories mono --preset quick\n" in said.out


def test_theorem_e1_attacks_nothing_without_run(reproduce: Command, small: Path, tmp_path: Path) -> None:
    said = reproduce("theorem-e1")
    assert said.code == 0 and Tiny.fits == 0 and not (tmp_path / "cache").exists()
    named = f"theorem-e1 --run --dataset folder --data-root {small} --categories bolt --preset quick --image-size 16\n"
    assert "On Gaussians alone; --run adds 60 attacked images:" in said.out and named in said.out
    assert "did you mean 'nut'" in reproduce("theorem-e1", "--categories", "nuts").err
    assert reproduce("theorem-e1", "--run", "--categories", "bolt").code == 0 and Tiny.fits == 1
    assert "12 clean images" in " ".join((tmp_path / "out" / "theorem-e1.md").read_text().split())


@pytest.fixture
def nowhere(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Without the records of a clone, and with no data set named."""
    monkeypatch.setattr(reproduced, "REFERENCE", tmp_path / "reference")
    monkeypatch.chdir(tmp_path)
    return lambda *words: command("reproduce", *words, "--out", tmp_path / "out", "--cache", tmp_path / "cache")


def test_table_6_finds_certificates_where_records_are_found(nowhere: Command, tmp_path: Path) -> None:
    table = make_table(radii=(0.0, 0.1))
    made = {"detector": "freerad", "sigma": 0.25}
    for name in ("reference/mine", "elsewhere"):
        write_certificate(tmp_path / name / "certificates", table, **made)
        write_record(tmp_path / name / "records")
    asked = ("table6", "--dataset", "elpv", "--preset", "quick", "--protocol", "paper", "--categories", "mono")
    elsewhere = tmp_path / "elsewhere"
    for named in ((), ("--records", elsewhere), *(("--records", elsewhere / n) for n in ("records", "certificates"))):
        said = nowhere(*asked, *named)
        assert said.code == 0 and "not run" not in said.out and "Certificates: " in said.out, named
        assert " 0.25 " in said.out and "--run" not in said.out
    (tmp_path / "moved").mkdir()
    (elsewhere / "certificates").rename(tmp_path / "moved" / "here")
    assert "not run" not in nowhere(*asked, "--records", tmp_path / "moved" / "here").out
    for name in ("elsewhere", "elsewhere/records"):
        said = nowhere(*asked, "--records", tmp_path / name)
        assert said.code == 0 and "not run" in said.out
        assert "There are no certificates in" in said.out and "`certify` wrote to (--out)" in " ".join(said.out.split())
        assert "does not count" not in said.out  # no record is taken for a certificate
    said = nowhere(*asked, "--records", tmp_path / "none")
    assert said.code == 2 and "There is no folder" in said.err


@pytest.mark.usefixtures("no_plots")
def test_table_6_is_certified_once_at_any_size(reproduce: Command, tmp_path: Path) -> None:
    asked = ("table6", "--categories", "bolt")
    before = reproduce(*asked)
    assert "not run" in before.out and "bench certify" in before.out
    planned = " ".join(reproduce(*asked, "--dry-run").out.split())
    assert "Estimated time in all" in planned and "Nothing was run." in planned and "passes left" in planned
    said = reproduce(*asked, "--run")
    assert said.code == 0 and "not run" not in said.out and "bench certify" not in said.out, said.err
    assert "was made with --rule paper (uncertified)" in " ".join(said.out.split())
    assert "Nothing is missing." in reproduce(*asked, "--dry-run").out
    limited = reproduce(*asked, "--run", "--limit", 50, "--records", tmp_path / "none")
    assert limited.code == 0 and "not run" not in limited.out


@pytest.mark.parametrize("table", ["table1", "table5", "table6", "table9", "table10"])
def test_any_category_of_mvtec_is_known_without_its_pictures(nowhere: Command, table: str) -> None:
    said = nowhere(table, "--categories", "zipper")
    assert said.code == 0 and "zipper" in said.out and "not run" in said.out, said.err
    said = nowhere(table, "--categories", "ziper")
    assert said.code == 2 and "did you mean 'zipper'" in said.err


def test_all_goes_on_past_what_cannot_be_shown(nowhere: Command) -> None:
    said = nowhere("all", "--categories", "screw")
    assert said.code == 0 and said.err == ""
    assert all(f"Table {number}:" in said.out for number in range(1, 14)) and "Table 14:" not in said.out
    last = said.out.strip().splitlines()[-3:]
    assert last[0].startswith("Not shown: table14: There is no category of cifar10 'screw'")
    assert [line.split(": ")[1] for line in last] == ["table14", "figure1", "figure2"]
    assert "--dataset mvtec --data-root DIR --categories screw" in last[1]
    assert nowhere("table14", "--categories", "screw").code == 2


def test_of_several_experiments_what_can_be_shown_is_and_the_others_are_errors(nowhere: Command) -> None:
    said = nowhere("figure1", "figure2", "theorem-e1", "table1", "--categories", "bottle,bottle", "--dataset", "mvtec")
    assert said.code == 2 and "On two Gaussians" in said.out and "Table 1:" in said.out
    assert said.out.count("bottle   spade") == 1, "a category that is named twice is one"
    assert [line.split(": ")[1] for line in said.err.strip().splitlines()] == ["figure1", "figure2"]


def test_a_dry_run_of_a_figure_or_the_theorem_names_its_cell_and_cost(reproduce: Command, nowhere: Command) -> None:
    for name in ("figure2", "theorem-e1"):
        said = reproduce(name, "--dry-run")
        assert said.code == 0 and "freerad" in said.out and "Nothing was run" in said.out
        assert "; --dataset says of" in nowhere(name, "--dry-run").out


def test_all_of_nothing_is_an_error(nowhere: Command) -> None:
    said = nowhere("all", "--categories", "scrw")
    lines = said.err.strip().splitlines()
    assert said.code == 2 and "did you mean 'screw'" in lines[0] and "table1, table2, " in lines[0]
    assert "Not shown" not in said.out


def test_what_a_limit_leaves_too_little_for_is_told_with_the_limit_that_would_do(reproduce: Command) -> None:
    for words in (("--run",), ("--dry-run",)):
        said = reproduce("table7", "--limit", 4, *words)
        (line,) = said.err.strip().splitlines()
        assert said.code == 2 and "freerad.k = auto" in line and "--holdout" not in line
        assert "--limit 4 leaves 0 of the 6 that there would be: leave --limit out, make it at least 40" in line
    assert reproduce("table7", "--limit", 40, "--dry-run").code == 0


def test_of_all_what_cannot_be_run_is_told_and_what_breaks_in_a_run_counts(
    reproduce: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: dict[str, Exception] = {"table7": BenchError("Too few."), "table9": BenchError("Too few.")}

    def show(name: str, *given: object) -> list[str]:
        if name in errors:
            raise errors[name]
        return []

    monkeypatch.setattr(reproduce_command, "_show", show)
    said = reproduce("all", "--run")
    assert said.code == 0 and said.err == "" and said.out.strip() == "Not shown: table7, table9: Too few."
    errors["figure2"] = CellError("It broke.")
    said = reproduce("all", "--run")
    assert said.code == 2 and said.err == "Error: figure2: It broke.\n" and "Not shown: table7" in said.out
    errors["table1"] = DiskError("The disk is full.")
    said = reproduce("all", "--run")
    assert said.code == 2 and said.err == "Error: The disk is full.\n" and said.out == ""


@pytest.mark.parametrize("figure", ["figure1", "figure2"])
def test_a_figure_of_a_category_that_is_none_is_told_the_nearest(nowhere: Command, figure: str) -> None:
    for words in (("--dataset", "elpv"), (), ("--dataset", "elpv", "--dry-run")):
        said = nowhere(figure, *words, "--categories", "nomo")
        assert said.code == 2 and "did you mean 'mono'" in said.err and "bench run" not in said.err
    said = nowhere(figure, "--categories", "zipper")
    assert "--dataset mvtec --data-root DIR --categories zipper" in said.err
    said = nowhere(figure, "--dataset", "mvtec", "--categories", "ziper")
    assert "did you mean 'zipper'" in said.err
