"""Masks that belong to no picture: then a category has no pixel metrics, and nobody knows why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from bench.data.base import ANOMALOUS, ImageSet, Split
from bench.data.file_facts import FileFacts
from bench.data.findings import Finding, such_as
from bench.data.images import EXTENSIONS, MASK_EXTENSIONS
from bench.text import one_line, plural

GOOD_NAMES = frozenset({"good"})  # masks of normals, all black, which some data sets have, are not needed


def unmatched(ground_truth: Path, stems: Mapping[str, Iterable[str]]) -> tuple[Finding, ...]:
    """What is wrong with the files in ground_truth, of which each should be <defect>/<stem>_mask.png or <stem>.png.

    Args:
        ground_truth: the folder; it may be missing.
        stems: the file names of the anomalies' pictures without extension, by kind of defect.
    """
    strays: list[Path] = []
    nested: list[Path] = []
    files = sorted(path for path in ground_truth.rglob("*") if path.suffix.lower() in EXTENSIONS)
    for path in (path.relative_to(ground_truth) for path in files):
        if path.name.startswith(".") or path.parts[0] in GOOD_NAMES:
            continue
        own = set(stems.get(path.parts[0], ()))
        if len(path.parts) == 3 and path.parts[1] in own:
            nested.append(path)
        elif len(path.parts) != 2 or not _belongs(path, own):
            strays.append(path)
    found = []
    if nested:
        count = plural(len(nested), "mask")
        found.append(
            Finding(
                "masks",
                f"{count} not read",
                f"{count} ({such_as([f'ground_truth/{p.as_posix()}' for p in nested])}) lie in a folder for each "
                "picture, as in MVTec LOCO, and are not read: join those of a picture into one file "
                f"ground_truth/{one_line(nested[0].parts[0], 60)}/{one_line(nested[0].parts[1], 60)}_mask.png, or read "
                "MVTec LOCO itself with --dataset mvtec-loco.",
            )
        )
    if strays:
        found.append(_strays(strays, {defect: set(names) for defect, names in stems.items()}))
    return tuple(found)


def _belongs(path: Path, stems: set[str]) -> bool:
    own = path.stem in stems or (path.stem.endswith("_mask") and path.stem.removesuffix("_mask") in stems)
    return own and path.suffix.lower() in MASK_EXTENSIONS


def _strays(strays: list[Path], stems: Mapping[str, set[str]]) -> Finding:
    count = plural(len(strays), "mask")
    example = such_as([f"ground_truth/{path.as_posix()}" for path in strays])
    endings = Counter(_ending(path, stems) for path in strays)
    (ending, times), *_ = endings.most_common(1)
    if not ending:
        what = "no anomalous picture has their name: a mask is ground_truth/<defect>/<stem>_mask.png, where "
        what += "test/<defect>/<stem>.png is its picture"
    elif times < len(strays):
        what = f"{times} of them end in {ending}, and masks end in _mask.png"
    elif Path(ending).suffix.lower() not in MASK_EXTENSIONS:
        what = f"all end in {ending}, and masks must be PNG, BMP or TIFF, for JPEG and WebP blur their edges"
    else:
        expected = f"_mask{Path(ending).suffix}"
        what = f"all end in {ending}, and {expected} is expected: rename 003{ending} to 003{expected}"
    return Finding("masks", f"{count} not matched", f"{count} ({example}) belong to no picture: {what}.")


def _ending(path: Path, stems: Mapping[str, set[str]]) -> str:
    """What the mask's name has after that of its picture, the extension included; "" where there is no such picture."""
    own = stems.get(path.parts[0], set()) if len(path.parts) == 2 else set()
    longest = max((stem for stem in own if path.stem.startswith(stem)), key=len, default="")
    return one_line(path.name[len(longest) :], 40) if longest else ""


def odd(test: ImageSet) -> tuple[Finding, ...]:
    """Masks of anomalies that mark nothing, or most of the picture in all of them."""
    if test.masks is None:
        return ()
    rows = (test.labels == ANOMALOUS).nonzero()[:, 0].tolist()
    shares = test.masks[rows].flatten(1).float().mean(dim=1)
    empty = [test.ids[row] for row, share in zip(rows, shares.tolist(), strict=True) if share == 0]
    found = []
    if empty:
        count = plural(len(empty), "mask")
        found.append(
            Finding(
                "masks",
                f"{count} all black",
                f"{len(empty)} of {plural(len(rows), 'mask')} mark nothing, being all black ({such_as(empty)}): pixel "
                "metrics count the whole picture as normal.",
            )
        )
    if rows and float(shares.min()) > 0.5:
        found.append(
            Finding(
                "masks",
                "masks mark most of each picture",
                f"All {plural(len(rows), 'mask')} mark more than half of their picture: what is normal must be black, "
                "and the defect anything else; turn them round if they are inverted.",
            )
        )
    return tuple(found)


def other_size(split: Split, facts: Mapping[str, FileFacts]) -> tuple[Finding, ...]:
    """Masks that are not as large as their picture. Where all anomalies have masks, reading them refuses that."""
    names = []
    for sample in split.anomalies:
        picture, mask = facts[sample.id].header, facts[sample.id].mask
        # Sorted: the picture may be stored on its side.
        if picture and mask and sorted((picture.width, picture.height)) != sorted((mask.width, mask.height)):
            names.append(sample.id)
    if not names:
        return ()
    count = plural(len(names), "mask")
    return (
        Finding(
            "masks",
            f"{count} of another size",
            f"{count} of another size ({such_as(names)}): masks need the size of their picture.",
        ),
    )
