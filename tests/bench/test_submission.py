"""Submitting a claim and verifying it elsewhere, from the archive alone; and putting records together."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import pytest
import yaml
from fake_certificates import make_table, write_certificate
from fake_records import make_failed, make_record, make_scores, write_record
from test_verify import EPSILON, Dark

from bench.errors import BenchError, RecordError
from bench.records import store
from bench.records.paths import IMAGES_SUFFIX, companion
from bench.records.record import Record
from bench.report import example_panel
from bench.submission import archive, eval_results
from bench.submission.card import Card
from bench.submission.eval_results import Hub
from bench.submission.merge import merged, write
from bench.submission.pack import Packing, pack

Command = Callable[..., Any]
Register = Callable[..., None]
CARD = Card("A. Stranger", "Apache-2.0", "training normals")
ANSWERS = ("--name", "A. Stranger", "--licence", "Apache-2.0", "--chosen-on", "training normals")


@pytest.fixture
def run(folder: Path, tmp_path: Path, register: Register, one_thread: None) -> Record:
    register(Dark)
    (record,) = fakes.run(
        fakes.config(tmp_path, folder, "dark", categories=("bolt",), epsilons=(EPSILON,), keep_images=True)
    ).records
    return record


def test_a_submission_is_verified_from_its_archive_alone(
    run: Record, command: Command, folder: Path, tmp_path: Path
) -> None:
    said = command("submit", tmp_path / "out", *ANSWERS, "--out", tmp_path / "claim.zip", "--cache", tmp_path / "cache")
    assert said.code == 0, said.err
    assert "dark: " in said.out and "its checkpoint in this archive." in said.out
    with zipfile.ZipFile(tmp_path / "claim.zip") as packed:
        card = json.loads(packed.read("card.json"))
        names = packed.namelist()
    assert card["submitter"] == "A. Stranger" and card["detectors"][0]["checkpoint"] == "in this archive"
    assert [name.rpartition(".")[2] for name in names].count("safetensors") == 2
    shutil.rmtree(tmp_path / "out"), shutil.rmtree(tmp_path / "cache")
    fits = Dark.fits
    here = ("--data-root", folder, "--device", "cpu", "--cache", tmp_path / "another")
    said = command("verify", tmp_path / "claim.zip", "--level", 3, *here)
    assert said.code == 0, said.out + said.err
    text = " ".join(said.out.split())
    assert "2 holds: All 12 images lie in their threat model" in text
    assert "3 holds: The cell was run again at the same seed and has the same bits" in text
    assert Dark.fits == fits  # on the checkpoint that came with it
    assert not (tmp_path / "another" / "checkpoints").exists()
    said = command("verify", tmp_path / "claim.zip", "--level", 3, "--refit", *here)
    assert said.code == 0 and Dark.fits > fits


def test_the_same_claim_is_the_same_archive(run: Record, tmp_path: Path) -> None:
    packing = Packing(tmp_path / "cache")
    for name in ("one.zip", "two.zip"):
        pack([tmp_path / "out"], CARD, packing, tmp_path / name)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_checkpoint_that_came_for_other_data_is_not_used(
    run: Record, command: Command, folder: Path, tmp_path: Path
) -> None:
    pack([tmp_path / "out"], CARD, Packing(tmp_path / "cache"), tmp_path / "claim.zip")
    archive.unpack(tmp_path / "claim.zip", tmp_path / "read")
    (description,) = (tmp_path / "read" / "checkpoints").rglob("*.json")
    text = json.loads(description.read_text())
    contents = {p.relative_to(tmp_path / "read").as_posix(): p for p in (tmp_path / "read").rglob("*") if p.is_file()}
    description.write_text(json.dumps(text | {"key": "0" * 64}))
    archive.write(tmp_path / "other.zip", {n: p for n, p in contents.items() if n != archive.MANIFEST})
    here = ("--data-root", folder, "--device", "cpu", "--cache", tmp_path / "another")
    said = command("verify", tmp_path / "other.zip", "--level", 2, *here)
    assert said.code == 2 and "was fitted on other data" in " ".join(said.out.split())


def test_whose_it_is_is_shown_without_what_it_could_do_to_a_terminal(
    run: Record, command: Command, tmp_path: Path
) -> None:
    card = replace(CARD, submitter="\x1b[2J[red]me[/red]", chosen_on="a\nb")
    pack([tmp_path / "out"], card, Packing(tmp_path / "cache"), tmp_path / "claim.zip")
    said = command("verify", tmp_path / "claim.zip")
    assert said.code == 0
    assert r"Submitted by \x1b[2J[red]me[/red]; licence Apache-2.0; hyperparameters chosen on: a b" in said.out


def test_what_is_missing_or_does_not_hold_is_not_packed(tmp_path: Path) -> None:
    record = write_record(tmp_path / "records")
    (tmp_path / "cache").mkdir()
    packing, out = Packing(tmp_path / "cache"), tmp_path / "claim.zip"
    with pytest.raises(BenchError, match=r"--name: .*; --licence: .*; --chosen-on: "):
        pack([tmp_path], Card("", " ", ""), packing, out)
    with pytest.raises(BenchError, match="There are no records below"):
        pack([tmp_path / "cache"], CARD, packing, out)
    stranger = write_record(tmp_path / "others" / "records", detector="nobodys")
    with pytest.raises(BenchError, match="nobodys is not installed here"):
        pack([tmp_path / "others"], CARD, packing, out)
    store.write(make_failed(), None, tmp_path / "failed" / "records")
    with pytest.raises(RecordError, match="is of a cell that failed"):
        pack([tmp_path / "failed"], CARD, packing, out)
    assert record.path is not None and stranger.path is not None
    record.path.write_text(record.path.read_text().replace('"quick"', '"strict"'))
    with pytest.raises(RecordError, match="changed by hand"):
        pack([tmp_path], CARD, packing, out)
    assert not out.exists()


# -- entries for the Hub ----------------------------------------------------------------------------------------------


def test_entries_for_the_hub_are_yaml_of_its_form() -> None:
    record = make_record()
    hub = Hub("radbench/elpv", "https://example.org/claim")
    (found,) = yaml.safe_load(eval_results.entry(record, hub))
    assert record.robust is not None
    assert found["dataset"] == {"id": "radbench/elpv", "task_id": "elpv-mono-pgd-linf-quick"}
    assert found["value"] == pytest.approx(record.robust.auc, abs=1e-4)
    assert found["date"] == record.written
    assert found["source"] == {"url": "https://example.org/claim", "name": "RADBench record"}
    assert record.key in found["notes"] and found.keys() <= {"dataset", "value", "date", "source", "notes"}


@pytest.mark.parametrize(
    "title",
    [
        "<script>alert(1)</script>",
        'a" \n- value: 100',
        "${x} !!python/object:os.system",
        "\x1b[2J\ud800",
        "\U0001d518ml",
    ],
)
def test_what_a_stranger_named_is_text_in_them(title: str) -> None:
    record = make_record()
    cell = replace(record.cell, detector=replace(record.cell.detector, title=title))
    entries = yaml.safe_load(eval_results.entry(replace(record, cell=cell), Hub("a/b")))
    assert len(entries) == 1 and entries[0].keys() == {"dataset", "value", "date", "notes"}
    assert entries[0]["notes"].startswith(title[:3] if title.isprintable() else title[:1].replace("\x1b", "\\x1b"))


@pytest.mark.parametrize("name", ["", "elpv", "../x/y", "a/b/c", "a/<b>", "-a/b"])
def test_a_hub_dataset_is_a_repository(name: str) -> None:
    with pytest.raises(BenchError, match="ORG/NAME"):
        Hub(name)


def test_a_source_is_an_address() -> None:
    with pytest.raises(BenchError, match="begins with https"):
        Hub("a/b", "javascript:alert(1)")


def test_submit_writes_them_on_request(run: Record, command: Command, tmp_path: Path) -> None:
    out = tmp_path / "claim.zip"
    words = ("submit", run.path, *ANSWERS, "--out", out, "--cache", tmp_path / "cache", "--no-images")
    assert command(*words, "--hub-dataset", "org/bench", "--code", "https://example.org").code == 0
    with zipfile.ZipFile(out) as packed:
        (name,) = [n for n in packed.namelist() if n.startswith("eval_results/")]
        assert yaml.safe_load(packed.read(name))[0]["dataset"]["id"] == "org/bench"
        assert not [n for n in packed.namelist() if n.endswith(IMAGES_SUFFIX)]


# -- merging ----------------------------------------------------------------------------------------------------------


def test_records_are_put_together_as_they_were_written(tmp_path: Path, command: Command) -> None:
    one = write_record(tmp_path / "a" / "records", category="mono")
    other = write_record(tmp_path / "b" / "records", category="poly")
    certificate = write_certificate(tmp_path / "b" / "certificates")
    said = command("merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "all")
    assert said.code == 0 and "3 records in" in said.out
    for what, place in ((one, "a"), (other, "b"), (certificate, "b")):
        assert what.path is not None
        for path in what.path.parent.glob(f"{what.path.stem}*"):
            assert (tmp_path / "all" / path.relative_to(tmp_path / place)).read_bytes() == path.read_bytes()
    assert command("verify", tmp_path / "all").code == 0


def test_of_two_that_say_the_same_the_newer_is_kept(tmp_path: Path) -> None:
    scores = make_scores()
    old = write_record(tmp_path / "a" / "records", scores, written="2025-01-01T00:00:00+00:00")
    new = write_record(tmp_path / "b" / "records", scores, written="2026-01-01T00:00:00+00:00")
    for places in ([tmp_path / "a", tmp_path / "b"], [tmp_path / "b", tmp_path / "a"]):
        found = merged(places)
        assert found.doubles == 1 and not found.conflicts
        assert [what.written for what in found.kept.values()] == [new.written]
    store.write(replace(make_failed(), key=old.key, cell=old.cell, written="2027"), None, tmp_path / "c" / "records")
    found = merged([tmp_path / "c", tmp_path / "a"])
    assert [what.written for what in found.kept.values()] == [old.written]  # a failure claims nothing


def test_of_two_that_disagree_both_are_shown_and_nothing_is_written(tmp_path: Path, command: Command) -> None:
    one = write_record(tmp_path / "a" / "records")
    images = make_scores()
    other_scores = replace(images, robust=images.robust + 2.0 * (images.labels == 1))
    other = write_record(tmp_path / "b" / "records", other_scores)
    assert one.key == other.key and one.robust is not None and other.robust is not None
    write_record(tmp_path / "b" / "records", category="poly")
    said = command("merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "all")
    assert said.code == 1 and not (tmp_path / "all").exists()
    assert str(one.path) in said.err and str(other.path) in said.err
    assert f"robust.auc {one.robust.auc:.6g} and {other.robust.auc:.6g}" in said.err
    with pytest.raises(RecordError, match="state other figures"):
        write(merged([tmp_path / "a", tmp_path / "b"]), tmp_path / "all")


def test_certificates_that_disagree_are_shown(tmp_path: Path) -> None:
    write_certificate(tmp_path / "a" / "certificates", make_table())
    write_certificate(tmp_path / "b" / "certificates", make_table(speed=1.0))
    found = merged([tmp_path / "a", tmp_path / "b"])
    assert len(found.conflicts) == 1 and "radii." in found.conflicts[0]


def test_what_is_in_the_folder_already_is_among_them(tmp_path: Path, command: Command) -> None:
    write_record(tmp_path / "all" / "records")
    scores = make_scores()
    write_record(tmp_path / "b" / "records", replace(scores, robust=scores.robust + 2.0 * (scores.labels == 1)))
    before = {p: p.read_bytes() for p in (tmp_path / "all").rglob("*") if p.is_file()}
    assert command("merge", tmp_path / "b", "--out", tmp_path / "all").code == 1
    assert {p: p.read_bytes() for p in (tmp_path / "all").rglob("*") if p.is_file()} == before


def test_what_does_not_count_is_said_and_nothing_is_written(tmp_path: Path, command: Command) -> None:
    record = write_record(tmp_path / "a" / "records")
    assert record.path is not None
    record.path.write_text("{")
    said = command("merge", tmp_path / "a", "--out", tmp_path / "all")
    assert said.code == 2 and "no JSON" in said.err and not (tmp_path / "all").exists()
    (tmp_path / "empty").mkdir()
    assert "There are no records below" in command("merge", tmp_path / "empty", "--out", tmp_path / "all").err


def test_archives_are_merged_with_their_images(run: Record, command: Command, tmp_path: Path) -> None:
    pack([tmp_path / "out"], CARD, Packing(tmp_path / "cache"), tmp_path / "claim.zip")
    assert command("merge", tmp_path / "claim.zip", "--out", tmp_path / "all").code == 0
    (record,) = store.read_all(tmp_path / "all" / "records")[0]
    assert record.path is not None and run.path is not None
    for suffix in (".json", ".scores.csv", IMAGES_SUFFIX):
        assert companion(record.path, suffix).read_bytes() == companion(run.path, suffix).read_bytes()


def test_folders_of_shards_are_merged_with_what_their_panels_are_drawn_from(
    run: Record, command: Command, tmp_path: Path
) -> None:
    assert command("merge", tmp_path / "out", "--out", tmp_path / "all").code == 0
    (record,) = store.read_all(tmp_path / "all" / "records")[0]
    assert run.path is not None and example_panel.has_examples(record)
    assert example_panel.examples_of(record).score.tolist() == example_panel.examples_of(run).score.tolist()
    before = {path: path.read_bytes() for path in (tmp_path / "all").rglob("*") if path.is_file()}
    shutil.rmtree(tmp_path / "out")
    assert command("merge", tmp_path / "all", "--out", tmp_path / "all").code == 0
    assert {path: path.read_bytes() for path in (tmp_path / "all").rglob("*") if path.is_file()} == before
