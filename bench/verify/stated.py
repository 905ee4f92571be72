"""Level 1: figures follow from per-image scores, and bounds. Nothing is run, whoever wrote the files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError, ContradictionError, RecordError
from bench.records import certificate_store, store
from bench.records.certificate import Certificate
from bench.records.certificate_store import BOUNDS_SUFFIX, FOLDER
from bench.records.paths import companion
from bench.records.record import Record
from bench.text import plural
from bench.verify.finding import Finding, Outcome

RECORDS = "records"
_NAMES = "*--*--*.json"


@dataclass(frozen=True)
class Claim:
    """A file that claims something; `what` is a record, a certificate, or None where it does not count."""

    path: Path
    what: Record | Certificate | None
    finding: Finding


def files_of(place: Path) -> list[Path]:
    """The records and certificates at a place: a file of one, a folder that a run left, or one of records.

    Raises:
        BenchError: there is nothing there.
    """
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise BenchError(
            f"There is nothing at {place}; name a record (a .json with its .scores.csv), the folder of a run, or an "
            "archive that submit made."
        )
    folders = [place / name for name in (RECORDS, FOLDER) if (place / name).is_dir()] or [place]
    found = [path for folder in folders for depth in ("", "*/", "*/*/") for path in folder.glob(depth + _NAMES)]
    if not found:
        raise BenchError(
            f"There are no records below {place}; name the folder that a run wrote to (--out), or one of its records."
        )
    return sorted(set(found))


def read(path: Path) -> Claim:
    """One claim, held against what lies beside it."""
    is_certificate = companion(path, BOUNDS_SUFFIX).is_file() or FOLDER in {folder.name for folder in path.parents[:3]}
    try:
        if is_certificate:
            certificate = certificate_store.read(path)
            return Claim(path, certificate, Finding(1, Outcome.HOLDS, _of_certificate(certificate)))
        record = store.read(path)
        return Claim(path, record, Finding(1, Outcome.HOLDS, _of_record(record)))
    except ContradictionError as error:
        return Claim(path, None, Finding(1, Outcome.FAILS, str(error)))
    except RecordError as error:
        return Claim(path, None, Finding(1, Outcome.UNJUDGED, str(error)))


def _of_record(record: Record) -> str:
    if record.clean is None or record.robust is None:
        return f"It claims no figures, since the cell failed: {record.reason}"
    draws = record.results.get("verdict_draws", 1)
    said = [
        f"Its figures follow from the scores of {record.subset.normals} normal and {record.subset.anomalies} anomalous "
        f"images{f' on {draws} draws' if draws != 1 else ''}: clean AUC {record.clean.auc:.1f}, robust AUC "
        f"{record.robust.auc:.1f} [{record.robust.low:.1f}, {record.robust.high:.1f}]."
    ]
    if record.limits:
        said.append(f"It is no full run of its protocol: {listed(record.limits)}.")
    return " ".join(said)


def _of_certificate(certificate: Certificate) -> str:
    radii = certificate.claim.radii
    return f"Its certified AUCs at {plural(len(radii), 'radius') if len(radii) == 1 else f'{len(radii)} radii'} " + (
        f"follow from the bounds of {certificate.claim.subset.normals} normal and "
        f"{certificate.claim.subset.anomalies} anomalous images."
    )


def listed(words: Sequence[object], most: int = 4) -> str:
    """The first few, as a stranger wrote them."""
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return "; ".join(map(str, words[:most])) + more
