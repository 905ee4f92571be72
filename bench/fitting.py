"""Fitted detectors: found among the cached or the shipped checkpoints by the hash of what they depend on, or fitted.

The hash covers the data (fingerprint, category, the images left after the hold-out), the input size, the detector with
its revision, settings and pretrained weights, and the seed. A change in one of them leads to another checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import detectors
from bench import auto, config, environment, presets
from bench.config import RunConfig
from bench.data.base import Dataset, ImageSet, id_hash
from bench.errors import BenchError
from bench.markup import one_line
from bench.records import safe_name
from detectors import checkpoint
from detectors.base import Detector, Progress, silent
from detectors.errors import CheckpointError, DetectorError
from detectors.registry import override
from detectors.store import FolderStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class TrainingData:
    """A category's normals: those to fit on, and those kept from every fit to choose settings and thresholds on."""

    fit: ImageSet
    held_out: ImageSet


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted detector and where it came from.

    Attributes:
        detector: on the device.
        origin: "shipped" (with the package), "cached" (fitted on this machine earlier) or "fitted" (just now).
        key: the hash of what it depends on.
        tensors_sha256: the hash of its tensors.
        fit_seconds: what the fit took when it was made.
        path: the checkpoint.
    """

    detector: Detector
    origin: str
    key: str
    tensors_sha256: str
    fit_seconds: float
    path: Path

    def describe(self) -> dict[str, Any]:
        """For the record."""
        report = self.detector.fit_report
        taken = report.get("unet_from") or report.get("network_from")
        return {
            "origin": self.origin, "key": self.key, "seconds": self.fit_seconds,
            **({"network_from": taken} if taken is not None else {}),
        }


def training_data(dataset: Dataset, category: str, image_size: int, run: RunConfig) -> TrainingData:
    """Split the training normals. The held-out ones are chosen by a hash of their names: 32, or a tenth of few."""
    normals = dataset.train(category, image_size, limit=run.limit)
    fit, held_out = _split(normals.ids, run)
    return TrainingData(normals.subset(fit), normals.subset(held_out))


def fit_ids(dataset: Dataset, category: str, run: RunConfig) -> tuple[str, ...]:
    """The ids of what `training_data` gives to fit on, in its order; nothing is decoded."""
    ids = dataset.train_ids(category, limit=run.limit)
    return tuple(ids[i] for i in _split(ids, run)[0])


def _split(ids: Sequence[str], run: RunConfig) -> tuple[list[int], list[int]]:
    """Which of the training normals are fitted on, and which are held out."""
    order = sorted(range(len(ids)), key=lambda i: id_hash("hold-out " + ids[i]))
    count = _held_out(len(ids), run)
    return sorted(order[count:]), sorted(order[:count])


def check_counts(detectors_of: Sequence[Detector], dataset: Dataset, category: str, run: RunConfig) -> None:
    """Raise BenchError, before any picture is decoded, where one of the detectors would get too few normals."""
    normals = len(dataset.train_ids(category, limit=run.limit))
    held_out = _held_out(normals, run)
    lacking = [f"{d.name} needs {d.min_normals}" for d in detectors_of if d.min_normals > normals - held_out]
    if lacking:
        kept = f" ({held_out} more are kept for --holdout)" if held_out else ""
        limit = "" if run.limit is None else f", raise --limit {run.limit}"
        raise BenchError(
            f"There are {normals - held_out} normal images of {category} to fit on{kept} and {', '.join(lacking)}; add "
            f"images{limit}, or leave {'it' if len(lacking) == 1 else 'them'} out of --detectors."
        )
    for detector in detectors_of:
        auto.check(detector, held_out)


def _held_out(normals: int, run: RunConfig) -> int:
    """How many of the training normals are kept from the fit."""
    wanted = presets.get(run.preset).holdout if run.holdout is None else run.holdout
    return min(wanted, normals // 10)


def build(name: str, category: str, image_size: int, run: RunConfig) -> Detector:
    """The unfitted detector with the run's settings for this category. Raises DetectorError, WeightsError."""
    cls = detectors.get(name)
    try:
        with torch.random.fork_rng(devices=[]):  # layers draw when they are built; nobody else may notice
            settings = cls.settings_for(run.preset, image_size)
            return cls(override(settings, run.overrides_for(name, category), owner=name), image_size)
    except (DetectorError, BenchError):
        raise
    except Exception as error:  # settings that no network can have, or a stranger's detector
        raise BenchError(
            f"{name} cannot be built at {image_size} px with these settings ({one_line(error, 200)}); "
            "change --set or --image-size, or leave it out of --detectors."
        ) from error


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
        "settings": asdict(detector.settings),
        "frozen": detector.frozen_hashes(),
        "auto": auto.REVISION if auto.open_setting(detector) else 0,
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
            raise _spoilt(detector, path) from error
        if description.get("key") == key:
            return path
    return None


def _spoilt(detector: Detector, path: Path) -> CheckpointError:
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


def obtain(
    detector: Detector,
    dataset: Dataset,
    category: str,
    data: TrainingData,
    run: RunConfig,
    progress: Progress | None = None,
) -> Fitted:
    """Load the detector's checkpoint, or fit it and keep the checkpoint.

    Raises:
        BenchError, DetectorError: what the user can mend.
    """
    depends = dependencies(detector, dataset, category, data.fit.ids, run)
    key = key_of(depends)
    device = run.torch_device()
    cached = cached_path(run, depends, key)
    shipped = None if run.refit else shipped_path(detector, key)
    for where, path in (("shipped", shipped), ("cached", None if run.refit else cached)):
        if path is None or not checkpoint.exists(path):
            continue
        try:
            return _found(detector, where, key, path, device)
        except CheckpointError as error:
            if where == "shipped":
                raise _spoilt(detector, path) from error
            # A damaged file of the cache must not stop a run that can make a new one.
            log.warning("%s That is done now.", error)
    return _fit(detector, data, run, depends, key, cached, device, progress, dataset.licence)


def _found(detector: Detector, origin: str, key: str, path: Path, device: torch.device) -> Fitted:
    description = checkpoint.read_description(path)
    seconds = description.get("seconds", 0.0)
    if description.get("key") != key or not isinstance(seconds, int | float):
        raise CheckpointError(f"The checkpoint {path} is not the one that was fitted for this; fit again.")
    detector.load(path)
    return Fitted(detector.to(device), origin, key, description["tensors_sha256"], float(seconds), path)


def _fit(
    detector: Detector,
    data: TrainingData,
    run: RunConfig,
    depends: dict[str, Any],
    key: str,
    path: Path,
    device: torch.device,
    progress: Progress | None,
    licence: str,
) -> Fitted:
    workdir = path.parent / f"{key[:24]}.work"
    detector.may_take_shipped = not run.refit  # what a killed fit left in the folder is its own, and goes on
    workdir.mkdir(parents=True, exist_ok=True)
    auto.check(detector, len(data.held_out))
    about = {"command": config.command_line(), "environment": environment.describe(device)}
    store = FolderStore(run.cache / "weights", takes=not run.refit, about=about)
    started = time.monotonic()
    normals: Tensor = data.fit.pixels().to(device)
    detector.to(device)
    try:
        detector.fit(
            normals, seed=run.fit_seed, progress=progress, workdir=workdir, names=data.fit.ids, store=store
        )
        if auto.open_setting(detector):
            detector.fit_report["auto"] = auto.choose(
                detector, data.fit, data.held_out, seed=run.fit_seed, progress=progress or silent
            )
    finally:
        with suppress(OSError):  # not empty: something to go on from, after a kill
            workdir.rmdir()
    # A network that was taken over took its time, too, when it was trained.
    report = detector.fit_report
    earlier = (report.get("unet_fit") or report.get("network_fit") or {}).get("seconds") or 0.0
    seconds = round(time.monotonic() - started + earlier, 1)
    detector.save(
        path,
        extra={
            "key": key,
            "depends": depends,
            "seconds": seconds,
            **about,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "notice": licence,
        },
    )
    # Back through the file: what is scored is what was stored, and the next run will score the same.
    detector.load(path)
    _forget(workdir)
    return Fitted(
        detector.to(device), "fitted", key, checkpoint.read_description(path)["tensors_sha256"], seconds, path
    )


def _forget(workdir: Path) -> None:
    if workdir.is_dir():
        shutil.rmtree(workdir)


def export(fitted: Fitted, folder: Path, stem: str) -> Path:
    """Copy a checkpoint and its description, e.g. into the package, so that it ships. Raises BenchError."""
    if safe_name(stem) != stem:
        raise BenchError(f"{stem!r} is no file name for a checkpoint; use letters, digits and hyphens.")
    tensors = folder / f"{stem}.safetensors"
    checkpoint.write_atomically(tensors, fitted.path.read_bytes())
    source = checkpoint.description_path(fitted.path)
    checkpoint.write_atomically(checkpoint.description_path(tensors), source.read_bytes())
    return tensors
