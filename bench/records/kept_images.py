"""The adversarial images of a cell, kept beside its record on request, exactly as they were scored.

    DETECTOR--ATTACK--KEY.images.safetensors    "adversarial": float32 (N, 3, S, S) in [0, 1], in the scores' order

12 bytes a pixel: float32, since 8 or 16 bits would be other images than those that were scored. The record holds the
file's SHA-256 and size; both are asked before anything of it is read, and reading runs nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from bench import files
from bench.errors import ContradictionError, RecordError
from bench.records import limits
from bench.records.paths import IMAGES_SUFFIX, companion, record_path
from bench.records.record import Record
from bench.text import plural
from detectors.checkpoint import write_atomically
from detectors.files import read_ordinary

log = logging.getLogger(__name__)
NAME = "adversarial"


def write(record: Record, adversarial: Tensor, folder: Path) -> Record:
    """Write the images, (N, 3, S, S) float32, to where the record will lie. Returns the record that names them.

    Raises:
        DiskError: the disk refuses.
    """
    data = save({NAME: adversarial.detach().cpu().contiguous()}, {"notice": record.licence})
    path = companion(record_path(folder, record.cell), IMAGES_SUFFIX)
    if len(data) > limits.IMAGES_BYTES:
        log.warning(
            "The adversarial images of %s have %d MiB, more than anybody reads (%d MiB), and are not kept; --limit "
            "makes them fewer.",
            path.name,
            len(data) >> 20,
            limits.IMAGES_BYTES >> 20,
        )
        return record
    with files.writing(folder):
        write_atomically(path, data)
    return dataclasses.replace(record, images={"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)})


def path_of(record: Record) -> Path | None:
    """Where the images of a record lie that was read from a file; None where it names none."""
    return companion(record.path, IMAGES_SUFFIX) if record.path is not None and record.images else None


def are_there(record: Record) -> bool:
    """Whether a record names images, and a file of that size is there; its hash is for `read`."""
    path = path_of(record)
    try:
        return path is not None and path.stat().st_size == record.images.get("bytes")
    except OSError:
        return False


def read(record: Record) -> Tensor:
    """The adversarial images of a record that was read from a file, float32 (N, 3, S, S).

    Raises:
        ContradictionError: the file is another one than the record names, or holds other tensors.
        RecordError: none were kept, or the file is missing.
    """
    path = path_of(record)
    if path is None:
        raise RecordError("No adversarial images were kept with this record; run its cell again with --keep-images.")
    try:
        data = read_ordinary(path, limits.IMAGES_BYTES)
    except OSError as error:
        raise RecordError(f"The images {path} cannot be read ({files.why(error)}); get them again.") from None
    if hashlib.sha256(data).hexdigest() != record.images.get("sha256"):
        raise ContradictionError(f"The images {path} are not those of their record (SHA-256 differs).")
    if len(data) != record.images.get("bytes"):
        raise ContradictionError(f"The images {path} are not those of their record, which states another size.")
    try:
        tensors = load(data)
    except Exception as error:  # a stranger's header may say anything, and PyTorch stumble over it anywhere
        raise ContradictionError(f"The images {path} are no safetensors file ({error}).") from None
    subset, side = record.subset, record.image_size
    shape = (subset.normals + subset.anomalies, 3, side, side)
    found = tensors.get(NAME)
    if found is None or len(tensors) != 1 or found.dtype != torch.float32 or tuple(found.shape) != shape:
        raise ContradictionError(f"The images {path} are not one tensor {NAME!r}, float32 of the shape {shape}.")
    return found


def sentence(records: Iterable[Record]) -> str:
    """How much was kept."""
    kept = [record for record in records if are_there(record)]
    size = sum(int(record.images["bytes"]) for record in kept)
    return f"Adversarial images of {plural(len(kept), 'cell')} are kept beside the records: {size / 2**20:.1f} MiB."
