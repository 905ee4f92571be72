"""A stranger's archive runs nothing, writes nothing outside its folder, and never grows: a sentence for each kind."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_records import make_failed, write_record
from safetensors.torch import save

from bench.errors import RecordError
from bench.records import store
from bench.records.paths import is_plain_name
from bench.submission import archive, pack
from bench.submission.card import Card

Member = tuple[str | zipfile.ZipInfo, bytes]
NAMES = "records/elpv/mono/ae--pgd-linf--0.json"


def packed(path: Path, *members: Member, manifest: Any = None, how: int = zipfile.ZIP_STORED) -> Path:
    """An archive of a stranger's, with a manifest that names what is in it, or another one."""
    files = [
        {"name": n if isinstance(n, str) else n.filename, "bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()}
        for n, d in members
    ]
    document = {"kind": archive.KIND, "format": archive.FORMAT, "files": files} if manifest is None else manifest
    with zipfile.ZipFile(path, "w", how) as made:
        for name, data in members:
            made.writestr(name, data)
        if document is not False:
            made.writestr(archive.MANIFEST, document if isinstance(document, bytes) else json.dumps(document))
    return path


def refused(path: Path) -> str:
    """The sentence; what lies around the folder is as before."""
    folder = path.parent / "into" / "folder"
    before = {p: p.read_bytes() for p in path.parent.rglob("*") if p.is_file()}
    with pytest.raises(RecordError) as raised:
        archive.unpack(path, folder)
    after = {p: p.read_bytes() for p in path.parent.rglob("*") if p.is_file() and folder not in p.parents}
    assert after == before
    assert str(path) in str(raised.value)
    return str(raised.value)


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    "name",
    [
        "../outside.json",
        "records/../../../outside.json",
        "/etc/outside.json",
        "records/elpv/mono/../../../../x.json",
        "C:/outside.json",
        "records\\elpv\\mono\\x.json",
        "records/elpv//x.json",
        "records/elpv/./x.json",
        ".bashrc",
        "records/elpv/mono/.hidden.json",
        "records/elpv/mono/con.json",
        "records/elpv/mono/x.json.",
        "records/elpv/mono/" + "x" * 300 + ".json",
        "records/elpv/mono/\u202ecod.json",
        "records/elpv/mono/\x1b[2J.json",
        "records/elpv/mono/<script>.json",
    ],
)
def test_a_name_that_is_no_plain_one_is_refused(tmp_path: Path, name: str) -> None:
    assert "is no plain name" in refused(packed(tmp_path / "a.zip", (name, b"{}")))


@pytest.mark.parametrize(
    "name", ["setup.py", "records/elpv/mono/x.pkl", "records/x.json", "checkpoints/ae/x.pt", "eval_results/x.html"]
)
def test_what_no_submission_has_is_refused(tmp_path: Path, name: str) -> None:
    assert "is no file that a submission has" in refused(packed(tmp_path / "a.zip", (name, b"{}")))


def test_links_folders_and_devices_are_refused(tmp_path: Path) -> None:
    device = zipfile.ZipInfo(NAMES)
    device.external_attr = (stat.S_IFCHR | 0o600) << 16
    for info in (link(NAMES), device, zipfile.ZipInfo("records/")):
        assert "is a link, a folder or a device" in refused(packed(tmp_path / "a.zip", (info, b"/etc/passwd")))


def test_what_is_there_already_is_not_written_over(tmp_path: Path) -> None:
    """A link that lies where the archive is unpacked leads nowhere: the folder must be a new one."""
    (tmp_path / "into").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "into" / "folder").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RecordError):
        archive.unpack(packed(tmp_path / "a.zip", (NAMES, b"{}")), tmp_path / "into" / "folder")
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_may_be_there_once_whatever_its_letters_case(tmp_path: Path) -> None:
    for other in (NAMES, NAMES.upper().replace("RECORDS", "records").replace(".JSON", ".json")):
        assert "is there twice" in refused(packed(tmp_path / "a.zip", (NAMES, b"{}"), (other, b"[]")))


def test_compression_bombs_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    zeros = b" " * (4 << 20)
    bomb = packed(tmp_path / "a.zip", ("records/a/b/c.scores.csv", zeros), how=zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 10_000
    assert "unpacks to more than 200 times its size" in refused(bomb)
    tensors = packed(tmp_path / "b.zip", ("records/a/b/c.images.safetensors", zeros), how=zipfile.ZIP_DEFLATED)
    assert "is compressed in a way" in refused(tensors)
    squeezed = packed(tmp_path / "c.zip", (NAMES, b"{}"), how=zipfile.ZIP_BZIP2)
    assert "is compressed in a way" in refused(squeezed)
    assert "bytes, and 4194304 are read" in refused(packed(tmp_path / "d.zip", (NAMES, zeros + b" ")))


def test_a_file_that_is_larger_than_it_says_is_not_written_to_its_end(tmp_path: Path) -> None:
    """Both tables of the archive say 10 bytes, and the packed data hold a million."""
    path = packed(tmp_path / "a.zip", (NAMES, os.urandom(1 << 20)), how=zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = data.find(signature)
        data[at + offset : at + offset + 4] = struct.pack("<I", 10)
    path.write_bytes(bytes(data))
    refused(path)
    assert all(p.stat().st_size <= 10 for p in (tmp_path / "into").rglob("*.json"))


def test_a_table_of_contents_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", (NAMES, b"{}"))
    data = bytearray(path.read_bytes())
    data[-14:-10] = struct.pack("<HH", 60_000, 60_000)
    path.write_bytes(bytes(data))
    assert "it has 60000 files, and 5000 are read" in refused(path)
    os.truncate(path, 5 << 30)  # without a block on the disk
    with pytest.raises(RecordError, match="it has 5120 MiB"):
        archive.unpack(path, tmp_path / "into")


def test_64_bit_sizes_comments_and_parts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(packed(path, (NAMES, b"{}")), "a") as made:
        made.comment = b"<script>"
    assert "is damaged, or half of one" in refused(path)
    data = packed(path, (NAMES, b"{}")).read_bytes()
    path.write_bytes(data[:-22] + b"PK\x06\x07" + b"\0" * 16 + data[-22:])
    assert "64-bit sizes" in refused(path)


def test_half_an_archive_and_none_are_sentences(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", (NAMES, b"{}"))
    whole = path.read_bytes()
    for part in (whole[: len(whole) // 2], whole[10:], b"", b"PK", os.urandom(200), whole[:40] + whole[60:]):
        path.write_bytes(part)
        assert "is damaged, or half of one" in refused(path) or "is refused" in refused(path)
    path.unlink()
    path.mkdir()
    assert "no ordinary file" in refused(path)


def test_changed_bytes_are_found(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", (NAMES, b"x" * 1000))
    path.write_bytes(path.read_bytes().replace(b"x" * 1000, b"x" * 999 + b"y"))
    assert "is damaged" in refused(path)


@pytest.mark.parametrize(
    ("manifest", "sentence"),
    [
        (False, "has no manifest.json"),
        (b"{", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        ({"kind": "other"}, "is not that of a submission"),
        ({"kind": archive.KIND, "format": 2, "files": []}, "update RADBench"),
        ({"kind": archive.KIND, "format": 1, "files": []}, "names other files than are there"),
        ({"kind": archive.KIND, "format": 1, "files": [7]}, "without name, size and hash"),
        ({"kind": archive.KIND, "format": 1}, "without name, size and hash"),
        (
            {"kind": archive.KIND, "format": 1, "files": [{"name": NAMES, "bytes": 3, "sha256": ""}]},
            "has 2 bytes, and its manifest.json says 3",
        ),
        (
            {"kind": archive.KIND, "format": 1, "files": [{"name": NAMES, "bytes": 2, "sha256": "0" * 64}]},
            "is not the file that its manifest.json names",
        ),
    ],
)
def test_a_manifest_that_says_otherwise_is_refused(tmp_path: Path, manifest: Any, sentence: str) -> None:
    assert sentence in refused(packed(tmp_path / "a.zip", (NAMES, b"{}"), manifest=manifest))


def test_encrypted_files_are_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", (NAMES, b"{}"))
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(signature)
        data[at + offset] |= 1
    path.write_bytes(bytes(data))
    assert "is encrypted" in refused(path)


class Runs:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.trace,)


def test_a_pickle_by_another_name_is_not_run(tmp_path: Path) -> None:
    """In the place of a checkpoint and of images."""
    record = write_record(tmp_path / "run" / "records", checkpoint="c" * 64)
    assert record.path is not None
    trace, bad = tmp_path / "was-run", pickle.dumps(Runs(tmp_path / "was-run"))
    weights = b'{"format": 1, "tensors_sha256": "%s"}' % hashlib.sha256(bad).hexdigest().encode()
    place = record.path.relative_to(tmp_path / "run").as_posix()
    stem = f"checkpoints/ae/{'c' * 24}"
    path = packed(
        tmp_path / "a.zip",
        (archive.CARD, Card("a", "b", "c").to_json().encode()),
        (place, record.path.read_bytes()),
        (place.replace(".json", ".scores.csv"), record.path.with_suffix("").with_suffix(".scores.csv").read_bytes()),
        (place.replace(".json", ".images.safetensors"), bad),
        (f"{stem}.safetensors", bad),
        (f"{stem}.json", weights),
    )
    archive.unpack(path, tmp_path / "read")
    problems = list(pack.check(tmp_path / "read"))
    assert any("is no safetensors file" in problem for problem in problems)
    assert any("The card does not say how ae" in problem for problem in problems)
    assert not trace.exists()
    pickle.loads(bad)  # noqa: S301  that it would have run
    assert trace.exists()


def test_what_belongs_to_no_record_is_named(tmp_path: Path) -> None:
    record = write_record(tmp_path / "records")
    assert record.path is not None
    (tmp_path / archive.CARD).write_text(Card("a", "b", "").to_json())
    (tmp_path / "checkpoints" / "ae").mkdir(parents=True)
    (tmp_path / "checkpoints" / "ae" / "more.safetensors").write_bytes(save({}))
    record.path.with_name("stray.scores.csv").write_text("image")
    store.write(make_failed(), None, tmp_path / "records")
    problems = list(pack.check(tmp_path))
    for sentence in (
        "The card does not say --chosen-on",
        "stray.scores.csv belongs to no record",
        "more.safetensors belongs to no record",
        "is of a cell that failed",
    ):
        assert any(sentence in problem for problem in problems), sentence


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        '{"format": 1, "submitter": 7}',
        '{"format": 1, "submitter": "a", "submitter": "b"}',
        '{"format": 9}',
        '{"format": 1, "detectors": [{"name": "ae"}]}',
        '{"format": 1, "data_licences": "all"}',
        '{"format": 1, "notes": "' + "x" * 5000 + '"}',
    ],
)
def test_a_card_that_is_none_is_a_sentence(text: str) -> None:
    with pytest.raises(RecordError, match="submit again"):
        Card.from_json(text)


def test_plain_names() -> None:
    for name in ("ae--pgd-linf--0123.scores.csv", "_con", "a", "mono", "-x"):
        assert is_plain_name(name)
    for name in ("", ".", "..", ".x", "x.", "a/b", "a\\b", "a b", "nul", "COM1.txt", "ä", "x" * 201, "a\n"):
        assert not is_plain_name(name)
