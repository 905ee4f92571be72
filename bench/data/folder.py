"""Pictures in MVTec AD's layout, the one that most people in this field already have:

<category>/train/good/*.png                            normal images to fit on
<category>/test/good/*.png                             normal images to test on
<category>/test/<defect>/*.png                         anomalies, one folder per kind of defect
<category>/ground_truth/<defect>/<stem>_mask.png       masks, optional
<category>/groups.csv                                  which pictures share a part, a scene, a lot; optional
"""

from collections import defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.data import group_table, left_out, mask_files
from bench.data.base import GOOD, Dataset, Sample, Split
from bench.data.findings import Finding, such_as
from bench.data.images import EXTENSIONS, MASK_EXTENSIONS, read_bytes, read_image
from bench.data.listing import entries, normal_form, pictures
from bench.data.registry import register
from bench.errors import DataError
from bench.text import plural


@register
class Folder(Dataset):
    """`root` is a folder of categories, or one category itself (then named after the folder).

    Masks count only if every anomaly of the category has one: pixel metrics over some of the defects would compare with
    nothing. Where some are missing, `remark` says so.

    Groups come from a pattern of the file names that the user gives, or else from groups.csv in the category's folder
    (`bench.data.group_table`).
    """

    name = "folder"
    summary = "your own pictures: train/good, test/good, test/<defect>, optionally ground_truth/<defect>"
    licence = "Your own pictures: RADBench knows no licence for them, so ask their owner before you pass anything on."
    has_masks = True
    takes_reading = True

    def categories(self) -> tuple[str, ...]:
        return tuple(sorted(self._category_folders()))

    def remark(self, category: str) -> str:
        split = self._split(category)
        if 0 < split.unmasked < len(split.anomalies):
            return (
                f"{split.unmasked} of {len(split.anomalies)} anomalous images have no mask, "
                "so there are no pixel metrics."
            )
        return ""

    def findings(self, category: str) -> tuple[Finding, ...]:
        self.check_category(category)
        folder = self._category_folders()[category]
        found = (
            *left_out.same_but_for_case([path.name for path in entries(folder / "test") if path.is_dir()], "test"),
            *left_out.left_out(folder),
        )
        try:
            split = self._split(category)
        except DataError:  # what was left out may be what is missing
            return found
        stems: defaultdict[str, list[str]] = defaultdict(list)
        for sample in split.anomalies:
            path = Path(sample.where)
            stems[path.parent.name].append(path.stem)
        masks = mask_files.unmatched(folder / "ground_truth", stems)
        return (*_ungrouped(split.train + split.test), *masks, *found)

    def _category_folders(self) -> dict[str, Path]:
        root = self.root
        assert root is not None  # needs_root
        if not root.is_dir():
            raise DataError(f"There is no folder {root}: give --data-root the folder that holds the data.")
        if _is_category(root):
            return {root.resolve().name: root}
        found = {normal_form(path.name): path for path in entries(root) if path.is_dir() and _is_category(path)}
        if not found:
            raise DataError(
                f"Neither {root} nor a folder in it is in MVTec layout: --data-root needs a folder with train/good, "
                "test/good and test/<defect>, or a folder of such folders."
            )
        return found

    def _list(self, category: str) -> Split:
        folder = self._category_folders()[category]
        masks = folder / "ground_truth"
        train = [_sample(folder, path, None) for path in pictures(folder / "train" / GOOD)]
        test = [_sample(folder, path, None) for path in pictures(folder / "test" / GOOD)]
        for defect in entries(folder / "test"):
            if defect.is_dir() and defect.name != GOOD:
                _check_not_good(defect)
                known = _masks(masks / defect.name)
                test += [_sample(folder, path, _mask_of(path, known)) for path in pictures(defect)]
        ids = {sample.id for sample in train + test}
        pattern = self.reading.group_pattern
        groups = group_table.from_pattern(pattern, ids) if pattern else group_table.from_table(folder, ids)
        decode = read_image if self.reading.bit_depth is None else partial(read_image, bits=self.reading.bit_depth)

        def complete(sample: Sample) -> Sample:
            return replace(sample, group=groups.get(sample.id, ""), decode=decode)

        return Split(tuple(map(complete, train)), tuple(map(complete, test)))

    def _check_split(self, category: str, split: Split) -> None:
        folder = self._category_folders()[category]
        needed = {
            "train/good": ("normal images to fit on", split.train),
            "test/good": ("normal images to test on", split.normals),
            "test/<defect>": ("anomalous images to test on", split.anomalies),
        }
        for place, (purpose, samples) in needed.items():
            if not samples:
                for path in entries(folder / place.partition("/")[0]):
                    _check_not_good(path)
                raise DataError(f"{folder} has no {purpose}: put them ({_extensions()}) into {folder}/{place}.")
        super()._check_split(category, split)


def _check_not_good(folder: Path) -> None:
    """Refuse Good and GOOD: normals would count as a kind of defect, or as none at all."""
    if folder.name != GOOD and folder.name.casefold() == GOOD:
        raise DataError(
            f"The folder {folder} holds normal pictures only if its name is {GOOD}, in small letters: rename it."
        )


def _ungrouped(samples: tuple[Sample, ...]) -> tuple[Finding, ...]:
    """A remark where some pictures have a group and others have none."""
    without = [sample.id for sample in samples if not sample.group]
    if not without or len(without) == len(samples):
        return ()
    count = plural(len(without), "picture")
    return (
        Finding(
            "groups",
            f"{count} without a group",
            f"{count} of {len(samples)} ({such_as(without)}) have no group; where test subsets are matched by group, "
            "they are in none.",
        ),
    )


def _is_category(folder: Path) -> bool:
    """Also where train/good is missing: `validate` then says so, instead of dropping the category in silence. Not what
    may not be looked into: other people's folders lie beside data, too."""
    try:
        return (folder / "train").is_dir() or (folder / "test").is_dir()
    except PermissionError:
        return False


def _masks(folder: Path) -> dict[str, Path]:
    masks = (path for path in entries(folder) if path.suffix.lower() in MASK_EXTENSIONS)
    return {path.stem: path for path in masks if not path.is_dir()}


def _mask_of(image: Path, masks: dict[str, Path]) -> Path | None:
    """MVTec AD's name for the mask (003_mask.png), or the picture's own (003.png)."""
    return masks.get(f"{image.stem}_mask", masks.get(image.stem))


def _sample(folder: Path, path: Path, mask: Path | None) -> Sample:
    return Sample(
        id=normal_form(path.relative_to(folder).as_posix()),
        defect=normal_form(path.parent.name),
        where=str(path),
        content=partial(read_bytes, path),
        mask=None if mask is None else partial(read_bytes, mask),
        mask_where="" if mask is None else str(mask),
    )


def _extensions() -> str:
    return ", ".join(sorted(EXTENSIONS))
