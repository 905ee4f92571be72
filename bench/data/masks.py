"""Several masks of one picture as one: of each defect its own file, as MVTec LOCO has them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from bench.data.images import read_bytes, read_defective
from bench.errors import DataError


def united(masks: Sequence[Path]) -> bytes:
    """The file of one mask as it is; of several a bitmap in which a pixel is white where any of them is not black.

    A bitmap is not compressed, so its bytes, which go into fingerprints, are the same whatever library writes it.

    Raises:
        DataError: a mask that cannot be read, or masks of different sizes.
    """
    if len(masks) == 1:
        return read_bytes(masks[0])
    found = [read_defective(read_bytes(path), str(path)) for path in masks]
    for path, defective in zip(masks, found, strict=True):
        if defective.shape != found[0].shape:
            (height, width), (first_height, first_width) = defective.shape, found[0].shape
            raise DataError(
                f"The mask {path} has {width}x{height} pixels and {masks[0].name} beside it {first_width}x"
                f"{first_height}: get the masks of this picture again."
            )
    stream = io.BytesIO()
    Image.fromarray(np.where(np.any(found, axis=0), 255, 0).astype(np.uint8)).save(stream, format="BMP")
    return stream.getvalue()
