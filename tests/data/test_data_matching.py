"""Test sets matched by group: the group says nothing about the class."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from test_data_base import Toy, sample

from bench.data.base import Dataset, Sample, Split
from bench.data.groups import LEAST_PAIRS, matched
from bench.errors import DataError


def many(group: str, normals: int, anomalies: int) -> list[Sample]:
    names = [("good", f"{group}/good/{i}") for i in range(normals)] + [
        ("dent", f"{group}/dent/{i}") for i in range(anomalies)
    ]
    return [replace(sample(name, defect, 0), group=group) for defect, name in names]


class Grouped(Toy):
    test_samples = (*many("a", 9, 4), *many("b", 3, 20), *many("c", 6, 0), *many("d", 0, 6), *many("", 5, 5))
    test_samples += tuple(many("e", 8, 5))


def counts(dataset: Dataset, per_class: int | None) -> dict[str, tuple[int, int]]:
    labels = dataset.test_labels("all", per_class=per_class)
    found = Counter((name.split("/")[0], label) for name, label in labels.items())
    return {group: (found[group, 1], found[group, -1]) for group in sorted({group for group, _ in found})}


def test_each_group_gives_as_many_normals_as_anomalies() -> None:
    assert counts(Grouped(), None) == {"a": (4, 4), "b": (3, 3), "e": (5, 5)}
    for limit in (1, 5, 11):
        found = counts(Grouped(), limit)
        assert all(normals == anomalies for normals, anomalies in found.values())
        assert sum(normals for normals, _ in found.values()) == limit


def test_a_smaller_subset_lies_within_a_larger_one_whatever_the_order_of_the_listing() -> None:
    class Reversed(Grouped):
        test_samples = Grouped.test_samples[::-1]

    few, more = (set(Grouped().test_labels("all", per_class=n)) for n in (4, 9))
    assert few < more
    assert Grouped().test_labels("all", per_class=9) == Reversed().test_labels("all", per_class=9)


def test_pictures_and_labels_are_of_the_same_subset() -> None:
    found = Grouped().test("all", 4, per_class=6)
    assert dict(zip(found.ids, found.labels.tolist(), strict=True)) == Grouped().test_labels("all", per_class=6)


def test_without_enough_pairs_the_test_set_is_taken_as_it_is() -> None:
    class Apart(Toy):
        test_samples = (*many("a", 9, 0), *many("b", 0, 9), *many("c", LEAST_PAIRS - 1, LEAST_PAIRS - 1))

    assert len(matched(Apart.test_samples)) == LEAST_PAIRS - 1
    assert counts(Apart(), None) == {"a": (9, 0), "b": (0, 9), "c": (9, 9)}


def test_the_fingerprint_knows_the_groups_and_one_without_is_as_it_was() -> None:
    class Renamed(Grouped):
        test_samples = tuple(replace(s, group=s.group and f"{s.group}2") for s in Grouped.test_samples)

    assert Grouped().fingerprint("all") != Renamed().fingerprint("all")


def test_a_limit_of_none_is_refused_here_too() -> None:
    with pytest.raises(DataError, match="At least one image"):
        Grouped().test("all", 4, per_class=0)


def test_a_split_keeps_what_it_is_told_about_groups() -> None:
    split = Split(train=tuple(many("t", 3, 0)), test=tuple(many("a", 2, 2)))
    assert {s.group for s in split.train} == {"t"} and {s.group for s in split.anomalies} == {"a"}
