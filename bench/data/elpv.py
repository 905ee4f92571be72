"""ELPV: electroluminescence photographs of solar cells, 300x300 grey, with real defects (package elpv-dataset).

The cells come from 44 modules and are stored module by module, and a defective module has hardly a sound cell: four
runs of 60 file numbers hold 209 of mono's 313 anomalies and 26 of its 588 normals. Were single cells drawn into train
and test, an AUC would tell modules apart as much as defects: a score that never opens a picture, minus the number of
training normals within 25 file numbers, had an AUC of 87.8 on mono. So whole blocks of cells are train or test, and
test subsets are matched by block (`bench.data.groups`).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib import resources
from importlib.resources.abc import Traversable

from bench.data.about import CC_BY_NC_SA, About
from bench.data.base import GOOD, Dataset, Sample, Split
from bench.data.images import read_bytes
from bench.data.registry import register
from bench.errors import DataError

# Modules have 60 or 72 cells and the table does not say where one ends: blocks of so many in a run of one cell type.
BLOCK = 60
# Training normals this near to a test block are left out: they may belong to the module that it cuts.
GAP = 15
# First file numbers of the test blocks: those in which both classes are plentiful. Chosen by the labels alone, before
# any picture was scored; another choice would be another dataset.
TEST_BLOCKS = {"mono": (1, 361, 421, 481, 1021, 1081, 1141, 1381), "poly": (181, 241, 601, 661, 841, 1615)}


@register
class Elpv(Dataset):
    """Cells with defect probability 0 are normal, with 1 anomalous; those between are left out, being doubtful.

    The test set is all certain cells of the `TEST_BLOCKS`; the normals of the others are there to train on.
    `root`, if given, is a folder with labels.csv and images/ instead of the installed package.
    """

    name = "elpv"
    summary = "solar cells with real defects, mono- and polycrystalline (comes with RADBench)"
    about = About(
        title="ELPV dataset",
        source="Buerhop-Lutz et al. 2018, Deitsch et al. 2019 and 2021",
        home="https://github.com/zae-bayern/elpv-dataset",
        licence=CC_BY_NC_SA,
        size="2,624 pictures, 0.1 GB",
    )
    licence = about.line
    needs_root = False

    def categories(self) -> tuple[str, ...]:
        return ("mono", "poly")

    def _list(self, category: str) -> Split:
        folder = self._folder()
        cells = [c for c in _cells(folder) if c.kind == category and c.probability in (0, 1)]
        test = [cell for cell in cells if cell.block in TEST_BLOCKS[category]]
        taken = {number + gap for cell in test for number in range(cell.block, cell.block_end + 1) for gap in _NEAR}
        train = [cell for cell in cells if cell.number not in taken and cell.probability == 0]
        return Split(tuple(_sample(folder, cell) for cell in train), tuple(_sample(folder, cell) for cell in test))

    def _folder(self) -> Traversable:
        if self.root is not None:
            return self.root
        try:
            return resources.files("elpv_dataset") / "data"
        except ModuleNotFoundError as error:
            raise DataError(
                "The package elpv-dataset is missing: run `pip install elpv-dataset`, or say with --data-root where a "
                "folder with its labels.csv and images lies."
            ) from error


_LARGEST_TABLE = 2**24  # bytes; the table has 100,000
_NEAR = range(-GAP, GAP + 1)
_NUMBER = re.compile(r"(\d+)\.[^./]+")


@dataclass(frozen=True)
class _Cell:
    """A line of labels.csv, and the block of file numbers that it lies in."""

    path: str
    number: int
    probability: float
    kind: str
    block: int
    block_end: int


def _cells(folder: Traversable) -> list[_Cell]:
    """Every line with its block: `BLOCK` file numbers, counted from the first cell of a run of one type."""
    lines = list(_labels(folder))
    found: list[_Cell] = []
    start = 0
    while start < len(lines):
        kind = lines[start][3]
        end = next((i for i in range(start, len(lines)) if lines[i][3] != kind), len(lines))
        first, last = lines[start][1], lines[end - 1][1]
        for path, number, probability, _ in lines[start:end]:
            block = first + (number - first) // BLOCK * BLOCK
            found.append(_Cell(path, number, probability, kind, block, min(block + BLOCK - 1, last)))
        start = end
    return found


def _labels(folder: Traversable) -> Iterator[tuple[str, int, float, str]]:
    """(path, file number, defect probability, type of cell) of each line of labels.csv."""
    table = folder / "labels.csv"
    try:
        lines = read_bytes(table, _LARGEST_TABLE).decode().splitlines()
    except (DataError, UnicodeDecodeError) as error:
        raise DataError(f"{table} cannot be read: ELPV is a folder with labels.csv and images/.") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            path, probability, cell_type = line.split()
            yield path, int(_NUMBER.search(path)[1]), float(probability), cell_type  # type: ignore[index]
        except (ValueError, TypeError) as error:
            raise DataError(
                f"Line {number} of {table} is not `path probability type` with a numbered file: take the file from the "
                "package elpv-dataset."
            ) from error


def _sample(folder: Traversable, cell: _Cell) -> Sample:
    file = folder.joinpath(*cell.path.split("/"))
    return Sample(
        id=cell.path,
        defect=GOOD if cell.probability == 0 else "defective",
        where=str(file),
        content=partial(read_bytes, file),
        group=f"cells {cell.block}-{cell.block_end}",
    )
