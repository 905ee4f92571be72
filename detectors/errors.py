"""What goes wrong in a detector, as sentences for the user."""

import difflib
from collections.abc import Iterable


class DetectorError(Exception):
    """A detector cannot do what was asked; the text says why and what to do."""


class CheckpointError(DetectorError):
    """A checkpoint is missing, damaged, tampered with, or belongs to another detector."""


class WeightsError(DetectorError):
    """Pretrained weights cannot be had."""


class NoReconstructionError(DetectorError):
    """The method does not reconstruct images."""


class NoAnomalyMapError(DetectorError):
    """The method scores whole images only."""


class ContractError(DetectorError):
    """A detector breaks its contract (`detectors.contract`), so that a robustness number of it would say nothing."""


def nearest(name: str, known: Iterable[str], *, likeness: float = 0.0) -> str:
    """The known name that is most like another, for "did you mean"; "" where none is as like as that (0 to 1)."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=likeness)), "")
