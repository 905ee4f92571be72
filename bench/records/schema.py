"""What a record must hold to be believed: its format, its hash, its key, the types of what others compute with. Sizes
and ranges are `bench.records.limits`'s; that its figures are those of its scores, `bench.records.recount`'s."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.errors import ContradictionError, RecordError
from bench.records import limits
from bench.records.cell import Cell, canonical_sha256, is_of

FORMAT = 2
CONTENT = "content_sha256"

# What reading insists on beside the cell, and its type.
_REQUIRED: tuple[tuple[str, type], ...] = (
    ("key", str),
    ("status", str),
    ("reason", str),
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


def content_sha256(document: Mapping[str, Any]) -> str:
    """SHA-256 of a record without its own hash, as canonical JSON like `Cell.key`'s: line ends and the order of entries
    are no part of it. Raises RecordError where the record holds what JSON cannot say."""
    try:
        return canonical_sha256({key: value for key, value in document.items() if key != CONTENT})
    except (TypeError, ValueError, RecursionError) as error:
        raise RecordError(f"A record must be plain, finite JSON ({error}); run the cell again.") from None


def check(document: Any) -> Cell:
    """The record's cell. Raises RecordError, in the words of the first thing that is wrong.

    The hash tells a record that was changed by accident or by hand. Whoever computes it anew along with figures and
    scores is not found out here: only measuring the cell again would tell.
    """
    _check_format(document)
    limits.check(document)
    if document.get(CONTENT) != content_sha256(document):
        raise ContradictionError(
            f"its {CONTENT} is not the hash of its content: it was changed by hand; run the cell again."
        )
    for name, kind in _REQUIRED:
        value = document.get(name)
        if not is_of(value, kind):
            raise RecordError(f"{name} should be of type {kind.__name__} and is {value!r:.60}; run the cell again.")
    cell = Cell.from_document(document.get("cell"))
    for name in _MAPPINGS:
        if not isinstance(document.get(name), dict):
            raise RecordError(f"{name} should be a table of values; run the cell again.")
    if not isinstance(document.get("images", {}), dict):  # younger than some records
        raise RecordError("images should be a table of values; run the cell again.")
    if document["status"] not in ("ok", "failed"):
        raise RecordError(f"status is {document['status']!r:.60} and must be 'ok' or 'failed'; run the cell again.")
    if cell.key != document["key"]:
        raise ContradictionError(
            "its key is not the hash of its cell: one of them was changed by hand; run the cell again."
        )
    if document["full_run"] == bool(document["limits"]):
        raise RecordError("full_run says one thing and limits another; run the cell again.")
    if document["status"] == "failed" and document["results"]:
        raise RecordError("it has no scores, since the cell failed, but results; run the cell again.")
    if document["status"] == "ok":
        for which in ("clean", "robust"):
            _check_figures(which, document["results"].get(which))
    return cell


def _check_format(document: Any) -> None:
    found: Any = document.get("format") if isinstance(document, dict) else None
    if found == FORMAT and is_of(found, int):
        return
    if is_of(found, int) and 1 <= found < FORMAT:
        raise RecordError(
            f"it was made by an older version of RADBench (format {found}, this one reads {FORMAT}), which did not let "
            "records prove themselves; run the cell again."
        )
    if is_of(found, int) and FORMAT < found < 1000:
        raise RecordError(
            f"it was made by a newer version of RADBench (format {found}, this one reads {FORMAT}); update RADBench to "
            "read it."
        )
    raise RecordError(f"it is no record of format {FORMAT}; run the cell again with this version.")


def _check_figures(which: str, figures: Any) -> None:
    if not isinstance(figures, dict):
        raise RecordError(f"results.{which} is missing from a record whose status is ok; run the cell again.")
    for name in (f.name for f in dataclasses.fields(Figures)):
        value, needed = figures.get(name), name in ("auc", "low", "high")
        if value is None and not needed:
            continue
        if not is_of(value, float) or value is None or not 0.0 <= value <= 100.0:
            where = f"results.{which}.{name}"
            raise RecordError(f"{where} should lie in [0, 100] and is {value!r:.60}; run the cell again.")
