"""A category's pictures, for whoever works on it."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from functools import cached_property

from bench.data.base import ImageSet
from bench.errors import DataError
from bench.inspection import inspection
from bench.inspection.inspection import Inspection
from bench.plan.cells import subset_of
from bench.plan.plan import Plan
from bench.plan.split import TrainingData, training_data
from bench.records.cell import Subset

_PICTURES = ("training", "test")


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
        assert len(self.test) and len(self.training.fit)
        if self.plan.dataset.fingerprint(self.name, anew=True) != before:
            raise DataError(f"The pictures of {self.name} were changed while they were read; run the command again.")
        if not self.plan.run.allow_leaks:
            self.inspection.check()

    def forget(self) -> None:
        """Give the memory back; the images are decoded again where they are needed again."""
        for name in _PICTURES:
            self.__dict__.pop(name, None)

    def packed(self) -> bytes:
        """The decoded pictures for another process (`unpack`): copying is far faster than decoding again.

        With them goes what records say about them: files may be changed before the other process would look.
        """
        told = {name: getattr(self, name) for name in (*_PICTURES, "subset", "inspection")}
        return pickle.dumps((told, self.plan.dataset.fingerprint(self.name)), protocol=5)

    def unpack(self, pictures: bytes) -> None:
        """Take over what this program's own process `packed`."""
        told, fingerprint = pickle.loads(pictures)  # noqa: S301 - it comes through a pipe from the parent
        self.__dict__.update(told)
        self.plan.dataset.know_fingerprint(self.name, fingerprint)
