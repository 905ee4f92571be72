"""RobustAD: three products, each with a train part and several test parts under shifts of domain (Pemula et al. 2025).

The layout is that of its page on Hugging Face. A script that lay there for a time wrote each metadata.jsonl: the name
of a picture relative to its part, its label, and the path of its mask with whatever folder the script was given before
it. So of that path the file's name alone is used: masks lie in masks/. Which shift a part holds could not be looked up:
a category has the part's number, no name of a condition.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from bench.data.about import CC_BY, About
from bench.data.base import GOOD, Sample, Split
from bench.data.images import read_bytes
from bench.data.published import Published, is_file, sample
from bench.data.registry import register
from bench.errors import DataError
from bench.text import one_line

DEFECT = "anomaly"


@dataclass(frozen=True)
class Product:
    """How the names of its parts' folders begin (`<prefix>_train`, `<prefix>_test0`, ...), how many test parts there
    are, and whether there are masks."""

    prefix: str
    tests: int
    has_masks: bool


PRODUCTS = {
    "MetalParts": Product("metal_parts_data_dir", tests=7, has_masks=True),
    "PCB": Product("pcb_data_dir", tests=6, has_masks=True),
    "PiledBags": Product("piled_bags_data_dir", tests=6, has_masks=False),
}
_LARGEST_TABLE = 2**24  # bytes; they have some 30,000


@register
class RobustAd(Published):
    """A category is a product and one of its test parts, `PCB-test1`: the normals of the product's train part to fit
    on, and that test part. Anomalies in train are left out. PiledBags has no masks."""

    name = "robustad"
    summary = "RobustAD, downloaded: 3 products, each with 6 or 7 test parts under domain shifts"
    about = About(
        title="RobustAD",
        source="Pemula, Zhang and Dabeer, CVPR 2025 workshops",
        home="https://huggingface.co/datasets/AmazonScience/RobustAD",
        licence=CC_BY,
        size="1,000 to 10,000 pictures, PCB alone 6.2 GB",
    )
    licence = about.line
    unpacked = ("RobustAD",)

    def categories(self) -> tuple[str, ...]:
        found = ((name, product.tests) for name, product in PRODUCTS.items() if (self._folder / name).is_dir())
        return tuple(sorted(f"{name}-test{number}" for name, tests in found for number in range(tests)))

    def remark(self, category: str) -> str:
        product, part = category.split("-")
        return f"Fitted on {product}'s train part, tested on its part {part}, one of {PRODUCTS[product].tests}."

    def _is_here(self, folder: Path) -> bool:
        return any((folder / name).is_dir() for name in PRODUCTS)

    @property
    def _looks_like(self) -> str:
        return f"the folders {', '.join(PRODUCTS)}"

    def _list(self, category: str) -> Split:
        product, part = category.split("-")
        train = tuple(found for found in self._part(product, "train") if found.defect == GOOD)
        return Split(train, tuple(self._part(product, part)))

    def _part(self, product: str, name: str) -> Iterator[Sample]:
        part = self._folder / product / f"{PRODUCTS[product].prefix}_{name}"
        table = part / "metadata.jsonl"
        if not table.is_file():
            raise self._incomplete(table, "the labels")
        for row in _rows(table):
            path = part / row["file_name"]
            if not is_file(path):
                raise self._incomplete(path, "which metadata.jsonl lists")
            has_mask = PRODUCTS[product].has_masks and row["label"] and row["mask"]
            masks = [self._mask(part, row["mask"], path)] if has_mask else []
            yield sample(self._folder / product, path, DEFECT if row["label"] else GOOD, masks)

    def _mask(self, part: Path, name: str, picture: Path) -> Path:
        path = part / "masks" / PurePosixPath(name).name
        if not is_file(path):
            raise self._incomplete(path, f"the mask of {one_line(picture.name, 120)}")
        return path


def _rows(table: Path) -> Iterator[dict[str, Any]]:
    lines = read_bytes(table, _LARGEST_TABLE).decode("utf-8-sig", "replace").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, label, mask = str(row["file_name"]), row["label"], row.get("mask")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise _odd(table, number, "it needs file_name and label") from None
        if label not in (0, 1) or isinstance(label, float):
            raise _odd(table, number, f"the label {one_line(label, 40)} is neither 0 nor 1")
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise _odd(table, number, "a file lies elsewhere")
        yield {"file_name": name, "label": int(label), "mask": str(mask) if mask else ""}


def _odd(table: Path, number: int, what: str) -> DataError:
    return DataError(
        f"Line {number} of {table} is not RobustAD's ({what}): take the file from {RobustAd.about.home} again."
    )
