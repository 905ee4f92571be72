"""Where a fitted detector's checkpoint lies: by the hash of everything that the fit depends on.

The hash covers the data (fingerprint, category, the images left after the hold-out), the input size, the detector with
its revision, settings and pretrained weights, and the seed. A change in one of them leads to another checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.data.base import Dataset
from bench.plan.build import OPEN_SETTING_REVISION, open_setting
from bench.plan.request import RunConfig
from bench.plan.split import fit_ids
from detectors import checkpoint
from detectors.base import Detector
from detectors.errors import CheckpointError
from detectors.settings import described


def dependencies(
    detector: Detector, dataset: Dataset, category: str, ids: Sequence[str], run: RunConfig
) -> dict[str, Any]:
    """Everything that a fit's outcome depends on."""
    return {
        "dataset": dataset.name,
        "fingerprint": dataset.fingerprint(category),
        "category": category,
        "train_ids_sha256": hashlib.sha256("\n".join(ids).encode("utf-8", "surrogateescape")).hexdigest(),
        "image_size": detector.image_size,
        "detector": detector.name,
        "revision": detector.revision,
        "settings": described(detector.settings),
        "frozen": detector.frozen_hashes(),
        "auto": OPEN_SETTING_REVISION if open_setting(detector) else 0,
        "seed": run.fit_seed,
    }


def key_of(depends: dict[str, Any]) -> str:
    """The hash of the dependencies."""
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()


def cached_path(run: RunConfig, depends: dict[str, Any], key: str) -> Path:
    """Where this machine keeps the checkpoint."""
    folder = str(depends["detector"]).replace(":", "-")
    return run.cache / "checkpoints" / folder / f"{key[:24]}.safetensors"


def shipped_path(detector: Detector, key: str) -> Path | None:
    """The checkpoint with this key among those that the detector's package brings. Raises CheckpointError where one
    cannot be read: it could be this one."""
    for path in detector.shipped_checkpoints():
        try:
            description = checkpoint.read_description(path)
        except CheckpointError as error:
            raise spoilt(detector, path) from error
        if description.get("key") == key:
            return path
    return None


def spoilt(detector: Detector, path: Path) -> CheckpointError:
    """With this, the package is not what was published: for the user to know, not to be hidden behind a long fit."""
    return CheckpointError(
        f"The checkpoint {path} that came with {detector.name} is damaged or was tampered with: install the package "
        "again, or fit your own with --refit."
    )


def origin(detector: Detector, dataset: Dataset, category: str, run: RunConfig) -> str:
    """What `obtain` would find: "shipped", "cached" or "to be fitted"."""
    depends = dependencies(detector, dataset, category, fit_ids(dataset, category, run), run)
    key = key_of(depends)
    if run.refit:
        return "to be fitted"
    if shipped_path(detector, key) is not None:
        return "shipped"
    return "cached" if checkpoint.exists(cached_path(run, depends, key)) else "to be fitted"


def stored_hash(detector: Detector, dataset: Dataset, category: str, run: RunConfig) -> str | None:
    """The hash of the tensors that `obtain` would load, from their description alone; None where it would fit."""
    if run.refit:
        return None
    depends = dependencies(detector, dataset, category, fit_ids(dataset, category, run), run)
    key = key_of(depends)
    path = shipped_path(detector, key) or cached_path(run, depends, key)
    if not checkpoint.exists(path):
        return None
    description = checkpoint.read_description(path)
    return str(description["tensors_sha256"]) if description.get("key") == key else None
