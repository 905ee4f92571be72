"""What the attack of a cell has found so far, kept until the cell has its record: a kill costs a batch, not hours.

Each batch that took long lies in the cache, with everything that its bits follow from in the name:

    unfinished/CELL KEY/HASH.safetensors

What was found must be as good as found anew, to the last bit: images that an older attack found, or that were found
against an older detector, would be weaker ones, and the robust AUC too high. So it is taken up by the same commit
alone, with the same packages, on the same kind of machine, for the same images in the same batch. Where no commit tells
the code nothing is kept: changes that are in none, an installation without one, and a detector or an attack from
another package (whose author may have mended a cut gradient since). The folder goes when the record is there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attacks import merging
from attacks.base import Attack
from attacks.result import AttackResult
from bench.cell.known_code import is_committed, is_ours
from bench.records import environment
from detectors import checkpoint
from detectors.base import Detector
from detectors.errors import CheckpointError

log = logging.getLogger(__name__)
LEAST = 5.0  # seconds of a batch: what takes less is done again
REVISION = 1  # of what is kept, and of how it is named


@dataclass(eq=False)
class Unfinished:
    """The batches of one cell.

    Attributes:
        folder: where they are kept.
        least: seconds that a batch takes at least to be kept.
        seconds: what those that were taken up had taken, by purpose ("attack"): it belongs to the cell's own.
    """

    folder: Path
    least: float = LEAST
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of_cell(cls, cache: Path, key: str, detector: Detector, attack: Attack) -> Unfinished | None:
        """Of the cell with that key; None where no commit tells the code of the detector and the attack."""
        if not is_committed() or not all(map(is_ours, _parts(detector, attack))):
            return None
        return cls(cache / "unfinished" / key[:24])

    def recall(self, depends: dict[str, Any], device: torch.device, work: Callable[[], AttackResult]) -> AttackResult:
        """What `work` gives, of a batch that is there already or now; on the CPU, of the trace the last row.

        Args:
            depends: what the batch is, ready for JSON: the attack, the images and whatever else decides its bits.
            device: where it is computed.
            work: attacks the batch.
        """
        described = depends | {"made by": _made_by(device), "revision": REVISION}
        name = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:24]
        path = self.folder / f"{name}.safetensors"
        known = self._read(path)
        if known is not None:
            result, seconds = known
            purpose = str(depends["purpose"])
            self.seconds[purpose] = self.seconds.get(purpose, 0.0) + seconds
            return result
        started = time.monotonic()
        result = merging.to_cpu(work())
        seconds = time.monotonic() - started
        if seconds >= self.least:
            self._keep(path, result, seconds)
        return result

    def clear(self) -> None:
        """The record is there, so nothing of this is needed any more."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self, path: Path) -> tuple[AttackResult, float] | None:
        if not checkpoint.exists(path):
            return None
        try:
            tensors, told = checkpoint.read(path)
            return AttackResult(**tensors, forwards=told["forwards"], gradients=told["gradients"]), told["seconds"]
        except (CheckpointError, KeyError, TypeError) as error:
            log.debug("%s is done again: %s", path, error)
            return None

    def _keep(self, path: Path, result: AttackResult, seconds: float) -> None:
        # Cloned: some are views of others, which a file of tensors cannot hold.
        tensors = {f.name: v.clone() for f in fields(result) if isinstance(v := getattr(result, f.name), Tensor)}
        told = {"forwards": result.forwards, "gradients": result.gradients, "seconds": seconds}
        try:
            checkpoint.write(path, tensors, told)
        except OSError as error:  # a full disk: the attack goes on, only a kill would cost more
            log.debug("%s could not be kept: %s", path, error)


def digest(tensor: Tensor | None) -> str:
    """A short name for the values of a tensor; "" of none."""
    return "" if tensor is None else hashlib.sha256(tensor.detach().cpu().contiguous().numpy().tobytes()).hexdigest()


def _parts(detector: Detector, attack: Attack) -> Iterator[object]:
    """A detector with all that it holds (`smooth:NAME` holds another detector), and the attack with its members."""
    yield from detector.modules()
    yield from (attack, *attack.members(detector))


def _made_by(device: torch.device) -> dict[str, Any]:
    """Code, packages and machine; not which of several devices that are alike."""
    return {name: value for name, value in environment.describe(device).items() if name != "device_index"}
