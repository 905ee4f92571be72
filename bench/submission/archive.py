"""One archive of records, scores, images and checkpoints, written the same way each time and read from a stranger.

    manifest.json                                    names, sizes and SHA-256 of all others
    card.json                                        `bench.submission.card`
    records/DATASET/CATEGORY/*.json, *.scores.csv, *.images.safetensors
    certificates/DATASET/CATEGORY/*.json, *.bounds.csv
    checkpoints/DETECTOR/*.safetensors, *.json
    eval_results/*.yaml

Reading one runs nothing and trusts nothing that it says of itself. Before anything is unpacked, its table of contents
is looked at: plain names of these forms alone, each once, no links or folders, within the sizes below, and only text
compressed. What is unpacked is counted while it is written, so that no file is larger than it was said to be.
"""

from __future__ import annotations

import hashlib
import io
import json
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from bench import files
from bench.errors import RecordError
from bench.records import limits
from bench.records.cell import is_of
from bench.records.paths import is_plain_name
from bench.text import one_line
from detectors.checkpoint import LARGEST_DESCRIPTION
from detectors.files import open_ordinary

SUFFIX = ".zip"
KIND, FORMAT = "radbench-submission", 1
MANIFEST, CARD, CHECKPOINTS = "manifest.json", "card.json", "checkpoints"
ARCHIVE_BYTES = 2 << 30  # also of all that is unpacked: only text is compressed, and that is little
CONTENTS_BYTES = 2 << 20  # of the archive's own table of contents
FILES = 5000
CARD_BYTES = 256 << 10
TENSOR_BYTES = 1 << 30
RATIO = 200  # of a compressed text, at most; scores have about 3
_CHUNK = 1 << 20
_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that the format knows, so that the same files are the same archive
# What may be in it, and how large: one folder is one "*".
_FORMS: tuple[tuple[str, int], ...] = (
    (MANIFEST, limits.RECORD_BYTES),
    (CARD, CARD_BYTES),
    ("records/*/*/*.json", limits.RECORD_BYTES),
    ("records/*/*/*.scores.csv", limits.SCORES_BYTES),
    ("records/*/*/*.images.safetensors", TENSOR_BYTES),
    ("certificates/*/*/*.json", limits.RECORD_BYTES),
    ("certificates/*/*/*.bounds.csv", limits.SCORES_BYTES),
    ("checkpoints/*/*.safetensors", TENSOR_BYTES),
    ("checkpoints/*/*.json", LARGEST_DESCRIPTION),
    ("eval_results/*.yaml", CARD_BYTES),
)
_END = struct.Struct("<4s4H2LH")  # the archive's last bytes: PK\5\6, disks, entries, size and place of the contents
_END_64_LOCATOR = (b"PK\x06\x07", 20)


@dataclass(frozen=True)
class Entry:
    """A file of the archive, as its manifest names it."""

    name: str
    bytes: int
    sha256: str


def write(path: Path, contents: Mapping[str, Path | bytes]) -> None:
    """Pack files, given by their names within the archive: the same files, the same bytes.

    Raises:
        RecordError: a name that no archive may have, or more than it may hold.
        DiskError: the disk refuses.
    """
    sizes = {name: len(found) if isinstance(found, bytes) else found.stat().st_size for name, found in contents.items()}
    for name, size in sizes.items():
        _check_form(name, size)
    if len(sizes) > FILES or sum(sizes.values()) > ARCHIVE_BYTES:
        raise RecordError(
            f"These are {len(sizes)} files of {sum(sizes.values()) >> 20} MiB, and an archive holds {FILES} of "
            f"{ARCHIVE_BYTES >> 20} MiB; submit fewer records at a time, or leave out images and checkpoints."
        )
    entries = []
    temporary = path.with_name(f".{path.name}.tmp")
    with files.writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with zipfile.ZipFile(temporary, "w", allowZip64=False) as packed:
                for name in sorted(contents):
                    found = contents[name]
                    with _opened(found) as source, packed.open(_info(name, sizes[name]), "w") as target:
                        digest, count = _copy(source, target, sizes[name])
                    entries.append(Entry(name, count, digest))
                described = {"kind": KIND, "format": FORMAT, "files": [asdict(entry) for entry in entries]}
                text = (json.dumps(described, indent=1, sort_keys=True) + "\n").encode()
                with packed.open(_info(MANIFEST, len(text)), "w") as target:
                    target.write(text)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def unpack(path: Path, folder: Path) -> list[Entry]:
    """Look at an archive, and write what is in it below a folder that is not there yet. Returns its files.

    Raises:
        RecordError: it is no such archive, or half of one; a name, a kind, a size or a hash is not what it may be.
        DiskError: the disk refuses.
    """
    try:
        stream = open_ordinary(path)
    except OSError as error:
        raise RecordError(f"The archive {path} cannot be read ({files.why(error)}).") from None
    with stream:
        try:
            _check_contents_size(stream)
            with zipfile.ZipFile(stream) as packed:
                infos = _looked_at(packed.infolist())
                entries = _manifest(packed, infos)
                with files.writing(folder):
                    folder.mkdir(parents=True)
                for entry in entries:
                    _unpack_one(packed, infos[entry.name], entry, folder)
        except RecordError as error:
            raise type(error)(f"The archive {path} is refused: {error}") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
            raise RecordError(
                f"The archive {path} is damaged, or half of one ({one_line(error, 100)}); get it again."
            ) from None
    return entries


# -- looking --------------------------------------------------------------------------------------------------------


def _check_contents_size(stream: BinaryIO) -> None:
    """The table of contents is read at once, by a module that believes its size: so that is looked at first."""
    size = stream.seek(0, 2)
    if size > ARCHIVE_BYTES:
        raise RecordError(f"it has {size >> 20} MiB, and {ARCHIVE_BYTES >> 20} are read.")
    tail_bytes = _END.size + _END_64_LOCATOR[1]
    stream.seek(max(size - tail_bytes, 0))
    tail = stream.read(tail_bytes)
    stream.seek(0)
    end = tail[-_END.size :]
    if len(end) < _END.size or end[:4] != b"PK\x05\x06":
        raise zipfile.BadZipFile("it does not end as an archive of submit does")
    _, disk, first_disk, here, entries, contents, _, comment = _END.unpack(end)
    if disk or first_disk or here != entries or comment or tail.startswith(_END_64_LOCATOR[0]):
        raise RecordError("it is in several parts, has a comment or 64-bit sizes, as submit writes none.")
    if entries > FILES or contents > CONTENTS_BYTES:
        raise RecordError(f"it has {entries} files, and {FILES} are read.")


def _looked_at(infos: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """The entries by name, none of which is other than it may be."""
    found: dict[str, zipfile.ZipInfo] = {}
    folded: set[str] = set()
    for info in infos:
        name = info.orig_filename  # before zipfile has made something of it
        if info.header_offset < 0:  # its beginning was cut off, and all places in it are too far back
            raise zipfile.BadZipFile("it begins in the middle")
        if name != info.filename:
            raise RecordError(f"the name {one_line(repr(name), 100)} is none that a file may have.")
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG) or info.is_dir():
            raise RecordError(f"{one_line(name, 100)} is a link, a folder or a device, and only files are taken.")
        _check_form(name, info.file_size)
        if info.flag_bits & 0x1:
            raise RecordError(f"{name} is encrypted.")
        _check_compression(info)
        if name.lower() in folded:
            raise RecordError(f"{name} is there twice.")
        folded.add(name.lower())
        found[name] = info
    if sum(info.file_size for info in infos) > ARCHIVE_BYTES:
        raise RecordError(f"it unpacks to more than {ARCHIVE_BYTES >> 20} MiB.")
    if len(found) > FILES:
        raise RecordError(f"it has {len(found)} files, and {FILES} are read.")
    return found


def _check_form(name: str, size: int) -> None:
    """Raises RecordError for a name that stands in none of the places, or a file that is larger than is read."""
    parts = name.split("/")
    if not all(map(is_plain_name, parts)):
        raise RecordError(f"{one_line(repr(name), 100)} is no plain name within it.")
    for form, most in _FORMS:
        if len(parts) == form.count("/") + 1 and PurePosixPath(name).match(form):
            if size > most:
                raise RecordError(f"{name} has {size} bytes, and {most} are read.")
            return
    raise RecordError(f"{one_line(name, 100)} is no file that a submission has.")


def _check_compression(info: zipfile.ZipInfo) -> None:
    """Tensors are stored as they are; a text that is packed a thousand times smaller is none of ours."""
    if info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size:
        return
    if info.compress_type != zipfile.ZIP_DEFLATED or info.filename.endswith(".safetensors"):
        raise RecordError(f"{info.filename} is compressed in a way that submit does not use.")
    if info.file_size > RATIO * max(info.compress_size, 1):
        raise RecordError(f"{info.filename} unpacks to more than {RATIO} times its size: no text of ours does.")


def _manifest(packed: zipfile.ZipFile, infos: Mapping[str, zipfile.ZipInfo]) -> list[Entry]:
    """The files that the manifest names, which are those that are there."""
    if MANIFEST not in infos:
        raise RecordError(f"it has no {MANIFEST}: submit did not make it.")
    with packed.open(infos[MANIFEST]) as source:
        text = source.read(limits.RECORD_BYTES + 1)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise RecordError(f"its {MANIFEST} is no JSON.") from None
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise RecordError(f"its {MANIFEST} is not that of a submission.")
    version = document.get("format")
    if version != FORMAT:
        newer = isinstance(version, int) and FORMAT < version < 1000
        raise RecordError(
            f"it is of format {one_line(version, 20)}, and this version reads {FORMAT}; "
            + ("update RADBench." if newer else "submit again.")
        )
    listed = document.get("files")
    entries = []
    for one in listed if isinstance(listed, list) else [None]:
        named = one if isinstance(one, dict) else {}
        entry = Entry(**{name: named.get(name, "") for name in ("name", "bytes", "sha256")})
        if not (is_of(entry.name, str) and is_of(entry.bytes, int) and is_of(entry.sha256, str)):
            raise RecordError(f"its {MANIFEST} names a file without name, size and hash.")
        entries.append(entry)
    if sorted(entry.name for entry in entries) != sorted(infos.keys() - {MANIFEST}):
        raise RecordError(f"its {MANIFEST} names other files than are there.")
    return entries


# -- copying --------------------------------------------------------------------------------------------------------


def _unpack_one(packed: zipfile.ZipFile, info: zipfile.ZipInfo, entry: Entry, folder: Path) -> None:
    if info.file_size != entry.bytes:
        raise RecordError(f"{entry.name} has {info.file_size} bytes, and its {MANIFEST} says {entry.bytes}.")
    target = folder.joinpath(*entry.name.split("/"))
    with files.writing(folder):
        target.parent.mkdir(parents=True, exist_ok=True)
        with packed.open(info) as source, target.open("xb") as written:  # never over another one
            digest, _ = _copy(source, written, entry.bytes)
    if digest != entry.sha256:
        raise RecordError(f"{entry.name} is not the file that its {MANIFEST} names (SHA-256 differs).")


def _copy(source: IO[bytes], target: IO[bytes], size: int) -> tuple[str, int]:
    """Copy a file of so many bytes. Returns their hash and number. Raises RecordError where there are others."""
    digest, count = hashlib.sha256(), 0
    while chunk := source.read(_CHUNK):
        count += len(chunk)
        if count > size:
            break
        digest.update(chunk)
        target.write(chunk)
    if count != size:
        raise RecordError(f"a file has {'more' if count > size else 'fewer'} bytes than the {size} that are stated.")
    return digest.hexdigest(), count


def _opened(found: Path | bytes) -> BinaryIO:
    return io.BytesIO(found) if isinstance(found, bytes) else open_ordinary(found)


def _info(name: str, size: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _TIME)
    info.create_system = 3  # Unix, whatever this is, for the next line
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    info.compress_type = zipfile.ZIP_STORED if name.endswith(".safetensors") else zipfile.ZIP_DEFLATED
    info.file_size = size
    return info
