"""Weights that several fits share, found by the hash of everything that they depend on.

AE and APAE train one network, FreeRAD and every `purify:NAME` one U-Net. Whoever fits several of them hands a store in
(`Detector.fit`), and what one has trained the next one finds.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from detectors import checkpoint
from detectors.errors import CheckpointError

log = logging.getLogger(__name__)


def key_of(described: Any, images: Tensor) -> str:
    """The SHA-256 that stands for weights.

    Args:
        described: what they depend on beside the images, as JSON knows it: network, settings, seed, revision.
        images: what they were trained on, in order.
    """
    pixels = images.detach().cpu().float().contiguous().numpy().tobytes()
    return hashlib.sha256(json.dumps(described).encode() + pixels).hexdigest()


@dataclass(frozen=True)
class Stored:
    """Weights that were found.

    Attributes:
        tensors: by name.
        trained_by: the detector that trained them.
        report: of their training, as it was handed to `keep`.
        origin: who made them: "command", "commit", when they were "written", and in how many "seconds".
    """

    tensors: dict[str, Tensor]
    trained_by: str
    report: dict[str, Any]
    origin: dict[str, Any]


class Store:
    """Finds nothing and keeps nothing: the store of a fit that was handed none."""

    def find(self, key: str, like: Mapping[str, Tensor]) -> Stored | None:
        """The weights that the key stands for; None where there are none.

        Args:
            key: see `key_of`.
            like: tensors with the names, shapes and dtypes that they must have.
        """
        return None

    def keep(
        self, key: str, tensors: dict[str, Tensor], *, trained_by: str, seconds: float, report: dict[str, Any]
    ) -> None:
        """Keep weights for the fits that follow.

        Args:
            key: see `key_of`.
            tensors: by name.
            trained_by: the detector's name.
            seconds: that training took.
            report: of the training, as JSON knows it.
        """


class FolderStore(Store):
    """Keeps each set of weights in files of a folder, which several processes may share."""

    def __init__(self, folder: Path, *, takes: bool = True, about: dict[str, Any] | None = None) -> None:
        """
        Args:
            folder: made when something is kept.
            takes: False finds nothing, so that everything is trained anew, and still keeps it.
            about: what a checkpoint's description says about who makes it: "command", "environment".
        """
        self._folder, self._takes, self._about = folder, takes, about or {}

    def find(self, key: str, like: Mapping[str, Tensor]) -> Stored | None:
        """As in `Store`; a file that is damaged, or holds other tensors, is passed over with a warning: a fit can do
        without it."""
        path = self._path(key)
        if not self._takes or not checkpoint.exists(path):
            return None
        try:
            tensors, description = checkpoint.read(path)
            if description.get("key") != key:
                return None
            tensors = checkpoint.wanted(path, tensors, like)
        except CheckpointError as error:
            log.warning("%s Its network is trained anew.", error)
            return None
        report, origin = checkpoint.report_of(description), checkpoint.origin_of(description)
        return Stored(tensors, str(description.get("detector")), report, origin)

    def keep(
        self, key: str, tensors: dict[str, Tensor], *, trained_by: str, seconds: float, report: dict[str, Any]
    ) -> None:
        """As in `Store`; what cannot be written costs a warning: the fit has its weights."""
        description = {
            "key": key,
            "detector": trained_by,
            "seconds": round(seconds, 1),
            "fit": report,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            **self._about,
        }
        try:
            checkpoint.write(self._path(key), tensors, description)
        except OSError as error:
            log.warning("Weights that other fits could share were not kept (%s); they will be trained again.", error)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key[:24]}.safetensors"
