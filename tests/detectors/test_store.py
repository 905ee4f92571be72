"""The store of weights: what is kept is found by its whole key, and nothing that is damaged stops a fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from detectors.store import FolderStore, Store, key_of

IMAGES = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
WEIGHTS = {"w": torch.arange(3.0)}


def keep(store: Store, key: str) -> None:
    store.keep(key, WEIGHTS, trained_by="ae", seconds=1.23, report={"losses": [[0.5, 0.25]]})


def test_a_key_stands_for_all_that_the_weights_depend_on() -> None:
    key = key_of([1, {"width": 8}], IMAGES)
    assert key == key_of([1, {"width": 8}], IMAGES.clone())
    assert len({key, key_of([2, {"width": 8}], IMAGES), key_of([1, {"width": 8}], IMAGES.flip(0))}) == 3


def test_what_is_kept_is_found_with_who_made_it(tmp_path: Path) -> None:
    key = key_of("network", IMAGES)
    keep(FolderStore(tmp_path, about={"command": "fit", "environment": {"commit": "c"}}), key)
    found = FolderStore(tmp_path).find(key, WEIGHTS)
    assert found is not None and torch.equal(found.tensors["w"], WEIGHTS["w"])
    assert found.trained_by == "ae" and found.report == {"losses": [[0.5, 0.25]]}
    assert found.origin["seconds"] == 1.2 and found.origin["command"] == "fit" and found.origin["commit"] == "c"
    assert FolderStore(tmp_path).find(key[:24] + "0" * 40, WEIGHTS) is None, "a name is cut short, the key is not"
    assert FolderStore(tmp_path, takes=False).find(key, WEIGHTS) is None


def test_without_a_store_nothing_is_kept() -> None:
    store = Store()
    keep(store, "key")
    assert store.find("key", WEIGHTS) is None


@pytest.mark.parametrize(
    "other",
    [
        {"w": torch.arange(3.0, dtype=torch.float16)},
        {"w": torch.tensor([0, torch.nan, 2])},
        {"w": torch.arange(4.0)},
        {"v": torch.arange(3.0)},
        {},
    ],
    ids=["another dtype", "not finite", "another shape", "another name", "nothing"],
)
def test_what_is_not_the_network_that_is_wanted_is_no_source(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, other: dict[str, torch.Tensor]
) -> None:
    """However whole the file is: loaded into a network, halves would be other figures without a word."""
    key = key_of("network", IMAGES)
    FolderStore(tmp_path).keep(key, other, trained_by="ae", seconds=1, report={})
    assert FolderStore(tmp_path).find(key, WEIGHTS) is None and "trained anew" in caplog.text
    keep(FolderStore(tmp_path), key)
    assert FolderStore(tmp_path).find(key, WEIGHTS) is not None


@pytest.mark.parametrize("said", [{"fit": 3}, {"environment": []}, {"seconds": "long"}, {"seconds": 10**400}])
def test_what_a_file_says_of_its_training_may_be_anything(tmp_path: Path, said: dict[str, object]) -> None:
    key = key_of("network", IMAGES)
    keep(FolderStore(tmp_path), key)
    (path,) = tmp_path.glob("*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | said))
    found = FolderStore(tmp_path).find(key, WEIGHTS)
    assert found is not None and isinstance(found.report, dict) and isinstance(found.origin["seconds"], float)


def test_a_damaged_file_or_a_full_disk_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    key = key_of("network", IMAGES)
    keep(FolderStore(tmp_path), key)
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(b"damaged")
    assert FolderStore(tmp_path).find(key, WEIGHTS) is None and "trained anew" in caplog.text
    (tmp_path / "file").write_text("no folder")
    keep(FolderStore(tmp_path / "file"), key)
    assert "were not kept" in caplog.text
