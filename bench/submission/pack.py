"""From records to an archive: what goes into it, and the check that its readers will make."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import files
from bench.errors import BenchError, RecordError
from bench.records import kept_images
from bench.records.cell import CellDetector
from bench.records.certificate import Certificate
from bench.records.certificate_store import BOUNDS_SUFFIX, certificate_path
from bench.records.certificate_store import FOLDER as CERTIFICATES
from bench.records.paths import IMAGES_SUFFIX, SCORES_SUFFIX, companion, record_path, safe_name
from bench.records.record import Record
from bench.submission import archive, eval_results
from bench.submission.card import Card, licences_of, source_of
from bench.submission.eval_results import Hub
from bench.text import one_line
from bench.verify import brought, stated
from bench.verify.finding import Outcome
from bench.verify.stated import RECORDS, Claim
from detectors import checkpoint
from detectors.errors import CheckpointError
from detectors.files import read_ordinary

IN_ARCHIVE, SHIPPED, TO_FIT = "in this archive", "shipped with the package", "to be fitted"
_KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Packing:
    """What is to be packed beside records and scores.

    Attributes:
        checkpoints: whether checkpoints are, where they are in the cache.
        images: whether adversarial images are, where they were kept.
        cache: where checkpoints lie.
        hub: where entries for the Hugging Face Hub point to; None: there are none.
    """

    cache: Path
    checkpoints: bool = True
    images: bool = True
    hub: Hub | None = None


def pack(places: Sequence[Path], card: Card, packing: Packing, out: Path) -> tuple[Card, list[archive.Entry]]:
    """Write an archive of all claims at some places, once it has passed the check of whoever reads it.

    Returns:
        The card as it was written, and the files.

    Raises:
        BenchError, RecordError: something is missing or does not hold; nothing is written then.
        DiskError: the disk refuses.
    """
    if lacking := card.lacking():
        raise BenchError(f"A submission must say {'; '.join(lacking)}.")
    claims = [stated.read(path) for place in places for path in stated.files_of(place)]
    if bad := [c.finding.sentence for c in claims if c.finding.outcome is not Outcome.HOLDS]:
        raise RecordError(bad[0] + (f" ({len(bad) - 1} more do not count.)" if len(bad) > 1 else ""))
    found = {claim.what.key: claim for claim in claims if claim.what is not None}
    for claim in claims:
        assert claim.what is not None
        if found[claim.what.key].path.resolve() != claim.path.resolve():
            raise RecordError(f"{claim.path} and {found[claim.what.key].path} are of one cell; submit one of them.")
    contents: dict[str, Path | bytes] = {}
    sources = {}
    for claim in found.values():
        contents |= _files(claim, packing)
        detector = _detector(claim)
        contents |= _checkpoint(claim, packing)
        origin = claim.what.checkpoint.get("origin") if claim.what is not None else ""
        there = f"{archive.CHECKPOINTS}/{brought.name_of(detector.name, detector.checkpoint_sha256)}" in contents
        how = IN_ARCHIVE if there else SHIPPED if origin == "shipped" else TO_FIT
        sources[detector.name, detector.checkpoint_sha256] = source_of(detector, how)
    whats = [claim.what for claim in found.values() if claim.what is not None]
    card = replace(card, data_licences=licences_of(whats), detectors=tuple(sources[key] for key in sorted(sources)))
    contents[archive.CARD] = card.to_json().encode()
    if packing.hub is not None:
        contents |= eval_results.files_of([what for what in whats if isinstance(what, Record)], packing.hub)
    with files.writing(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        work = TemporaryDirectory(dir=out.parent, prefix=".radbench-submit-")
    with work as private:
        made = Path(private) / out.name
        archive.write(made, contents)
        entries = archive.unpack(made, Path(private) / "read")
        if problems := list(check(Path(private) / "read")):
            raise RecordError(problems[0])
        with files.writing(out.parent):
            made.replace(out)
    return card, entries


def check(folder: Path) -> Iterator[str]:
    """What is wrong with an archive that was unpacked into a folder, as sentences: what a maintainer looks at before
    anything is run. Raises RecordError where its card cannot be read."""
    card = read_card(folder)
    for asked in card.lacking():
        yield f"The card does not say {asked}."
    claims = [stated.read(path) for path in stated.files_of(folder)]
    wanted: set[Path] = set()
    told = {(source.name, source.checkpoint_sha256): source.checkpoint for source in card.detectors if source.package}
    for claim in claims:
        if claim.finding.outcome is not Outcome.HOLDS or claim.what is None:
            yield claim.finding.sentence
            continue
        if isinstance(claim.what, Record) and not claim.what.ok:
            yield f"{claim.path.name} is of a cell that failed, and claims nothing; leave it out."
        if claim.path != _place(folder, claim.what):
            yield f"{claim.path.name} does not lie where a record of its cell does; submit again."
        detector = _detector(claim)
        weights = folder / archive.CHECKPOINTS / brought.name_of(detector.name, detector.checkpoint_sha256)
        if (detector.name, detector.checkpoint_sha256) not in told:
            yield f"The card does not say how {one_line(detector.name, 60)} of {claim.path.name} can be had."
        elif (told[detector.name, detector.checkpoint_sha256] == IN_ARCHIVE) != checkpoint.exists(weights):
            yield f"The card says otherwise than the archive whether the checkpoint of {claim.path.name} is in it."
        if not set(licences_of([claim.what])) <= set(card.data_licences):
            yield f"The card does not name the licence of the data of {claim.path.name}."
        wanted |= {claim.path, *(companion(claim.path, s) for s in (SCORES_SUFFIX, BOUNDS_SUFFIX, IMAGES_SUFFIX))}
        wanted |= {weights, checkpoint.description_path(weights)}
        yield from _images(claim)
        yield from _weights(weights, detector.checkpoint_sha256)
    for top in (RECORDS, CERTIFICATES, archive.CHECKPOINTS):
        for path in sorted((folder / top).rglob("*")):
            if path.is_file() and path not in wanted:
                yield f"{one_line(path.relative_to(folder), 200)} belongs to no record of the submission; leave it out."
    entries = {
        path.relative_to(folder).as_posix(): read_ordinary(path, archive.CARD_BYTES).decode(errors="surrogateescape")
        for path in sorted((folder / eval_results.FOLDER).glob("*"))
    }
    yield from eval_results.foreign(entries, [claim.what for claim in claims if isinstance(claim.what, Record)])


def read_card(folder: Path) -> Card:
    """The card of an archive that was unpacked into a folder. Raises RecordError."""
    try:
        text = read_ordinary(folder / archive.CARD, archive.CARD_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"The submission has no {archive.CARD} ({files.why(error)}); submit again.") from None
    return Card.from_json(text)


def _place(folder: Path, what: Record | Certificate) -> Path:
    if isinstance(what, Record):
        return record_path(folder / RECORDS, what.cell)
    return certificate_path(folder / CERTIFICATES, what.claim)


def _detector(claim: Claim) -> CellDetector:
    what = claim.what
    assert what is not None
    return what.detector if isinstance(what, Record) else what.claim.detector


def _images(claim: Claim) -> Iterator[str]:
    path = companion(claim.path, IMAGES_SUFFIX)
    if isinstance(claim.what, Record) and path.is_file():
        try:
            kept_images.read(claim.what)
        except RecordError as error:
            yield str(error)


def _weights(path: Path, tensors_sha256: str) -> Iterator[str]:
    if not checkpoint.exists(path):
        return
    try:
        _, description = checkpoint.read(path)
    except CheckpointError as error:
        yield str(error)
        return
    if description.get("tensors_sha256") != tensors_sha256:
        yield f"The checkpoint {path.name} is not the one that its record names."


def _files(claim: Claim, packing: Packing) -> dict[str, Path | bytes]:
    """The claim's own files by their names in the archive."""
    assert claim.what is not None
    place = _place(Path(), claim.what)
    suffix = SCORES_SUFFIX if isinstance(claim.what, Record) else BOUNDS_SUFFIX
    found: dict[str, Path | bytes] = {place.as_posix(): claim.path}
    if isinstance(claim.what, Record) and not claim.what.ok:
        raise RecordError(f"{claim.path} is of a cell that failed, and claims nothing; leave it out.")
    found[companion(place, suffix).as_posix()] = companion(claim.path, suffix)
    if packing.images and isinstance(claim.what, Record) and kept_images.are_there(claim.what):
        found[companion(place, IMAGES_SUFFIX).as_posix()] = companion(claim.path, IMAGES_SUFFIX)
    return found


def _checkpoint(claim: Claim, packing: Packing) -> dict[str, Path | bytes]:
    """The checkpoint that a claim is of, where it is in the cache."""
    assert claim.what is not None
    detector, key = _detector(claim), claim.what.checkpoint.get("key")
    if not packing.checkpoints or not isinstance(key, str) or not _KEY.fullmatch(key):
        return {}
    path = packing.cache / "checkpoints" / safe_name(detector.name.replace(":", "-")) / f"{key[:24]}.safetensors"
    try:
        if checkpoint.read_description(path).get("tensors_sha256") != detector.checkpoint_sha256:
            return {}  # it was fitted again since, and ended elsewhere
    except CheckpointError:
        return {}
    name = f"{archive.CHECKPOINTS}/{brought.name_of(detector.name, detector.checkpoint_sha256)}"
    described = checkpoint.description_path(Path(name)).as_posix()
    return {name: path, described: checkpoint.description_path(path)}
