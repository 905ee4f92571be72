"""Fitted detectors: what a checkpoint depends on, and what happens to one that is damaged."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import bench_fakes as fakes
import pytest
import torch

from bench.cell import fitting
from bench.data import registry as datasets
from bench.errors import BenchError, RecordError
from bench.plan.build import build
from bench.plan.checkpoints import dependencies, key_of
from bench.plan.request import Override, RunConfig
from bench.plan.split import training_data
from detectors import checkpoint
from detectors.errors import CheckpointError, DetectorError

Register = Callable[..., None]


def key(run: RunConfig, *, name: str = "fake", category: str = "bolt") -> str:
    dataset = datasets.get(run.dataset, run.data_root)
    side = run.image_size or 128
    data = training_data(dataset, category, side, run)
    detector = build(name, category, side, run)
    return key_of(dependencies(detector, dataset, category, data.fit.ids, run))


def obtained(run: RunConfig, *, name: str = "fake", category: str = "bolt") -> fitting.Fitted:
    dataset = datasets.get(run.dataset, run.data_root)
    data = training_data(dataset, category, 32, run)
    return fitting.obtain(build(name, category, 32, run), dataset, category, data, run)


def repeated(path: Path, **changes: Any) -> None:
    """Write into a checkpoint's description."""
    where = checkpoint.description_path(path)
    where.write_text(json.dumps(json.loads(where.read_text()) | changes))


# -- the key ----------------------------------------------------------------------------------------------------------


def test_the_key_changes_with_whatever_a_fit_depends_on(
    tmp_path: Path, folder: Path, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(fakes.Fake, fakes.Linear)
    run = fakes.config(tmp_path, folder)
    keys = {
        "as it is": key(run),
        "category": key(run, category="nut"),
        "detector": key(run, name="linear"),
        "seed": key(dataclasses.replace(run, fit_seed=1)),
        "limit": key(dataclasses.replace(run, limit=5)),
        "side": key(dataclasses.replace(run, image_size=24)),
        "setting": key(dataclasses.replace(run, overrides=(Override("fake", "knob", "bolt", 2),))),
    }
    monkeypatch.setattr(fakes.Fake, "revision", 2)
    keys["revision"] = key(run)
    monkeypatch.setattr(fakes.Fake, "frozen_hashes", lambda self: {"backbone": "0" * 64})
    keys["pretrained weights"] = key(run)
    assert len(set(keys.values())) == len(keys), keys


def test_the_key_changes_with_one_byte_of_the_data_and_not_with_its_place(tmp_path: Path, register: Register) -> None:
    register(fakes.Fake)
    here, there = (fakes.write_folder(tmp_path / place / "data") for place in ("here", "there"))
    first, second = (key(fakes.config(tmp_path, data)) for data in (here, there))
    assert first == second
    picture = here / "bolt/train/good/003.png"
    picture.write_bytes(picture.read_bytes() + b"\0")
    assert key(fakes.config(tmp_path, here)) != first


def test_the_key_does_not_change_with_what_a_fit_does_not_depend_on(
    tmp_path: Path, folder: Path, register: Register
) -> None:
    register(fakes.Fake)
    run = fakes.config(tmp_path, folder)
    same = [
        {"batch_size": 3},
        {"device": "auto"},
        {"out": tmp_path / "x"},
        {"cache": tmp_path / "y"},
        {"seed": 9},
        {"attack_settings": {"steps": 7}},
        {"attacks": ("pgd-l2",)},
        {"protocol": "paper"},
        {"overrides": (Override("fake", "knob", "nut", 2), Override("other", "knob", None, 2))},
        {"refit": True},
    ]
    assert {key(dataclasses.replace(run, **change)) for change in same} == {key(run)}


def test_held_out_normals_are_a_tenth_and_never_fitted_on(tmp_path: Path, register: Register) -> None:
    register(fakes.Fake)
    data = fakes.write_folder(tmp_path / "data", train=45, side=8)
    split = training_data(datasets.get("folder", data), "bolt", 8, fakes.config(tmp_path, data))
    assert (len(split.fit), len(split.held_out)) == (41, 4)
    assert not set(split.fit.ids) & set(split.held_out.ids)
    paper = fakes.config(tmp_path, data, preset="paper")
    assert len(training_data(datasets.get("folder", data), "bolt", 8, paper).held_out) == 0


# -- obtaining --------------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_fitted_once_and_then_cached_until_refit(
    tmp_path: Path, folder: Path, register: Register
) -> None:
    register(fakes.Fake)
    run = fakes.config(tmp_path, folder)
    found = [obtained(run), obtained(run), obtained(dataclasses.replace(run, refit=True)), obtained(run)]
    assert [f.origin for f in found] == ["fitted", "cached", "fitted", "cached"]
    assert fakes.Fake.fits == 2
    assert len({f.tensors_sha256 for f in found}) == 1


def test_a_checkpoint_tells_how_it_was_made(tmp_path: Path, folder: Path, register: Register) -> None:
    register(fakes.Fake)
    found = obtained(fakes.config(tmp_path, folder, fit_seed=4))
    told = checkpoint.read_description(found.path)
    assert told["depends"]["seed"] == 4 and told["depends"]["category"] == "bolt" and told["key"] == found.key
    assert told["environment"]["torch"] and "commit" in told["environment"]
    assert told["seconds"] >= 0 and told["command"] and told["notice"] and told["written"]
    assert told["tensors_sha256"] == found.tensors_sha256


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def cut_description(path: Path) -> None:
    where = checkpoint.description_path(path)
    where.write_text(where.read_text()[:40])


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_byte,
        cut,
        cut_description,
        lambda path: repeated(path, key="0" * 64),  # of another fit
        lambda path: repeated(path, seconds="soon"),
        lambda path: repeated(path, settings={"knob": 5}),
        lambda path: repeated(path, format=99),
    ],
)
def test_a_cached_checkpoint_that_was_damaged_is_fitted_again_with_a_warning(
    tmp_path: Path, folder: Path, register: Register, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    register(fakes.Fake)
    run = fakes.config(tmp_path, folder)
    first = obtained(run)
    damage(first.path)
    with caplog.at_level(logging.WARNING):
        again = obtained(run)
    assert (again.origin, again.tensors_sha256) == ("fitted", first.tensors_sha256)
    assert "fit" in caplog.text
    assert obtained(run).origin == "cached"


class Shipping(fakes.Fake):
    """Brings a checkpoint."""

    name = "shipping"
    box: ClassVar[list[Path]] = []

    @classmethod
    def shipped_checkpoints(cls) -> list[Path]:
        return cls.box


@pytest.fixture
def shipped(tmp_path: Path, folder: Path, register: Register) -> Path:
    """A shipped checkpoint for the category bolt."""
    register(Shipping)
    Shipping.box = []
    made = obtained(fakes.config(tmp_path / "factory", folder), name="shipping")
    Shipping.box = [fitting.export(made, tmp_path / "package", "folder-bolt-quick")]
    Shipping.fits = 0
    return Shipping.box[0]


def test_a_shipped_checkpoint_is_used_where_it_fits_and_refit_makes_a_new_one(
    tmp_path: Path, folder: Path, shipped: Path
) -> None:
    run = fakes.config(tmp_path, folder)
    assert obtained(run, name="shipping").origin == "shipped" and Shipping.fits == 0
    assert obtained(run, name="shipping", category="nut").origin == "fitted"
    again = obtained(dataclasses.replace(run, refit=True), name="shipping")
    assert again.origin == "fitted" and again.path != shipped and Shipping.fits == 2


@pytest.mark.parametrize("damage", [flip_a_byte, cut, cut_description])
def test_a_tampered_shipped_checkpoint_is_refused_not_replaced_in_silence(
    tmp_path: Path, folder: Path, shipped: Path, damage: Callable[[Path], None]
) -> None:
    damage(shipped)
    run = fakes.config(tmp_path, folder)
    with pytest.raises(CheckpointError, match=r"shipp|came with|package"):
        obtained(run, name="shipping")
    assert Shipping.fits == 0
    (record,) = fakes.run(dataclasses.replace(run, detectors=("shipping",), categories=("bolt",))).records
    assert record.status == "failed" and "install" in record.reason
    assert obtained(dataclasses.replace(run, refit=True), name="shipping").origin == "fitted"


def test_export_copies_both_files_and_refuses_odd_names(tmp_path: Path, folder: Path, register: Register) -> None:
    register(fakes.Fake)
    made = obtained(fakes.config(tmp_path, folder))
    path = fitting.export(made, tmp_path / "x", "folder-bolt-quick")
    assert path.read_bytes() == made.path.read_bytes()
    assert checkpoint.read_description(path) == checkpoint.read_description(made.path)
    for stem in ("", "../up", ".hidden"):
        with pytest.raises(BenchError, match="file name"):
            fitting.export(made, tmp_path / "x", stem)


def test_a_failed_fit_leaves_no_checkpoint_and_no_folder(tmp_path: Path, folder: Path, register: Register) -> None:
    register(fakes.BrokenFit)
    with pytest.raises(IndexError):
        obtained(fakes.config(tmp_path, folder), name="broken-fit")
    assert [p for p in (tmp_path / "cache").rglob("*") if not p.is_dir() or p.suffix == ".work"] == []


def test_what_a_fit_leaves_in_its_workdir_goes_when_the_checkpoint_is_there(
    tmp_path: Path, folder: Path, register: Register
) -> None:
    class Messy(fakes.Fake):
        name = "messy"

        def _fit(self, normals: torch.Tensor, *, workdir: Path | None, **rest: Any) -> None:  # type: ignore[override]
            assert workdir is not None
            (workdir / "deep").mkdir()
            (workdir / "deep" / "snapshot").write_text("...")
            super()._fit(normals, workdir=workdir, **rest)

    register(Messy)
    obtained(fakes.config(tmp_path, folder), name="messy")
    assert {p.suffix for p in (tmp_path / "cache/checkpoints/messy").iterdir()} == {".json", ".safetensors"}


def test_building_a_detector_leaves_the_callers_random_numbers_alone(tmp_path: Path, folder: Path) -> None:
    before = torch.get_rng_state()
    build("ae", "bolt", 32, fakes.config(tmp_path, folder))
    assert torch.equal(before, torch.get_rng_state())


def test_a_detector_that_cannot_be_built_is_a_sentence(tmp_path: Path, folder: Path, register: Register) -> None:
    class Unbuildable(fakes.Fake):
        name = "unbuildable"

        def __init__(self, settings: fakes.FakeSettings, image_size: int) -> None:
            raise KeyError("layer9")

    register(Unbuildable, fakes.Fake)
    with pytest.raises(DetectorError, match=r"unbuildable cannot be built.*--detectors"):
        build("unbuildable", "bolt", 32, fakes.config(tmp_path, folder))
    with pytest.raises(DetectorError, match="no setting"):
        odd = (Override("fake", "knop", None, 1),)
        build("fake", "bolt", 32, fakes.config(tmp_path, folder, overrides=odd))


def test_what_is_learned_beside_buffers_and_parameters_is_missed_at_once(
    tmp_path: Path, folder: Path, register: Register
) -> None:
    """Not by the next run, which finds the checkpoint."""

    class Forgetful(fakes.Fake):
        name = "forgetful"

        def _fit(self, normals: torch.Tensor, **more: object) -> None:  # type: ignore[override]
            self.mean = normals.mean()  # no buffer

        def value(self, x: torch.Tensor, noise: object) -> torch.Tensor:
            return x.mean(dim=(1, 2, 3)) - self.mean

    register(Forgetful)
    (record,) = fakes.run(fakes.config(tmp_path, folder, "forgetful", categories=("bolt",))).records
    assert not record.ok and "no attribute 'mean'" in record.reason


# -- what is in the cache is a source only where it is what it should be ----------------------------------------------


def of_halves(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}


def of_nan(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: torch.full_like(value, torch.nan) for key, value in tensors.items()}


def without_one(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(sorted(tensors.items())[1:])


@pytest.mark.parametrize("changed", [of_halves, of_nan, without_one])
def test_a_refused_file_is_no_source_of_the_fit_that_replaces_it(
    tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture, changed: Callable[[Any], Any]
) -> None:
    """All of the cache's files are changed, and their hashes with them: the checkpoint, and the network that AE and
    APAE share."""
    run = fakes.config(tmp_path, folder, overrides=(Override("ae", "epochs", None, 1),))
    first = obtained(run, name="ae")
    for path in (tmp_path / "cache").rglob("*.safetensors"):
        tensors, description = checkpoint.read(path)
        checkpoint.write(path, changed(tensors), description)
    with caplog.at_level(logging.WARNING):
        again = obtained(run, name="ae")
    assert again.origin == "fitted" and again.tensors_sha256 == first.tensors_sha256
    assert "network_from" not in again.detector.fit_report and "trained anew" in caplog.text
    assert obtained(run, name="ae").origin == "cached"


@pytest.mark.parametrize("odd", ["{}.safetensors", "{}.json", "{}.work"])
def test_what_stands_in_the_way_in_the_cache_is_no_fault_of_the_detector(
    tmp_path: Path, folder: Path, register: Register, odd: str
) -> None:
    register(fakes.Fake)
    run = fakes.config(tmp_path, folder)
    path = obtained(run).path
    for left in path.parent.iterdir():
        left.unlink()
    place = path.parent / odd.format(path.stem)
    place.write_bytes(b"") if odd.endswith("work") else (place / "deep").mkdir(parents=True)
    with pytest.raises(RecordError, match=f"{path.parent}.*same command again"):
        obtained(run)


def test_a_run_beside_this_one_that_stores_other_bits_at_the_same_time_does_not_make_it_fail(
    tmp_path: Path, folder: Path, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is recorded is the hash of what was loaded, not of what lies in the cache in the end."""
    register(fakes.Fake)
    run = fakes.config(tmp_path, folder)
    first = obtained(run)
    cached = first.path
    other = {key: value + 1 for key, value in checkpoint.read(cached)[0].items()}
    description = checkpoint.read_description(cached)
    really = checkpoint.move

    def late(path: Path, target: Path) -> Path:
        moved = really(path, target)
        return checkpoint.write(moved, other, description)

    class Overtaken(fakes.Fake):
        def load(self, path: Path) -> Overtaken:
            checkpoint.write(cached, other, description)
            return super().load(path)

    register(Overtaken)
    monkeypatch.setattr(checkpoint, "move", late)
    assert obtained(dataclasses.replace(run, refit=True)).tensors_sha256 == first.tensors_sha256
    assert obtained(run).tensors_sha256 not in ("", first.tensors_sha256), "what is in the cache now"
    assert not list((tmp_path / "cache").rglob("*.tmp"))
