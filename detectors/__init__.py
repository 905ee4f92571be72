"""RADBench's detectors: one file each, behind one contract (`detectors.base.Detector`)."""

from detectors.base import Detector, Settings
from detectors.errors import CheckpointError, ContractError, DetectorError, WeightsError
from detectors.loading import load, shipped
from detectors.noise import Noise, NoiseSeed
from detectors.registry import create, get, names, register

__all__ = [
    "CheckpointError",
    "ContractError",
    "Detector",
    "DetectorError",
    "Noise",
    "NoiseSeed",
    "Settings",
    "WeightsError",
    "create",
    "get",
    "load",
    "names",
    "register",
    "shipped",
]
