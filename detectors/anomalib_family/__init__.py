"""`anomalib:NAME`: anomalib's image models behind RADBench's contract (an extra: `pip install 'radbench[anomalib]'`).

Most of them, as shipped, give an attack no gradient, a wrong one, or a score that depends on the rest of the batch, and
a robust AUC measured on that would be a lie. Each model that is offered is rewired in its own file here until it passes
the contract's checks; one that is not offered is refused by name, with what was measured (`refusals.REFUSED`).

anomalib itself is imported only when one of its models is asked for: that takes seconds.
"""

from __future__ import annotations

import importlib
import warnings
from importlib.util import find_spec

from detectors.anomalib_family.fence import own_randomness
from detectors.anomalib_family.refusals import REFUSED
from detectors.base import Detector
from detectors.errors import DetectorError, nearest
from detectors.registry import Family, register_family

PREFIX = "anomalib"
REVISION = 4  # of all members; last bits: every gradient is PyTorch's own, of the plain formula
OFFERED = (
    "cfa",
    "cflow",
    "csflow",
    "dfkde",
    "dfm",
    "draem",
    "fastflow",
    "fre",
    "ganomaly",
    "glass",
    "mh_patchcore",
    "padim",
    "patchcore",
    "patchflow",
    "reverse_distillation",
    "stfpm",
    "supersimplenet",
    "uflow",
)


def is_installed() -> bool:
    """Whether the extra is there; does not import it."""
    return find_spec("anomalib") is not None


def members() -> tuple[str, ...]:
    """The models that are offered; none where anomalib is not installed."""
    return OFFERED if is_installed() else ()


def make(member: str) -> type[Detector]:
    """The class of "anomalib:member". Raises DetectorError where it is refused, unknown or not installed."""
    if member in REFUSED:
        raise DetectorError(f"{PREFIX}:{member} is refused: {REFUSED[member]}")
    if member not in OFFERED:
        near = nearest(member, (*OFFERED, *REFUSED))
        raise DetectorError(f"There is no {PREFIX}:{member}; did you mean '{PREFIX}:{near}'?")
    if not is_installed():
        raise DetectorError("anomalib is not installed; pip install 'radbench[anomalib]'")
    with own_randomness(0), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # anomalib's own use of what it deprecates
        module = importlib.import_module(f"detectors.{__name__.rpartition('.')[2]}.{member}")
    found: type[Detector] = module.DETECTOR
    return found


FAMILY = register_family(
    Family(
        PREFIX,
        members,
        make,
        "anomalib's image models, rewired until they pass the contract's checks",
        REFUSED,
        dict.fromkeys(OFFERED, REVISION),
    )
)
