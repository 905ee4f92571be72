"""VisA: 12 objects, from its own folders and the table of its one-class split, or rearranged as MVTec AD is.

Zou et al., SPot-the-Difference Self-supervised Pre-training for Anomaly Detection and Segmentation, ECCV 2022.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.data.about import CC_BY, About
from bench.data.base import GOOD, Sample, Split
from bench.data.images import read_bytes
from bench.data.published import ByKind, by_stem, is_file, sample
from bench.data.registry import register
from bench.errors import DataError
from bench.text import one_line

SPLIT, KINDS = "split_csv/1cls.csv", "image_anno.csv"
SEVERAL = "combined"  # of pictures with several kinds of defect, as MVTec AD calls them
_UNNAMED = "anomaly"
_LARGEST_TABLE = 2**24  # bytes; the split has 660,000


@register
class Visa(ByKind):
    """`root` is the unpacked archive (<object>/Data, split_csv/1cls.csv), or what its authors' prepare_data.py makes of
    it for one-class training (<object>/train/good, test/good, test/bad, ground_truth/bad).

    The one-class split is read from its table; of the archive's own layout <object>/image_anno.csv says which kind of
    defect a picture has: one with several is of the kind "combined". Rearranged, all are of the kind "bad", so the
    two layouts hold the same pictures and have different fingerprints.
    """

    name = "visa"
    summary = "VisA, unpacked, or rearranged by its one-class split: 12 objects"
    about = About(
        title="VisA",
        source="Zou et al., ECCV 2022",
        home="https://github.com/amazon-science/spot-diff",
        licence=CC_BY,
        size="10,821 pictures, 1.9 GB",
    )
    licence = about.line
    known = (
        "candle",
        "capsules",
        "cashew",
        "chewinggum",
        "fryum",
        "macaroni1",
        "macaroni2",
        "pcb1",
        "pcb2",
        "pcb3",
        "pcb4",
        "pipe_fryum",
    )
    unpacked = ("VisA_20220922", "VisA", "1cls", "VisA_pytorch/1cls", "visa_pytorch")

    def _masks_in(self, folder: Path, kind: str) -> Mapping[str, Sequence[Path]]:
        return by_stem(folder / "ground_truth" / kind)

    def _list(self, category: str) -> Split:
        folder = self._folders[category]
        if not (folder / "Data").is_dir():
            return super()._list(category)
        table = folder.parent / SPLIT
        if not table.is_file():
            raise self._incomplete(table, "the one-class split")
        kinds = self._kinds(folder)
        parts: dict[str, list[Sample]] = {"train": [], "test": []}
        for row in _rows(table, ("object", "split", "label", "image", "mask")):
            if row["object"] == category:
                part = parts.get(row["split"])
                labels = ("normal",) if row["split"] == "train" else ("normal", "anomaly")
                if part is None or row["label"] not in labels:
                    what = f"{row['image']} is of the split {row['split']} and the label {row['label']}"
                    raise _odd(table, one_line(what, 200))
                part.append(self._sample(folder, row, kinds))
        return Split(tuple(parts["train"]), tuple(parts["test"]))

    def _sample(self, folder: Path, row: Mapping[str, str], kinds: Mapping[str, str]) -> Sample:
        path = self._file(folder, row["image"], "which the split lists")
        if row["label"] == "normal":
            return sample(folder, path, GOOD)
        mask = self._file(folder, row["mask"], f"the mask of {row['image']}")
        return sample(folder, path, kinds.get(row["image"], _UNNAMED), [mask])

    def _file(self, folder: Path, name: str, what: str) -> Path:
        """Of a name in a table, which is relative to the folder above the object's."""
        own = f"{folder.name}/"
        # What leads elsewhere is not the object's: the table may be a stranger's.
        if not name.startswith(own) or ".." in Path(name).parts:
            raise _odd(folder.parent / SPLIT, f"{one_line(name, 120)!r} is no file of {folder.name}")
        path = folder / name.removeprefix(own)
        if not is_file(path):
            raise self._incomplete(path, one_line(what, 200))
        return path

    def _kinds(self, folder: Path) -> dict[str, str]:
        """The kind of defect of each picture that image_anno.csv names; nothing where the table is not there."""
        table = folder / KINDS
        if not table.is_file():
            return {}
        found = {}
        for row in _rows(table, ("image", "label")):
            names = {" ".join(name.split()).lower() for name in row["label"].split(",")} - {"", "normal", GOOD}
            if names:
                found[row["image"]] = SEVERAL if len(names) > 1 else min(names)
        return found


def _rows(table: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    try:
        lines = read_bytes(table, _LARGEST_TABLE).decode("utf-8-sig").splitlines()
        for row in csv.DictReader(lines, strict=True):
            # A row that is too short has None in it.
            yield {name: row[name].strip().replace("\\", "/") for name in columns}
    except (csv.Error, UnicodeDecodeError, KeyError, AttributeError) as error:
        raise _odd(table, f"it needs the columns {', '.join(columns)} in each row") from error


def _odd(table: Path, what: str) -> DataError:
    return DataError(f"{table} is not VisA's ({what}): take it from {Visa.about.home} again.")
