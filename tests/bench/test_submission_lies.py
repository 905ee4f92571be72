"""Archives and folders that agree in every figure and lie beside them: entries for the Hub, cards, signs left out."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_records import make_record, make_scores, write_record

from bench.errors import RecordError
from bench.records import store
from bench.records.record import Record
from bench.records.schema import content_sha256
from bench.submission import archive, pack
from bench.submission import pack as packing
from bench.submission.card import Card
from bench.submission.eval_results import Hub
from bench.submission.merge import merged

Command = Callable[..., Any]
HUB = Hub("radbench/elpv", "https://example.org/claim")


@pytest.fixture
def read(tmp_path: Path) -> Path:
    """An honest archive, unpacked."""
    write_record(tmp_path / "run" / "records")
    made = packing.Packing(tmp_path / "cache", hub=HUB)
    pack.pack([tmp_path / "run"], Card("a", "b", "c"), made, tmp_path / "claim.zip")
    archive.unpack(tmp_path / "claim.zip", tmp_path / "read")
    assert not list(pack.check(tmp_path / "read"))
    return tmp_path / "read"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("  value: ", "  value: 9"),
        lambda text: text.replace("quick", "strict"),
        lambda text: text.replace("https://example.org/claim", "javascript:alert(1)"),
        lambda text: text + "  verifyToken: true\n",
        lambda text: text + text,
        lambda text: "",
        lambda text: text.replace('"radbench/elpv"', "!!python/object:os.system"),
        lambda text: text + "\udcff",
    ],
)
def test_entries_for_the_hub_say_what_the_records_say(read: Path, change: Callable[[str], str]) -> None:
    (entry,) = (read / "eval_results").iterdir()
    entry.write_bytes(change(entry.read_text()).encode(errors="surrogateescape"))
    (problem,) = pack.check(read)
    assert f"eval_results/{entry.name} says other things than the records" in problem


def test_an_entry_that_is_of_no_record_is_named(read: Path) -> None:
    (entry,) = (read / "eval_results").iterdir()
    entry.with_name("ae--000000000000.yaml").write_text(entry.read_text())
    (problem,) = pack.check(read)
    assert "ae--000000000000.yaml" in problem


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda card: card["detectors"][0].update(checkpoint="in this archive"), "says otherwise than the archive"),
        (lambda card: card.update(data_licences=[]), "does not name the licence of the data"),
        (lambda card: card.update(chosen_on="\t"), "does not say --chosen-on"),
    ],
)
def test_a_card_is_held_against_what_came_with_it(
    read: Path, change: Callable[[dict[str, Any]], None], sentence: str
) -> None:
    card = json.loads((read / archive.CARD).read_text())
    change(card)
    (read / archive.CARD).write_text(json.dumps(card))
    (problem,) = pack.check(read)
    assert sentence in problem


def test_an_archive_without_a_record_is_a_sentence(tmp_path: Path, command: Command) -> None:
    archive.write(tmp_path / "a.zip", {archive.CARD: Card("a", "b", "c").to_json().encode()})
    said = command("verify", tmp_path / "a.zip")
    assert said.code == 2 and f"{tmp_path / 'a.zip'} holds no record" in said.err
    assert "radbench-verify" not in said.err


def test_an_archive_whose_beginning_is_gone_is_a_sentence(tmp_path: Path) -> None:
    """Its table of contents is whole, and leads to places before the file."""
    archive.write(tmp_path / "a.zip", {archive.CARD: b"x" * 5000, "eval_results/a.yaml": b"y" * 5000})
    whole = (tmp_path / "a.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as packed:
        ends = [info.header_offset for info in packed.infolist()]
    for cut in {*range(1, 60, 7), *(end + 1 for end in ends)}:
        (tmp_path / "half.zip").write_bytes(whole[cut:])
        with pytest.raises(RecordError, match=r"half\.zip is (damaged|refused)"):
            archive.unpack(tmp_path / "half.zip", tmp_path / f"into-{cut}")


# -- merging ----------------------------------------------------------------------------------------------------------


def twin(record: Record, folder: Path, **entries: Any) -> Record:
    """The same cell with the same scores, later, and with other entries beside its figures."""
    assert record.path is not None
    document = json.loads(record.path.read_text()) | {"written": "9999-01-01T00:00:00+00:00"}
    for name, value in entries.items():
        document[name] = value
    document["content_sha256"] = content_sha256(document)
    path = folder / record.path.parent.parent.name / record.path.parent.name / record.path.name
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(document))
    scores = store.companion(record.path, store.SCORES_SUFFIX)
    store.companion(path, store.SCORES_SUFFIX).write_bytes(scores.read_bytes())
    return store.read(path)


def flagged(folder: Path) -> Record:
    record = make_record()
    indicators = record.indicators | {"zero_gradient_share": 0.9}
    path = store.write(replace(record, indicators=indicators), make_scores(), folder)
    return store.read(path)


def test_a_copy_without_the_signs_does_not_take_a_records_place(tmp_path: Path) -> None:
    record = flagged(tmp_path / "board" / "records")
    same = twin(record, tmp_path / "same" / "records")
    assert merged([tmp_path / "board", tmp_path / "same"]).kept[record.key].written == same.written
    twin(record, tmp_path / "other" / "records", indicators=record.indicators | {"zero_gradient_share": 0.0})
    found = merged([tmp_path / "board", tmp_path / "other"])
    (conflict,) = found.conflicts
    assert "only one says that the gradient was zero in 90 % of the steps" in conflict


def test_a_copy_that_calls_itself_a_full_run_does_not_take_a_records_place(tmp_path: Path) -> None:
    record = write_record(tmp_path / "board" / "records", full_run=False)
    twin(record, tmp_path / "other" / "records", limits=[], full_run=True)
    (conflict,) = merged([tmp_path / "board", tmp_path / "other"]).conflicts
    assert "only one says that it is a full run" in conflict


def test_two_cells_that_would_be_one_file_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve digits of a key are in a name; whoever looks for them long enough finds a second cell with the same."""
    one = write_record(tmp_path / "a" / "records")
    two = write_record(tmp_path / "b" / "records", fit_seed=1)
    assert one.path is not None and one.key != two.key
    monkeypatch.setattr("bench.submission.merge.record_path", lambda folder, cell: folder / "x--y--z.json")
    (problem,) = merged([tmp_path / "a", tmp_path / "b"]).problems
    assert "would be one file" in problem
