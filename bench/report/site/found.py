"""What a site is made from: the records, certificates and transfer matrices of one folder of results, or of several."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import RecordError
from bench.records import certificate_store, limits, store
from bench.records.certificate import Certificate
from bench.records.record import Record, Revisions, each_once
from bench.report import curves, leaderboard
from bench.report.leaderboard import Leaderboard
from bench.text import one_line
from detectors.files import read_ordinary

TRANSFER = "transfer"  # the folder that `python -m bench transfer` writes to
MOST = 200  # rows or columns of a matrix


@dataclass(frozen=True)
class Matrix:
    """A transfer matrix as its file states it: which images, judged by whom, and the AUCs in per cent.

    Attributes:
        title: data set, category, attack and how far it may go.
        sources, targets: on which images were made (the rows; the first is "clean"), and who judges them.
        values: a row for each source; None where there is none.
        flags: sentences.
    """

    title: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """Everything that pages are made from.

    Attributes:
        records: each cell once; of several folders the newest one.
        boards: their leaderboards.
        groups: what security curves are drawn of (`bench.report.curves.groups`).
        certificates, matrices: those that are there.
        plots: by a record's key the folder in which its pictures may lie.
        revisions: of the code at hand.
    """

    records: tuple[Record, ...]
    boards: tuple[Leaderboard, ...]
    groups: Mapping[str, list[Record]]
    revisions: Revisions
    certificates: tuple[Certificate, ...] = ()
    matrices: tuple[Matrix, ...] = ()
    plots: Mapping[str, Path] = field(default_factory=dict)


def read(folders: Sequence[Path], revisions: Revisions) -> tuple[Found, list[str]]:
    """What lies in folders as `run --out` leaves them, and a sentence about whatever does not count."""
    records: dict[str, Record] = {}
    certificates: dict[str, Certificate] = {}
    plots: dict[str, Path] = {}
    matrices, problems = [], []
    for folder in folders:
        own, odd = store.read_all(folder / "records") if (folder / "records").is_dir() else ([], [])
        problems += odd
        for record in own:
            if record.key not in records or records[record.key].written < record.written:
                records[record.key], plots[record.key] = record, folder / "plots"
        if (folder / certificate_store.FOLDER).is_dir():
            claims, odd = certificate_store.read_all(folder / certificate_store.FOLDER)
            problems += odd
            certificates |= {one.key: one for one in claims}
        for path in sorted((folder / TRANSFER).glob("*.json")):
            try:
                matrices.append(read_matrix(path))
            except RecordError as error:
                problems.append(str(error))
    return of(records.values(), revisions, tuple(certificates.values()), tuple(matrices), plots), problems


def of(
    records: Iterable[Record],
    revisions: Revisions | None = None,
    certificates: Sequence[Certificate] = (),
    matrices: Sequence[Matrix] = (),
    plots: Mapping[str, Path] | None = None,
) -> Found:
    """The same of records that are at hand."""
    known, own = revisions or Revisions(), tuple(sorted(records, key=lambda r: r.key))
    boards = tuple(leaderboard.build(own, known, certificates))
    return Found(own, boards, curves.groups(boards), known, tuple(certificates), tuple(matrices), plots or {})


def read_matrix(path: Path) -> Matrix:
    """A transfer matrix. Raises RecordError where the file holds none."""
    try:
        content = json.loads(read_ordinary(path, limits.RECORD_BYTES), object_pairs_hook=each_once)
        if content["kind"] != "transfer":
            raise ValueError("it is of another kind")
        sources, targets = (_names(content[name]) for name in ("sources", "targets"))
        rows = [content["clean"], *(content["made_on"].get(source, {}) for source in sources)]
        values = tuple(tuple(_auc(row.get(target)) for target in targets) for row in rows)
        place = ", ".join(one_line(content[name], 60) for name in ("dataset", "category") if name in content)
        attack = f"{one_line(content['attack'], 60)}, epsilon {float(content['epsilon']):.4g}"
        flags = tuple(one_line(flag, 600) for flag in content.get("flags", [])[:MOST])
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise RecordError(
            f"The transfer matrix {path} cannot be read ({one_line(error, 200)}); run python -m bench transfer again."
        ) from None
    return Matrix(f"{place}: {attack}" if place else attack, ("clean", *sources), targets, values, flags)


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MOST or not all(isinstance(name, str) for name in value):
        raise ValueError(f"it should name at most {MOST} detectors")
    return tuple(one_line(name, 60) for name in value)


def _auc(entry: Any) -> float | None:
    if entry is None:
        return None
    value = float(entry["auc"])
    if not math.isfinite(value) or not 0 <= value <= 100:
        raise ValueError("an AUC should lie in [0, 100]")
    return value
