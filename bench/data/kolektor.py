"""KolektorSDD and KolektorSDD2: surfaces of electrical commutators, and of other parts, from one company.

Both give every picture a mask, which is black where there is no defect: the masks are the labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from bench.data.about import CC_BY_NC_SA, About
from bench.data.base import GOOD, Sample, Split
from bench.data.findings import Finding, such_as
from bench.data.images import read_bytes, read_defective
from bench.data.listing import entries, pictures
from bench.data.published import Published, by_stem, sample
from bench.data.registry import register

DEFECT = "defective"
ITEMS = 50  # commutators
FOLDS = 3


@register
class KolektorSdd(Published):
    """kosNN/PartM.jpg with kosNN/PartM_label.bmp: the surfaces of 50 commutators, eight of each, of which 52 are
    defective.

    There are two archives, KolektorSDD and KolektorSDD-boxes, which differ in their masks: the second's are boxes.
    Where both lie in `root`, the first is read.

    The authors cross-validate over three folds in which a commutator is whole. So does this, but with folds of its own
    (their table of the folds is a pickle, which is code): the categories. In `fold-1` the commutators 1, 4, 7, ... are
    tested, in `fold-2` 2, 5, 8, ..., in `fold-3` the others; the sound surfaces of the rest are there to fit on. A
    commutator is a group, so test subsets have as many sound as defective surfaces of each. kos21/Part7 is left out, as
    it is by the authors' own code.
    """

    name = "kolektor-sdd"
    summary = "KolektorSDD, unpacked: surfaces of 50 commutators, in 3 folds"
    about = About(
        title="KolektorSDD",
        source="Tabernik et al., Journal of Intelligent Manufacturing 2020",
        home="https://www.vicos.si/resources/kolektorsdd/",
        licence=CC_BY_NC_SA,
        size="399 pictures",
    )
    licence = about.line
    unpacked = ("KolektorSDD", "KolektorSDD-boxes", "KSDD")

    def categories(self) -> tuple[str, ...]:
        _ = self._folder  # a missing root shall show here
        return tuple(f"fold-{number + 1}" for number in range(FOLDS))

    def remark(self, category: str) -> str:
        return "A split of RADBench's own, by whole commutators: the authors' folds are others."

    def findings(self, category: str) -> tuple[Finding, ...]:
        self.check_category(category)
        items = {number: path for path in entries(self._folder) if (number := _item(path)) is not None}
        alone = []
        for item in items.values():
            there = {path.stem for path in pictures(item)}
            alone += [f"{item.name}/{stem}" for stem in sorted(by_stem(item, "_label").keys() - there)]
        missing = [f"kos{number:02}" for number in range(1, ITEMS + 1) if number not in items]
        brief = f"{len(missing)} of {ITEMS} commutators not there"
        told = f"{brief} ({such_as(missing)}): figures over the others are not those of {self.about.title}."
        return (*self._without_picture(alone), *([Finding("left out", brief, told)] if missing else []))

    def _is_here(self, folder: Path) -> bool:
        return any(_item(path) is not None for path in entries(folder))

    @property
    def _looks_like(self) -> str:
        return "the folders kos01 to kos50"

    def _list(self, category: str) -> Split:
        tested = int(category.removeprefix("fold-")) - 1
        train, test = [], []
        for number, found in self._samples:
            if (number - 1) % FOLDS == tested:
                test.append(found)
            elif found.defect == GOOD:
                train.append(found)
        return Split(tuple(train), tuple(test))

    @cached_property
    def _samples(self) -> list[tuple[int, Sample]]:
        """(number of the commutator, surface); one reading for all folds."""
        found = []
        for item in entries(self._folder):
            number = _item(item)
            masks = by_stem(item, "_label") if number is not None else {}
            for path in pictures(item) if number is not None else ():
                if path.stem.endswith("_label") or (number, path.stem) == (21, "Part7"):
                    continue
                if path.stem not in masks:
                    raise self._incomplete(item / f"{path.stem}_label.bmp", f"the mask of {item.name}/{path.name}")
                mask = masks[path.stem]
                defect = DEFECT if _marks(mask[0]) else GOOD
                own = mask if defect == DEFECT else ()
                found.append((number or 0, sample(self._folder, path, defect, own, group=item.name)))
        return found


@register
class KolektorSdd2(Published):
    """train/NNNNN.png and test/NNNNN.png, each with NNNNN_GT.png. The authors' split, made for supervised learning, has
    defective pictures in train: they are left out. Files with other names, such as the copy of a picture that the
    archive holds (`10301 (copy).png`), are not read."""

    name = "kolektor-sdd2"
    summary = "KolektorSDD2, unpacked: surfaces of industrial parts, one category"
    about = About(
        title="KolektorSDD2",
        source="Bozic et al., Computers in Industry 2021",
        home="https://www.vicos.si/resources/kolektorsdd2/",
        licence=CC_BY_NC_SA,
        size="3,335 pictures, 0.9 GB",
    )
    licence = about.line
    unpacked = ("KolektorSDD2", "KSDD2")

    def categories(self) -> tuple[str, ...]:
        _ = self._folder  # a missing root shall show here
        return ("all",)

    def findings(self, category: str) -> tuple[Finding, ...]:
        self.check_category(category)
        alone = []
        for part in ("train", "test"):
            there = {path.stem for path in self._pictures(self._folder / part)}
            masks = (stem for stem in by_stem(self._folder / part, "_GT") if stem.isdigit())
            alone += [f"{part}/{stem}" for stem in sorted(set(masks) - there)]
        return self._without_picture(alone)

    def _is_here(self, folder: Path) -> bool:
        return any(next(self._pictures(folder / part), None) for part in ("train", "test"))

    @property
    def _looks_like(self) -> str:
        return "train/10000.png, train/10000_GT.png and so on, and test"

    def _list(self, category: str) -> Split:
        train, test = (list(self._part(part)) for part in ("train", "test"))
        return Split(tuple(found for found in train if found.defect == GOOD), tuple(test))

    def _part(self, part: str) -> Iterator[Sample]:
        place = self._folder / part
        masks = by_stem(place, "_GT")
        if not next(self._pictures(place), None):
            raise self._incomplete(place, "half of the split")
        for path in self._pictures(place):
            if path.stem not in masks:
                raise self._incomplete(place / f"{path.stem}_GT.png", f"the mask of {part}/{path.name}")
            mask = masks[path.stem]
            is_defective = _marks(mask[0])
            yield sample(self._folder, path, DEFECT if is_defective else GOOD, mask if is_defective else ())

    @staticmethod
    def _pictures(folder: Path) -> Iterator[Path]:
        return (path for path in pictures(folder) if path.stem.isdigit())


def _item(path: Path) -> int | None:
    """The number of a commutator's folder; None of any other."""
    found = re.fullmatch(r"kos(\d{1,4})", path.name)
    return int(found[1]) if found and path.is_dir() else None


def _marks(mask: Path) -> bool:
    return bool(read_defective(read_bytes(mask), str(mask)).any())
