"""Fashion-MNIST as one-class novelty detection, from its idx files (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747)."""

import gzip
import math
import struct
import zlib
from functools import cached_property, partial
from pathlib import Path

from PIL import Image

from bench.data.about import About
from bench.data.base import Sample
from bench.data.oneclass import OneClass, Part
from bench.data.registry import register
from bench.errors import DataError
from detectors.files import open_ordinary

SIDE = 28
PREFIX: dict[Part, str] = {"train": "train", "test": "t10k"}
SUBFOLDERS = (".", "FashionMNIST/raw", "raw")  # torchvision unpacks to the second
_SOURCE = "https://github.com/zalandoresearch/fashion-mnist"


@register
class FashionMnist(OneClass):
    """`root` is the folder of the four files ...-idx3-ubyte and ...-idx1-ubyte, plain or .gz, or torchvision's root."""

    name = "fashion-mnist"
    summary = "Fashion-MNIST, one class normal and nine anomalous"
    about = About(
        title="Fashion-MNIST",
        source="Xiao et al. 2017, (c) Zalando SE",
        home=_SOURCE,
        licence="MIT licence",
        size="70,000 pictures, 0.03 GB",
        shown="with source and licence",
    )
    licence = about.line
    classes = (
        "t-shirt",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle-boot",
    )

    def categories(self) -> tuple[str, ...]:
        _ = self._folder  # a missing root shall show here
        return super().categories()

    @cached_property
    def _folder(self) -> Path:
        assert self.root is not None  # needs_root
        for subfolder in SUBFOLDERS:
            if _find(self.root / subfolder, "t10k-images-idx3-ubyte") is not None:
                return self.root / subfolder
        raise DataError(
            f"There is no Fashion-MNIST in {self.root}: --data-root needs the folder with its four idx files "
            f"(from {_SOURCE})."
        )

    def _read(self, part: Part) -> list[Sample]:
        (count, *shape), pixels = _read_idx(self._folder, f"{PREFIX[part]}-images-idx3-ubyte", dimensions=3)
        (label_count,), labels = _read_idx(self._folder, f"{PREFIX[part]}-labels-idx1-ubyte", dimensions=1)
        if shape != [SIDE, SIDE] or label_count != count or max(labels, default=0) >= len(self.classes):
            raise DataError(f"The {part} files in {self._folder} are not Fashion-MNIST's: get them from {_SOURCE}.")
        return [
            Sample(
                id=f"{part}/{self.classes[label]}/{number:05d}",
                defect=self.classes[label],
                where=f"image {number} of the {part} files in {self._folder}",
                content=partial(_picture, pixels, number),
                decode=_decode_picture,
            )
            for number, label in enumerate(labels)
        ]


def _picture(pixels: bytes, number: int) -> bytes:
    return pixels[number * SIDE * SIDE : (number + 1) * SIDE * SIDE]


def _decode_picture(content: bytes, where: str) -> Image.Image:
    return Image.frombytes("L", (SIDE, SIDE), content).convert("RGB")


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.exists()), None)


def _read_idx(folder: Path, name: str, dimensions: int) -> tuple[tuple[int, ...], bytes]:
    """Shape and data of an idx file: 0, 0, 8 (bytes), number of dimensions, each as 4 bytes big-endian, the data."""
    path = _find(folder, name)
    if path is None:
        raise DataError(f"{folder} lacks {name} (or {name}.gz): get it from {_SOURCE}.")
    try:
        with open_ordinary(path) as plain, gzip.open(plain) if path.suffix == ".gz" else plain as file:
            zero, kind, rank, *shape = struct.unpack(f">HBB{dimensions}I", file.read(4 + 4 * dimensions))
            if (zero, kind, rank) != (0, 8, dimensions) or math.prod(shape) > 2**28:
                raise DataError(f"{path} is not the idx file it should be: get it again from {_SOURCE}.")
            data = file.read(math.prod(shape) + 1)  # one more, to see whether the file is too long
    except (OSError, EOFError, struct.error, zlib.error) as error:
        raise DataError(f"{path} is damaged ({error}): get it again from {_SOURCE}.") from error
    if len(data) != math.prod(shape):
        raise DataError(f"{path} is cut off or too long for what its header says: get it again from {_SOURCE}.")
    return tuple(shape), data
