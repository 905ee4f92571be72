"""What a killed attack leaves: its batches, taken up to the last bit, by the same code for the same images alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import numpy as np
import pytest
import torch
from test_known_noise import Drowned
from torch import Tensor

import attacks
from attacks.base import Attack
from bench.cell.attack import Draws, Outcome, run_cell
from bench.cell.unfinished import Unfinished
from bench.records import environment
from detectors import registry

SIDE = 16
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SETTINGS = {
    "autoattack-rand-linf": {"iterations": 4, "mean_draws": 2, "selection_draws": 4},
    "autoattack-linf": {"iterations": 4, "starts": 2, "other_starts": 1, "queries": 20},
    "pgd-linf": {"steps": 4},
}


@pytest.fixture(autouse=True)
def committed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "commit", lambda: COMMIT)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of how many images each call of an attack was; one that has calls left dies after them."""
    seen: list[int] = []
    for cls in {type(member) for name in SETTINGS for member in (made(name), *made(name).members(detector(name)))}:
        monkeypatch.setattr(cls, "run", _counted(cls.run, seen))
    return seen


def _counted(run: Callable[..., Any], seen: list[int]) -> Callable[..., Any]:
    def counted(self: Attack, detector: Any, x: Tensor, *more: Any, **options: Any) -> Any:
        seen.append(len(x))
        return run(self, detector, x, *more, **options)

    return counted


def made(name: str, epsilon: float = 0.004) -> Attack:
    return attacks.get(name, image_size=SIDE, epsilon=epsilon, **SETTINGS[name])


def detector(name: str) -> Any:
    return fakes.fitted(Drowned if "rand" in name else fakes.Linear, SIDE)


def outcome(name: str, kept: Unfinished | None, *, dies_after: int | None = None, **changed: Any) -> Outcome:
    test = fakes.image_set(12, 12, side=SIDE)
    done = []

    def tick(images: float, note: str) -> None:
        done.append(images)
        if dies_after is not None and len(done) > dies_after:
            raise KeyboardInterrupt

    return run_cell(
        detector(name),
        made(name, changed.get("epsilon", 0.004)),
        test,
        test.subset(range(11)),
        Draws(4, changed.get("seed", 0)),
        batch_size=5,
        device=torch.device("cpu"),
        tick=tick,
        early_stop="rand" not in name,
        unfinished=kept,
    )


def kept_in(folder: Path, least: float = 0.0) -> Unfinished:
    return Unfinished(folder / "cell", least)


@pytest.mark.parametrize("name", list(SETTINGS))
def test_an_attack_that_was_killed_goes_on_and_finds_the_same_to_the_last_bit(
    tmp_path: Path, asked: list[int], name: str
) -> None:
    whole = outcome(name, None)
    unbroken, dies_after = len(asked), 4
    with pytest.raises(KeyboardInterrupt):
        outcome(name, kept_in(tmp_path), dies_after=dies_after)
    before = len(asked) - unbroken
    again = outcome(name, kept_in(tmp_path))
    assert len(asked) - unbroken - before <= unbroken - dies_after
    for part in fields(Outcome):
        if part.name not in ("seconds", "score_seconds", "members"):
            assert_same(getattr(again, part.name), getattr(whole, part.name), part.name)
    assert again.members == whole.members


def assert_same(found: Any, wanted: Any, what: str) -> None:
    if isinstance(wanted, Tensor):
        assert torch.equal(found, wanted), what
    elif isinstance(wanted, np.ndarray):
        assert np.array_equal(found, wanted, equal_nan=wanted.dtype.kind == "f"), what
    elif isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for name in wanted:
            assert_same(found[name], wanted[name], name)
    else:
        assert found == wanted, what


def test_the_seconds_of_what_was_taken_up_are_the_cells_own(tmp_path: Path) -> None:
    first, second = kept_in(tmp_path), kept_in(tmp_path)
    outcome("pgd-linf", first)
    assert first.seconds == {}
    second_outcome = outcome("pgd-linf", second)
    assert second.seconds["attack"] > 0
    assert second_outcome.seconds["attack"] >= round(second.seconds["attack"], 2)


@pytest.mark.parametrize("changed", [{"seed": 1}, {"epsilon": 0.005}])
def test_of_another_attack_nothing_is_taken_up(tmp_path: Path, asked: list[int], changed: dict[str, Any]) -> None:
    outcome("pgd-linf", kept_in(tmp_path))
    before = len(asked)
    outcome("pgd-linf", kept_in(tmp_path), **changed)
    assert len(asked) == 2 * before


def test_another_commit_takes_up_nothing(tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    outcome("pgd-linf", kept_in(tmp_path))
    before = len(asked)
    monkeypatch.setattr(environment, "commit", lambda: COMMIT[::-1])
    outcome("pgd-linf", kept_in(tmp_path))
    assert len(asked) == 2 * before


def test_nothing_is_kept_where_no_commit_tells_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient that its author has mended since would leave the images of the cut one: a robust AUC too high."""
    honest, strangers = registry.create("brightness", image_size=SIDE), detector("pgd-linf")
    attack, ensemble = made("pgd-linf"), made("autoattack-linf")
    assert Unfinished.of_cell(tmp_path, "key", honest, attack) is not None
    assert Unfinished.of_cell(tmp_path, "key", honest, ensemble) is not None
    assert Unfinished.of_cell(tmp_path, "key", strangers, attack) is None
    holding = registry.create("ae", image_size=32)
    holding.add_module("inner", strangers)
    assert Unfinished.of_cell(tmp_path, "key", holding, attack) is None
    monkeypatch.setattr(type(attack), "name", "torchattacks:PGD")
    assert Unfinished.of_cell(tmp_path, "key", honest, attack) is None
    monkeypatch.undo()
    for commit in ("", COMMIT + "+changes", COMMIT + " (told)"):
        monkeypatch.setattr(environment, "commit", lambda told=commit: told)
        assert Unfinished.of_cell(tmp_path, "key", honest, attack) is None


def test_what_is_damaged_is_done_again(tmp_path: Path, asked: list[int]) -> None:
    whole = outcome("pgd-linf", kept_in(tmp_path))
    before = len(asked)
    files = sorted((tmp_path / "cell").glob("*.safetensors"))
    files[0].write_bytes(files[0].read_bytes()[:-1] + b"x")
    files[1].with_suffix(".json").write_text("{}")
    again = outcome("pgd-linf", kept_in(tmp_path))
    assert 0 < len(asked) - before < before
    assert torch.equal(again.adversarial, whole.adversarial)


def test_what_was_quick_is_not_kept_and_a_folder_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    whole = outcome("pgd-linf", kept_in(tmp_path, least=60.0))
    assert not (tmp_path / "cell").exists()
    (tmp_path / "cell").write_text("no folder")
    assert torch.equal(outcome("pgd-linf", kept_in(tmp_path)).adversarial, whole.adversarial)


def test_nothing_is_left_once_the_record_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[list[Path]] = []
    clear = Unfinished.clear

    def clearing(self: Unfinished) -> None:
        found.append(list(self.folder.glob("*.safetensors")))
        assert self.folder.parent == tmp_path / "cache" / "unfinished"
        clear(self)

    monkeypatch.setattr(Unfinished, "of_cell", lambda cache, key, *_: Unfinished(cache / "unfinished" / key, 0.0))
    monkeypatch.setattr(Unfinished, "clear", clearing)
    result = fakes.run(fakes.config(tmp_path, fakes.write_folder(tmp_path / "data"), "brightness"))
    assert [record.status for record in result.records] == ["ok"]
    assert len(found) == 1 and found[0] and not any((tmp_path / "cache" / "unfinished").iterdir())
