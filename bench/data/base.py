"""What a dataset is: categories, normal images to fit on, and a test set of normals and anomalies."""

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

import torch
from PIL import Image

from bench import files
from bench.data import groups
from bench.data.about import About
from bench.data.file_facts import FileFacts, facts_of
from bench.data.findings import Finding
from bench.data.groups import id_hash as id_hash
from bench.data.images import read_image, read_mask, resize
from bench.data.reading import Reading
from bench.errors import DataError
from bench.names import unknown
from detectors.base import LARGEST_SIDE

NORMAL, ANOMALOUS = 1, -1
GOOD = "good"
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one size with their labels; image i is `ids[i]`, `images[i]`, `labels[i]`, ...

    The 8-bit pictures at this size ARE the benchmark's input: every detector and every attack starts from them.
    """

    ids: tuple[str, ...]  # unique within a category, POSIX-like, wherever the data lies: "test/crack/003.png"
    images: torch.Tensor  # uint8 (N, 3, S, S)
    labels: torch.Tensor  # int8 (N,): NORMAL (+1) or ANOMALOUS (-1)
    defects: tuple[str, ...]  # "good", or the kind of defect
    masks: torch.Tensor | None  # bool (N, S, S), True = defective, all False for normals; None: there are no masks

    def __post_init__(self) -> None:
        lengths = {len(self.ids), len(self.images), len(self.labels), len(self.defects)}
        if self.masks is not None:
            lengths.add(len(self.masks))
        if len(lengths) > 1:
            raise ValueError("ids, images, labels, defects and masks of an ImageSet must be equally many")

    def __len__(self) -> int:
        return len(self.ids)

    def pixels(self, index: slice | Sequence[int] | torch.Tensor = slice(None)) -> torch.Tensor:
        """float32 (n, 3, S, S) in [0, 1] of the images at `index`."""
        return self.images[index].to(torch.float32) / 255

    def subset(self, indices: Sequence[int] | torch.Tensor) -> "ImageSet":
        """The images at `indices` (or where a boolean tensor is True), in that order."""
        selection = torch.as_tensor(indices)
        if selection.dtype != torch.bool:
            selection = selection.long()
        rows = torch.arange(len(self))[selection]
        return ImageSet(
            ids=tuple(self.ids[i] for i in rows),
            images=self.images[rows],
            labels=self.labels[rows],
            defects=tuple(self.defects[i] for i in rows),
            masks=None if self.masks is None else self.masks[rows],
        )


@dataclass(frozen=True)
class Sample:
    """One picture of a category before it is decoded; its bytes are read only when asked for."""

    id: str
    defect: str  # "good", or the kind of defect
    where: str  # how error messages call the picture: its path
    content: Callable[[], bytes]
    decode: Callable[[bytes, str], Image.Image] = read_image  # (content, where) -> RGB picture
    mask: Callable[[], bytes] | None = None
    mask_where: str = ""
    group: str = ""  # what it shares with others of its kind: module, scene, lot; "" where nobody knows

    @property
    def label(self) -> int:
        return NORMAL if self.defect == GOOD else ANOMALOUS


@dataclass(frozen=True)
class Split:
    """All samples of one category: normal ones to fit on, and the test set."""

    train: tuple[Sample, ...]
    test: tuple[Sample, ...]

    @property
    def normals(self) -> tuple[Sample, ...]:
        return tuple(sample for sample in self.test if sample.label == NORMAL)

    @property
    def anomalies(self) -> tuple[Sample, ...]:
        return tuple(sample for sample in self.test if sample.label == ANOMALOUS)

    @property
    def unmasked(self) -> int:
        """How many anomalies have no mask."""
        return sum(sample.mask is None for sample in self.anomalies)


class Dataset(ABC):
    """A source of image sets. A subclass names its categories and lists each one's samples; the rest is here."""

    name: ClassVar[str]
    summary: ClassVar[str]  # one line
    licence: ClassVar[str]  # one line with the source, to stand beside anything made from the data
    about: ClassVar[About | None] = None  # of a published one: the facts behind that line
    needs_root: ClassVar[bool] = True
    has_masks: ClassVar[bool] = False  # whether it can have masks; `ImageSet.masks` says whether a category does
    takes_reading: ClassVar[bool] = False  # whether the user may say how its files are read
    are_files: ClassVar[bool] = True  # whether a sample's bytes are a picture file
    # Whether the split is the user's to mend. One that was published is not: others' figures have its leaks, too.
    is_mendable: ClassVar[bool] = True

    def __init__(self, root: str | Path | None = None, reading: Reading | None = None) -> None:
        self.reading = reading or Reading()
        if self.reading.options and not self.takes_reading:
            raise DataError(
                f"The dataset {self.name} knows how it is to be read: leave {self.reading.options} out, which "
                "--dataset folder takes."
            )
        if root is None and self.needs_root:
            raise DataError(f"The dataset {self.name} is not part of RADBench: say where it lies with --data-root.")
        self.root = None if root is None else files.at_home(root)
        self._splits: dict[str, Split] = {}
        self._fingerprints: dict[str, str] = {}
        self._facts: dict[str, dict[str, FileFacts]] = {}

    @abstractmethod
    def categories(self) -> tuple[str, ...]:
        """The names of the categories, sorted; DataError where the data is missing or of another layout."""

    @abstractmethod
    def _list(self, category: str) -> Split:
        """All samples of a known category, in any order; nothing is decoded here."""

    def remark(self, category: str) -> str:
        """What a reader of this category's figures must know, as a sentence; "" where there is nothing."""
        return ""

    def findings(self, category: str) -> tuple[Finding, ...]:
        """What is odd about how the category lies there: files that were left out, masks that belong to nothing. Also
        of a category that `validate` refuses."""
        return ()

    def check_category(self, category: str) -> None:
        """Raises UnknownNameError with the nearest name unless the dataset has the category."""
        known = self.categories()
        if category not in known:
            raise unknown(f"category of {self.name}", category, known)

    def validate(self, category: str) -> None:
        """Cheap check, to be made before any fitting: DataError unless the category has all it needs."""
        self._split(category)

    def fingerprint(self, category: str, *, anew: bool = False) -> str:
        """sha256 (hex) of what the category uses, wherever it lies: it changes with a byte, a name, a label, a mask.

        The hash of the sorted lines "role, id, defect, sha256 of the file, sha256 of the mask or -, group if there is
        one", where the role is train or test and a NUL ends each field; besides, a line of the bit depth that the user
        named. It is computed once, or once more with `anew`.
        """
        if anew or category not in self._fingerprints:
            split = self._split(category)
            facts: dict[str, FileFacts] = {}
            lines = [_fingerprint_line("train", sample, facts, self.are_files) for sample in split.train]
            lines += [_fingerprint_line("test", sample, facts, self.are_files) for sample in split.test]
            if self.reading.bit_depth is not None:
                lines.append(b"bit depth\0%d\0" % self.reading.bit_depth)
            self._facts[category] = facts
            self._fingerprints[category] = hashlib.sha256(b"".join(sorted(lines))).hexdigest()
        return self._fingerprints[category]

    def know_fingerprint(self, category: str, fingerprint: str) -> None:
        """Take over what another process has computed for the pictures that it has read."""
        self._fingerprints[category] = fingerprint

    def facts(self, category: str) -> dict[str, FileFacts]:
        """What the files of all samples say of themselves, by id, as they were when the fingerprint was computed."""
        if category not in self._facts:
            self.fingerprint(category, anew=True)
        return self._facts[category]

    def split(self, category: str) -> Split:
        """All samples of the category. DataError as `validate`."""
        return self._split(category)

    def is_matched(self, category: str) -> bool:
        """Whether test subsets have as many normals as anomalies of each group. DataError as `validate`."""
        return len(groups.matched(self._split(category).test)) >= groups.LEAST_PAIRS

    def train(self, category: str, size: int, *, limit: int | None = None) -> ImageSet:
        """Normal training images, (N, 3, size, size), without masks, sorted by id.

        `limit` keeps that many at most, chosen by the hash of their ids. DataError as `validate`.
        """
        return _decode(_choose(self._split(category).train, limit), size, with_masks=False)

    def train_ids(self, category: str, *, limit: int | None = None) -> tuple[str, ...]:
        """The ids of what `train` gives, in its order; nothing is decoded. DataError as `validate`."""
        return tuple(sample.id for sample in _choose(self._split(category).train, limit))

    def test(self, category: str, size: int, *, per_class: int | None = None) -> ImageSet:
        """Normals and anomalies, (N, 3, size, size), sorted by id, disjoint from the training images.

        `per_class` keeps that many normals and that many anomalies at most, chosen by the hash of their ids: the same
        ones for every detector. Where samples have groups, as many normals as anomalies come from each
        (`bench.data.groups`), whatever `per_class` is. Masks are there if every anomaly of the category has one.
        DataError as `validate`.
        """
        return _decode(self._test(category, per_class), size, with_masks=self._split(category).unmasked == 0)

    def test_labels(self, category: str, *, per_class: int | None = None) -> dict[str, int]:
        """The labels of what `test` gives by their ids, in its order; nothing is decoded. DataError as `validate`."""
        return {sample.id: sample.label for sample in self._test(category, per_class)}

    def _test(self, category: str, per_class: int | None) -> list[Sample]:
        split = self._split(category)
        pairs = groups.matched(split.test)
        if len(pairs) >= groups.LEAST_PAIRS:
            return sorted((s for pair in _limited(pairs, per_class) for s in pair), key=_sample_id)
        return sorted(_choose(split.normals, per_class) + _choose(split.anomalies, per_class), key=_sample_id)

    def _split(self, category: str) -> Split:
        if category not in self._splits:
            self.check_category(category)
            split = self._list(category)
            self._check_split(category, split)
            self._splits[category] = split
        return self._splits[category]

    def _check_split(self, category: str, split: Split) -> None:
        kinds = {
            "normal training": split.train,
            "normal test": split.normals,
            "anomalous test": split.anomalies,
        }
        for kind, samples in kinds.items():
            if not samples:
                raise DataError(f"The category {category} of {self.name} has no {kind} images: complete the data.")
        (name, times), *_ = Counter(sample.id for sample in split.train + split.test).most_common(1)
        if times > 1:
            raise DataError(
                f"The category {category} of {self.name} has {times} images named {name}: keep one of them."
            )


def _sample_id(sample: Sample) -> str:
    return sample.id


def _choose(samples: Iterable[Sample], limit: int | None) -> list[Sample]:
    if limit is not None:
        samples = _limited(sorted(samples, key=lambda sample: id_hash(sample.id)), limit)
    return sorted(samples, key=_sample_id)


def _limited(chosen: Sequence[T], limit: int | None) -> Sequence[T]:
    if limit is not None and limit < 1:
        raise DataError(f"At least one image is needed and {limit} were asked for: raise the limit.")
    return chosen[:limit]


def _decode(samples: Sequence[Sample], size: int, with_masks: bool) -> ImageSet:
    if not 1 <= size <= LARGEST_SIDE:
        raise DataError(f"Pictures cannot be brought to {size} pixels; 1 to {LARGEST_SIDE} are possible.")
    images = torch.empty(len(samples), 3, size, size, dtype=torch.uint8)
    masks = torch.zeros(len(samples), size, size, dtype=torch.bool) if with_masks else None
    for row, sample in enumerate(samples):
        picture = sample.decode(sample.content(), sample.where)
        images[row] = resize(picture, size)
        if masks is not None and sample.mask is not None:
            masks[row] = read_mask(sample.mask(), sample.mask_where, picture.size, size)
    return ImageSet(
        ids=tuple(sample.id for sample in samples),
        images=images,
        labels=torch.tensor([sample.label for sample in samples], dtype=torch.int8),
        defects=tuple(sample.defect for sample in samples),
        masks=masks,
    )


def _fingerprint_line(role: str, sample: Sample, facts: dict[str, FileFacts], are_files: bool) -> bytes:
    """The sample's line; what else its bytes say goes into `facts`, for they are read only here."""
    mask = None if sample.mask is None else sample.mask()
    facts[sample.id] = facts_of(sample.content(), mask, are_files=are_files)
    mask_hash = "-" if mask is None else hashlib.sha256(mask).hexdigest()
    fields: tuple[str, ...] = (role, sample.id, sample.defect, facts[sample.id].sha256, mask_hash)
    fields += (sample.group,) if sample.group else ()
    return b"".join(field.encode("utf-8", "surrogateescape") + b"\0" for field in fields)
