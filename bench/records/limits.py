"""How large a record may be, and the range of each number in it that others compute with.

Types are `bench.records.schema`'s, and whether figures follow from scores `bench.records.recount`'s. What is within
these limits can be put into every table and plot, in little time and memory, whoever wrote it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench.errors import RecordError

RECORD_BYTES = 4 << 20
SCORES_BYTES = 64 << 20  # 10,000 images on 50 draws have 40 MB
EXAMPLES_BYTES = 256 << 20
IMAGES_BYTES = 4 << 30  # 120 images of 128 pixels have 23 MB
DEPTH = 32  # tables within tables; a record of ours has 6
INTEGER = 2**64  # a larger one is no float, and no column of a table

# The numbers at these places, where there are any, from .. to; "*" stands for every entry of a table.
_COUNT, _LARGE = 10**7, 1e12
_RANGES: tuple[tuple[str, float, float], ...] = (
    ("cell.image_size", 1, 2**15),
    ("cell.subset.normals", 0, _COUNT),
    ("cell.subset.anomalies", 0, _COUNT),
    ("cell.subset.per_class", 1, _COUNT),
    ("cell.draws.verdict", 1, _COUNT),
    ("cell.draws.selection", 0, _COUNT),
    ("cell.protocol.version", 0, _COUNT),
    ("cell.detector.revision", 0, _COUNT),
    ("cell.attack.revision", 0, _COUNT),
    ("cell.attack.epsilon", 0, 1e6),  # l2's largest is the diagonal of the image
    *((f"cell.attack.{name}", 0, _LARGE) for name in ("steps", "step_size", "restarts", "eot", "eot_last", "momentum")),
    ("results.brightness.separability", 0, 100),
    ("results.file_order.separability", 0, 100),
    ("results.pixel.*", 0, 100),
    ("results.best_of.*", 0, 100),
    ("results.known_noise.*", 0, 100),
    ("indicators.gradients_per_image", 0, _LARGE),
    ("indicators.mean_gradients_per_image", 0, _LARGE),
    ("indicators.forward_passes_per_image", 0, _LARGE),
    ("checkpoint.seconds", 0, _LARGE),
    ("seconds.*", 0, _LARGE),
    ("peak_memory_mb", 0, _LARGE),
)


def check(document: Mapping[str, Any]) -> None:
    """Raises RecordError in the words of the first thing that is too large or out of its range."""
    _check_sizes(document)
    for place, low, high in _RANGES:
        for value in _at(document, place.split(".")):
            if isinstance(value, int | float) and not isinstance(value, bool) and not low <= value <= high:
                raise RecordError(
                    f"{place} should lie in [{low:g}, {high:g}] and is {value!r:.60}; run the cell again."
                )


def _check_sizes(document: Mapping[str, Any]) -> None:
    """A walk without recursion: a stranger's nesting may be deeper than Python's stack."""
    level: list[tuple[str, Any]] = [("", document)]
    for _ in range(DEPTH):
        inner: list[tuple[str, Any]] = []
        for place, value in level:
            if isinstance(value, int) and abs(value) > INTEGER:
                raise RecordError(f"{place[1:80]} is a whole number of {value.bit_length()} bits; run the cell again.")
            if isinstance(value, Mapping):
                inner += [(f"{place}.{name}", entry) for name, entry in value.items()]
            elif isinstance(value, list):
                inner += [(place, entry) for entry in value]
        level = inner
    if level:
        raise RecordError(f"its tables are nested more than {DEPTH} deep; run the cell again.")


def _at(value: Any, steps: list[str]) -> Iterator[Any]:
    """What stands at a place of the document; nothing where there is no such place."""
    if not steps:
        yield value
    elif isinstance(value, Mapping):
        for name in value if steps[0] == "*" else value.keys() & {steps[0]}:
            yield from _at(value[name], steps[1:])
