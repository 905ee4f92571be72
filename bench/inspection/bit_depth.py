"""16-bit pictures of cameras with fewer bits: they are nearly black, and a detector sees a sliver of the range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.data.base import Dataset, ImageSet, Sample
from bench.data.file_facts import FileFacts
from bench.data.findings import Finding
from bench.data.images import greatest_16_bit_value
from bench.text import plural

SLIVER = 1 / 8  # of the range: what lies below loses 3 bits and more
_USUAL = (8, 10, 12, 14)  # bits of cameras
_LOOKED_AT = 50  # pictures that are decoded again


def findings(
    dataset: Dataset, samples: Sequence[Sample], facts: Mapping[str, FileFacts], decoded: Sequence[ImageSet]
) -> list[Finding]:
    """A remark where all 16-bit pictures use a small part of their range, or a depth was named and there are none.

    Args:
        dataset: says whether a depth was named.
        samples, facts: of all pictures.
        decoded: those whose pixels are at hand.
    """
    deep = [s for s in samples if (header := facts[s.id].header) is not None and header.is_deep]
    bits = dataset.reading.bit_depth
    if bits is not None:
        if deep:
            return []
        return [
            Finding("bit depth", "no 16-bit picture", f"--bit-depth {bits} changed nothing: no picture has 16 bits.")
        ]
    names = {sample.id for sample in deep}
    # Resizing averages, so no pixel is brighter than the brightest of the file: most sets are done with here.
    seen = {name for images in decoded for name in images.ids} & names
    dark = {
        name
        for images in decoded
        for name, picture in zip(images.ids, images.images, strict=True)
        if name in seen and int(picture.max()) <= 255 * SLIVER + 1
    }
    if not seen or dark != seen:
        return []
    looked = [sample for sample in deep if sample.id in seen][:: max(1, len(seen) // _LOOKED_AT)]
    greatest = max(greatest_16_bit_value(sample.content(), sample.where) for sample in looked)
    if greatest >= SLIVER * 65535:
        return []
    return [_sliver(greatest, len(deep), next((b for b in _USUAL if greatest < 2**b), 16))]


def _sliver(greatest: int, count: int, bits: int) -> Finding:
    advice = f"name the camera's bits, such as --bit-depth {bits}" if bits < 16 else "scale them to 16 bits"
    return Finding(
        "bit depth",
        f"16-bit pictures use values up to {greatest} only",
        f"{plural(count, '16-bit picture')} use values up to {greatest} of 65535, so they are nearly black, and within "
        f"an epsilon lies {65535 // max(greatest, 1)} times as much of their range as of others': {advice}.",
    )
