"""What lies in folders, in one order on every system, without what systems leave there."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from bench.data.images import is_image_name
from bench.errors import DataError

SYSTEM = frozenset({"__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"})


def entries(folder: Path) -> list[Path]:
    """What is in a folder, aside from hidden things and from what systems leave there; nothing where there is no
    folder."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.name not in SYSTEM)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError(f"The folder {folder} cannot be read ({error.strerror}): check its permissions.") from error


def pictures(folder: Path) -> list[Path]:
    """Not folders: Synology's index has some that are named like pictures."""
    return [path for path in entries(folder) if is_image_name(path.name) and not path.is_dir()]


def pictures_below(folder: Path) -> list[Path]:
    """All pictures in a folder and in those below, sorted within each; links to folders are not followed. Raises
    DataError where a folder cannot be read."""
    below = [path for path in entries(folder) if path.is_dir() and not path.is_symlink()]
    return pictures(folder) + [picture for inner in below for picture in pictures_below(inner)]


def normal_form(name: str) -> str:
    """The same id on every system: macOS may store an umlaut as two characters."""
    return unicodedata.normalize("NFC", name)
