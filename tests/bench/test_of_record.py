"""From a record back to its run: the cell that is planned from it has the very key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import pytest

from bench.errors import BenchError
from bench.plan import plan as planning
from bench.plan.cells import cell_of, subset_of
from bench.plan.of_record import Machine, differences, planned_cell, request_of
from bench.plan.request import Override
from bench.records import store
from bench.records.cell import Cell
from bench.records.record import Record

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
Register = Callable[..., None]


def planned(record: Record, machine: Machine) -> Cell:
    """What is planned from a record alone, on the checkpoint that it names; nothing is decoded."""
    plan = planning.make(request_of(record.cell, machine))
    return planned_cell(plan, record.cell, record.detector.checkpoint_sha256)


def committed() -> list[Record]:
    """Of the committed records whose data a package brings, one of each detector."""
    records, _ = store.read_all(REFERENCE / "elpv-quick" / "records")
    first: dict[str, Record] = {}
    for record in records:
        first.setdefault(record.detector_name, record)
    return sorted(first.values(), key=lambda record: record.detector_name)


@pytest.mark.parametrize("record", committed(), ids=lambda record: record.detector_name)
def test_the_cell_of_a_committed_record_is_planned_again_with_its_very_key(record: Record, tmp_path: Path) -> None:
    found = planned(record, Machine(cache=tmp_path))
    assert differences(record.cell, found) == []
    assert found.key == record.key


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"steps": 7, "restarts": 2, "random_start": True},
        {"step_size": 0.001, "keep": "last"},
        {"differentiate": "score"},
        {"epsilons": (0.01,), "limit": 4, "seed": 5, "fit_seed": 3, "complete": True},
        {"epsilons": (0.01, 0.02), "sweep": True},
        {"attacks": ("pgd-l2",), "protocol": "paper", "steps": None},
        {"attacks": ("autoattack-linf",), "protocol": "strict-lite", "steps": None},
        {"holdout": 0},
    ],
    ids=lambda asked: "-".join(asked) or "as it is",
)
def test_whatever_was_asked_of_a_run_follows_from_its_records(
    asked: dict[str, Any], folder: Path, tmp_path: Path, register: Register
) -> None:
    register(fakes.Linear)
    run = fakes.config(tmp_path, folder, "linear", categories=("bolt",), **asked)
    plan = planning.make(run)
    stated = []
    for attack in plan.attacks_on("linear"):
        like = linear_cell(plan, attack.threat.at(plan.image_size).epsilon)
        again = planning.make(request_of(like, Machine(data_root=folder, device="cpu", cache=tmp_path)))
        assert planned_cell(again, like, "c" * 64).key == like.key
        stated.append(like)
    assert len({cell.key for cell in stated}) == len(stated) > 0


def linear_cell(plan: planning.Plan, epsilon: float) -> Cell:
    """The cell of a plan's linear detector at a radius, as a run states it."""
    name = plan.categories[0]
    attack = next(a for a in plan.attacks if a.threat.at(plan.image_size).epsilon == epsilon)
    labels = plan.dataset.test_labels(name, per_class=plan.per_class)
    subset = subset_of(labels, plan.per_class, plan.run.limit, is_matched=plan.dataset.is_matched(name))
    of_fit = plan.at(plan.fit_seeds("linear")[0])
    return cell_of(of_fit, name, plan.built["linear", name], attack, "c" * 64, subset)


def test_settings_that_are_not_the_presets_are_set_again(folder: Path, tmp_path: Path, register: Register) -> None:
    register(fakes.Linear)
    run = fakes.config(
        tmp_path, folder, "linear", categories=("bolt",), overrides=(Override("linear", "knob", None, 4),)
    )
    cell = linear_cell(planning.make(run), 2 / 255)
    assert cell.detector.settings["knob"] == 4
    again = request_of(cell, Machine(data_root=folder, cache=tmp_path))
    assert again.overrides == (Override("linear", "knob", None, 4),)


def test_what_differs_is_named_with_both_values(folder: Path, tmp_path: Path, register: Register) -> None:
    register(fakes.Linear)
    run = fakes.config(tmp_path, folder, "linear", categories=("bolt",))
    cell = linear_cell(planning.make(run), 2 / 255)
    older = replace(cell, protocol=replace(cell.protocol, version=1), fingerprint="0" * 64)
    said = differences(older, cell)
    assert f"protocol.version is 1 in the record and {cell.protocol.version} here" in said
    assert any(sentence.startswith("fingerprint is '000") for sentence in said)


def test_a_detector_that_is_not_here_is_a_sentence(folder: Path, tmp_path: Path, register: Register) -> None:
    register(fakes.Linear)
    cell = linear_cell(planning.make(fakes.config(tmp_path, folder, "linear", categories=("bolt",))), 2 / 255)
    stranger = replace(cell, detector=replace(cell.detector, name="nobodys"))
    with pytest.raises(Exception, match="nobodys") as raised:
        request_of(stranger, Machine(data_root=folder, cache=tmp_path))
    assert not isinstance(raised.value, BenchError) or raised.value.exit_code == 2
