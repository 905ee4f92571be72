"""Groups: pictures that share a module, a scene, a lot. They must not speak for the class.

Pictures of one group resemble each other in much that is no defect. Where a group lies in train and in test, a detector
is praised for recognising it; where normals and anomalies of a test set come from different groups, for telling the
groups apart. So groups are whole in a split, and a test set is matched: as many normals as anomalies from each group.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol, TypeVar

LEAST_PAIRS = 10  # fewer matched pairs give no AUC worth a row: then the test set is taken as it is, and said to be


class Grouped(Protocol):
    """What of a sample (`bench.data.base.Sample`) matters here."""

    @property
    def id(self) -> str: ...

    @property
    def label(self) -> int: ...

    @property
    def group(self) -> str: ...


S = TypeVar("S", bound=Grouped)


def id_hash(text: str) -> bytes:
    """The hash by which subsets are chosen: sha256, also of names that are not valid Unicode."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def matched(test: Sequence[S]) -> list[tuple[S, S]]:
    """Pairs of a normal and an anomaly of one group: as many as the rarer class has in it, in the order in which they
    are to be taken. Within a group, and among the pairs, the hash of their ids decides. Samples without a group, and
    groups with one class alone, are in none."""
    members: defaultdict[str, tuple[list[S], list[S]]] = defaultdict(lambda: ([], []))
    for sample in sorted(test, key=lambda sample: id_hash(sample.id)):
        if sample.group:
            members[sample.group][sample.label == 1].append(sample)
    pairs = [pair for anomalies, normals in members.values() for pair in zip(normals, anomalies, strict=False)]
    return sorted(pairs, key=lambda pair: id_hash(pair[0].id))
