"""Which group each picture of a folder belongs to: a table that the user wrote, or a pattern of file names."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Collection
from pathlib import Path

from bench.data.images import read_bytes
from bench.errors import DataError
from bench.text import one_line

TABLE = "groups.csv"
COLUMNS = ["file", "group"]
_LARGEST_TABLE = 2**26  # bytes


def from_pattern(pattern: str, ids: Collection[str]) -> dict[str, str]:
    """What the pattern's capture group finds in each id; ids in which it finds nothing are left out.

    Raises:
        DataError: it finds nothing in any.
    """
    compiled = re.compile(pattern)
    found = {name: match[1] for name in ids if (match := compiled.search(name)) and match[1]}
    if not found:
        example = one_line(min(ids, default="no picture"), 80)
        raise DataError(
            f"--group-pattern {one_line(pattern, 80)!r} matches no picture; it is searched in names such as {example}."
        )
    return found


def from_table(folder: Path, ids: Collection[str]) -> dict[str, str]:
    """The groups that groups.csv in the category's folder gives, by id; nothing where there is no such file.

    Columns `file` (relative to the folder) and `group`; an empty group means that nobody knows it. UTF-8, with or
    without a byte order mark, any line ends, quoted as spreadsheets do.

    Raises:
        DataError: another layout or encoding, a file that is no picture of the category or appears twice, or a picture
            that has no row: a table that is wrong somewhere may be wrong everywhere.
    """
    path = folder / TABLE
    if not path.exists() and not path.is_symlink():  # a link that leads nowhere was meant as a table
        return {}
    groups: dict[str, str] = {}
    for line, file, group in _rows(path):
        name = unicodedata.normalize("NFC", file.strip().removeprefix("./"))
        if name not in ids and name.replace("\\", "/") in ids:  # written on Windows
            name = name.replace("\\", "/")
        if name not in ids:
            raise DataError(
                f"Line {line} of {path} names {one_line(name, 120)!r}, which is no picture of the category: write "
                "paths relative to the category's folder, such as test/good/000.png, or delete the line."
            )
        if name in groups:
            raise DataError(
                f"Line {line} of {path} names {one_line(name, 120)} a second time: delete one of the lines."
            )
        groups[name] = group.strip()
    missing = sorted(set(ids) - set(groups))
    if missing:
        raise DataError(
            f"{path} has no line for {len(missing)} of {len(ids)} pictures, such as {one_line(missing[0], 120)}: add "
            "them, with an empty group where it is not known."
        )
    return {name: group for name, group in groups.items() if group}


def _rows(path: Path) -> list[tuple[int, str, str]]:
    """(line, file, group) of each row that is not empty."""
    content = read_bytes(path, _LARGEST_TABLE)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error.reason}): save it as CSV UTF-8.") from None
    if "\0" in text:  # it ends the fields of a fingerprint
        raise DataError(f"{path} holds zero bytes: save it as CSV UTF-8.")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [field.strip().lower() for field in next(reader, [])]
        if header != COLUMNS:
            raise DataError(
                f"The first line of {path} must be file,group (with a comma) and is {one_line(','.join(header), 80)!r}."
            )
        rows = [(reader.line_num, row) for row in reader if any(field.strip() for field in row)]
    except csv.Error as error:
        raise DataError(f"Line {reader.line_num} of {path} is no CSV ({error}): check its quotation marks.") from None
    for line, row in rows:
        if len(row) != len(COLUMNS):
            raise DataError(f"Line {line} of {path} has {len(row)} fields instead of 2 (file,group): correct it.")
    return [(line, row[0], row[1]) for line, row in rows]
