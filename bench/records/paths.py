"""Where records lie: names that strangers gave, made into harmless file names."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from pathlib import Path

from bench.records.cell import Cell

SCORES_SUFFIX = ".scores.csv"
EXAMPLES_SUFFIX = ".examples.safetensors"
IMAGES_SUFFIX = ".images.safetensors"
_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")  # device names on Windows


def record_path(folder: Path, cell: Cell) -> Path:
    """Where the record of a cell lies: folder/dataset/category/detector--attack--key.json, names made harmless."""
    stem = f"{safe_name(cell.detector.name)}--{safe_name(cell.attack.name)}--{cell.key[:12]}"
    return folder_of(folder, cell.dataset, cell.category) / f"{stem}.json"


def folder_of(folder: Path, dataset: object, category: object) -> Path:
    """Where the records of a category lie."""
    return folder / safe_name(dataset) / safe_name(category)


def safe_name(name: object) -> str:
    """A file name from whatever a stranger called a thing: letters, digits, `._-`, no leading dot, 1 to 60 characters.
    Different names may meet; the key in a record's name keeps their files apart."""
    plain = unicodedata.normalize("NFKD", str(name)).encode("ascii", "ignore").decode()
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "_", plain).lstrip(".")[:60].rstrip(".")
    return f"_{cleaned}" if not cleaned or _RESERVED.fullmatch(cleaned) else cleaned


def is_plain_name(name: str) -> bool:
    """Whether a file or a folder may be called so wherever it comes from: of the letters of `safe_name`, with no dot at
    either end, and no device of Windows. No path has such a name, nor has `..`."""
    return _PLAIN.fullmatch(name) is not None and not name.endswith(".") and _RESERVED.fullmatch(name) is None


def distinct_name(name: object) -> str:
    """As `safe_name`, but different names never meet: a name that had to be changed gets a part of its hash."""
    safe, text = safe_name(name), str(name)
    if safe == text:
        return safe
    return f"{safe[:47]}-{hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()[:12]}"


def companion(path: Path, suffix: str) -> Path:
    """A file beside a record, e.g. `companion(path, SCORES_SUFFIX)`."""
    return path.with_name(path.name.removesuffix(".json") + suffix)
