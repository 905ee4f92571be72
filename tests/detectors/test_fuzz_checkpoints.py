"""Checkpoints as strangers and bad disks make them: a few hundred, all from one seed. Each is a CheckpointError or a
detector that scores; nothing else comes out, and nothing is read or made that is larger than a checkpoint may be."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import struct
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

import detectors
from detectors import checkpoint
from detectors.errors import CheckpointError, DetectorError
from detectors.files import OddFileError, open_ordinary, read_ordinary

SIDE, ROUNDS, MEMORY_MB = 32, 60, 500
NORMALS = torch.rand(8, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
SETTINGS: dict[str, dict[str, Any]] = {
    "ae": {"epochs": 1, "channels": 2, "latent": 2},
    "file-order": {},
    "spade": {"weights": "random", "pixel_map": True},
}
HOSTILE: list[Any] = [
    None,
    True,
    -1,
    0,
    3,
    1e308,
    10**400,
    "",
    "\x1b[2J",
    "../x",
    "x" * 10_000,
    [],
    [[]],
    {},
    {"epochs": 10**9},
    float("nan"),
]
DTYPES = (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool, torch.complex64)


@cache
def good(name: str) -> tuple[bytes, bytes]:
    """The two files of a whole checkpoint."""
    made = detectors.create(name, image_size=SIDE, **SETTINGS[name])
    made.fit(NORMALS, seed=0, names=[f"{i}.png" for i in range(len(NORMALS))])
    folder = Path(os.environ["PYTEST_FUZZ_FOLDER"])
    path = made.save(folder / "good.safetensors")
    return path.read_bytes(), checkpoint.description_path(path).read_bytes()


@pytest.fixture(scope="module", autouse=True)
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    os.environ["PYTEST_FUZZ_FOLDER"] = str(tmp_path_factory.mktemp("good"))
    yield
    del os.environ["PYTEST_FUZZ_FOLDER"]


# -- what is changed; each takes the bytes of both files and gives them back ------------------------------------------


def flipped(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 3, 30))):
        changed[draw.randrange(min(len(changed), draw.choice((64, 4096, len(changed)))))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def tensors_changed(data: bytes, draw: random.Random) -> bytes:
    tensors: dict[str, Tensor] = load_tensors(data)
    key = draw.choice(sorted(tensors))
    old = tensors[key]
    changes: list[Callable[[], Any]] = [
        lambda: tensors.pop(key),
        lambda: tensors.update(extra=torch.ones(3)),
        lambda: tensors.update({key: old.to(draw.choice(DTYPES))}),
        lambda: tensors.update({key: torch.full_like(old, torch.nan) if old.is_floating_point() else old - 10**9}),
        lambda: tensors.update({key: torch.full_like(old, 3e38) if old.is_floating_point() else old * 0}),
        lambda: tensors.update({key: old.flatten()[: draw.choice((0, 1, 2))].clone()}),
        lambda: tensors.update({key: old[: draw.choice((0, 1, 3))].clone() if old.ndim else old[None]}),
        lambda: tensors.update({key: torch.cat([old, old]) if old.ndim else old.repeat(2)}),
        tensors.clear,
    ]
    draw.choice(changes)()
    return bytes(save_tensors(tensors))


def header_changed(data: bytes, draw: random.Random) -> bytes:
    """A header that says something else than what follows, of tensors of any size."""
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    entry = header[draw.choice([key for key in header if key != "__metadata__"])]
    field = draw.choice(sorted(entry))
    wrong: dict[str, list[Any]] = {
        "dtype": ["F8_E4M3", "F4", "C64", "U64", "X", "", None],
        "shape": [[2**62], [2**40, 2**40], [-1], [0], [], "3", [10**30]],
        "data_offsets": [[0, 2**62], [8, 0], [-4, 4], [0], [0, 0], None],
    }
    entry[field] = draw.choice(wrong[field])
    text = json.dumps(header).encode()
    size = draw.choice((len(text), len(text), len(text), 2**63, 2**40, 0))
    return struct.pack("<Q", size) + text + data[8 + length :]


def described(text: bytes, draw: random.Random) -> bytes:
    described = json.loads(text)
    place: Any = described
    while isinstance(inner := place.get(draw.choice(sorted(place)), None), dict) and inner and draw.random() < 0.7:
        place = inner
    key = draw.choice(sorted(place))
    if draw.random() < 0.2:
        del place[key]
    else:
        place[key] = draw.choice(HOSTILE)
    return json.dumps(described).encode()


def hostile_text(text: bytes, draw: random.Random) -> bytes:
    return draw.choice(
        (
            b"[" * 100_000,
            b'{"a":' * 100_000,
            b"\xff\xfe",
            b"1" * 10_000,
            text.replace(b'"format": 1', b'"format": ' + b"9" * 5000),
            text.decode().encode("utf-16"),
            b"",
            b"\0" * 100,
        )
    )


def whole(data: bytes, text: bytes) -> bytes:
    """The description, with the hash of these tensors: what a stranger would write."""
    with_hash = json.loads(text)
    with_hash["tensors_sha256"] = hashlib.sha256(data).hexdigest()
    return json.dumps(with_hash).encode()


def mutated(name: str, draw: random.Random) -> tuple[bytes, bytes]:
    """Of the tensors or of both files."""
    data, text = good(name)
    kind = draw.randrange(4)
    if kind == 0:
        return draw.choice((flipped, cut))(data, draw), text
    changed = draw.choice((tensors_changed, tensors_changed, header_changed, flipped, cut))(data, draw)
    return changed, whole(changed, described(text, draw) if kind == 1 else text)


def mutated_description(name: str, draw: random.Random) -> tuple[bytes, bytes]:
    data, text = good(name)
    return data, draw.choice((flipped, cut, hostile_text, described, described, described))(text, draw)


# -- the claims -------------------------------------------------------------------------------------------------------


@cache
def built(name: str) -> Any:
    return detectors.create(name, image_size=SIDE, **SETTINGS[name])


@pytest.mark.parametrize(
    ("name", "mutate", "load"),
    [
        ("ae", mutated, detectors.load),
        ("ae", mutated_description, detectors.load),
        ("file-order", mutated, detectors.load),
        ("spade", mutated, lambda path: built("spade").load(path)),  # to build its backbone takes a second
    ],
    ids=["ae", "description", "file-order", "spade"],
)
def test_a_changed_checkpoint_is_refused_or_scores(tmp_path: Path, name: str, mutate: Any, load: Any) -> None:
    good(name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = 0
    for number in range(ROUNDS):
        draw = random.Random(f"{name} {number}")
        path = tmp_path / "model.safetensors"
        data, text = mutate(name, draw)
        path.write_bytes(data)
        checkpoint.description_path(path).write_bytes(text)
        try:
            detector = load(path)
        except DetectorError as error:  # of an unknown detector, too
            refused += 1
            assert len(str(error)) > 30, number
            continue
        assert detector.score(NORMALS[:2]).shape == (2,), number
    assert refused > ROUNDS // 4
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY_MB << 10


@pytest.mark.parametrize("rows", [0, 1, 4])
def test_a_bank_with_fewer_rows_than_the_score_takes_neighbours_is_refused(tmp_path: Path, rows: int) -> None:
    path = tmp_path / "model.safetensors"
    data, text = good("spade")
    tensors = load_tensors(data)
    assert rows < built("spade").settings.neighbours
    data = save_tensors(tensors | {key: value[:rows].clone() for key, value in tensors.items()})
    path.write_bytes(data)
    checkpoint.description_path(path).write_bytes(whole(data, text))
    with pytest.raises(CheckpointError, match=r"fit (the detector )?again"):
        built("spade").load(path)


def test_maps_of_other_pictures_than_the_bank_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    data, text = good("spade")
    data = save_tensors(load_tensors(data) | {"map_bank_0": load_tensors(data)["map_bank_0"][:2].clone()})
    path.write_bytes(data)
    checkpoint.description_path(path).write_bytes(whole(data, text))
    with pytest.raises(CheckpointError, match="fit neither each other"):
        built("spade").load(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without named pipes")
@pytest.mark.parametrize("half", ["tensors", "description"])
def test_only_an_ordinary_file_of_bounded_size_is_read(tmp_path: Path, half: str) -> None:
    path = tmp_path / "model.safetensors"

    def written() -> Path:
        path.unlink(missing_ok=True)
        checkpoint.description_path(path).unlink(missing_ok=True)
        for place, content in zip((path, checkpoint.description_path(path)), good("ae"), strict=True):
            place.write_bytes(content)
        return path if half == "tensors" else checkpoint.description_path(path)

    def endless(place: Path) -> None:
        place.symlink_to("/dev/zero")

    def enormous(place: Path) -> None:
        with place.open("wb") as stream:
            stream.truncate(10 << 30)  # a hole: it takes no room

    for odd in (os.mkfifo, Path.mkdir, endless, enormous):
        place = written()
        place.unlink()
        odd(place)
        with pytest.raises(CheckpointError, match="cannot be read"):
            detectors.load(path)
        place.rmdir() if place.is_dir() else place.unlink()


def test_a_file_that_grows_while_it_is_read_is_cut_at_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    assert read_ordinary(path, 100) == b"x" * 100
    with pytest.raises(OddFileError, match="larger than"):
        read_ordinary(path, 99)
    if Path("/proc/self/maps").exists():  # says that it has 0 bytes
        with pytest.raises(OddFileError, match="larger than"):
            read_ordinary(Path("/proc/self/maps"), 10)
    with pytest.raises(OddFileError, match="no ordinary file"):
        open_ordinary(tmp_path)
