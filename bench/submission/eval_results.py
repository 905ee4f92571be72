"""Entries for the Hugging Face Hub: `.eval_results/*.yaml` of a model repository, one file a figure.

The form is the Hub's (https://huggingface.co/docs/hub/eval-results, "a work in progress"): a list of one entry with
`dataset.id` (a dataset repository that is registered as a benchmark) and `dataset.task_id` (a task of its eval.yaml),
`value`, and optionally `date`, `source` (`url`, `name`) and `notes`. There is no `verifyToken` of ours: the Hub gives
those to runs of its own.

Every text is a double-quoted YAML scalar, as JSON writes strings, so that nothing in it is markup.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.errors import BenchError
from bench.records.paths import safe_name
from bench.records.record import Record
from bench.text import attack_text, one_line

FOLDER = "eval_results"
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_ADDRESS = re.compile(r"https://[!-~]{3,500}")


@dataclass(frozen=True)
class Hub:
    """Where entries point to.

    Attributes:
        dataset: ORG/NAME of the benchmark's dataset repository.
        source: the address of what an entry is attributed to; "" for none.

    Raises:
        BenchError: a name or an address that is none.
    """

    dataset: str
    source: str = ""

    def __post_init__(self) -> None:
        if not _REPOSITORY.fullmatch(self.dataset):
            raise BenchError(f"--hub-dataset is ORG/NAME of a dataset on the Hub; got {one_line(self.dataset, 60)!r}.")
        if self.source and not _ADDRESS.fullmatch(self.source):
            raise BenchError(f"An address for the Hub begins with https://; got {one_line(self.source, 60)!r}.")


def entry(record: Record, hub: Hub) -> str:
    """The YAML of a record's robust AUC in per cent. Raises BenchError where it has none."""
    clean, robust = record.clean, record.robust
    if clean is None or robust is None:
        raise BenchError(f"{record.detector_name} on {record.category} has no figures; leave it out.")
    attacked = attack_text(record.attack_name, record.epsilon, record.norm)
    notes = (
        f"{record.detector_title} on {record.category}, {attacked}, "
        f"protocol {record.protocol} {record.cell.protocol.version}: robust AUC in per cent, 95 % interval "
        f"[{robust.low:.1f}, {robust.high:.1f}]; clean AUC {clean.auc:.1f}; record {record.key}"
    )
    lines = [
        "- dataset:",
        f"    id: {_quoted(hub.dataset)}",
        f"    task_id: {_quoted(task_of(record))}",
        f"  value: {robust.auc:.4f}",
        f"  date: {_quoted(record.written)}",
    ]
    if hub.source:
        lines += ["  source:", f"    url: {_quoted(hub.source)}", '    name: "RADBench record"']
    return "\n".join([*lines, f"  notes: {_quoted(notes)}"]) + "\n"


def task_of(record: Record) -> str:
    """The task that an entry is of, as the benchmark's eval.yaml would name it: dataset, category, attack, protocol."""
    return "-".join(map(safe_name, (record.dataset, record.category, record.attack_name, record.protocol)))[:200]


def files_of(records: Sequence[Record], hub: Hub) -> dict[str, bytes]:
    """A file for each record with figures, by its name in an archive."""
    return {
        f"{FOLDER}/{safe_name(record.detector_name)}--{record.key[:12]}.yaml": entry(record, hub).encode()
        for record in records
        if record.ok
    }


def foreign(files: Mapping[str, str], records: Sequence[Record]) -> Iterator[str]:
    """The files of an archive's folder, their text by name, that are not what the records beside them are written as,
    to the byte: whoever copies them to the Hub publishes the figure that stands in them.

    Args:
        files: by name within the archive.
        records: that came along.
    """
    for name, text in files.items():
        stated = {key: _said(text, key) for key in ("id", "url")}
        try:
            hub = Hub(stated["id"], stated["url"])
            expected = files_of(records, hub)
        except BenchError:
            expected = {}
        if expected.get(name) != text.encode(errors="surrogateescape"):
            yield f"{one_line(name, 200)} says other things than the records of the submission; leave it out."


def _said(text: str, key: str) -> str:
    """What a line of ours says of a key that is there once at most; "" where it is not there or is no text."""
    found = re.findall(rf'^    {key}: (".*")$', text, flags=re.MULTILINE)
    try:
        return str(json.loads(found[0])) if found else ""
    except ValueError:
        return ""


def _quoted(text: str) -> str:
    """In double quotes; control characters and halves of pairs are written out before."""
    return json.dumps(one_line(text, 1000), ensure_ascii=False)
