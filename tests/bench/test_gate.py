"""The gate: a detector that breaks the contract fails its cell with the reason, and gets no figure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import bench_fakes as fakes
import pytest
import torch
import zoo
from torch import Tensor

import bench
from attacks.threat import L2, LInf, ScaledL2
from bench.cell import gate
from bench.errors import CellError
from detectors import contract
from detectors.noise import Noise, NoiseSeed

Register = Callable[..., None]
CPU = torch.device("cpu")
THREAT = LInf(2 / 255)
SIDE = 16
TEST = fakes.image_set(3, 3, side=SIDE)


def passes(cls: type[zoo.Fake]) -> contract.Passed:
    return gate.check(zoo.fitted(cls, SIDE), TEST, CPU, THREAT)


# -- the contract, on pictures of a test set --------------------------------------------------------------------------


def test_it_is_the_contracts_check_on_two_test_images_of_each_label() -> None:
    detector, index = zoo.fitted(zoo.Kinky, SIDE), [0, 3, 1, 4]
    found = gate.check(detector, TEST, CPU, ScaledL2(2.0))
    ball = L2(2.0 * SIDE / 256)
    names = [TEST.ids[i] for i in index]
    assert found == contract.check(detector, TEST.pixels(index), TEST.labels[index], ball=ball, names=names)


def test_it_hands_the_images_names_over() -> None:
    passes(zoo.PureNoise)
    assert zoo.PureNoise.sources[-1].image_ids == tuple(TEST.ids[i] for i in (0, 3, 1, 4))
    assert passes(zoo.Blind).describe() == {"images": 4, "remark": "it sees no pixels"}


def test_one_image_of_each_class_is_enough() -> None:
    few = TEST.subset([0, 5])
    assert gate.check(zoo.fitted(zoo.Kinky, SIDE), few, CPU, THREAT).images == 2


@pytest.mark.parametrize("fault", [fault for fault in zoo.FAULTS if not fault.case], ids=str)
def test_a_breach_of_the_contract_is_the_reason_of_a_cell(fault: zoo.Fault) -> None:
    with pytest.raises(CellError, match=fault.sentence):
        gate.check(zoo.fitted(fault.detector, 32), fakes.image_set(3, 3, side=32), CPU, THREAT)


def test_a_file_in_the_detectors_folder_is_looked_at_too(monkeypatch: pytest.MonkeyPatch) -> None:
    insider = zoo.grey_levels(12)
    monkeypatch.setattr(insider, "__module__", "detectors.insider")
    with pytest.raises(CellError, match="its score jumps"):
        passes(insider)


def test_all_images_of_what_sees_no_pixels_are_looked_at() -> None:
    noise = NoiseSeed(0).source("blind", TEST.ids)
    gate.check_blind(zoo.fitted(zoo.Blind, SIDE), TEST.pixels(), noise)
    with pytest.raises(CellError, match="sees_pixels = False, which excuses it"):
        gate.check_blind(zoo.fitted(zoo.Blindfold, SIDE), TEST.pixels(), noise)


def test_who_had_no_finite_score_at_the_gate_must_have_none_later() -> None:
    class OnlyBytes(zoo.Fake):
        """Finite on pictures of 8 bits alone."""

        def value(self, x: Tensor, noise: Noise) -> Tensor:
            whole = ((x * 255).round() - x * 255).abs().amax(dim=(1, 2, 3)) < 1e-3
            return torch.where(whole, zoo.squares(x), torch.nan)

    passed = passes(OnlyBytes)
    with pytest.raises(CellError, match="was not on the same with a little grain"):
        gate.confirm(passed, "only-bytes")
    gate.confirm(passes(zoo.Smooth), "smooth")


# -- where it stands --------------------------------------------------------------------------------------------------


def test_a_stopped_detector_has_a_reason_and_no_figure_and_the_others_go_on(
    tmp_path: Path, folder: Path, register: Register
) -> None:
    class Wrong(zoo.HalfDetached):
        name = "wrong"

    register(Wrong, fakes.Fake)
    run = fakes.config(tmp_path, folder, "wrong", "fake", categories=("bolt",))
    wrong, fake = fakes.run(run).records
    assert (wrong.status, wrong.robust, wrong.clean) == ("failed", None, None)
    assert "wrong breaks the contract" in wrong.reason and "%" in wrong.reason
    assert fake.ok


def test_evaluate_refuses_it_too(folder: Path) -> None:
    detector = zoo.HalfDetached(zoo.FakeSettings(), SIDE).fit(torch.rand(4, 3, SIDE, SIDE), seed=0)
    with pytest.raises(CellError, match="gradient is wrong"):
        bench.evaluate(detector, "folder", "bolt", data_root=folder, limit=2)
