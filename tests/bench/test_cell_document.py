"""The cell of a record: typed values here, and in JSON what it always was, to the byte."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from fake_records import changed, make_cell, make_record, make_scores

from bench.errors import RecordError
from bench.records import store
from bench.records.cell import Cell, CellDetector
from bench.records.record import Record
from bench.records.schema import content_sha256

RESULTS = Path(__file__).resolve().parents[2] / "results"
COMMITTED = sorted(RESULTS.rglob("records/*/*/*--*--*.json"))


def test_every_committed_record_counts_has_its_key_and_is_written_as_it_was_read() -> None:
    assert len(COMMITTED) > 50
    for path in COMMITTED:
        record = store.read(path)  # held against its scores
        assert record.cell.key == record.key and path.name.endswith(f"{record.key[:12]}.json")
        assert record.to_json() == path.read_text(encoding="utf-8"), path
        assert record.cell == pickle.loads(pickle.dumps(record.cell))  # noqa: S301


ODD = [
    {"mood": "good"},
    {"early_stop": True},
    {"early_stop": False},
    {"early_stop": 1},
    {"holdout": 4},
    {"holdout": 0},
    {"holdout": None},
    {"holdout": "32"},
    {"fit_seed": None},
    {"fit_seed": 7.0},
    {"remark": ""},
    {"remark": None},
    {"remark": ["of", "a", "stranger"]},
]
INNER = [
    ("subset", {"limit": 8}),
    ("subset", {"limit": None}),
    ("subset", {"per_class": None}),
    ("subset", {"matched": ""}),
    ("subset", {"matched": "group", "mood": 1}),
    ("protocol", {"changed": None}),
    ("protocol", {"statement": 3}),
    ("detector", {"is_stochastic": 1}),
    ("detector", {"title": None, "frozen": {"net": "f" * 64}}),
    ("attack", {"epsilon": 1}),
    ("attack", {"steps": None, "queries": [1, 2]}),
    ("draws", {"selection": None}),
]
ABSENT = [
    ("fit_seed",),
    ("remark",),
    ("subset", "per_class"),
    ("protocol", "statement"),
    ("protocol", "changed"),
    ("detector", "title"),
    ("detector", "checkpoint_sha256"),
    ("detector", "frozen"),
    ("attack", "steps"),
    ("draws", "selection"),
]


def documents() -> list[dict[str, Any]]:
    """Cells of other versions and of strangers."""

    def plain() -> dict[str, Any]:
        return json.loads(json.dumps(make_cell().to_document()))  # type: ignore[no-any-return]

    found = [plain(), *(plain() | more for more in ODD)]
    found += [plain() | {part: plain()[part] | more} for part, more in INNER]
    for *way, last in ABSENT:
        document = plain()
        inner = document[way[0]] if way else document
        del inner[last]
        found.append(document)
    return found


@pytest.mark.parametrize("document", documents(), ids=range(len(documents())))
def test_a_record_with_entries_that_are_unknown_odd_or_absent_is_written_as_it_was_read(
    document: dict[str, Any],
) -> None:
    assert Cell.from_document(document).to_document() == document
    whole = json.loads(make_record().to_json()) | {"cell": document, "key": Cell.from_document(document).key, "more": 1}
    del whole["remarks"]
    whole["content_sha256"] = content_sha256(whole)
    text = json.dumps(whole, indent=2, sort_keys=True) + "\n"
    assert Record.from_json(text).to_json() == text


def test_an_optional_entry_is_there_where_it_says_something() -> None:
    cell = make_cell()
    usual = cell.to_document()
    assert not {"early_stop", "holdout"} & usual.keys() and not {"limit", "matched"} & usual["subset"].keys()
    said = dataclasses.replace(cell, early_stop=True, holdout=0, subset=dataclasses.replace(cell.subset, limit=3))
    assert said.to_document() == usual | {"early_stop": True, "holdout": 0, "subset": usual["subset"] | {"limit": 3}}
    assert len({cell.key, said.key, changed(cell, holdout=0).key, changed(cell, early_stop=True).key}) == 4


def test_a_field_that_a_document_lacks_is_an_entry_as_soon_as_it_is_set() -> None:
    document = make_cell().detector.to_document()
    del document["title"]
    lacking = CellDetector.from_document(document)
    assert lacking.title == "" and lacking.to_document() == document
    assert dataclasses.replace(lacking, title="AE").to_document() == document | {"title": "AE"}


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ({"seed": True}, "cell.seed should be of type int and is True; run the cell again."),
        ({"seed": 1.0}, "cell.seed should be of type int and is 1.0; run the cell again."),
        ({"dataset": 5}, "cell.dataset should be of type str and is 5; run the cell again."),
        ({"protocol": None}, "cell.protocol.name should be of type str and is None; run the cell again."),
        ({"subset": []}, "cell.subset.normals should be of type int and is None; run the cell again."),
        ({"draws": {}}, "cell.draws.verdict should be of type int and is None; run the cell again."),
    ],
)
def test_what_nobody_can_do_without_is_asked_for(entries: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RecordError) as caught:
        changed(make_cell(), **entries)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("part", "entry", "value", "kind"),
    [
        ("detector", "settings", None, "dict"),
        ("detector", "revision", "1", "int"),
        ("attack", "epsilon", "2/255", "float"),
        ("attack", "epsilon", False, "float"),
        ("attack", "epsilon", 10**400, "float"),
    ],
)
def test_so_it_is_of_a_part(part: str, entry: str, value: object, kind: str) -> None:
    cell = make_cell()
    with pytest.raises(
        RecordError, match=rf"^cell\.{part}\.{entry} should be of type {kind} and is .*run the cell again"
    ):
        changed(cell, **{part: cell.to_document()[part] | {entry: value}})


def test_a_cell_without_any_table_is_refused_in_the_same_words(tmp_path: Path) -> None:
    path = store.write(make_record(), make_scores(), tmp_path)
    document = json.loads(path.read_text()) | {"cell": "mono"}
    document["content_sha256"] = content_sha256(document)
    path.write_text(json.dumps(document))
    with pytest.raises(RecordError, match=r"cell\.protocol\.name should be of type str and is None"):
        store.read(path)
