"""Records come back as they went, name their cell, and survive strangers, kills and full disks."""

import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from fake_records import make_cell, make_failed, make_record, make_scores, write_record

from bench.errors import RecordError
from bench.records import pairs, paths, store
from bench.records.cell import Cell
from bench.records.record import Record, Revisions, is_stale
from bench.records.schema import content_sha256
from bench.records.score_table import Scores


def test_a_record_comes_back_as_it_went(tmp_path: Path) -> None:
    record = make_record()
    path = store.write(record, make_scores(), tmp_path)
    found = store.read(path)
    assert dataclasses.replace(found, scores_sha256="") == record
    assert (found.category, found.detector_name, found.attack_name, found.norm) == ("mono", "ae", "pgd-linf", "linf")
    assert found.epsilon == 2 / 255
    assert found.clean is not None and found.clean.auc == record.results["clean"]["auc"]


def test_scores_come_back_bit_by_bit(tmp_path: Path) -> None:
    values = np.array([[0.1 + 0.2, np.nextafter(1.0, 2), 5e-324, np.inf, -1e308, 1 / 3], [0.0, 1, 2, 3, 4, -np.inf]])
    names = ("a,b.png", 'quo"te.png', "line\nbreak\r\n.png", "=cmd.png", "名.png", "bytes\udcff.png")
    scores = Scores(names, np.array([1, 1, 1, -1, -1, -1]), values, values[:, ::-1])
    found = store.read_scores(store.read(store.write(make_record(scores), scores, tmp_path)))
    assert found.images == names
    np.testing.assert_array_equal(found.labels, scores.labels)
    assert found.clean.tobytes() == scores.clean.tobytes()
    assert found.robust.tobytes() == np.ascontiguousarray(scores.robust).tobytes()


def test_the_key_ignores_the_order_of_entries_and_nothing_else() -> None:
    cell = make_cell()
    assert Cell.from_document(dict(reversed(cell.to_document().items()))).key == cell.key
    others = [make_cell(seed=1), make_cell(epsilon=np.nextafter(2 / 255, 1)), make_cell(steps=21), make_cell(eot=20)]
    assert len({c.key for c in [cell, *others]}) == 5
    with pytest.raises(RecordError, match="plain, finite JSON"):
        _ = make_cell(epsilon=float("nan")).key


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/abs", "..", ".", "", "a/b\\c", "nul", "x" * 300, "Ünï:cødé\n", "..\u2044..", "-rf"]
)
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    cell = make_cell(detector=name, category=name, dataset=name, attack=name)
    path = paths.record_path(tmp_path, cell)
    assert path.resolve().is_relative_to(tmp_path.resolve())
    assert len(path.relative_to(tmp_path).parts) == 3
    for part in path.relative_to(tmp_path).parts:
        assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", part) and len(part) < 200
    written = write_record(tmp_path, category=name, dataset=name, detector=name, attack=name)
    assert written.category == name
    assert store.find(tmp_path, written.cell) == written


def test_names_that_meet_in_the_file_system_keep_their_own_files(tmp_path: Path) -> None:
    one, two = write_record(tmp_path, detector="a:b"), write_record(tmp_path, detector="a/b")
    assert one.path != two.path
    assert {r.detector_name for r in store.read_all(tmp_path)[0]} == {"a:b", "a/b"}


def test_find_knows_only_the_very_cell(tmp_path: Path) -> None:
    record = write_record(tmp_path)
    assert store.find(tmp_path, record.cell) == record
    assert store.find(tmp_path, make_cell(seed=7)) is None


def damage(path: Path, *, seal: bool = False, **changes: object) -> None:
    """Change entries of a record; `seal`: and compute the hash of its content anew."""
    document = json.loads(path.read_text())
    for where, value in changes.items():
        *steps, last = where.split("__")
        inner = document
        for step in steps:
            inner = inner[step]
        inner[last] = value
    if seal:
        document["content_sha256"] = content_sha256(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no JSON"),
        ("{", "no JSON"),
        ("[]", "no record of format"),
        ("[" * 100_000, "no JSON"),
        ('{"format": 3}', "made by a newer version of RADBench (format 3, this one reads 2)"),
        ('{"format": 2}', "content_sha256"),
        ("\x00\xff", "no JSON"),
        ('{"format": true}', "no record of format"),
        ('{"format": 2, "seed": NaN}', "plain, finite JSON"),
        ('{"format": 1}', "made by an older version of RADBench (format 1, this one reads 2)"),
    ],
)
def test_a_damaged_record_is_reported_and_the_others_are_read(tmp_path: Path, text: str, says: str) -> None:
    good, bad = write_record(tmp_path), write_record(tmp_path, seed=1)
    assert bad.path is not None
    bad.path.write_text(text)
    found, problems = store.read_all(tmp_path)
    assert found == [good]
    assert len(problems) == 1 and says in problems[0] and str(bad.path) in problems[0]
    assert store.find(tmp_path, bad.cell) is None  # so it is run again


@pytest.mark.parametrize(
    "changes",
    [
        {"results__robust__auc": 101.0},
        {"results__robust__auc": None},
        {"results__robust__auc": "99"},
        {"results__robust": None},
        {"results__clean__low": True},
        {"status": "great"},
        {"cell__image_size": "128"},
        {"cell__attack__epsilon": 0.5},
        {"cell__seed": 5},
        {"limits": None},
        {"results": []},
        {"results__clean__strict_auc": [1]},
        {"scores_sha256": ""},
        {"scores_sha256": None},
    ],
)
@pytest.mark.parametrize("seal", [False, True])
def test_a_record_that_was_edited_into_nonsense_is_refused(
    tmp_path: Path, changes: dict[str, object], seal: bool
) -> None:
    record = write_record(tmp_path)
    assert record.path is not None
    damage(record.path, seal=seal, **changes)
    with pytest.raises(RecordError, match="run the cell again"):
        store.read(record.path)


@pytest.mark.parametrize(
    "changes",
    [
        {"results__robust__auc": 99.0},
        {"results__brightness__flagged": True},
        {"results__threshold": 9.0},
        {"written": "2030-01-01"},
        {"full_run": False},
        {"indicators": {}},
        {"mood": "good"},
        {"limits": ["x"]},
    ],
)
def test_any_edit_breaks_a_records_hash(tmp_path: Path, changes: dict[str, object]) -> None:
    record = write_record(tmp_path)
    assert record.path is not None
    damage(record.path, **changes)
    with pytest.raises(RecordError, match=r"content_sha256 is not the hash of its content"):
        store.read(record.path)


def test_line_ends_white_space_and_the_order_of_entries_are_no_part_of_the_hash(tmp_path: Path) -> None:
    record = write_record(tmp_path)
    assert record.path is not None
    text = record.path.read_text()
    document = json.loads(text)
    canonical = json.dumps(
        {k: v for k, v in document.items() if k != "content_sha256"}, sort_keys=True, separators=(",", ":")
    )
    assert document["content_sha256"] == hashlib.sha256(canonical.encode()).hexdigest()
    for other in (text.replace("\n", "\r\n"), json.dumps(dict(reversed(document.items())))):
        record.path.write_bytes(other.encode())
        assert store.read(record.path) == record


def test_scores_that_are_not_the_records_own_are_refused(tmp_path: Path) -> None:
    record = write_record(tmp_path)
    assert record.path is not None
    path = paths.companion(record.path, paths.SCORES_SUFFIX)
    text = path.read_text()
    path.write_bytes(text.replace("\n", "\r\n").encode())  # what git may do on Windows
    store.read_scores(record)
    path.write_text(text.replace("0,", "1,", 1))
    with pytest.raises(RecordError, match="SHA-256"):
        store.read_scores(record)
    path.unlink()
    with pytest.raises(RecordError, match="cannot be read"):
        store.read_scores(record)


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_full_disk_is_a_sentence_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    calls = []

    def full(_: int) -> None:
        calls.append(1)
        if len(calls) >= fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RecordError, match=r"disk is full.*run the same command again"):
        store.write(make_record(), make_scores(), tmp_path)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_the_record_is_written_after_its_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    real = pairs.write_atomically

    def spy(path: Path, data: bytes) -> None:
        order.append(path.name)
        real(path, data)

    monkeypatch.setattr(pairs, "write_atomically", spy)
    store.write(make_record(), make_scores(), tmp_path)
    assert [name.endswith(".scores.csv") for name in order] == [True, False]


def test_figures_without_scores_are_no_record_and_a_failure_needs_none(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="needs the scores"):
        store.write(make_record(), None, tmp_path)
    failed = store.read(store.write(make_failed("A sentence."), None, tmp_path))
    assert (failed.ok, failed.reason, failed.clean, failed.robust) == (False, "A sentence.", None, None)


def test_a_figure_that_is_not_finite_is_unknown_and_never_a_number(tmp_path: Path) -> None:
    record = make_record(indicators={"zero_gradient_share": float("nan")})
    found = store.read(store.write(record, make_scores(), tmp_path))
    assert found.indicators["zero_gradient_share"] is None
    broken = {**record.results, "robust": {**record.results["robust"], "auc": float("nan")}}
    with pytest.raises(RecordError, match=r"results\.robust\.auc"):
        store.write(dataclasses.replace(record, results=broken), make_scores(), tmp_path)


@pytest.mark.parametrize(
    ("revisions", "stale"),
    [
        (Revisions(), False),
        (Revisions(detectors={"ae": 1}, attacks={"pgd-linf": 1}, protocols={"quick": 1}), False),
        (Revisions(detectors={"ae": 2}), True),
        (Revisions(attacks={"pgd-linf": 2}), True),
        (Revisions(protocols={"quick": 2}), True),
        (Revisions(detectors={"another": 9}), False),
    ],
)
def test_a_record_of_an_older_revision_is_stale(revisions: Revisions, stale: bool) -> None:
    assert is_stale(make_record(), revisions) is stale


def test_of_two_records_of_one_cell_the_newer_counts_and_it_is_said(tmp_path: Path) -> None:
    old = write_record(tmp_path, written="2025-01-01T00:00:00+00:00")
    assert old.path is not None
    twin = old.path.parent.parent / "copy" / old.path.name
    twin.parent.mkdir()
    twin.write_text(dataclasses.replace(old, written="2025-02-01T00:00:00+00:00").to_json())
    shutil.copy(paths.companion(old.path, paths.SCORES_SUFFIX), twin.parent)
    found, problems = store.read_all(tmp_path)
    assert [r.written for r in found] == ["2025-02-01T00:00:00+00:00"]
    assert len(problems) == 1 and "same cell" in problems[0]


def test_unknown_fields_of_a_later_version_are_no_damage() -> None:
    document = json.loads(make_record().to_json()) | {"mood": "good"}
    document["content_sha256"] = content_sha256(document)
    assert Record.from_json(json.dumps(document)) == make_record()
