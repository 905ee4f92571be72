"""A checkpoint that came with a claim: found by its hash, and laid where a run looks for the fit that it should be.

It is a stranger's: it is read as any other checkpoint is (safetensors, its hash, the settings of the detector that is
installed here), and runs nothing. That it came out of a fit is not shown by it; `--refit` asks that.
"""

from __future__ import annotations

from pathlib import Path

from bench import files
from bench.plan.checkpoints import cached_path, dependencies, key_of
from bench.plan.plan import Plan
from bench.plan.split import fit_ids
from bench.records.paths import safe_name
from bench.records.record import Record
from bench.text import one_line
from bench.verify.finding import UnjudgedError
from detectors import checkpoint
from detectors.errors import CheckpointError
from detectors.files import read_ordinary

CACHE = "cache"
_DIGITS = 24  # of the hash, in a name


def name_of(detector: str, tensors_sha256: str) -> str:
    """Where a checkpoint lies among those that a claim brings: DETECTOR/HASH.safetensors."""
    return f"{safe_name(detector)}/{safe_name(tensors_sha256[:_DIGITS])}.safetensors"


def find(record: Record, folder: Path | None) -> Path | None:
    """The checkpoint that a record is of, among those that came with it; None where it is not there."""
    if folder is None or not record.detector.checkpoint_sha256:
        return None
    path = folder / name_of(record.detector_name, record.detector.checkpoint_sha256)
    return path if checkpoint.exists(path) else None


def lay(plan: Plan, record: Record, source: Path) -> None:
    """Copy a checkpoint to where `plan` looks for it. Raises UnjudgedError where it is of another fit."""
    name, category = record.detector_name, record.category
    run = plan.at(plan.fit_seeds(name)[0]).run
    ids = fit_ids(plan.dataset, category, run)
    depends = dependencies(plan.built[name, category], plan.dataset, category, ids, run)
    key = key_of(depends)
    try:
        description = checkpoint.read_description(source)
        if description.get("tensors_sha256") != record.detector.checkpoint_sha256:
            raise UnjudgedError("The checkpoint that came with it is not the one that it names.")
        if description.get("key") != key:
            raise UnjudgedError(
                "The checkpoint that came with it was fitted on other data, or with other settings or code, than are "
                f"here (its key is {one_line(description.get('key'), 12)}, and {key[:12]} is needed)."
            )
        target = cached_path(run, depends, key)
        with files.writing(run.cache):
            checkpoint.write_atomically(target, read_ordinary(source, checkpoint.LARGEST))
            text = read_ordinary(checkpoint.description_path(source), checkpoint.LARGEST_DESCRIPTION)
            checkpoint.write_atomically(checkpoint.description_path(target), text)
    except CheckpointError as error:
        raise UnjudgedError(str(error)) from None
