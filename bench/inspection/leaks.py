"""Test pictures that a detector was shown before, or that are normal and anomalous: figures on them mean nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bench.data import duplicates
from bench.data.base import NORMAL, ImageSet, Split
from bench.data.file_facts import FileFacts
from bench.data.findings import Finding, such_as
from bench.text import one_line, plural

_MEND = ", or run with --allow-leaks, which the records and their marks then say"


def leaks(
    split: Split, facts: Mapping[str, FileFacts], training: Sequence[ImageSet], test: ImageSet, *, refuse: bool
) -> list[Finding]:
    """What pictures and groups of the test set have in common with the training set, or with each other.

    Args:
        split: all samples, whose files and groups are compared.
        facts: of their files.
        training, test: the pictures that were decoded, whose pixels are compared as detectors see them.
        refuse: whether a run shall refuse equal pictures and shared groups; else they are remarks, without advice.
    """
    train_keys: dict[bytes | str, str] = {}
    for name, key in _keys([s.id for s in split.train], facts, training):
        train_keys.setdefault(key, name)
    test_keys = list(_keys([s.id for s in split.test], facts, [test]))
    known = {name: train_keys[key] for name, key in test_keys if key in train_keys}
    both, again = _repeated(test_keys, {s.id: s.label for s in split.test})
    found = []
    mend = _MEND if refuse else ""
    if known:
        verb = "is a training picture" if len(known) == 1 else "are training pictures"
        what = f"{plural(len(known), 'test picture')} {verb}"
        advice = f": take them out of train/ or test/{mend}" if refuse else ""
        found.append(Finding("leak", what, f"{what} ({_pairs(known)}){advice}.", refuse))
    if both:
        what = f"{plural(len(both), 'test picture')} in both classes"
        advice = f": keep each in the one where it belongs{mend}" if refuse else ""
        found.append(Finding("leak", what, f"{what}, normal and anomalous ({_pairs(both)}){advice}.", refuse))
    found += _shared_groups(split, refuse)
    if again:
        what = f"{plural(len(again), 'test picture')} there twice"
        found.append(
            Finding("duplicates", what, f"{what} ({_pairs(again)}): they count twice, and intervals are too narrow.")
        )
    return found + _near(training, test, set(known))


def _keys(
    names: Iterable[str], facts: Mapping[str, FileFacts], decoded: Sequence[ImageSet]
) -> Iterable[tuple[str, bytes | str]]:
    """Of each picture its name with the hash of its file, and with that of its pixels if it was decoded."""
    yield from ((name, facts[name].sha256) for name in names)
    for images in decoded:
        yield from zip(images.ids, duplicates.digests(images.images), strict=True)


def _repeated(
    keys: Iterable[tuple[str, bytes | str]], labels: Mapping[str, int]
) -> tuple[dict[str, str], dict[str, str]]:
    """Test pictures that equal another: anomalies with a normal twin; pictures with an earlier one of their class."""
    first: dict[tuple[bytes | str, int], str] = {}
    both, again = {}, {}
    for name, key in sorted(keys, key=lambda pair: pair[0]):
        twin = first.setdefault((key, labels[name]), name)
        if twin != name:
            again[name] = twin
    for (key, label), name in first.items():
        if label != NORMAL and (key, NORMAL) in first:
            both[name] = first[key, NORMAL]
    return both, again


def _shared_groups(split: Split, refuse: bool) -> list[Finding]:
    groups = [{sample.group for sample in samples if sample.group} for samples in (split.train, split.test)]
    shared = sorted(groups[0] & groups[1])
    if not shared:
        return []
    affected = sum(sample.group in shared for sample in split.test)
    what = f"{plural(len(shared), 'group')} in train and test"
    return [
        Finding(
            "leak",
            what,
            f"{what} ({such_as(shared)}), with {affected} of {len(split.test)} test pictures: a detector is praised "
            f"for recognising the group; give whole groups to one of them{_MEND if refuse else ''}.",
            refuse,
        )
    ]


def _near(training: Sequence[ImageSet], test: ImageSet, known: set[str]) -> list[Finding]:
    names = [name for images in training for name in images.ids]
    pairs = duplicates.near([images.images for images in training], test.images)
    alike = {test.ids[row]: names[nearest] for row, nearest in pairs if test.ids[row] not in known}
    if not alike:
        return []
    what = f"{plural(len(alike), 'near-duplicate')} of training pictures in the test set"
    return [Finding("near-duplicates", what, f"{what} ({_pairs(alike)}): look whether they are one photograph.")]


def _pairs(pairs: Mapping[str, str]) -> str:
    name, twin = min(pairs.items())
    text = f"{one_line(name, 100)} and {one_line(twin, 100)}"
    return text if len(pairs) == 1 else f"such as {text}"
