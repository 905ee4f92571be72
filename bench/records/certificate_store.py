"""Certificates on the disk: JSON beside a CSV of per-image bounds, written and read with the care of `records.store`.

certificates/DATASET/CATEGORY/DETECTOR--RULE--KEY.json and .bounds.csv
"""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

from bench import files
from bench.errors import ContradictionError, RecordError
from bench.records import certificate_figures, limits, pairs
from bench.records.bounds_table import BoundsTable, parse, render
from bench.records.certificate import Certificate, Claim, check
from bench.records.paths import companion, folder_of, safe_name
from detectors.files import read_ordinary

log = logging.getLogger(__name__)
BOUNDS_SUFFIX = ".bounds.csv"
FOLDER = "certificates"


def certificate_path(folder: Path, claim: Claim) -> Path:
    """Where the certificate of a claim lies."""
    stem = f"{safe_name(claim.detector.name)}--{safe_name(claim.smoothing.rule)}--{claim.key[:12]}"
    return folder_of(folder, claim.dataset, claim.category) / f"{stem}.json"


def write(certificate: Certificate, table: BoundsTable, folder: Path) -> Path:
    """Write the bounds, then the record. Returns the record's path.

    Raises:
        RecordError: the key or a figure is wrong or not that of the bounds.
        DiskError: the disk refuses (nothing half-written stays behind).
    """
    path, text = certificate_path(folder, certificate.claim), render(table)
    record = dataclasses.replace(certificate, bounds_sha256=pairs.digest(text)).to_json()
    document = json.loads(record)
    certificate_figures.check(check(document), document["results"], table)
    pairs.write(folder, path, record, companion(path, BOUNDS_SUFFIX), text)
    return path


def read(path: Path) -> Certificate:
    """One certificate, held against its bounds. Raises RecordError where one of the two is missing, damaged or changed,
    or where they do not belong together."""
    try:
        text = read_ordinary(path, limits.RECORD_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(
            f"The certificate {path} cannot be read ({files.why(error)}); run the command again."
        ) from None
    try:
        found = dataclasses.replace(Certificate.from_json(text), path=path)
        results = certificate_figures.check(found.claim, found.results, read_bounds(found))
    except RecordError as error:
        raise type(error)(f"The certificate {path} does not count: {error}") from None
    return dataclasses.replace(found, results=results)


def read_bounds(certificate: Certificate) -> BoundsTable:
    """The per-image bounds of a certificate that was read from a file.

    Raises:
        RecordError: they are missing, damaged, or not the ones that it was written for.
    """
    if certificate.path is None:
        raise RecordError("this certificate was not read from a file, so it has no bounds beside it; read it first.")
    path = companion(certificate.path, BOUNDS_SUFFIX)
    try:
        text = read_ordinary(path, limits.SCORES_BYTES).decode(errors="surrogateescape")
    except OSError as error:
        raise RecordError(
            f"its bounds {path.name} cannot be read ({files.why(error)}); run the command again."
        ) from None
    if pairs.digest(text) != certificate.bounds_sha256:
        raise ContradictionError(f"its bounds {path.name} are not those it was written with; run the command again.")
    return parse(text)


def read_all(folder: Path) -> tuple[list[Certificate], list[str]]:
    """Every certificate below the folder, and what is said of those that do not count (`pairs.read_each`)."""
    return pairs.read_each(folder, read, "of the same claim")


def find(folder: Path, claim: Claim) -> Certificate | None:
    """The certificate of this very claim, or None where there is none or it does not count (which a warning says)."""
    path = certificate_path(folder, claim)
    with files.writing(folder):
        if not path.is_file():
            return None
    try:
        found = read(path)
    except RecordError as error:
        log.warning("%s That is done now.", error)
        return None
    return found if found.key == claim.key else None
