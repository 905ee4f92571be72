"""The devices of one machine that share a run, a process each."""

from __future__ import annotations

import torch

from bench.errors import BenchError
from bench.text import one_line

ALL = ":all"


def devices_of(text: str) -> tuple[str, ...]:
    """What `--device` names, in order: one as it stands, several with commas (`cuda:0,cuda:1`), or all that this
    process may see (`cuda:all`). Whether a machine has them is found where they are used.

    Raises:
        BenchError: there are none, one is named twice, or they are of several kinds, whose figures round differently.
    """
    if text.endswith(ALL) and "," not in text:
        kind = text.removesuffix(ALL)
        module = getattr(torch, kind, None) if kind in ("cuda", "xpu") else None
        if module is None:
            raise BenchError(f"--device {one_line(text, 40)}: cuda:all and xpu:all are all of a kind.")
        count = module.device_count() if module.is_available() else 0
        if not count:
            raise BenchError(f"This machine has no device {kind!r}; use --device cpu.")
        return tuple(f"{kind}:{number}" for number in range(count))
    found = tuple(part.strip() for part in text.split(","))
    if len(found) == 1:
        return found
    shown = one_line(text, 60)
    if "" in found or len(set(found)) < len(found):
        raise BenchError(
            f"--device {shown} names a device twice, or none; a process works on each (--workers says how many)."
        )
    if len({name.partition(":")[0] for name in found}) > 1 or not all(":" in name for name in found):
        raise BenchError(f"--device {shown}: several devices are of one kind, each with its number: cuda:0,cuda:1.")
    return found
