"""A category's pictures, for whoever works on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bench.data.base import ImageSet
from bench.data.stored import StoredImages
from bench.errors import DataError
from bench.inspection import inspection
from bench.inspection.inspection import Inspection
from bench.plan.cells import subset_of
from bench.plan.plan import Plan
from bench.plan.split import TrainingData, training_data
from bench.records.cell import Subset

_PICTURES = ("training", "test")


@dataclass(frozen=True, eq=False)
class SharedPictures:
    """A category's decoded pictures in the files of a folder, and what records say about them: the category's own files
    may be changed before another process would look."""

    folder: Path
    sets: Mapping[str, StoredImages]
    subset: Subset
    inspection: Inspection
    fingerprint: str


@dataclass(eq=False)
class Category:
    """A category's images, each set decoded once for all detectors and attacks that are run one after the other."""

    plan: Plan
    name: str

    @cached_property
    def training(self) -> TrainingData:
        return training_data(self.plan.dataset, self.name, self.plan.image_size, self.plan.run)

    @cached_property
    def test(self) -> ImageSet:
        return self.plan.dataset.test(self.name, self.plan.image_size, per_class=self.plan.per_class)

    @cached_property
    def subset(self) -> Subset:
        """What a record says about the test images; nothing is decoded for it."""
        labels = self.plan.dataset.test_labels(self.name, per_class=self.plan.per_class)
        is_matched = self.plan.dataset.is_matched(self.name)
        return subset_of(labels, self.plan.per_class, self.plan.run.limit, is_matched=is_matched)

    @cached_property
    def inspection(self) -> Inspection:
        """What is odd about the pictures."""
        training = (self.training.fit, self.training.held_out)
        return inspection.inspect(self.plan.dataset, self.name, training, self.test)

    def check(self) -> None:
        """Decode everything, for hours of fitting would be lost on a test picture that is damaged; and look at it.

        Raises:
            DataError: pictures cannot be read, or were changed meanwhile: a record would name others than it is of. Or
                test pictures are known from training, or belong to both classes, and the user does not allow it.
        """
        before = self.plan.dataset.fingerprint(self.name)
        for pictures in (self.test, self.training.fit):  # each is decoded when it is first asked for
            if not len(pictures):
                raise DataError(f"There are no pictures of {self.name} to fit on or to test on; add some.")
        if self.plan.dataset.fingerprint(self.name, anew=True) != before:
            raise DataError(f"The pictures of {self.name} were changed while they were read; run the command again.")
        if not self.plan.run.allow_leaks:
            self.inspection.check()

    def forget(self) -> None:
        """Give the memory back; the images are decoded again where they are needed again."""
        for name in _PICTURES:
            self.__dict__.pop(name, None)

    @property
    def is_decoded(self) -> bool:
        """Whether its test images are at hand; the others are with them."""
        return "test" in self.__dict__

    def share(self, folder: Path) -> SharedPictures:
        """The decoded pictures for other processes (`take_over`): far faster than decoding again. From now on this
        process maps them as well. Raises OSError where the disk refuses."""
        folder.mkdir()
        sets = {"fit": self.training.fit, "held_out": self.training.held_out, "test": self.test}
        shared = SharedPictures(
            folder=folder,
            sets={name: StoredImages.store(images, folder / name) for name, images in sets.items()},
            subset=self.subset,
            inspection=self.inspection,
            fingerprint=self.plan.dataset.fingerprint(self.name),
        )
        self.take_over(shared)
        return shared

    def take_over(self, shared: SharedPictures) -> None:
        """Have what another process decoded and found, without looking at the category's files."""
        sets = {name: stored.mapped() for name, stored in shared.sets.items()}
        self.__dict__.update(
            training=TrainingData(sets["fit"], sets["held_out"]),
            test=sets["test"],
            subset=shared.subset,
            inspection=shared.inspection,
        )
        self.plan.dataset.know_fingerprint(self.name, shared.fingerprint)
