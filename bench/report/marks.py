"""The marks of tables: what is not to be believed, and why."""

from __future__ import annotations

from collections.abc import Iterable

from bench.records.record import Record

MARKS = {
    "partial": "†",
    "stale": "‡",
    "other images": "§",
    "ties": "¶",
    "indicator": "!",
    "failed": "x",
    "weaker protocol": "~",
}
MEANING = {
    "partial": "not a full run (the limits are in the record)",
    "stale": "measured with an older revision of the detector, the attack or the protocol",
    "other images": "not the test images that the other rows were measured on",
    "ties": "normal and anomalous scores tie; the AUC counts a tie as half",
    "indicator": "a failure indicator is up: this is not a claim of robustness",
    "failed": "the cell failed, or one of its fits, which the mean leaves out",
    "weaker protocol": "ranked, with its clean AUC, by a weaker protocol, below all rows of the ranking one",
}
# Of a category whose classes something alone separates that is no defect, in either direction.
SHORTCUTS = {
    "brightness": ("*", "mean brightness alone separates normal from anomalous images here (AUC above 90)"),
    "file_order": ("°", "the place among the files alone separates normal from anomalous images here (AUC above 90)"),
}


def shortcut_marks(records: Iterable[Record]) -> str:
    """Of a category's name."""
    found = list(records)
    return "".join(mark for name, (mark, _) in SHORTCUTS.items() if any(r.separated_by(name) for r in found))
