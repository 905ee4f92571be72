"""Checkpoints: safetensors and JSON, written atomically, refused when they are not what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from detectors import checkpoint
from detectors.errors import CheckpointError

TENSORS = {"weight": torch.arange(6.0).view(2, 3), "count": torch.tensor(7)}


def write(folder: Path, **description: Any) -> Path:
    return checkpoint.write(folder / "deep" / "model.safetensors", TENSORS, description)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = write(tmp_path, detector="mine", settings={"sides": (1, 2)})
    tensors, description = checkpoint.read(path)
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[key], TENSORS[key]) for key in TENSORS)
    assert description["detector"] == "mine" and checkpoint.exists(path)


def test_the_files_are_plain_safetensors_and_json(tmp_path: Path) -> None:
    path = write(tmp_path, detector="mine")
    assert torch.equal(load_file(path)["weight"], TENSORS["weight"])
    assert json.loads(path.with_suffix(".json").read_text())["format"] == checkpoint.FORMAT


def test_memory_layout_does_not_matter(tmp_path: Path) -> None:
    weight = torch.rand(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    path = checkpoint.write(tmp_path / "model.safetensors", {"weight": weight}, {})
    assert torch.equal(checkpoint.read(path)[0]["weight"], weight)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record.json"
    checkpoint.write_atomically(path, b"old")

    def full_disk(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        checkpoint.write_atomically(path, b"new and longer")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_a_kill_between_the_two_files_never_looks_like_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, detector="mine")
    really = checkpoint.write_atomically

    def dies_at_the_description(target: Path, data: bytes) -> None:
        if target.suffix == ".json":
            raise KeyboardInterrupt
        really(target, data)

    monkeypatch.setattr(checkpoint, "write_atomically", dies_at_the_description)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.write(path, {"weight": torch.ones(1)}, {"detector": "mine"})
    with pytest.raises(CheckpointError, match="tampered"):  # new tensors, old description
        checkpoint.read(path)


def test_a_changed_byte_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    data = bytearray(path.read_bytes())
    data[-3] ^= 0x40
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="damaged or tampered"):
        checkpoint.read(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="damaged or tampered"):
        checkpoint.read(path)


def test_a_missing_half_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.with_suffix(".json").unlink()
    assert not checkpoint.exists(path)
    with pytest.raises(CheckpointError, match=r"its \.json is missing"):
        checkpoint.read(path)
    path = write(tmp_path)
    path.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.read(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 99}', '{"detector": "x"}', "\xff"])
def test_a_description_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    path = write(tmp_path)
    path.with_suffix(".json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError):
        checkpoint.read(path)


def test_a_file_that_is_no_safetensors_is_refused_even_with_the_right_hash(tmp_path: Path) -> None:
    import hashlib

    path = write(tmp_path)
    path.write_bytes(b"not tensors at all")
    described = json.loads(path.with_suffix(".json").read_text())
    described["tensors_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match="no safetensors"):
        checkpoint.read(path)


def test_another_owner_is_named_in_the_refusal(tmp_path: Path) -> None:
    path = write(tmp_path, detector="mine", settings={"sides": [1, 2]})
    _, description = checkpoint.read(path)
    checkpoint.check_description(path, description, detector="mine", settings={"sides": (1, 2)})
    with pytest.raises(CheckpointError, match="detector 'mine', not 'yours'"):
        checkpoint.check_description(path, description, detector="yours")


@pytest.mark.parametrize(
    "other",
    [
        {"weight": torch.zeros(2, 3)},
        {"weight": torch.zeros(2, 3), "count": torch.tensor(7), "more": torch.zeros(1)},
        {"weight": torch.zeros(3, 2), "count": torch.tensor(7)},
        {"weight": torch.zeros(2, 3, dtype=torch.float64), "count": torch.tensor(7)},
        {"weight": torch.full((2, 3), float("nan")), "count": torch.tensor(7)},
        {"weight": torch.full((2, 3), float("inf")), "count": torch.tensor(7)},
    ],
)
def test_tensors_of_another_architecture_or_not_finite_are_refused(other: dict[str, torch.Tensor]) -> None:
    checkpoint.check_tensors(Path("x"), TENSORS, TENSORS)
    with pytest.raises(CheckpointError):
        checkpoint.check_tensors(Path("x"), other, TENSORS)
