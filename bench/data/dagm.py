"""DAGM 2007: ten artificial textures with one kind of defect each.

Wieler, Hahn and Hamprecht, Weakly Supervised Learning for Industrial Optical Inspection, a competition at the symposium
of the DAGM in 2007.
"""

from __future__ import annotations

from pathlib import Path

from bench.data.about import CC_BY, About
from bench.data.base import GOOD, Sample, Split
from bench.data.images import read_bytes
from bench.data.listing import pictures
from bench.data.published import InCategories, by_stem, sample
from bench.data.registry import register
from bench.errors import DataError

DEFECT = "defective"
_LARGEST_TABLE = 2**20  # bytes; it has 60,000


@register
class Dagm(InCategories):
    """<class>/Train and <class>/Test with Label/Labels.txt and Label/<picture>_label.PNG of the defective pictures.

    The authors' split, made for supervised learning, has defective pictures in both parts: those in Train are left out.
    A mask is an ellipse that roughly marks the defect, not its outline. The classes 1 to 6 were given out for
    development, 7 to 10 are the competition's.
    """

    name = "dagm"
    summary = "DAGM 2007, unpacked: 10 artificial textures, coarse masks"
    about = About(
        title="DAGM 2007",
        source="Wieler, Hahn and Hamprecht 2007",
        home="https://zenodo.org/records/12750201",
        licence=CC_BY,
        size="16,100 pictures",
    )
    licence = about.line
    known = tuple(f"Class{number}" for number in range(1, 11))
    unpacked = ("DAGM", "DAGM2007", "DAGM_KaggleUpload")

    def remark(self, category: str) -> str:
        return "Masks are ellipses that roughly mark the defects: figures of pixels compare with these."

    def _list(self, category: str) -> Split:
        folder = self._folders[category]
        train, test = (self._part(folder, part) for part in ("Train", "Test"))
        return Split(tuple(found for found in train if found.defect == GOOD), tuple(test))

    def _part(self, folder: Path, part: str) -> list[Sample]:
        table = folder / part / "Label" / "Labels.txt"
        if not table.is_file():
            raise self._incomplete(table, "the labels")
        labels = _labels(table)
        found = {path.name.lower(): path for path in pictures(folder / part)}
        masks = by_stem(folder / part / "Label", "_label")
        samples = []
        for name, is_defective in labels.items():
            path = found.get(name)
            if path is None:
                raise self._incomplete(folder / part / name.upper(), "which Labels.txt lists")
            own = masks.get(path.stem, ()) if is_defective else ()
            if is_defective and not own:
                raise self._incomplete(folder / part / "Label" / f"{path.stem}_label.PNG", f"the mask of {path.name}")
            samples.append(sample(folder, path, DEFECT if is_defective else GOOD, own))
        return samples


def _labels(table: Path) -> dict[str, bool]:
    """By the name of each picture in small letters whether it is defective.

    A line begins with a number, 0 or 1, and the picture's file name; the first line of the file is one number.
    """
    lines = read_bytes(table, _LARGEST_TABLE).decode("utf-8-sig", "replace").splitlines()
    found: dict[str, bool] = {}
    for number, fields in enumerate((line.split() for line in lines), start=1):
        if not fields or (number == 1 and len(fields) < 3):
            continue
        if len(fields) < 3 or fields[1] not in ("0", "1"):
            raise DataError(
                f"Line {number} of {table} is not `number label picture ...` with a label 0 or 1: take the file from "
                f"{Dagm.about.home} again."
            )
        found[Path(fields[2]).name.lower()] = fields[1] == "1"
    return found
