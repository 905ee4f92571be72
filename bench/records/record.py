"""What one cell of the benchmark found: its record, and when it is out of date."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import RecordError
from bench.records.cell import Cell, CellAttack, CellDetector, Subset
from bench.records.schema import CONTENT, FORMAT, Figures, check, content_sha256
from bench.text import one_line


def one_fit(protocol: str, detector: str) -> int:
    """Of a protocol or a detector of which nothing is known."""
    return 1


@dataclass(frozen=True)
class Revisions:
    """What records are held against of the code at hand.

    Attributes:
        detectors, attacks, protocols: the revision numbers, by name. A name that is not listed counts as current: a
            detector of a package that is not installed here cannot be judged.
        fits: (protocol, detector) -> of how many fits the protocol asks.
    """

    detectors: Mapping[str, int] = field(default_factory=dict)
    attacks: Mapping[str, int] = field(default_factory=dict)
    protocols: Mapping[str, int] = field(default_factory=dict)
    fits: Callable[[str, str], int] = one_fit


@dataclass(frozen=True)
class Record:
    """One cell: what was asked (`cell`, whose hash is `key`), and what came out."""

    key: str
    status: str
    cell: Cell
    full_run: bool
    written: str
    reason: str = ""
    limits: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)  # what is odd about the category's pictures
    checkpoint: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    indicators: dict[str, Any] = field(default_factory=dict)
    gate: dict[str, Any] = field(default_factory=dict)
    licence: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    seconds: dict[str, Any] = field(default_factory=dict)
    peak_memory_mb: float | None = None
    scores_sha256: str = ""
    # Of the adversarial images beside it (`bench.records.kept_images`); no entry where none were kept.
    images: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT
    path: Path | None = field(default=None, compare=False, repr=False)
    # Of the file that it was read from: entries of another version, and those that are not there.
    others: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    lacking: frozenset[str] = field(default=frozenset({"images"}), compare=False, repr=False)
    # Figures that follow from its scores and are younger than it is; it is written without them, as it was.
    recounted: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def stamp(self) -> str:
        """Which cell it is and when it was made: what pictures drawn from it bear."""
        return one_line(f"{self.key} {self.written}", 200)

    @property
    def dataset(self) -> str:
        return self.cell.dataset

    @property
    def category(self) -> str:
        return self.cell.category

    @property
    def fingerprint(self) -> str:
        return self.cell.fingerprint

    @property
    def subset(self) -> Subset:
        return self.cell.subset

    @property
    def preset(self) -> str:
        return self.cell.preset

    @property
    def image_size(self) -> int:
        return self.cell.image_size

    @property
    def protocol(self) -> str:
        return self.cell.protocol.name

    @property
    def detector(self) -> CellDetector:
        return self.cell.detector

    @property
    def detector_name(self) -> str:
        return self.cell.detector.name

    @property
    def detector_title(self) -> str:
        return self.cell.detector.title or self.detector_name

    @property
    def attack(self) -> CellAttack:
        return self.cell.attack

    @property
    def attack_family(self) -> str:
        """What shares a table: an ensemble for stochastic detectors is what that for deterministic ones is to them."""
        return self.attack_name.replace("autoattack-rand-", "autoattack-")

    @property
    def attack_name(self) -> str:
        return self.cell.attack.name

    @property
    def norm(self) -> str:
        return self.cell.attack.norm

    @property
    def epsilon(self) -> float:
        return float(self.cell.attack.epsilon)

    @property
    def seed(self) -> int:
        return self.cell.seed

    @property
    def clean(self) -> Figures | None:
        return self._figures("clean")

    @property
    def robust(self) -> Figures | None:
        return self._figures("robust")

    def noise_figures(self, name: str) -> dict[str, Any]:
        """Of a stochastic detector "best_of" or "known_noise": auc, low, high and what else is stated; empty where it
        has none."""
        found = self.results.get(name, self.recounted.get(name))
        return found if self.ok and isinstance(found, dict) else {}

    def separated_by(self, shortcut: str) -> bool:
        """Whether "brightness" or "file_order" alone separates the classes."""
        found = self.results.get(shortcut)
        return isinstance(found, dict) and found.get("flagged") is True

    def _figures(self, which: str) -> Figures | None:
        """None for a failed cell."""
        found = self.results.get(which)
        if not self.ok or not isinstance(found, dict):
            return None
        names = (f.name for f in dataclasses.fields(Figures))
        return Figures(**{name: found[name] for name in names if found.get(name) is not None})

    def to_json(self) -> str:
        """The record as ASCII JSON, with the hash of its content; figures that are not finite become null, which reads
        as "not known"."""
        document = finite(_document(self))
        document[CONTENT] = content_sha256(document)
        return json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Its figures are not yet held against its scores: that is for `read`. Raises RecordError where it is no record
        of this format, was changed after it was written or does not belong to its key."""
        try:
            document = json.loads(text, object_pairs_hook=each_once)
        except (ValueError, RecursionError) as error:
            raise RecordError(f"it is no JSON ({error}); run the cell again.") from None
        cell = check(document)
        known = {name: value for name, value in document.items() if name in _ENTRIES}
        others = {name: value for name, value in document.items() if name not in _ENTRIES and name != CONTENT}
        lacking = _ENTRIES - document.keys()
        return cls(**{**known, "cell": cell}, others=others, lacking=lacking)


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A table of a JSON document. Of a name that stands in it twice readers would see one value or the other."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a table has two entries of one name")
    return found


def is_stale(record: Record, revisions: Revisions) -> bool:
    """Whether the detector, the attack or the protocol has been revised since."""
    cell = record.cell
    pairs = (
        (cell.detector.revision, revisions.detectors.get(cell.detector.name)),
        (cell.attack.revision, revisions.attacks.get(cell.attack.name)),
        (cell.protocol.version, revisions.protocols.get(cell.protocol.name)),
    )
    return any(current is not None and then < current for then, current in pairs)


_ENTRIES = frozenset(f.name for f in dataclasses.fields(Record)) - {"path", "others", "lacking", "recounted"}


def _document(record: Record) -> dict[str, Any]:
    found = {name: value for name in _ENTRIES if (value := getattr(record, name)) or name not in record.lacking}
    return found | {"cell": record.cell.to_document()} | record.others


def finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
