"""What a picture's file says of itself, without decoding it: the size and kind that may give a class away."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from bench.data.images import Header, header_of


@dataclass(frozen=True)
class FileFacts:
    """Of one sample, when its bytes were last read.

    Attributes:
        sha256: of the file, hex.
        size: of the file in bytes.
        header, mask: of the picture and its mask; None where there is none, or it cannot be read.
    """

    sha256: str
    size: int
    header: Header | None = None
    mask: Header | None = None


def facts_of(content: bytes, mask: bytes | None, *, are_files: bool) -> FileFacts:
    """The facts of a picture with these bytes; without headers where the bytes are no picture files."""
    return FileFacts(
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        header=header_of(content) if are_files else None,
        mask=header_of(mask) if are_files and mask is not None else None,
    )
