"""Fashion-MNIST from idx files, plain or compressed, and what is refused."""

import gzip
import os
import resource
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import bench.data
from bench.data import NORMAL
from bench.errors import DataError

IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def write(folder: Path, compressed: bool) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (prefix, count) in enumerate((("train", 40), ("t10k", 20))):
        pixels = np.random.default_rng(seed).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        for kind, values in ((IMAGES, pixels), (LABELS, np.arange(count, dtype=np.uint8) % 10)):
            if compressed:
                (folder / f"{prefix}-{kind}.gz").write_bytes(gzip.compress(idx(values)))
            else:
                (folder / f"{prefix}-{kind}").write_bytes(idx(values))
    return folder


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("subfolder", [".", "FashionMNIST/raw"])
def test_one_class_is_normal_and_nine_are_anomalous(tmp_path: Path, compressed: bool, subfolder: str) -> None:
    write(tmp_path / subfolder, compressed)
    dataset = bench.data.load("fashion-mnist", tmp_path)
    train, test = dataset.train("bag", 28), dataset.test("bag", 28)
    assert train.ids == tuple(f"train/bag/{number:05d}" for number in (8, 18, 28, 38))
    assert len(test) == 20
    assert [name.split("/")[1] for name in test.ids] == [d if d != "good" else "bag" for d in test.defects]
    assert (test.labels == NORMAL).sum() == 2
    pixels = np.random.default_rng(1).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    for name, image in zip(test.ids, test.images, strict=True):
        assert torch.equal(image, torch.from_numpy(pixels[int(name[-5:])]).expand(3, 28, 28))


def test_compressed_and_plain_files_have_one_fingerprint(tmp_path: Path) -> None:
    plain, compressed = write(tmp_path / "plain", False), write(tmp_path / "gz", True)
    assert len({bench.data.load("fashion-mnist", root).fingerprint("coat") for root in (plain, compressed)}) == 1


def test_small_pictures_are_scaled_up(tmp_path: Path) -> None:
    assert bench.data.load("fashion-mnist", write(tmp_path, False)).train("bag", 64).images.shape == (4, 3, 64, 64)


def replaced(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda root: (root / name).write_bytes(change((root / name).read_bytes())) and None


DAMAGE = {
    "cut off": replaced(f"t10k-{IMAGES}", lambda content: content[:-1]),
    "too long": replaced(f"t10k-{IMAGES}", lambda content: content + b"0"),
    "no header": replaced(f"train-{LABELS}", lambda content: content[:3]),
    "another magic number": replaced(f"train-{IMAGES}", lambda content: b"\x00\x00\x0d\x03" + content[4:]),
    "labels for images": replaced(f"train-{IMAGES}", lambda content: idx(np.zeros(40, dtype=np.uint8))),
    "another size": replaced(f"train-{IMAGES}", lambda content: idx(np.zeros((40, 8, 8), dtype=np.uint8))),
    "more labels": replaced(f"train-{LABELS}", lambda content: idx(np.zeros(41, dtype=np.uint8))),
    "no such class": replaced(f"train-{LABELS}", lambda content: idx(np.full(40, 10, dtype=np.uint8))),
    "a missing file": lambda root: (root / f"t10k-{LABELS}").unlink(),
    "an absurd size": replaced(f"train-{LABELS}", lambda content: b"\x00\x00\x08\x01\xff\xff\xff\xff" + content[8:]),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_files_are_refused(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    damage(write(tmp_path, False))
    with pytest.raises(DataError, match=r"get (it|them)"):
        bench.data.load("fashion-mnist", tmp_path).validate("bag")


def test_a_damaged_gz_and_a_missing_root_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path, True) / f"t10k-{IMAGES}.gz"
    content = file.read_bytes()
    for damaged in (content[:-100], b"nonsense", content[:2000] + b"\xff" * 50 + content[2050:]):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match="damaged"):
            bench.data.load("fashion-mnist", tmp_path).validate("bag")
    with pytest.raises(DataError, match="no Fashion-MNIST"):
        bench.data.load("fashion-mnist", tmp_path / "nowhere").categories()


def test_a_small_file_that_unpacks_to_gigabytes_is_read_as_far_as_its_header_says(tmp_path: Path) -> None:
    root = write(tmp_path, True)
    path = root / f"train-{IMAGES}.gz"
    path.write_bytes(gzip.compress(idx(np.zeros((40, 28, 28), dtype=np.uint8)) + bytes(200 << 20), 9))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match="too long for what its header says"):
        bench.data.load("fashion-mnist", root).validate("bag")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without named pipes")
def test_a_named_pipe_is_a_sentence(tmp_path: Path) -> None:
    root = write(tmp_path, False)
    (root / f"train-{LABELS}").unlink()
    os.mkfifo(root / f"train-{LABELS}")
    with pytest.raises(DataError, match="no ordinary file"):
        bench.data.load("fashion-mnist", root).validate("bag")
