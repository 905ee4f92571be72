"""CIFAR-10 as one-class novelty detection, from the official batches or from a zip of JPEGs.

Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""

import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from bench.data.about import About
from bench.data.base import Sample
from bench.data.cifar_pickle import Batch, read_batch
from bench.data.oneclass import OneClass, Part
from bench.data.registry import register
from bench.errors import DataError
from detectors.files import open_ordinary, read_ordinary

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES: dict[Part, tuple[str, ...]] = {
    "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
    "test": ("test_batch",),
}
FOLDER, TAR, ZIP = "cifar-10-batches-py", "cifar-10-python.tar.gz", "cifar10-jpg.zip"
_MEMBER = re.compile(rf"(?:[^/]+/)?((train|test)/({'|'.join(CLASSES)})/[^/]+\.jpe?g)")
_LARGEST_FILE = 2**26  # bytes; a batch has 31 million, and a hostile archive must not fill the memory
_LARGEST_ARCHIVE, _MOST_MEMBERS = 2**30, 1000  # bytes, unpacked; the official one has 186 million in 9 members


@register
class Cifar10(OneClass):
    """`root` is the folder cifar-10-batches-py, cifar-10-python.tar.gz, cifar10-jpg.zip, or a folder with one of them.

    The original pixels come first where there are several. The pictures of the batches are numbered within their part,
    in torchvision's order.
    """

    name = "cifar10"
    summary = "CIFAR-10, one class normal and nine anomalous"
    about = About(
        title="CIFAR-10",
        source="Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
        home="https://www.cs.toronto.edu/~kriz/cifar.html",
        licence="no licence stated",
        size="60,000 pictures, 0.2 GB",
    )
    licence = about.line
    classes = CLASSES

    def categories(self) -> tuple[str, ...]:
        _ = self._source  # a missing root shall show here
        return super().categories()

    def remark(self, category: str) -> str:
        if self._is_zip:
            return "Read from JPEG files (lossy): the figures are close to those on the original pixels, not equal."
        return ""

    @cached_property
    def _source(self) -> Path:
        root = self.root
        assert root is not None  # needs_root
        candidates = (root / FOLDER, root, root / TAR, root / ZIP)
        for path in candidates:
            if path.is_file() or (path / BATCHES["test"][0]).is_file():
                return path
        raise DataError(f"There is no CIFAR-10 in {root}: --data-root needs {FOLDER}, {TAR} or {ZIP}.")

    @property
    def _is_zip(self) -> bool:
        return self._source.suffix.lower() == ".zip"

    @cached_property
    def _zip(self) -> zipfile.ZipFile:
        try:
            if self._source.stat().st_size > _LARGEST_ARCHIVE:
                raise zipfile.BadZipFile("it is larger than CIFAR-10")
            return zipfile.ZipFile(self._source)
        except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
            raise DataError(f"{self._source} is not a whole zip file ({error}): get it again.") from error

    def _read(self, part: Part) -> list[Sample]:
        if self._is_zip:
            return self._read_zip(part)
        batches = list(self._batches(part))
        rows = [row for batch in batches for row in batch.pixels]
        labels = [label for batch in batches for label in batch.labels]
        return [
            Sample(
                id=f"{part}/{CLASSES[label]}/{number:05d}",
                defect=CLASSES[label],
                where=f"image {number} of the {part} batches in {self._source}",
                content=partial(_row, row),
                decode=_decode_row,
            )
            for number, (row, label) in enumerate(zip(rows, labels, strict=True))
        ]

    def _batches(self, part: Part) -> Iterator[Batch]:
        files = self._batch_files(BATCHES[part])
        for name in BATCHES[part]:
            if name not in files:
                raise DataError(f"{self._source} lacks {name}: get {TAR} again and unpack the whole of it.")
            yield read_batch(files[name], f"{name} of {self._source}")

    def _batch_files(self, wanted: tuple[str, ...]) -> dict[str, bytes]:
        try:
            if self._source.is_dir():
                paths = [self._source / name for name in wanted]
                return {path.name: read_ordinary(path, _LARGEST_FILE) for path in paths if path.exists()}
            with (
                open_ordinary(self._source) as file,
                tarfile.open(fileobj=file, tarinfo=_SmallMember) as archive,
            ):
                return dict(_members(archive, wanted))
        except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, tarfile.TarError, _TooMuchError) as error:
            raise DataError(f"{self._source} is damaged ({error}): get {TAR} again.") from error

    def _read_zip(self, part: Part) -> list[Sample]:
        samples = []
        for member in self._zip.infolist():
            found = _MEMBER.fullmatch(member.filename)
            if found and found[2] == part and member.file_size <= _LARGEST_FILE:
                where = f"{member.filename} in {self._source}"
                content = partial(_member, self._zip, member, where)
                samples.append(Sample(id=found[1], defect=found[3], where=where, content=content))
        return samples


def _row(row: npt.NDArray[np.uint8]) -> bytes:
    return row.tobytes()


def _decode_row(content: bytes, where: str) -> Image.Image:
    planes = np.frombuffer(content, dtype=np.uint8).reshape(3, 32, 32)
    return Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0)))


class _TooMuchError(Exception):
    """An archive unpacks to more than CIFAR-10 does. None of tarfile's errors: at those it tries the next way of
    unpacking."""


class _SmallMember(tarfile.TarInfo):
    """A header of a tar: one that says that gigabytes follow is refused before tarfile reads them, which it does with
    long names."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """As in tarfile. Raises _TooMuchError."""
        found = super().frombuf(buf, encoding, errors)
        if found.size > _LARGEST_FILE:
            raise _TooMuchError(f"a part of it has {found.size >> 20} MiB")
        return found


def _members(archive: tarfile.TarFile, wanted: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """The names and contents of the wanted files; links are none. Raises _TooMuchError where there is far more than
    the batches: what is passed over has to be unpacked, too."""
    for count, member in enumerate(archive):
        if count >= _MOST_MEMBERS or member.size > _LARGEST_FILE or member.offset_data > _LARGEST_ARCHIVE:
            raise _TooMuchError("it holds more than CIFAR-10")
        name = Path(member.name).name
        file = archive.extractfile(member) if name in wanted and member.isreg() else None
        if file is not None:
            yield name, file.read()


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str) -> bytes:
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{where} is not packed as zip files usually are: get the zip file again.")
    try:
        with archive.open(member) as file:
            return file.read(member.file_size)  # asked for no more, it unpacks no more
    except (OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{where} is damaged ({error}): get the zip file again.") from error
