"""What goes wrong in a detector, as sentences for the user."""


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
