"""Whose code computed something, and whether it can be told that it is still the same.

What lies in the cache may be taken up only where the code that made it is the code at hand. Of our detectors and
attacks a commit tells it, and of changes that are in none the files themselves; of a stranger's nobody does, whose
author may have edited a helper that no hash of ours would see.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path

from torch import nn

import detectors
from attacks.base import Attack
from bench.records import environment

KNOWN = ("attacks", "detectors", "torch", "torchvision", "timm")  # whose code the commit and the versions tell


def is_committed() -> bool:
    """Whether a commit tells the code at hand: no changes that are in none, and no installation without one."""
    return re.fullmatch("[0-9a-f]{40}", environment.commit()) is not None


def is_ours(part: object) -> bool:
    """Whether its code is this commit's, or that of a package whose version is looked at."""
    is_foreign = isinstance(part, Attack) and ":" in part.name  # torchattacks:NAME, whose version nobody looks at
    return type(part).__module__.partition(".")[0] in KNOWN and not is_foreign


def source_of(detector: nn.Module) -> str | None:
    """What tells a detector's code apart from others of its revision: "" where it is a commit's, whose revision changes
    with its scores; else the hash of the package's source; None of a stranger's, with whatever it holds."""
    if not all(map(is_ours, detector.modules())):
        return None
    return "" if is_committed() else _of_package()


@cache
def _of_package() -> str:
    """Of all of `detectors`, as it is when it is first asked for."""
    found, root = hashlib.sha256(), Path(detectors.__file__).parent
    for path in sorted(root.rglob("*.py")):
        content = path.read_bytes()
        found.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return found.hexdigest()
