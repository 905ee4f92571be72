"""Published data sets that lie on the disk as they were unpacked, each in its authors' layout.

Their splits are kept as they are, leaks included: others' figures have them, too. Their files are complete by
definition, so whatever is missing (a table, a mask, a folder) is an error that says where the archive is had, and is
never left out in silence.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar

from bench import files
from bench.data.about import About
from bench.data.base import GOOD, Dataset, Sample, Split
from bench.data.findings import Finding, such_as
from bench.data.images import MASK_EXTENSIONS, read_bytes
from bench.data.listing import entries, normal_form, pictures
from bench.data.masks import united
from bench.errors import DataError
from bench.text import plural


class Published(Dataset):
    """`root` is the folder that the archive unpacks to, or the one above it.

    A subclass names its `about`, and in `unpacked` the folders that archives of it are known to unpack to.
    """

    about: ClassVar[About]
    unpacked: ClassVar[tuple[str, ...]] = ()
    has_masks = True
    is_mendable = False

    @abstractmethod
    def _is_here(self, folder: Path) -> bool:
        """Whether the data set, or a part of it, lies in this folder."""

    @property
    @abstractmethod
    def _looks_like(self) -> str:
        """What the folder is known by, for a sentence: "the folders 01, 02, 03"."""

    @cached_property
    def _folder(self) -> Path:
        root = self.root
        assert root is not None  # needs_root
        if not root.is_dir():
            raise DataError(
                f"There is no folder {root}: get {self.about.title} from {self.about.home}, unpack it, and give "
                "--data-root its folder."
            )
        try:
            for folder in (root, *(root / name for name in self.unpacked)):
                if self._is_here(folder):
                    return folder
        except PermissionError as error:
            raise DataError(f"{error.filename} cannot be read ({error.strerror}): check its permissions.") from error
        raise DataError(
            f"There is no {self.about.title} in {root}: --data-root needs the folder with {self._looks_like}, as "
            f"the archive from {self.about.home} unpacks."
        )

    def _incomplete(self, missing: Path, what: str) -> DataError:
        return DataError(
            f"There is no {files.shortened(missing)} ({what}), so {self.about.title} is not whole: unpack all of it "
            f"again, from {self.about.home}."
        )

    def _without_picture(self, masks: Sequence[str]) -> tuple[Finding, ...]:
        """What is said of masks of defects whose pictures are not there; they are named by their pictures."""
        if not masks:
            return ()
        brief = f"{plural(len(masks), 'mask')} without a picture"
        told = f"{brief} ({such_as(masks)}), so {self.about.title} is not whole: unpack all of it again, from "
        return (Finding("masks", brief, f"{told}{self.about.home}."),)


class InCategories(Published):
    """One with a folder for each category, whose names are known. `root` may also be one of these folders."""

    known: ClassVar[tuple[str, ...]]

    def categories(self) -> tuple[str, ...]:
        return tuple(sorted(self._folders))

    def findings(self, category: str) -> tuple[Finding, ...]:
        self.check_category(category)
        missing = [name for name in self.known if name not in self._folders]
        if not missing or self._is_one:
            return ()
        brief = f"{len(missing)} of {len(self.known)} categories not there"
        return (
            Finding(
                "left out",
                brief,
                f"{brief} ({', '.join(missing)}): an average over the others is not that of {self.about.title}.",
            ),
        )

    @property
    def _looks_like(self) -> str:
        return f"the folders {', '.join(self.known)}"

    def _is_here(self, folder: Path) -> bool:
        return any((folder / name).is_dir() for name in self.known)

    @cached_property
    def _is_one(self) -> bool:
        """Whether the root is a category's own folder."""
        root = self.root
        return root is not None and root.is_dir() and root.resolve().name in self.known and not self._is_here(root)

    @cached_property
    def _folders(self) -> Mapping[str, Path]:
        if self._is_one and self.root is not None:
            return {self.root.resolve().name: self.root}
        return {name: _innermost(self._folder / name) for name in self.known if (self._folder / name).is_dir()}


class ByKind(InCategories):
    """A category has a folder of normal training images, and of test images one for each kind, normal or defective:
    MVTec AD's idea, with names that differ from set to set."""

    training: ClassVar[str] = "train/good"
    testing: ClassVar[str] = "test"
    normal: ClassVar[str] = "good"  # the kind that is no defect
    inner: ClassVar[str] = "."  # where in a kind's folder its pictures lie
    masks: ClassVar[str] = "ground_truth"  # where there is a folder for the masks of each kind

    @abstractmethod
    def _masks_in(self, folder: Path, kind: str) -> Mapping[str, Sequence[Path]]:
        """The masks of the defective pictures of one kind, by the pictures' names without extension; `folder` is the
        category's."""

    def findings(self, category: str) -> tuple[Finding, ...]:
        """Also of masks whose pictures are not there: a kind whose folder is gone would be missed by nobody."""
        found, folder = super().findings(category), self._folders[category]
        places = [path for place in (self.testing, self.masks) for path in entries(folder / place) if path.is_dir()]
        alone = []
        for kind in sorted({path.name for path in places} - {self.normal}):
            there = {path.stem for path in pictures(folder / self.testing / kind / self.inner)}
            alone += [f"{kind}/{stem}" for stem in sorted(self._masks_in(folder, kind).keys() - there)]
        return found + self._without_picture(alone)

    def _list(self, category: str) -> Split:
        folder = self._folders[category]
        train = self._sound(folder, f"{self.training}/{self.inner}", "normal training images")
        test = self._sound(folder, f"{self.testing}/{self.normal}/{self.inner}", "normal test images")
        kinds = [path.name for path in entries(folder / self.testing) if path.is_dir() and path.name != self.normal]
        defective: list[Sample] = []
        for kind in kinds:
            found = pictures(folder / self.testing / kind / self.inner)
            masks = self._masks_in(folder, kind) if found else {}
            defective += [self._defective(folder, path, kind, masks) for path in found]
        if not defective:
            raise self._incomplete(folder / self.testing / "...", "the folders of defective test images")
        return Split(tuple(train), (*test, *defective))

    def _sound(self, folder: Path, place: str, what: str) -> list[Sample]:
        found = pictures(folder / place)
        if not found:
            raise self._incomplete(folder / place, what)
        return [sample(folder, path, GOOD) for path in found]

    def _defective(self, folder: Path, path: Path, kind: str, masks: Mapping[str, Sequence[Path]]) -> Sample:
        own = masks.get(path.stem, ())
        if not own:
            raise self._incomplete(folder / "...", f"the mask of {path.relative_to(folder).as_posix()}")
        return sample(folder, path, normal_form(kind), own)


def is_file(path: Path) -> bool:
    """Whether there is such a file. Of a name that no system can have there is none; `Path.is_file` raises."""
    return os.path.isfile(path)  # noqa: PTH113


def _innermost(folder: Path) -> Path:
    """The folder, or the one of its own name within: an archive of a single category that is unpacked into a folder
    named after it makes Class1/Class1."""
    inner = folder / folder.name
    return inner if inner.is_dir() else folder


def sample(folder: Path, path: Path, defect: str, masks: Sequence[Path] = (), group: str = "") -> Sample:
    """The picture at `path` with an id relative to the category's folder, and its masks, which are united."""
    return Sample(
        id=normal_form(path.relative_to(folder).as_posix()),
        defect=defect,
        where=str(path),
        content=partial(read_bytes, path),
        mask=partial(united, tuple(masks)) if masks else None,
        mask_where=str(masks[0] if len(masks) == 1 else masks[0].parent) if masks else "",
        group=group,
    )


def by_stem(folder: Path, ending: str = "") -> dict[str, list[Path]]:
    """The mask files in a folder by what their names are before `ending` and the extension: the names of pictures."""
    found = (path for path in entries(folder) if path.suffix.lower() in MASK_EXTENSIONS and not path.is_dir())
    return {path.stem.removesuffix(ending): [path] for path in found if path.stem.endswith(ending)}
