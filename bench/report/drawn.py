"""Whether a picture is there already, and of which record it was drawn: known without what draws."""

from __future__ import annotations

from pathlib import Path

from PIL import Image


def is_drawn(picture: Path, source: str) -> bool:
    """Whether the picture is there and says that it was drawn from this (`save`)."""
    try:
        if not picture.is_file():  # a named pipe would be waited for
            return False
        with Image.open(picture, formats=("PNG",)) as image:
            return image.info.get("Source") == source
    except (OSError, SyntaxError, ValueError):  # missing, or half of a file
        return False
