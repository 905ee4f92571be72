"""RobustAD: three products as in training, and under shifts of light, place, background (Pemula et al. 2025).

The layout is that of its page on Hugging Face and of public code that reads it. How a mask is named in metadata.jsonl
could not be looked at: it is searched relative to the part's folder, the product's, the data set's, and in masks/.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.data.about import CC_BY, About
from bench.data.base import GOOD, Sample, Split
from bench.data.images import read_bytes
from bench.data.published import Published, sample
from bench.data.registry import register
from bench.errors import DataError
from bench.text import one_line

DEFECT = "anomaly"
# Of each product how its folders' names begin, and the condition in _test0, _test1, ...
PRODUCTS = {
    "MetalParts": (
        "metal_parts_data_dir",
        ("source", "lighting", "position", "rotation", "scale", "background_1", "background_2"),
    ),
    "PCB": ("pcb_data_dir", ("source", "lighting", "white_balancing", "rotation", "position", "shadow")),
    "PiledBags": (
        "piled_bags_data_dir",
        ("source", "lighting", "background_box_color", "position_rotation", "scale", "shadow"),
    ),
}
_LARGEST_TABLE = 2**24  # bytes; they have some 30,000


@register
class RobustAd(Published):
    """A category is a product under a condition, `PCB-lighting`: the normals of the product's train part to fit on, and
    one test part. `...-source` is the test part in training's own condition. Anomalies in train are left out.
    PiledBags has no masks."""

    name = "robustad"
    summary = "RobustAD, downloaded: 3 products, each as in training and under shifts"
    about = About(
        title="RobustAD",
        source="Pemula et al., CVPR 2025 workshop VAND",
        home="https://huggingface.co/datasets/AmazonScience/RobustAD",
        licence=CC_BY,
        size="1,000 to 10,000 pictures",
    )
    licence = about.line
    unpacked = ("RobustAD",)

    def categories(self) -> tuple[str, ...]:
        found = ((name, conditions) for name, (_, conditions) in PRODUCTS.items() if (self._folder / name).is_dir())
        return tuple(sorted(f"{name}-{condition}" for name, conditions in found for condition in conditions))

    def remark(self, category: str) -> str:
        product, condition = category.split("-")
        if condition == "source":
            return ""
        return f"Fitted on {product} in training's own condition, tested under a shift: {condition}."

    def _is_here(self, folder: Path) -> bool:
        return any((folder / name).is_dir() for name in PRODUCTS)

    @property
    def _looks_like(self) -> str:
        return f"the folders {', '.join(PRODUCTS)}"

    def _list(self, category: str) -> Split:
        product, condition = category.split("-")
        prefix, conditions = PRODUCTS[product]
        train = self._part(product, f"{prefix}_train")
        test = self._part(product, f"{prefix}_test{conditions.index(condition)}")
        return Split(tuple(found for found in train if found.defect == GOOD), tuple(test))

    def _part(self, product: str, name: str) -> Iterator[Sample]:
        part = self._folder / product / name
        table = part / "metadata.jsonl"
        if not table.is_file():
            raise self._incomplete(table, "the labels")
        for row in _rows(table):
            path = part / row["file_name"]
            if not path.is_file():
                raise self._incomplete(path, "which metadata.jsonl lists")
            masks = [self._mask(part, row["mask"], path)] if row["label"] and row["mask"] else []
            yield sample(self._folder / product, path, DEFECT if row["label"] else GOOD, masks)

    def _mask(self, part: Path, name: str, picture: Path) -> Path:
        places = (part / name, part.parent / name, self._folder / name, part / "masks" / Path(name).name)
        for path in places:
            if path.is_file():
                return path
        raise self._incomplete(places[-1], f"the mask of {picture.name}")


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
        if any(Path(found).is_absolute() or ".." in Path(found).parts for found in (name, str(mask or ""))):
            raise _odd(table, number, "a file lies elsewhere")
        yield {"file_name": name, "label": int(label), "mask": str(mask) if mask else ""}


def _odd(table: Path, number: int, what: str) -> DataError:
    return DataError(
        f"Line {number} of {table} is not RobustAD's ({what}): take the file from {RobustAd.about.home} again."
    )
