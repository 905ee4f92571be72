"""Records of several folders put together, each as it was written; two that disagree are shown, and nothing is done."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import files
from bench.errors import RecordError
from bench.records import certificate_store, kept_images, limits, store
from bench.records.certificate import Certificate
from bench.records.certificate_store import FOLDER as CERTIFICATES
from bench.records.paths import EXAMPLES_SUFFIX, IMAGES_SUFFIX, companion, record_path
from bench.records.record import Record
from bench.verify import stated
from bench.verify.beside import differences, unstated
from bench.verify.finding import Outcome
from bench.verify.stated import RECORDS
from detectors.checkpoint import write_atomically
from detectors.files import read_ordinary

_NOT_COMPARED = ("brightness", "file_order", "threshold", "threshold_rule")  # not of the attack, nor of its verdict


@dataclass(frozen=True)
class Merged:
    """What several places hold together.

    Attributes:
        kept: the record of each key: a success before a failure, then the newer one.
        doubles: how many others say the same.
        conflicts: a sentence for each two of one key that state other figures.
        problems: a sentence for each file that does not count.
    """

    kept: Mapping[str, Record | Certificate] = field(default_factory=dict)
    doubles: int = 0
    conflicts: Sequence[str] = ()
    problems: Sequence[str] = ()


def merged(places: Sequence[Path]) -> Merged:
    """Read all places. Raises BenchError where one of them has nothing."""
    kept: dict[str, Record | Certificate] = {}
    doubles, conflicts, problems = 0, [], []
    for path in dict.fromkeys(path.resolve() for place in places for path in stated.files_of(place)):
        claim = stated.read(path)
        what = claim.what
        if what is None or claim.finding.outcome is not Outcome.HOLDS:
            problems.append(claim.finding.sentence)
            continue
        other = kept.get(what.key)
        if other is None:
            kept[what.key] = what
            continue
        doubles += 1
        if _claims(other) and _claims(what) and (told := _contradictions(other, what)):
            conflicts.append(
                f"{other.path} and {what.path} are of one cell and state other figures: {stated.listed(told)}. Verify "
                "both, and delete the one that does not hold."
            )
        if (_claims(what), what.written) > (_claims(other), other.written):
            kept[what.key] = what
    by_place: dict[Path, Record | Certificate] = {}
    for what in kept.values():
        twin = by_place.setdefault(_place(Path(), what), what)
        if twin is not what:  # keys whose first digits are the same, by somebody's design
            problems.append(f"{twin.path} and {what.path} are of two cells that would be one file; leave one out.")
    return Merged(kept, doubles, conflicts, problems)


def write(found: Merged, out: Path) -> list[Path]:
    """Write what is kept, where it is not there already: records and certificates each below its folder.

    Raises:
        RecordError: there are conflicts, or files that do not count; nothing is written then.
        DiskError: the disk refuses.
    """
    if found.conflicts or found.problems:
        raise RecordError([*found.conflicts, *found.problems][0])
    written = []
    for what in found.kept.values():
        if isinstance(what, Record):
            scores = store.read_scores(what) if what.ok else None
            _copy_examples(what, out / RECORDS)
            _copy_images(what, out / RECORDS)
            written.append(store.write(what, scores, out / RECORDS))
        else:
            written.append(certificate_store.write(what, certificate_store.read_bounds(what), out / CERTIFICATES))
    return written


def _place(out: Path, what: Record | Certificate) -> Path:
    if isinstance(what, Record):
        return record_path(out / RECORDS, what.cell)
    return certificate_store.certificate_path(out / CERTIFICATES, what.claim)


def _claims(what: Record | Certificate) -> bool:
    return not isinstance(what, Record) or what.ok


def _copy_images(record: Record, folder: Path) -> None:
    """Beside the record, before it, as a run does; the record says which they are, and a reader asks their hash."""
    if not kept_images.are_there(record):
        return
    assert record.path is not None
    source = companion(record.path, IMAGES_SUFFIX)
    target = companion(record_path(folder, record.cell), IMAGES_SUFFIX)
    if source.resolve() == target.resolve():
        return
    with files.writing(folder):
        data = read_ordinary(source, int(record.images["bytes"]))
        if hashlib.sha256(data).hexdigest() == record.images.get("sha256"):
            write_atomically(target, data)


def _copy_examples(record: Record, folder: Path) -> None:
    """What the record's panel is drawn from, if it is there: no figure stands on it, and who draws it checks it."""
    assert record.path is not None
    source, target = (companion(p, EXAMPLES_SUFFIX) for p in (record.path, record_path(folder, record.cell)))
    if source.resolve() == target.resolve():
        return
    try:
        data = read_ordinary(source, limits.EXAMPLES_BYTES)
    except OSError:
        return
    with files.writing(folder):
        write_atomically(target, data)


def _contradictions(one: Record | Certificate, other: Record | Certificate) -> list[str]:
    """In what two of one cell differ: figures by more than rounding, with both values; whether they are full runs of
    their protocol; signs that the attack did not do its work, which one of them leaves out."""
    first, second = ({n: v for n, v in what.results.items() if n not in _NOT_COMPARED} for what in (one, other))
    told = list(differences(first, second))
    if one.full_run != other.full_run:
        told.append("only one says that it is a full run")
    if isinstance(one, Record) and isinstance(other, Record):
        told += [f"only one says that {sentence}" for sentence in (*unstated(one, other), *unstated(other, one))]
    return told
