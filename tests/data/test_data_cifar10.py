"""CIFAR-10 from pickles that are read without running them, from their archive, and from a zip of JPEGs."""

import gzip
import io
import os
import pickle
import resource
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import bench.data
from bench.data import ANOMALOUS, NORMAL
from bench.data.cifar10 import CLASSES, FOLDER, TAR, ZIP
from bench.data.cifar_pickle import read_batch
from bench.errors import DataError

PER_BATCH = 20


def python2_batch(pixels: np.ndarray, labels: list[int]) -> bytes:
    """The instructions, in protocol 2, with which Python 2's cPickle wrote the official batches."""
    memo = iter(range(1, 10**6))

    def put() -> bytes:
        number = next(memo)
        return b"q" + bytes([number]) if number < 256 else b"r" + struct.pack("<I", number)

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value + put()

    def integer(value: int) -> bytes:
        return b"K" + bytes([value]) if value < 256 else b"M" + struct.pack("<H", value)

    raw = pixels.tobytes()
    parts = [b"\x80\x02}", put(), b"(", text(b"batch_label"), text(b"training batch 1 of 5")]
    parts += [text(b"labels"), b"]", put(), b"(", *map(integer, labels), b"e"]
    parts += [text(b"data"), b"cnumpy.core.multiarray\n_reconstruct\n", put(), b"cnumpy\nndarray\n", put()]
    parts += [b"K\x00\x85", b"U\x01b", b"\x87R", put(), b"(K\x01", *map(integer, pixels.shape), b"\x86"]
    parts += [b"cnumpy\ndtype\n", put(), text(b"u1"), b"K\x00K\x01\x87R", put()]
    parts += [b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"]
    parts += [b"T" + struct.pack("<I", len(raw)) + raw, put(), b"tb", text(b"filenames"), b"]", put(), b"("]
    parts += [text(f"picture_{number}.png".encode()) for number in range(len(labels))]
    return b"".join([*parts, b"eu."])


def random_batch(seed: int) -> tuple[np.ndarray, list[int]]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (PER_BATCH, 3072), dtype=np.uint8), [n % 10 for n in range(PER_BATCH)]


@pytest.fixture
def batches(tmp_path: Path) -> Path:
    folder = tmp_path / FOLDER
    folder.mkdir()
    for seed, name in enumerate([f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]):
        (folder / name).write_bytes(python2_batch(*random_batch(seed)))
    return folder


def test_the_reader_agrees_with_pickle_on_a_python_2_batch() -> None:
    pixels, labels = random_batch(0)
    content = python2_batch(pixels, labels)
    by_pickle = pickle.loads(content, encoding="bytes")  # noqa: S301 (our own bytes)
    batch = read_batch(content, "batch")
    assert (batch.pixels == by_pickle[b"data"]).all()
    assert (batch.pixels == pixels).all()
    assert list(batch.labels) == by_pickle[b"labels"] == labels


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_batch_saved_again_by_python_3_is_read(order: str) -> None:
    pixels, labels = random_batch(0)
    content = pickle.dumps({b"data": np.asarray(pixels, order=order), b"labels": labels}, protocol=3)
    assert (read_batch(content, "batch").pixels == pixels).all()


class Runs:
    """Its pickle calls os.system when it is loaded."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_pickle_is_refused_and_nothing_is_run(tmp_path: Path, protocol: int) -> None:
    ran = tmp_path / "ran"
    content = pickle.dumps({b"data": Runs(f"touch {ran}"), b"labels": []}, protocol)
    with pytest.raises(DataError, match="nothing in it was run"):
        read_batch(content, "batch")
    assert not ran.exists()
    pickle.loads(content)  # noqa: S301 (the attack is a real one)
    assert ran.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02cbuiltins\neval\nU\x011\x85R.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncbuiltins\neval\nK\x00\x85U\x01b\x87R.",
        b"\x80\x02cnumpy\nndarray\nK\x01\x85R.",
        b"\x80\x02cnumpy\ndtype\nU\x01O\x85R.",
        b"\x80\x02}}U\x01aK\x01sb.",
        b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"K\x01s.",
        b"\x80\x02U\x01a.",
        b"\x80\x02}.",
        b"\x80\x02}(e.",
        b"e.",
        b"",
        b"\x00\x01\x02",
        b"\x80\x02}(U\x04dataK\x01U\x06labels]u.",
    ],
)
def test_no_other_program_is_accepted(program: bytes) -> None:
    with pytest.raises(DataError, match=r"^batch "):
        read_batch(program, "batch")


def test_a_batch_cut_anywhere_is_refused() -> None:
    content = python2_batch(*random_batch(0))
    for length in (10, 300, len(content) // 2, len(content) - 1):
        with pytest.raises(DataError, match="damaged"):
            read_batch(content[:length], "batch")


def test_labels_and_shape_are_checked() -> None:
    pixels, labels = random_batch(0)
    for bad in (python2_batch(pixels, labels[:-1]), python2_batch(pixels, [10] * PER_BATCH)):
        with pytest.raises(DataError, match="damaged"):
            read_batch(bad, "batch")
    with pytest.raises(DataError, match="damaged"):
        read_batch(python2_batch(pixels[:, :3000], labels), "batch")


def in_a_tar(folder: Path) -> Path:
    with tarfile.open(folder.parent / TAR, "w:gz") as archive:
        archive.add(folder, FOLDER)
    return folder.parent / TAR


@pytest.mark.parametrize("place", [lambda f: f, lambda f: f.parent, in_a_tar, lambda f: in_a_tar(f).parent])
def test_one_class_is_normal_and_nine_are_anomalous(batches: Path, place: Callable[[Path], Path]) -> None:
    dataset = bench.data.load("cifar10", place(batches))
    assert dataset.categories() == CLASSES
    train, test = dataset.train("cat", 32), dataset.test("cat", 32)
    assert len(train) == 5 * PER_BATCH // 10
    assert len(test) == PER_BATCH
    assert (train.labels == NORMAL).all()
    assert (test.labels == NORMAL).sum() == PER_BATCH // 10
    for name, defect, label in zip(test.ids, test.defects, test.labels, strict=True):
        assert (name.split("/")[1], label) == (("cat", NORMAL) if defect == "good" else (defect, ANOMALOUS))
    pixels, _ = random_batch(5)
    for name, image in zip(test.ids, test.images, strict=True):
        assert torch.equal(image, torch.from_numpy(pixels[int(name[-5:])]).reshape(3, 32, 32))
    assert dataset.remark("cat") == ""


def test_folder_and_archive_have_one_fingerprint_per_category(batches: Path) -> None:
    folder, archive = bench.data.load("cifar10", batches), bench.data.load("cifar10", in_a_tar(batches))
    assert folder.fingerprint("cat") == archive.fingerprint("cat") != folder.fingerprint("dog")


def test_a_missing_batch_or_root_is_refused(batches: Path) -> None:
    (batches / "data_batch_3").unlink()
    with pytest.raises(DataError, match="lacks data_batch_3"):
        bench.data.load("cifar10", batches).validate("cat")
    with pytest.raises(DataError, match="no CIFAR-10"):
        bench.data.load("cifar10", batches / "nowhere").categories()


def test_a_damaged_archive_is_refused(batches: Path) -> None:
    archive = in_a_tar(batches)
    content = archive.read_bytes()
    for damaged in (content[: len(content) // 2], b"nonsense", content[:5000] + b"\xff" * 50 + content[5050:]):
        archive.write_bytes(damaged)
        with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz"):
            bench.data.load("cifar10", archive).validate("cat")


@pytest.mark.parametrize("prefix", ["", "CIFAR-10-images-master/"])
def test_a_zip_of_jpegs_is_read_and_says_that_it_is_lossy(tmp_path: Path, prefix: str) -> None:
    with zipfile.ZipFile(tmp_path / ZIP, "w") as archive:
        for part in ("train", "test"):
            for number, name in enumerate(CLASSES):
                file = io.BytesIO()
                Image.new("RGB", (32, 32), (20 * number, 0, 0)).save(file, "JPEG")
                archive.writestr(f"{prefix}{part}/{name}/0000.jpg", file.getvalue())
        archive.writestr(f"{prefix}README.md", "hello")
        archive.writestr("test/cat/../../evil.jpg", "hello")
    for root in (tmp_path, tmp_path / ZIP):
        dataset = bench.data.load("cifar10", root)
        test = dataset.test("ship", 8)
        assert dataset.train("ship", 8).ids == ("train/ship/0000.jpg",)
        assert test.ids == tuple(f"test/{name}/0000.jpg" for name in CLASSES)
        assert test.defects == tuple("good" if name == "ship" else name for name in CLASSES)
        assert (test.images[:, 0].float().mean((1, 2)) - 20 * torch.arange(10)).abs().max() < 5
        assert "JPEG" in dataset.remark("ship")


def test_a_damaged_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / ZIP).write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(DataError, match="not a whole zip"):
        bench.data.load("cifar10", tmp_path).validate("cat")


def tarred(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_a_link_in_the_archive_is_no_batch(tmp_path: Path) -> None:
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        link = tarfile.TarInfo(f"{FOLDER}/data_batch_1")
        link.type, link.linkname = kind, "nowhere"
        tarred(tmp_path / TAR, (link, b""))
        with pytest.raises(DataError, match="lacks data_batch_1"):
            bench.data.load("cifar10", tmp_path).validate("cat")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.REGTYPE])
def test_a_part_of_an_archive_that_unpacks_to_gigabytes_is_not_read(
    tmp_path: Path, kind: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the part is: a file, or what should be a long name. Here the limit is a megabyte."""
    monkeypatch.setattr("bench.data.cifar10._LARGEST_FILE", 1 << 20)
    reads: list[int] = []
    really = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda file, size=-1: (reads.append(size or -1), really(file, size))[1])
    head = tarfile.TarInfo("data_batch_1")
    head.type = kind
    tarred(tmp_path / TAR, (head, bytes(3 << 20)))
    with pytest.raises(DataError, match=r"a part of it has 3 MiB.*get .* again"):
        bench.data.load("cifar10", tmp_path).validate("cat")
    assert reads and 0 <= min(reads) <= max(reads) <= 1 << 20


def test_an_archive_of_far_more_than_the_batches_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.data.cifar10._LARGEST_ARCHIVE", 1 << 20)
    tarred(tmp_path / TAR, *((tarfile.TarInfo(f"other{i}"), bytes(1 << 18)) for i in range(8)))
    with pytest.raises(DataError, match="holds more than CIFAR-10"):
        bench.data.load("cifar10", tmp_path).validate("cat")
    tarred(tmp_path / TAR, *((tarfile.TarInfo(f"other{i}"), b"") for i in range(1001)))
    with pytest.raises(DataError, match="holds more than CIFAR-10"):
        bench.data.load("cifar10", tmp_path).validate("cat")


def test_a_picture_of_the_zip_that_unpacks_to_more_than_it_says_is_damaged(tmp_path: Path) -> None:
    """The true size stands nowhere: 64 MB of zeros behind a header that says 9 bytes."""
    path = tmp_path / ZIP
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for place in ("train/cat/0.jpg", "test/cat/0.jpg", "test/dog/0.jpg"):
            archive.writestr(place, bytes(1 << 26))
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", 1 << 26), struct.pack("<I", 9)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match="damaged"):
        bench.data.load("cifar10", tmp_path).train("cat", 8)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_picture_that_is_packed_in_another_way_is_refused(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / ZIP, "w", method) as archive:
        for place in ("train/cat/0.jpg", "test/cat/0.jpg", "test/dog/0.jpg"):
            archive.writestr(place, b"picture")
    with pytest.raises(DataError, match="not packed as zip files usually are"):
        bench.data.load("cifar10", tmp_path).train("cat", 8)


def test_a_pickle_of_millions_of_instructions_is_refused() -> None:
    with pytest.raises(DataError, match="more than 500000 instructions"):
        read_batch(b"\x80\x02" + b"]" * 600_000 + b".", "batch")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without named pipes")
def test_a_named_pipe_in_place_of_a_batch_or_an_archive_is_a_sentence(tmp_path: Path, batches: Path) -> None:
    (batches / "data_batch_2").unlink()
    os.mkfifo(batches / "data_batch_2")
    with pytest.raises(DataError, match="no ordinary file"):
        bench.data.load("cifar10", tmp_path).validate("cat")
