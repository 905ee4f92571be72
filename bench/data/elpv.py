"""ELPV: electroluminescence photographs of solar cells, 300x300 grey, with real defects (package elpv-dataset)."""

from collections.abc import Iterator
from functools import partial
from importlib import resources
from importlib.resources.abc import Traversable

from bench.data.base import GOOD, Dataset, Sample, Split, id_hash
from bench.data.images import read_bytes
from bench.data.registry import register
from bench.errors import DataError

TEST_FRACTION = 0.3  # of the normal cells
TEST_MINIMUM = 60  # normal cells: fewer make an AUC too coarse
SPLIT_SEED = 0  # fixed: another one would be another dataset


@register
class Elpv(Dataset):
    """Cells with defect probability 0 are normal, with 1 anomalous; those between are left out, being doubtful.

    A fixed part of the normals is held out for the test: those with the smallest hash of "seed:id".
    `root`, if given, is a folder with labels.csv and images/ instead of the installed package.
    """

    name = "elpv"
    summary = "solar cells with real defects, mono- and polycrystalline (comes with RADBench)"
    licence = (
        "ELPV dataset, pictures resized: Buerhop-Lutz et al. 2018, Deitsch et al. 2019 and 2021, "
        "https://github.com/zae-bayern/elpv-dataset, CC BY-NC-SA 4.0 "
        "(https://creativecommons.org/licenses/by-nc-sa/4.0/)"
    )
    needs_root = False

    def categories(self) -> tuple[str, ...]:
        return ("mono", "poly")

    def _list(self, category: str) -> Split:
        folder = self._folder()
        samples = [
            _sample(folder, path, GOOD if probability == 0 else "defective")
            for path, probability, cell_type in _labels(folder)
            if cell_type == category and probability in (0, 1)
        ]
        normals = sorted(
            (sample for sample in samples if sample.defect == GOOD),
            key=lambda sample: id_hash(f"{SPLIT_SEED}:{sample.id}"),
        )
        held_out = max(TEST_MINIMUM, round(TEST_FRACTION * len(normals)))
        anomalies = [sample for sample in samples if sample.defect != GOOD]
        return Split(train=tuple(normals[held_out:]), test=(*normals[:held_out], *anomalies))

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


def _labels(folder: Traversable) -> Iterator[tuple[str, float, str]]:
    """(path, defect probability, type of cell) of each line of labels.csv."""
    table = folder / "labels.csv"
    try:
        lines = table.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{table} cannot be read: ELPV is a folder with labels.csv and images/.") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            path, probability, cell_type = line.split()
            yield path, float(probability), cell_type
        except ValueError as error:
            raise DataError(
                f"Line {number} of {table} is not `path probability type`: take the file from the package elpv-dataset."
            ) from error


def _sample(folder: Traversable, path: str, defect: str) -> Sample:
    file = folder.joinpath(*path.split("/"))
    return Sample(id=path, defect=defect, where=str(file), content=partial(read_bytes, file))
