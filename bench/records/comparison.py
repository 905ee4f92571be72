"""Files of a comparison of detectors beside the records of runs: a table, and a JSON that says where it comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import files
from bench.errors import RecordError
from bench.records.cell import canonical_sha256
from bench.records.paths import safe_name
from detectors.checkpoint import write_atomically

# Of a comparison's JSON, what its figures depend on: the same request writes the same files again.
_ASKED = ("kind", "dataset", "category", "fingerprint", "subset", "preset", "protocol", "image_size", "seed", "asked")


def stem(content: Mapping[str, Any], name: str) -> str:
    """A file name for a comparison: dataset, category, a name, and a hash of what its figures depend on."""
    checkpoints = {name: found["sha256"] for name, found in content["checkpoints"].items()}
    key = canonical_sha256({entry: content[entry] for entry in _ASKED} | {"checkpoints": checkpoints})
    return "--".join([*map(safe_name, (content["dataset"], content["category"], name)), key[:12]])


def write(table: str, content: Mapping[str, Any], folder: Path, name: str) -> list[Path]:
    """Write the table as CSV, then the content as JSON, each atomically. Returns the paths.

    Raises:
        RecordError: the content is no plain, finite JSON.
        DiskError: the folder cannot be written to.
    """
    try:
        text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n"
        start = stem(content, name)
    except (TypeError, ValueError) as error:
        raise RecordError(f"What was found is no plain, finite JSON ({error}); report it.") from None
    with files.writing(folder):
        for suffix, data in ((".csv", table), (".json", text)):
            write_atomically(folder / f"{start}{suffix}", data.encode(errors="surrogateescape"))
    return [folder / f"{start}.csv", folder / f"{start}.json"]
