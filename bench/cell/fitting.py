"""Fitted detectors: found among the cached or the shipped checkpoints by the hash of what they depend on, or fitted."""

from __future__ import annotations

import logging
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from bench import files
from bench.cell import choose_setting
from bench.data.base import Dataset
from bench.errors import BenchError
from bench.plan import request
from bench.plan.build import check_open_setting, open_setting
from bench.plan.checkpoints import cached_path, dependencies, key_of, shipped_path, spoilt
from bench.plan.request import RunConfig
from bench.plan.split import TrainingData
from bench.records import environment
from bench.records.paths import safe_name
from detectors import checkpoint
from detectors.base import Detector, Progress, silent
from detectors.building import build
from detectors.errors import CheckpointError
from detectors.store import FolderStore

log = logging.getLogger(__name__)


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
        chosen = report.get("auto")
        return {
            "origin": self.origin,
            "key": self.key,
            "seconds": self.fit_seconds,
            **({"network_from": taken} if taken is not None else {}),
            **({"chosen": _told(chosen)} if isinstance(chosen, dict) else {}),
        }


def _told(chosen: dict[str, Any]) -> dict[str, Any]:
    """Of a setting that the suite has chosen: which, its value, and on what; a checkpoint has the whole table."""
    return {"setting": chosen.get("setting"), "value": chosen.get("chosen"), "judged_on": chosen.get("judged_on")}


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
                raise spoilt(detector, path) from error
            # A damaged file of the cache must not stop a run that can make a new one.
            log.warning("%s That is done now.", error)
    return _fit(detector, data, run, depends, key, cached, device, progress, dataset.licence)


def _found(detector: Detector, origin: str, key: str, path: Path, device: torch.device) -> Fitted:
    description = checkpoint.read_description(path)
    seconds = checkpoint.seconds_of(description)
    if description.get("key") != key or description.get("seconds", 0.0) != seconds:
        raise CheckpointError(f"The checkpoint {path} is not the one that was fitted for this; fit again.")
    detector.load(path)
    return Fitted(detector.to(device), origin, key, detector.tensors_sha256, seconds, path)


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
    files.check_writable(run.cache)
    workdir = path.parent / f"{key[:24]}.work"
    detector.may_take_shipped = not run.refit  # what a killed fit left in the folder is its own, and goes on
    with files.writing(path.parent):
        workdir.mkdir(parents=True, exist_ok=True)
    check_open_setting(detector, len(data.held_out))
    about = {"command": request.command_line(), "environment": environment.describe(device)}
    store = FolderStore(run.cache / "weights", takes=not run.refit, about=about)
    started = time.monotonic()
    normals: Tensor = data.fit.pixels().to(device)
    detector.to(device)
    try:
        detector.fit(normals, seed=run.fit_seed, progress=progress, workdir=workdir, names=data.fit.ids, store=store)
        if open_setting(detector):
            detector.fit_report["auto"] = choose_setting.choose(
                detector, data.fit, data.held_out, seed=run.fit_seed, progress=progress or silent
            )
    finally:
        with suppress(OSError):  # not empty: something to go on from, after a kill
            workdir.rmdir()
    # A network that was taken over took its time, too, when it was trained.
    report = detector.fit_report
    taken = report.get("unet_fit") or report.get("network_fit")
    earlier = checkpoint.seconds_of(taken) if isinstance(taken, dict) else 0.0
    seconds = round(time.monotonic() - started + earlier, 1)
    extra = {
        "key": key,
        "depends": depends,
        "seconds": seconds,
        **about,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "notice": licence,
    }
    # From the file into another one: what is scored is what was stored, and the next run will score the same. What a
    # detector has learned beside its buffers and parameters is missed now, not by the next run.
    stored = build(type(detector), detector.settings, detector.image_size)
    # Its place comes last: another run with this cache may put a fit of other bits there at the same time.
    with (
        files.writing(path.parent),
        TemporaryDirectory(dir=path.parent, prefix=".", suffix=checkpoint.TEMPORARY) as private,
    ):
        saved = detector.save(Path(private) / path.name, extra=extra)
        stored.load(saved)
        checkpoint.move(saved, path)
    _forget(workdir)
    return Fitted(stored.to(device), "fitted", key, stored.tensors_sha256, seconds, path)


def _forget(workdir: Path) -> None:
    shutil.rmtree(workdir, ignore_errors=True)  # another run may have begun the same fit


def export(fitted: Fitted, folder: Path, stem: str) -> Path:
    """Copy a checkpoint and its description, e.g. into the package, so that it ships. Raises BenchError."""
    if safe_name(stem) != stem:
        raise BenchError(f"{stem!r} is no file name for a checkpoint; use letters, digits and hyphens.")
    tensors = folder / f"{stem}.safetensors"
    checkpoint.write_atomically(tensors, fitted.path.read_bytes())
    source = checkpoint.description_path(fitted.path)
    checkpoint.write_atomically(checkpoint.description_path(tensors), source.read_bytes())
    return tensors
