"""Pictures in MVTec AD's layout, the one that most people in this field already have:

<category>/train/good/*.png                            normal images to fit on
<category>/test/good/*.png                             normal images to test on
<category>/test/<defect>/*.png                         anomalies, one folder per kind of defect
<category>/ground_truth/<defect>/<stem>_mask.png       masks, optional
"""

import unicodedata
from functools import partial
from pathlib import Path

from bench.data.base import GOOD, Dataset, Sample, Split
from bench.data.images import EXTENSIONS, MASK_EXTENSIONS, is_image_name, read_bytes
from bench.data.registry import register
from bench.errors import DataError


@register
class Folder(Dataset):
    """`root` is a folder of categories, or one category itself (then named after the folder).

    Masks count only if every anomaly of the category has one: pixel metrics over some of the defects would compare with
    nothing. Where some are missing, `remark` says so.
    """

    name = "folder"
    summary = "your own pictures: train/good, test/good, test/<defect>, optionally ground_truth/<defect>"
    licence = "Your own pictures: RADBench knows no licence for them, so ask their owner before you pass anything on."
    has_masks = True

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

    def _category_folders(self) -> dict[str, Path]:
        root = self.root
        assert root is not None  # needs_root
        if not root.is_dir():
            raise DataError(f"There is no folder {root}: give --data-root the folder that holds the data.")
        if _is_category(root):
            return {root.resolve().name: root}
        found = {_normal_form(path.name): path for path in _entries(root) if path.is_dir() and _is_category(path)}
        if not found:
            raise DataError(
                f"Neither {root} nor a folder in it is in MVTec layout: --data-root needs a folder with train/good, "
                "test/good and test/<defect>, or a folder of such folders."
            )
        return found

    def _list(self, category: str) -> Split:
        folder = self._category_folders()[category]
        masks = folder / "ground_truth"
        train = [_sample(folder, path, None) for path in _images(folder / "train" / GOOD)]
        test = [_sample(folder, path, None) for path in _images(folder / "test" / GOOD)]
        for defect in _entries(folder / "test"):
            if defect.is_dir() and defect.name != GOOD:
                known = _masks(masks / defect.name)
                test += [_sample(folder, path, _mask_of(path, known)) for path in _images(defect)]
        return Split(tuple(train), tuple(test))

    def _check_split(self, category: str, split: Split) -> None:
        folder = self._category_folders()[category]
        needed = {
            "train/good": ("normal images to fit on", split.train),
            "test/good": ("normal images to test on", split.normals),
            "test/<defect>": ("anomalous images to test on", split.anomalies),
        }
        for place, (purpose, samples) in needed.items():
            if not samples:
                raise DataError(f"{folder} has no {purpose}: put them ({_extensions()}) into {folder}/{place}.")
        super()._check_split(category, split)


def _is_category(folder: Path) -> bool:
    """Also where train/good is missing: `validate` then says so, instead of dropping the category in silence."""
    return (folder / "train").is_dir() or (folder / "test").is_dir()


def _entries(folder: Path) -> list[Path]:
    """What is in a folder, hidden things aside; nothing where there is no folder."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError(f"The folder {folder} cannot be read ({error.strerror}): check its permissions.") from error


def _images(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if is_image_name(path.name)]


def _masks(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in _entries(folder) if path.suffix.lower() in MASK_EXTENSIONS}


def _mask_of(image: Path, masks: dict[str, Path]) -> Path | None:
    """MVTec AD's name for the mask (003_mask.png), or the picture's own (003.png)."""
    return masks.get(f"{image.stem}_mask", masks.get(image.stem))


def _sample(folder: Path, path: Path, mask: Path | None) -> Sample:
    return Sample(
        id=_normal_form(path.relative_to(folder).as_posix()),
        defect=_normal_form(path.parent.name),
        where=str(path),
        content=partial(read_bytes, path),
        mask=None if mask is None else partial(read_bytes, mask),
        mask_where="" if mask is None else str(mask),
    )


def _normal_form(name: str) -> str:
    """The same id on every system: macOS may store an umlaut as two characters."""
    return unicodedata.normalize("NFC", name)


def _extensions() -> str:
    return ", ".join(sorted(EXTENSIONS))
