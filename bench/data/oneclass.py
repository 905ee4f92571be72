"""One-class novelty detection on a classification dataset: one class is normal, all the others are anomalous."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

from bench.data.base import GOOD, Dataset, Sample, Split
from bench.data.reading import Reading

Part = Literal["train", "test"]


class OneClass(Dataset):
    """A category is a class: its training images are the normals; the whole test part is the test set.

    The defect of an anomaly is the name of its class.
    """

    classes: ClassVar[tuple[str, ...]]  # in the order of the dataset's own class numbers
    are_files = False
    is_mendable = False

    def __init__(self, root: str | Path | None = None, reading: Reading | None = None) -> None:
        super().__init__(root, reading)
        self._parts: dict[Part, Sequence[Sample]] = {}

    @abstractmethod
    def _read(self, part: Part) -> Sequence[Sample]:
        """All samples of the train or the test part, with the class as `defect`."""

    def categories(self) -> tuple[str, ...]:
        return tuple(sorted(self.classes))

    def _list(self, category: str) -> Split:
        def is_normal(sample: Sample) -> bool:
            return sample.defect == category

        train = tuple(replace(sample, defect=GOOD) for sample in self._part("train") if is_normal(sample))
        test = tuple(replace(sample, defect=GOOD) if is_normal(sample) else sample for sample in self._part("test"))
        return Split(train, test)

    def _part(self, part: Part) -> Sequence[Sample]:
        if part not in self._parts:
            self._parts[part] = self._read(part)
        return self._parts[part]
