"""What a user asked for: what is understood, and what is refused before anything is done."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import pytest
import torch

from bench.errors import BenchError
from bench.plan import plan as planning
from bench.plan.request import Override, RunConfig, check_overrides, command_line, default_cache
from bench.records import environment


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("freerad.k=100", Override("freerad", "k", None, 100)),
        ("freerad.k@mono=25", Override("freerad", "k", "mono", 25)),
        ("freerad.training.learning_rate=1e-3", Override("freerad", "training.learning_rate", None, 1e-3)),
        ("spade.pixel_map=TRUE", Override("spade", "pixel_map", None, True)),
        ("freerad.k=auto", Override("freerad", "k", None, "auto")),
        ("spade.backbone=a=b", Override("spade", "backbone", None, "a=b")),
    ],
)
def test_a_setting_is_read_with_its_type(text: str, expected: Override) -> None:
    found = Override.parse(text)
    assert found == expected and type(found.value) is type(expected.value)


@pytest.mark.parametrize(
    "text", ["", "k=3", "freerad.k", "freerad.k=", ".k=3", "freerad.=3", "freerad.k@=3", "ae.epochs=nan", "ae.x=-inf"]
)
def test_a_setting_in_another_form_is_refused(text: str) -> None:
    with pytest.raises(BenchError, match="--set takes"):
        Override.parse(text)


def test_a_setting_for_a_category_wins_over_the_general_one() -> None:
    run = RunConfig(("freerad",), overrides=tuple(map(Override.parse, ("freerad.k@mono=25", "freerad.k=100"))))
    assert run.overrides_for("freerad", "mono") == {"k": 25}
    assert run.overrides_for("freerad", "poly") == {"k": 100}
    assert run.overrides_for("ae", "mono") == {}


@pytest.mark.parametrize(("text", "near"), [("frerad.k=3", "'freerad'"), ("freerad.k@mon=3", "'mono'")])
def test_a_setting_that_would_touch_nothing_is_refused_with_the_nearest_name(text: str, near: str) -> None:
    with pytest.raises(BenchError, match=f"did you mean {near}"):
        check_overrides((Override.parse(text),), ("freerad", "ae"), ("mono", "poly"))


def test_a_setting_for_a_category_that_is_not_run_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(BenchError, match="not in this run"):
        planning.make(
            fakes.config(
                tmp_path, folder, "brightness", categories=("bolt",), overrides=(Override("brightness", "k", "nut", 1),)
            )
        )


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"restarts": 0},
        {"eot": -1},
        {"limit": 0},
        {"batch_size": 0},
        {"image_size": 7},
        {"momentum": 1.0},
        {"momentum": -0.5},
        {"momentum": float("nan")},
        {"image_size": 100_000},
        {"step_size": 0.0},
        {"step_size": float("nan")},
        {"preset": "qick"},
        {"protocol": "papr"},
        {"holdout": -5},
    ],
)
def test_numbers_and_names_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BenchError):
        fakes.asked_for(detectors=("ae",), **wrong)


@pytest.mark.parametrize("device", ["cuda:99", "meta", "gpu", "cpu:x"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(BenchError, match="use --device cpu"):
        RunConfig(("ae",), device=device).torch_device()
    assert RunConfig(("ae",), device="cpu").torch_device() == torch.device("cpu")


def test_the_command_is_kept_as_it_can_be_typed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/some/where/bench/__main__.py", "run", "--data-root", "my data"])
    assert command_line() == "python -m bench run --data-root 'my data'"
    monkeypatch.setattr(sys, "argv", ["/usr/bin/radbench", "run"])
    assert command_line() == "radbench run"


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADBENCH_CACHE", "/a")
    assert default_cache() == Path("/a")
    monkeypatch.delenv("RADBENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert default_cache() == Path("/b/radbench")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache" / "radbench"


@pytest.fixture
def forgetful() -> Iterator[None]:
    """The commit is asked for anew, and what a test was told is forgotten."""
    environment.commit.cache_clear()
    yield
    environment.commit.cache_clear()


@pytest.mark.usefixtures("forgetful")
def test_a_process_names_the_commit_that_it_began_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADBENCH_COMMIT", "first")
    assert environment.commit() == "first (told)"
    monkeypatch.setenv("RADBENCH_COMMIT", "second")
    assert environment.describe(torch.device("cpu"))["commit"] == "first (told)"


@pytest.mark.usefixtures("forgetful")
def test_the_environment_names_versions_and_survives_a_missing_git(monkeypatch: pytest.MonkeyPatch) -> None:
    found = environment.describe(torch.device("cpu"))
    assert found["torch"] == torch.__version__.split("+")[0] or found["torch"]
    assert found["threads"] == torch.get_num_threads()

    def no_git(*words: object, **options: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr("subprocess.run", no_git)
    environment.commit.cache_clear()
    assert environment.commit() == ""


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize(
    ("file", "configured", "is_clean"),
    [
        ("", {}, True),
        ("detectors/__pycache__/own.cpython-311.pyc", {}, True),  # what Python itself leaves
        ("results/run.json", {}, True),
        ("detectors/own.py", {}, False),
        ("detectors/own.py", {"status.showUntrackedFiles": "no"}, False),
        ("detectors/family/own.py", {"status.showUntrackedFiles": "no"}, False),
        ("detectors/own.json", {"status.showUntrackedFiles": "no"}, False),
        ("detectors/own.py", {"core.excludesFile": "ignored"}, False),
    ],
)
def test_a_file_that_no_commit_tells_of_is_a_change_whatever_git_is_told_to_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, configured: dict[str, str], is_clean: bool
) -> None:
    """Else the batches of a killed attack would be taken up after that file was changed."""
    monkeypatch.delenv("RADBENCH_COMMIT", raising=False)
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "bench" / "records" / "environment.py"))

    def git(*words: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True)

    (tmp_path / "detectors").mkdir()
    (tmp_path / "detectors" / "known.py").touch()
    (tmp_path / ".gitignore").write_text("__pycache__/\n")
    (tmp_path / "ignored").write_text("own.py\n")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "known")
    for name, value in configured.items():
        git("config", name, str(tmp_path / value) if value == "ignored" else value)
    if file:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert re.fullmatch("[0-9a-f]{40}" if is_clean else r"[0-9a-f]{40}\+changes", environment.commit())


def test_a_plan_takes_from_the_protocol_only_what_an_attack_has(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, register: Callable[..., None]
) -> None:
    """An attack without gradient steps is one file more, and none is changed for it."""
    import dataclasses

    from attacks import registry as attack_registry
    from attacks.base import Attack, AttackSettings

    @dataclasses.dataclass(frozen=True)
    class Queries(AttackSettings):
        queries: int = 10

    class Black(Attack):
        name, title, summary, norm, settings_class = "black", "Black", "A box.", "linf", Queries

        def _run(self, *inputs: Any, **sources: Any) -> Any:
            raise NotImplementedError

    register(fakes.Fake)
    attack_registry.names()
    monkeypatch.setitem(attack_registry._REGISTRY, "black", Black)
    plan = planning.make(fakes.config(tmp_path, folder, "fake", attacks=("black", "pgd-linf"), steps=None))
    assert [a.describe().get("steps") for a in plan.attacks] == [None, 20]
    asked: dict[str, Any]
    for asked in ({"steps": 5}, {"restarts": 2}, {"random_start": True}, {"keep": "last"}):
        (name,) = asked
        with pytest.raises(BenchError, match=f"--{name.replace('_', '-')} is for .* this run attacks with black"):
            planning.make(fakes.config(tmp_path, folder, "fake", attacks=("black",), **({"steps": None} | asked)))


@pytest.mark.usefixtures("forgetful")
def test_a_copy_of_the_tree_is_told_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADBENCH_COMMIT", "0123abc\n")
    assert environment.commit() == "0123abc (told)"
