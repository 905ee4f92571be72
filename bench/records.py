"""Records: what one cell of the benchmark found, as JSON beside a CSV of its per-image scores.

A record is written once, atomically and after its scores: whoever finds the JSON finds the whole cell, and a run that
was killed does the cell again. Records may come from strangers: reading never runs code, checks what it needs, and
reports what is damaged instead of failing.

No figure is believed without its scores: a record carries the hash of its content and that of its scores, and whatever
can be computed from the scores is computed again when it is read (`bench.recount`). That tells what was changed by
accident or by hand. A forger who makes up scores and computes figures and hashes to match is not found out by reading:
only measuring the cell again would tell.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import recount
from bench.errors import RecordError
from bench.markup import one_line
from bench.record_check import CONTENT, check, content_sha256
from bench.record_check import FORMAT as FORMAT
from bench.record_check import Figures as Figures
from bench.record_check import cell_key as cell_key
from bench.record_paths import EXAMPLES_SUFFIX as EXAMPLES_SUFFIX
from bench.record_paths import SCORES_SUFFIX as SCORES_SUFFIX
from bench.record_paths import companion as companion
from bench.record_paths import folder_of as folder_of
from bench.record_paths import record_path as record_path
from bench.record_paths import safe_name as safe_name
from bench.scores import Scores, parse_scores, render_scores
from detectors.checkpoint import write_atomically

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Revisions:
    """The revision numbers of the code at hand, by name. A name that is not listed counts as current: a detector of a
    package that is not installed here cannot be judged."""

    detectors: Mapping[str, int] = field(default_factory=dict)
    attacks: Mapping[str, int] = field(default_factory=dict)
    protocols: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """One cell: what was asked (`cell`, whose hash is `key`), and what came out."""

    key: str
    status: str
    cell: dict[str, Any]
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
    format: int = FORMAT
    path: Path | None = field(default=None, compare=False, repr=False)

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def stamp(self) -> str:
        """Which cell it is and when it was made: what pictures drawn from it bear."""
        return one_line(f"{self.key} {self.written}", 200)

    @property
    def dataset(self) -> str:
        return str(self.cell["dataset"])

    @property
    def category(self) -> str:
        return str(self.cell["category"])

    @property
    def fingerprint(self) -> str:
        return str(self.cell["fingerprint"])

    @property
    def subset(self) -> dict[str, Any]:
        return dict(self.cell["subset"])

    @property
    def preset(self) -> str:
        return str(self.cell["preset"])

    @property
    def image_size(self) -> int:
        return int(self.cell["image_size"])

    @property
    def protocol(self) -> str:
        return str(self.cell["protocol"]["name"])

    @property
    def detector(self) -> dict[str, Any]:
        return dict(self.cell["detector"])

    @property
    def detector_name(self) -> str:
        return str(self.cell["detector"]["name"])

    @property
    def detector_title(self) -> str:
        return str(self.cell["detector"].get("title") or self.detector_name)

    @property
    def attack(self) -> dict[str, Any]:
        return dict(self.cell["attack"])

    @property
    def attack_name(self) -> str:
        return str(self.cell["attack"]["name"])

    @property
    def norm(self) -> str:
        return str(self.cell["attack"]["norm"])

    @property
    def epsilon(self) -> float:
        return float(self.cell["attack"]["epsilon"])

    @property
    def seed(self) -> int:
        return int(self.cell["seed"])

    @property
    def clean(self) -> Figures | None:
        return self._figures("clean")

    @property
    def robust(self) -> Figures | None:
        return self._figures("robust")

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
        document = _finite(_document(self))
        document[CONTENT] = content_sha256(document)
        return json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Its figures are not yet held against its scores: that is for `read`. Raises RecordError where it is no record
        of this format, was changed after it was written or does not belong to its key."""
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RecordError(f"it is no JSON ({error}); run the cell again.") from None
        check(document)
        known = {f.name for f in dataclasses.fields(cls)} - {"path"}
        return cls(**{key: value for key, value in document.items() if key in known})


def write(record: Record, scores: Scores | None, folder: Path) -> Path:
    """Write the scores, then the record. Returns the record's path; a failed cell may have no scores.

    Raises:
        RecordError: the key or a figure is wrong or not that of the scores, or the disk refuses (nothing half-written
            stays behind).
    """
    if record.ok and scores is None:
        raise RecordError("A record that claims figures needs the scores they come from; pass them.")
    path = record_path(folder, record.cell)
    table = render_scores(scores) if scores is not None else ""
    text = dataclasses.replace(record, scores_sha256=_digest(table) if table else "").to_json()
    document = json.loads(text)
    check(document)
    if record.ok and scores is not None:
        recount.check(document["cell"], document["results"], scores)
    scores_path, had_record = companion(path, SCORES_SUFFIX), path.exists()
    try:
        if table:
            write_atomically(scores_path, table.encode(errors="surrogateescape"))
        write_atomically(path, text.encode())
    except OSError as error:
        if not had_record:
            scores_path.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RecordError(
                f"The disk is full at {folder}; free some space and run the same command again, which continues."
            ) from None
        raise RecordError(f"{path} cannot be written ({error.strerror}); choose a folder that can.") from None
    return path


def read(path: Path) -> Record:
    """One record, held against its scores where it has figures. Raises RecordError where one of the two is missing,
    damaged or changed, or where they do not belong together."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"The record {path} cannot be read ({error}); run the cell again.") from None
    try:
        record = dataclasses.replace(Record.from_json(text), path=path)
    except RecordError as error:
        raise RecordError(f"The record {path} does not count: {error}") from None
    if record.ok:
        scores = read_scores(record)
        try:
            recount.check(record.cell, record.results, scores)
        except RecordError as error:
            raise RecordError(f"The record {path} does not count: {error}") from None
    return record


def read_all(folder: Path) -> tuple[list[Record], list[str]]:
    """Every record below the folder, in the order of their paths, and a sentence about each one that does not count or
    appears twice (the newer one counts). Other JSON files (of checkpoints, of plots) are not looked at."""
    found: dict[str, Record] = {}
    problems: list[str] = []
    for path in sorted(folder.glob("*/*/*--*--*.json")):
        try:
            record = read(path)
        except RecordError as error:
            problems.append(str(error))
            continue
        twin = found.get(record.key)
        if twin is not None:
            problems.append(f"{twin.path} and {path} are records of the same cell; delete one (the newer one counts).")
        if twin is None or record.written > twin.written:
            found[record.key] = record
    return list(found.values()), problems


def find(folder: Path, cell: Mapping[str, Any]) -> Record | None:
    """The record of this very cell, or None where there is none or it does not count (it will be written again, which a
    warning says)."""
    path = record_path(folder, cell)
    if not path.is_file():
        return None
    try:
        record = read(path)
    except RecordError as error:
        log.warning("%s That is done now.", error)
        return None
    return record if record.key == cell_key(cell) else None


def read_scores(record: Record) -> Scores:
    """The per-image scores of a record that was read from a file.

    Raises:
        RecordError: they are missing, damaged, or not the ones that the record was written for.
    """
    if record.path is None:
        raise RecordError("This record was not read from a file, so it has no scores beside it; read it first.")
    path = companion(record.path, SCORES_SUFFIX)
    try:
        text = path.read_bytes().decode(errors="surrogateescape")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"The scores {path} cannot be read ({error}); run the cell again.") from None
    if _digest(text) != record.scores_sha256:
        raise RecordError(f"The scores {path} are not those of their record (SHA-256 differs); run the cell again.")
    try:
        return parse_scores(text)
    except RecordError as error:
        raise RecordError(f"The scores {path} are damaged: {error}") from None


def is_stale(record: Record, revisions: Revisions) -> bool:
    """Whether the detector, the attack or the protocol has been revised since."""
    cell = record.cell
    pairs = (
        (cell["detector"]["revision"], revisions.detectors.get(record.detector_name)),
        (cell["attack"]["revision"], revisions.attacks.get(record.attack_name)),
        (cell["protocol"]["version"], revisions.protocols.get(record.protocol)),
    )
    return any(current is not None and then < current for then, current in pairs)


def _document(record: Record) -> dict[str, Any]:
    return {f.name: getattr(record, f.name) for f in dataclasses.fields(record) if f.name != "path"}


def _digest(text: str) -> str:
    # Line ends are no part of it: git may change them on the way to Windows.
    return hashlib.sha256(text.replace("\r\n", "\n").encode(errors="surrogateescape")).hexdigest()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
