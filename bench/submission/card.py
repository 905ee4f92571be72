"""The card of a submission: who claims it, under which licence, on what settings were chosen, and how the detectors of
its records can be had."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import detectors
from bench.errors import BenchError, RecordError
from bench.records.cell import CellDetector, is_of
from bench.records.certificate import Certificate
from bench.records.record import Record, each_once
from bench.text import one_line

FORMAT = 1
LONGEST = 4000  # characters of an answer
MOST_DETECTORS = 2000
_NEEDED = {
    "submitter": "--name: who claims it",
    "licence": "--licence: of the code and the weights, such as Apache-2.0",
    "chosen_on": "--chosen-on: what images hyperparameters were chosen on (test images must have had no part in it)",
}


@dataclass(frozen=True)
class Source:
    """How a detector of a record can be had.

    Attributes:
        name, revision: the registry's.
        package, version: the distribution that brings its class.
        checkpoint_sha256: of its tensors.
        checkpoint: "in this archive", "shipped with the package", or "to be fitted" by the record's command.
    """

    name: str
    revision: int
    package: str
    version: str
    checkpoint_sha256: str
    checkpoint: str


@dataclass(frozen=True)
class Card:
    """What a reader must know that no record says.

    Attributes:
        submitter, contact: who claims it, and where an answer reaches them.
        licence: of the code and the weights.
        chosen_on: on what images hyperparameters were chosen.
        code, paper: addresses.
        notes: whatever else.
        data_licences: of the data that the records are of, which travel with them.
        detectors: how each can be had.
    """

    submitter: str
    licence: str
    chosen_on: str
    contact: str = ""
    code: str = ""
    paper: str = ""
    notes: str = ""
    data_licences: tuple[str, ...] = ()
    detectors: tuple[Source, ...] = ()

    def lacking(self) -> list[str]:
        """The options whose answers are missing, with what they ask."""
        return [asked for name, asked in _NEEDED.items() if not getattr(self, name).strip()]

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises RecordError where it is no card of this format."""
        try:
            document = json.loads(text, object_pairs_hook=each_once)
        except (ValueError, RecursionError) as error:
            raise RecordError(f"The card is no JSON ({one_line(error, 100)}); submit again.") from None
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise RecordError(f"The card is none of format {FORMAT}; submit again with this version.")
        texts = [f.name for f in fields(cls) if f.name not in ("data_licences", "detectors")]
        answers = {name: document.get(name, "") for name in texts}
        licences, sources = document.get("data_licences", []), document.get("detectors", [])
        are_texts = all(isinstance(v, str) and len(v) <= LONGEST for v in [*answers.values(), *_list(licences)])
        if not are_texts or not isinstance(licences, list) or not isinstance(sources, list):
            raise RecordError(f"The card's answers must be texts of at most {LONGEST} characters; submit again.")
        return cls(**answers, data_licences=tuple(licences), detectors=tuple(map(_source, sources[:MOST_DETECTORS])))


def source_of(detector: CellDetector, checkpoint: str) -> Source:
    """How the detector of a record can be had. Raises BenchError where it is not installed here, and nobody could say
    from which package it comes."""
    try:
        cls = detectors.get(detector.name)
    except Exception as error:
        raise BenchError(
            f"{detector.name} is not installed here, so it cannot be said how it can be had ({one_line(error, 200)}); "
            "submit from where it was run."
        ) from None
    package, version = _distribution(cls.__module__.partition(".")[0])
    return Source(detector.name, detector.revision, package, version, detector.checkpoint_sha256, checkpoint)


def licences_of(claims: Iterable[Record | Certificate]) -> tuple[str, ...]:
    """Of the data, each once."""
    return tuple(dict.fromkeys(claim.licence for claim in claims if isinstance(claim.licence, str) and claim.licence))


def _distribution(module: str) -> tuple[str, str]:
    """The package that brings a module, and its version; of a file that no package brings, its own name."""
    name = next(iter(importlib.metadata.packages_distributions().get(module, ["radbench"])))
    try:
        return name, importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return name, ""


def _source(found: Any) -> Source:
    entries = found if isinstance(found, dict) else {}
    values = {f.name: entries.get(f.name) for f in fields(Source)}
    kinds = {f.name: int if f.name == "revision" else str for f in fields(Source)}
    if not all(is_of(values[name], kind) for name, kind in kinds.items()):
        raise RecordError("The card names a detector without saying how it can be had; submit again.")
    if any(isinstance(value, str) and len(value) > LONGEST for value in values.values()):
        raise RecordError(f"The card's answers must be texts of at most {LONGEST} characters; submit again.")
    return Source(**values)  # type: ignore[arg-type]  # as was just asked


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
