"""Checkpoints: tensors in safetensors, their description in JSON beside them, never a pickle.

The JSON carries the SHA-256 of the tensor file, so a checkpoint that was damaged or changed on the way is refused.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from detectors.errors import CheckpointError
from detectors.files import read_ordinary

log = logging.getLogger(__name__)

FORMAT = 1
TEMPORARY = ".tmp"  # ends the name of a file that is being written
LARGEST = 4 << 30  # bytes of tensors: as much as a network may have that is built (`detectors.building`)
LARGEST_DESCRIPTION = 16 << 20  # bytes of JSON; those of this package have some ten thousand


def description_path(path: Path) -> Path:
    """The JSON beside a tensor file."""
    return path.with_suffix(".json")


def write(path: Path, tensors: dict[str, Tensor], description: dict[str, Any]) -> Path:
    """Write both files, each atomically, the description last: a checkpoint without one does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = save_tensors({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
    described = {"format": FORMAT, **description, "tensors_sha256": hashlib.sha256(data).hexdigest()}
    write_atomically(path, data)
    write_atomically(description_path(path), (json.dumps(described, indent=2, sort_keys=True) + "\n").encode())
    return path


def move(path: Path, target: Path) -> Path:
    """Give a checkpoint that was written on the same disk its place, the description last. Returns the target."""
    path.replace(target)
    description_path(path).replace(description_path(target))
    _sync_folder(target.parent)
    return target


def write_atomically(path: Path, data: bytes) -> None:
    """Write the file so that whoever looks finds the old content or the new one, never a part, also after a power cut.

    The temporary name is a random one that nobody has: in containers all processes may have one number, and a link of a
    name that can be guessed would be followed to a file of somebody else's choice.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}{TEMPORARY}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """The new name reaches the disk, where the system can do that (Windows opens no folders)."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def exists(path: Path) -> bool:
    """Whether both files are there."""
    return path.is_file() and description_path(path).is_file()


def read_description(path: Path) -> dict[str, Any]:
    """The JSON of a checkpoint. Raises CheckpointError."""
    try:
        description = json.loads(read_ordinary(description_path(path), LARGEST_DESCRIPTION))
    except FileNotFoundError:
        raise CheckpointError(f"There is no checkpoint at {path} or its .json is missing; fit again.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{description_path(path)} cannot be read ({error}); fit again.") from None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise CheckpointError(f"{description_path(path)} is no checkpoint of format {FORMAT}; fit the detector again.")
    return description


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and description. Raises CheckpointError where a file is missing, damaged or changed."""
    description = read_description(path)
    try:
        data = read_ordinary(path, LARGEST)
    except OSError as error:
        raise CheckpointError(f"The checkpoint {path} cannot be read ({error}); fit the detector again.") from None
    if hashlib.sha256(data).hexdigest() != description.get("tensors_sha256"):
        raise CheckpointError(
            f"The checkpoint {path} is not the file that its description was written for (SHA-256 differs): "
            "it was damaged or tampered with; delete it and fit again."
        )
    try:
        return load_tensors(data), description
    except Exception as error:  # a stranger's header may say anything, and PyTorch stumble over it anywhere
        raise CheckpointError(f"The checkpoint {path} is no safetensors file ({error}); fit again.") from None


def find_trunk(
    paths: Iterable[Path], trunk: str, like: Mapping[str, Tensor]
) -> tuple[Path, dict[str, Tensor], dict[str, Any]] | None:
    """The first checkpoint whose network is the one that this hash stands for: what its training depends on.

    A fit may take over what another one with other settings, or another detector, has trained. A file that is damaged,
    or holds another network than the hash says, is passed over with a warning: it must not stop a fit that can do
    without it, nor get into one.

    Args:
        paths: of checkpoints; those that are not there are passed over.
        trunk: the hash.
        like: the network's own tensors, whose names, shapes and dtypes the checkpoint's must have.

    Returns:
        The path, those tensors alone, and the description.
    """
    for path in filter(exists, paths):
        try:
            description = read_description(path)
            if trunk in (description.get("trunk"), report_of(description).get("trunk")):
                tensors, description = read(path)
                return path, wanted(path, tensors, like), description
        except CheckpointError as error:
            log.warning("%s Its network is trained anew.", error)
    return None


def wanted(path: Path, tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of a file's tensors that are named in `like`. Raises CheckpointError as `check_tensors`."""
    found = {key: tensors[key] for key in like if key in tensors}
    check_tensors(path, found, like)
    return found


def report_of(description: dict[str, Any]) -> dict[str, Any]:
    """What the fit reported; nothing where a stranger's description says anything else."""
    report = description.get("fit")
    return dict(report) if isinstance(report, dict) else {}


def origin_of(description: dict[str, Any]) -> dict[str, Any]:
    """Who made a network that is taken over from a checkpoint, and in how many seconds."""
    environment = description.get("environment")
    commit = environment.get("commit") if isinstance(environment, dict) else None
    told = {key: description.get(key) for key in ("command", "written")}
    return told | {"seconds": seconds_of(description), "commit": commit}


def seconds_of(description: Mapping[str, Any]) -> float:
    """What a fit took; 0 where a stranger's description says no number."""
    seconds = description.get("seconds")
    return float(seconds) if isinstance(seconds, int | float) and 0 <= seconds < 1e12 else 0.0


def check_description(path: Path, description: dict[str, Any], **expected: Any) -> None:
    """Raise CheckpointError where the checkpoint belongs to something else than what is expected."""
    for key, value in expected.items():
        # Through JSON once, since tuples come back as lists.
        if description.get(key) != json.loads(json.dumps(value)):
            raise CheckpointError(
                f"The checkpoint {path} is for {key} {description.get(key)!r}, not {value!r}; "
                "use the settings it was made with or fit again."
            )


def check_tensors(path: Path, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError where names, shapes or dtypes differ from the detector's own, or a value is not finite."""
    if tensors.keys() != own.keys():
        odd = sorted(tensors.keys() ^ own.keys())[:3]
        raise CheckpointError(f"The checkpoint {path} is of another architecture (tensors {odd}); fit again.")
    for key, tensor in tensors.items():
        if tensor.shape != own[key].shape or tensor.dtype != own[key].dtype:
            raise CheckpointError(
                f"The checkpoint {path} is of another architecture: {key} is {tensor.dtype} {tuple(tensor.shape)}, "
                f"expected {own[key].dtype} {tuple(own[key].shape)}; fit again."
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"The checkpoint {path} holds values that are not finite ({key}); fit again.")
