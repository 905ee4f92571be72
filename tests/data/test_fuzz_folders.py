"""Folders of pictures as strangers, bad disks and other systems leave them, all from one seed. Each can be read or is a
DataError; nothing else comes out, nothing waits for ever, and nothing unpacks to more than a picture may have."""

from __future__ import annotations

import io
import os
import random
import resource
import shutil
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.data import registry
from bench.data.listing import pictures_below
from bench.errors import DataError
from bench.inspection import inspection

ROUNDS, MEMORY_MB, SIDE = 120, 400, 12
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".bmp": "BMP", ".tif": "TIFF", ".webp": "WEBP"}
ODD_NAMES = (
    "é.png",
    "e\u0301.png",
    "a\nb.png",
    "\x1b[2J.png",
    "螺.PNG",
    " .png",
    "-x.png",
    "a" * 200 + ".png",
    "b\udce9.png",
)

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without named pipes")


def picture(seed: int, ending: str = ".png") -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, FORMATS[ending])
    return stream.getvalue()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole") / "bolt"
    for number, place in enumerate(("train/good", "test/good", "test/crack", "ground_truth/crack")):
        (root / place).mkdir(parents=True)
        for i in range(4):
            (root / place / f"{i:03d}.png").write_bytes(picture(10 * number + i))
    rows = [f"{place}/{i:03d}.png,{i}\n" for place in ("train/good", "test/good", "test/crack") for i in range(4)]
    (root / "groups.csv").write_text("file,group\n" + "".join(rows))
    return root


# -- what is changed; each takes a file of the folder -----------------------------------------------------------------


def flipped(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(draw.choice((1, 5, 50))):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(bytes(content))


def cut(path: Path, draw: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])


def of_another_format(path: Path, draw: random.Random) -> None:
    content = bytearray(picture(draw.randrange(99), draw.choice(sorted(FORMATS))))
    for _ in range(draw.choice((0, 1, 3))):
        content[draw.randrange(len(content))] = draw.randrange(256)
    path.write_bytes(bytes(content))


def noise(path: Path, draw: random.Random) -> None:
    start = draw.choice((b"", b"\x89PNG\r\n\x1a\n", b"II*\0", b"BM", b"RIFF", b"\xff\xd8\xff"))
    path.write_bytes(start + draw.randbytes(draw.choice((0, 1, 40, 4000))))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(path: Path, draw: random.Random) -> None:
    """Headers that promise gigabytes, before data that is short or unpacks to a lot."""
    size = draw.choice((20_000, 60_000, 2**31 - 1))
    data = zlib.compress(bytes(1 << 20), 9)
    head = struct.pack(">IIBBBBB", size, size, 8, draw.choice((0, 2, 6)), 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    entries = [(256, 4, 1, size), (257, 4, 1, size), (258, 3, 1, 8), (259, 3, 1, draw.choice((1, 5, 8)))]
    entries += [(262, 3, 1, 1), (273, 4, 1, 200), (277, 3, 1, 1), (278, 4, 1, size), (279, 4, 1, 50)]
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries))
    tiff += b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(200)
    path.write_bytes(draw.choice((png, tiff)))


def pipe(path: Path, draw: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path, draw: random.Random) -> None:
    path.unlink()
    path.mkdir()
    (path / "000.png").write_bytes(b"x")


def link(path: Path, draw: random.Random) -> None:
    path.unlink()
    path.symlink_to(draw.choice((str(path), "/", "..", "/proc/self/mem", str(path.parent))))


def endless(path: Path, draw: random.Random) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def nowhere(path: Path, draw: random.Random) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def listener(path: Path, draw: random.Random) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's name may have a hundred characters
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


def enormous(path: Path, draw: random.Random) -> None:
    with path.open("wb") as stream:
        stream.truncate(10 << 30)  # a hole: it takes no room


def renamed(path: Path, draw: random.Random) -> None:
    path.rename(path.with_name(draw.choice(ODD_NAMES)))


def doubled(path: Path, draw: random.Random) -> None:
    path.with_name(draw.choice(ODD_NAMES)).write_bytes(path.read_bytes())


CHANGES: list[Callable[[Path, random.Random], None]] = [
    flipped,
    cut,
    of_another_format,
    noise,
    bomb,
    pipe,
    folder,
    link,
    endless,
    nowhere,
    listener,
    enormous,
    renamed,
    doubled,
]


# -- the claims -------------------------------------------------------------------------------------------------------


def read_all(root: Path) -> None:
    """What a run and `inspect` do with a folder."""
    dataset = registry.get("folder", root)
    for category in dataset.categories():
        dataset.findings(category)
        dataset.validate(category)
        train, test = dataset.train(category, 8), dataset.test(category, 8, per_class=3)
        inspection.inspect(dataset, category, (train,), test)
        assert len(train) >= 1 and len(test) >= 2


def test_a_changed_folder_is_read_or_refused_with_a_sentence(tmp_path: Path, whole: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = 0
    for number in range(ROUNDS):
        draw = random.Random(number)
        root = tmp_path / str(number)
        shutil.copytree(whole, root)
        if draw.random() < 0.7:
            (root / "groups.csv").unlink()
        if draw.random() < 0.5:
            shutil.rmtree(root / "ground_truth")
        for _ in range(draw.choice((1, 1, 3))):
            left = [path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink()]
            CHANGES[number % len(CHANGES)](draw.choice([p for p in left if p.stat().st_size < 1 << 20]), draw)
        try:
            read_all(root)
        except DataError as error:
            refused += 1
            assert str(error).endswith((".", "?")) and len(str(error)) > 40, number
        pictures_below(root)
        shutil.rmtree(root)
    assert ROUNDS // 4 < refused < ROUNDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY_MB << 10


@pytest.mark.parametrize("change", [pipe, listener, endless, nowhere, enormous])
@pytest.mark.parametrize("place", ["train/good/000.png", "ground_truth/crack/000.png", "groups.csv"])
def test_what_is_no_ordinary_file_is_named(
    tmp_path: Path, whole: Path, place: str, change: Callable[[Path, random.Random], None]
) -> None:
    root = shutil.copytree(whole, tmp_path / "bolt")
    change(root / place, random.Random(0))
    with pytest.raises(DataError, match=f"{place}(: check the path| is no ordinary file| is larger than)"):
        read_all(root)


def test_a_folder_that_is_named_like_a_mask_is_none(tmp_path: Path, whole: Path) -> None:
    root = shutil.copytree(whole, tmp_path / "bolt")
    folder(root / "ground_truth/crack/000.png", random.Random(0))
    dataset = registry.get("folder", root)
    assert "1 of 4 anomalous images have no mask" in dataset.remark("bolt")
    assert dataset.test("bolt", 8).masks is None
