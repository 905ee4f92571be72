"""A cell: what was asked, as typed values. Everything that its figures depend on is in it, and its hash is its key.

Records come from other versions and from strangers. What a document has beside the fields, has in another type, or
lacks, is kept as it stands: a record that is read and written again is the same bytes and has the same key.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, ClassVar, Self, get_args, get_origin, get_type_hints

from bench.errors import RecordError


@dataclass(frozen=True, kw_only=True)
class Entries:
    """A table of a document, with a typed field for each entry that is known.

    Attributes:
        others: entries that no field is of, and those that are not of their field's type.
        lacking: the fields that the document has no entry for; they read as their defaults.
    """

    others: Mapping[str, Any] = field(default_factory=dict)
    lacking: frozenset[str] = frozenset()
    # Fields that are no entry where they say what is usual: else older records would be of other cells.
    OPTIONAL: ClassVar[frozenset[str]] = frozenset()

    def to_document(self) -> dict[str, Any]:
        """The table as plain values, ready for JSON."""
        found: dict[str, Any] = {}
        for name, (_, default) in _fields(type(self)).items():
            value = getattr(self, name)
            if name in self.OPTIONAL | self.lacking and value == default:
                continue
            found[name] = value.to_document() if isinstance(value, Entries) else value
        return found | dict(self.others)

    @classmethod
    def from_document(cls, document: object, where: str = "cell") -> Self:
        """The table again; `where` is its path in the record.

        Raises:
            RecordError: an entry that nobody can do without is missing, or not of its type.
        """
        entries: Mapping[str, Any] = document if isinstance(document, dict) else {}
        values: dict[str, Any] = {}
        for name, (kind, default) in _fields(cls).items():
            value = entries.get(name)
            if isinstance(kind, type) and issubclass(kind, Entries):
                values[name] = kind.from_document(value, f"{where}.{name}")
            elif name in entries and is_of(value, kind):
                values[name] = value
            elif default is dataclasses.MISSING:
                raise RecordError(
                    f"{where}.{name} should be of type {_plain(kind).__name__} and is {value!r:.60}; run the cell "
                    "again."
                )
        made = cls(**values, lacking=frozenset(_fields(cls).keys() - entries.keys() - cls.OPTIONAL))
        told = values.keys() & made.to_document().keys()
        return dataclasses.replace(made, others={name: entries[name] for name in entries if name not in told})


@dataclass(frozen=True)
class CellProtocol(Entries):
    """How hard the attack tried and how the verdict was taken; `changed`: what the user changed of the attack's
    settings, None where the record does not say."""

    name: str
    version: int
    statement: str = ""
    changed: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Subset(Entries):
    """The test images: how many of each class, and the hash of their names; `per_class` and `limit`: at most so many of
    a class by the protocol and by --limit; `matched`: "group" where each anomaly has a normal of its group."""

    OPTIONAL: ClassVar[frozenset[str]] = frozenset({"limit", "matched"})

    normals: int
    anomalies: int
    sha256: str
    per_class: int | None = None
    limit: int | None = None
    matched: str = ""


@dataclass(frozen=True)
class CellDetector(Entries):
    """The detector as it was fitted: its settings, the hash of its checkpoint's tensors ("" where it could not be
    fitted) and those of its pretrained weights."""

    name: str
    revision: int
    settings: Mapping[str, Any]
    title: str = ""
    checkpoint_sha256: str = ""
    frozen: Mapping[str, str] = field(default_factory=dict)
    is_stochastic: bool = False


@dataclass(frozen=True)
class CellAttack(Entries):
    """The attack, its ball (epsilon on [0, 1]), and the settings that it ran with on this detector: whatever else it
    says of itself (`attacks.base.Attack.describe`); `warm_from`: of a sweep, the smaller balls' epsilons, rising, from
    the last of which it started."""

    OPTIONAL: ClassVar[frozenset[str]] = frozenset({"warm_from"})

    name: str
    revision: int
    norm: str
    epsilon: float
    warm_from: list[float] = field(default_factory=list)

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.others


@dataclass(frozen=True)
class CellDraws(Entries):
    """Noise draws of a verdict at least, and those that candidates are compared on."""

    verdict: int
    selection: int = 0


@dataclass(frozen=True)
class Cell(Entries):
    """One detector on one category under one attack.

    Attributes:
        protocol, detector, attack, subset, draws: as their classes say.
        dataset, category: names. fingerprint: the hash of the category's files. remark: what a reader must know.
        preset, image_size: the size of the experiment, and the side of its pictures.
        seed: of attack, selection and verdict noise. fit_seed: of the fit.
        early_stop: whether the attack left an image that had lost all its pairs, so that nothing is said of one class.
        in_turn: whether several attacks left such images to each other, so that nothing is said of the other one alone.
        holdout: training normals kept from the fit, where they are not the preset's number.
    """

    OPTIONAL: ClassVar[frozenset[str]] = frozenset({"early_stop", "in_turn", "holdout"})

    protocol: CellProtocol
    dataset: str
    fingerprint: str
    category: str
    subset: Subset
    preset: str
    image_size: int
    detector: CellDetector
    attack: CellAttack
    draws: CellDraws
    seed: int
    fit_seed: int = 0
    remark: str = ""
    early_stop: bool = False
    in_turn: bool = False
    holdout: int | None = None

    @property
    def key(self) -> str:
        """SHA-256 of the cell as canonical JSON: sorted keys, no white space, floats by repr. Raises RecordError where
        the cell holds what JSON cannot say, NaN and infinities included."""
        try:
            return canonical_sha256(self.to_document())
        except (TypeError, ValueError) as error:
            raise RecordError(f"A cell must be plain, finite JSON to have a key ({error}); fix its settings.") from None


def canonical_sha256(content: Mapping[str, Any]) -> str:
    """The hash of a document in which the order of entries and white space are no part. Raises TypeError, ValueError
    and RecursionError where it is no JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def is_of(value: object, kind: Any) -> bool:
    """Whether a value of a document is of a field's type. A float may be written as a whole number."""
    if isinstance(kind, UnionType):
        return any(is_of(value, one) for one in get_args(kind))
    plain = _plain(kind)
    # To Python True is an int, and 2 is no float.
    if plain in (int, float) and isinstance(value, bool):
        return False
    if plain is float and isinstance(value, int):
        return abs(value) < 2**1000  # else nobody could compute with it
    return isinstance(value, plain)


def _plain(kind: Any) -> type:
    """The type that a document's value has for an annotation such as `Mapping[str, Any]`."""
    plain: type = get_origin(kind) or kind
    return dict if plain is Mapping else plain


def _fields(cls: type[Entries]) -> dict[str, tuple[Any, Any]]:
    """Each entry's field: its type and its default, MISSING where an entry has to be there."""
    if cls not in _KNOWN:  # type hints are slow to resolve
        kinds = get_type_hints(cls)
        own = [f for f in dataclasses.fields(cls) if f.name not in ("others", "lacking")]
        _KNOWN[cls] = {f.name: (kinds[f.name], _default(f)) for f in own}
    return _KNOWN[cls]


def _default(of: dataclasses.Field[Any]) -> Any:
    return of.default if of.default_factory is dataclasses.MISSING else of.default_factory()


_KNOWN: dict[type[Entries], dict[str, tuple[Any, Any]]] = {}
