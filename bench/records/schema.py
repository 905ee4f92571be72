"""What a record must hold to be believed: its format, its hash, its key, the types and ranges of what others compute
with. That its figures are those of its scores is `bench.records.recount`'s."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.errors import RecordError

FORMAT = 2
CONTENT = "content_sha256"

# What reading insists on: path into the JSON, and the type. `float` accepts integers.
_REQUIRED: tuple[tuple[str, type], ...] = (
    ("key", str),
    ("status", str),
    ("reason", str),
    ("cell.protocol.name", str),
    ("cell.protocol.version", int),
    ("cell.dataset", str),
    ("cell.fingerprint", str),
    ("cell.category", str),
    ("cell.subset.normals", int),
    ("cell.subset.anomalies", int),
    ("cell.subset.sha256", str),
    ("cell.preset", str),
    ("cell.image_size", int),
    ("cell.detector.name", str),
    ("cell.detector.revision", int),
    ("cell.detector.settings", dict),
    ("cell.attack.name", str),
    ("cell.attack.revision", int),
    ("cell.attack.norm", str),
    ("cell.attack.epsilon", float),
    ("cell.draws.verdict", int),
    ("cell.seed", int),
    ("full_run", bool),
    ("limits", list),
    ("indicators", dict),
    ("written", str),
    ("scores_sha256", str),
)
_MAPPINGS = ("checkpoint", "results", "gate", "environment", "seconds")


@dataclass(frozen=True)
class Figures:
    """Clean or robust figures in per cent; sd is over draws; what a record does not state is None."""

    auc: float
    low: float
    high: float
    sd: float = 0.0
    strict_auc: float | None = None
    strict_low: float | None = None
    strict_high: float | None = None
    aupr: float | None = None
    fpr95: float | None = None


def cell_key(cell: Mapping[str, Any]) -> str:
    """SHA-256 of the cell as canonical JSON: sorted keys, no white space, floats by repr. Raises RecordError where the
    cell holds what JSON cannot say, NaN and infinities included."""
    try:
        return _canonical_sha256(cell)
    except (TypeError, ValueError) as error:
        raise RecordError(f"A cell must be plain, finite JSON to have a key ({error}); fix its settings.") from None


def content_sha256(document: Mapping[str, Any]) -> str:
    """SHA-256 of a record without its own hash, as canonical JSON like `cell_key`'s: line ends and the order of entries
    are no part of it. Raises RecordError where the record holds what JSON cannot say."""
    try:
        return _canonical_sha256({key: value for key, value in document.items() if key != CONTENT})
    except (TypeError, ValueError, RecursionError) as error:
        raise RecordError(f"A record must be plain, finite JSON ({error}); run the cell again.") from None


def _canonical_sha256(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def check(document: Any) -> None:
    """Raises RecordError, in the words of the first thing that is wrong.

    The hash tells a record that was changed by accident or by hand. Whoever computes it anew along with figures and
    scores is not found out here: only measuring the cell again would tell.
    """
    _check_format(document)
    if document.get(CONTENT) != content_sha256(document):
        raise RecordError(f"its {CONTENT} is not the hash of its content: it was changed by hand; run the cell again.")
    for where, kind in _REQUIRED:
        value: Any = document
        for step in where.split("."):
            value = value.get(step) if isinstance(value, dict) else None
        if not _is(value, kind):
            raise RecordError(f"{where} should be of type {kind.__name__} and is {value!r:.60}; run the cell again.")
    for name in _MAPPINGS:
        if not isinstance(document.get(name), dict):
            raise RecordError(f"{name} should be a table of values; run the cell again.")
    if document["status"] not in ("ok", "failed"):
        raise RecordError(f"status is {document['status']!r:.60} and must be 'ok' or 'failed'; run the cell again.")
    if cell_key(document["cell"]) != document["key"]:
        raise RecordError("its key is not the hash of its cell: one of them was changed by hand; run the cell again.")
    if document["status"] == "ok":
        for which in ("clean", "robust"):
            _check_figures(which, document["results"].get(which))


def _check_format(document: Any) -> None:
    found: Any = document.get("format") if isinstance(document, dict) else None
    if found == FORMAT and _is(found, int):
        return
    if _is(found, int) and 1 <= found < FORMAT:
        raise RecordError(
            f"it was made by an older version of RADBench (format {found}, this one reads {FORMAT}), which did not let "
            "records prove themselves; run the cell again."
        )
    raise RecordError(f"it is no record of format {FORMAT}; run the cell again with this version.")


def _is(value: Any, kind: type) -> bool:
    # To Python True is an int, and 2 is no float.
    if kind in (int, float) and isinstance(value, bool):
        return False
    if kind is float and isinstance(value, int):
        return abs(value) < 2**1000  # else nobody could compute with it
    return isinstance(value, kind)


def _check_figures(which: str, figures: Any) -> None:
    if not isinstance(figures, dict):
        raise RecordError(f"results.{which} is missing from a record whose status is ok; run the cell again.")
    for name in (f.name for f in dataclasses.fields(Figures)):
        value, needed = figures.get(name), name in ("auc", "low", "high")
        if value is None and not needed:
            continue
        if not _is(value, float) or value is None or not 0.0 <= value <= 100.0:
            where = f"results.{which}.{name}"
            raise RecordError(f"{where} should lie in [0, 100] and is {value!r:.60}; run the cell again.")
