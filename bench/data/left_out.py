"""What lies in a category's folder and is not read. Pictures that are left out in silence are the ones that are missed
when a figure is too good."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from pathlib import Path

from bench.data.findings import Finding, such_as
from bench.data.group_table import TABLE
from bench.data.images import EXTENSIONS
from bench.text import plural

# What systems leave in folders, and nobody misses.
_JUNK = frozenset({"thumbs.db", "desktop.ini", ".ds_store", TABLE})


def left_out(folder: Path) -> tuple[Finding, ...]:
    """One finding for each reason why files of a category in MVTec AD's layout are not read, with their number and an
    example. Links to folders are not followed."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name).relative_to(folder)
            why = _why(path)
            if why:
                found[why].append(path.as_posix())
    return tuple(_finding(why, names) for why, names in sorted(found.items()))


def _finding(why: str, names: list[str]) -> Finding:
    what = plural(len(names), "file")
    verb = "was" if len(names) == 1 else "were"
    kinds = Counter(Path(name).suffix.lower() or "none" for name in names)
    reason = why.format(kinds=", ".join(f"{kind} {count}" for kind, count in kinds.most_common(5)))
    return Finding("left out", f"{what} left out", f"{what} {verb} left out ({such_as(names)}): {reason}.")


def _why(path: Path) -> str:
    """Why a file of a category is not read; "" where it is, or is none that anybody would miss."""
    parts, suffix = path.parts, path.suffix.lower()
    is_picture = suffix in EXTENSIONS
    if path.name.lower() in _JUNK or path.name.startswith("._") or parts[0] == "ground_truth":
        return ""
    if any(part.startswith(".") for part in parts):
        return "hidden names, which begin with a dot, are not read" if is_picture else ""
    if parts[0] not in ("train", "test"):
        return _elsewhere(parts) if is_picture else ""
    top, depth = parts[0], len(parts)
    if depth == 2:
        places = "train/good" if top == "train" else "test/good or test/<defect>"
        return f"pictures directly in {top}/ are not read: put them into {places}" if is_picture else ""
    if top == "train" and parts[1] != "good":
        return "of train/ only train/good is read" if is_picture else ""
    if depth > 3:
        why = "folders within train/good, test/good and test/<defect> are not read: move the pictures up"
        return why if is_picture else ""
    if is_picture:
        return ""
    return "of their kinds ({kinds}) none is read: save pictures as PNG, JPEG, BMP, TIFF or WebP"


def _elsewhere(parts: tuple[str, ...]) -> str:
    return "only train/ and test/ are read" if len(parts) > 1 else "pictures beside train/ and test/ are not read"


def same_but_for_case(names: list[str], place: str) -> tuple[Finding, ...]:
    """Folders whose names differ only in their capitals: two kinds of defect here, one folder on other systems."""
    spellings: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        spellings[name.casefold()].append(name)
    return tuple(
        Finding(
            "left out",
            "folders that differ only in case",
            f"The folders {' and '.join(sorted(alike))} in {place}/ differ only in capital letters; they count as "
            "different defects, and some systems cannot hold both: join or rename them.",
        )
        for alike in spellings.values()
        if len(alike) > 1
    )
