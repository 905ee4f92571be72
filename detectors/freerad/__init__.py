"""FreeRAD, the diffusion detector of "Robustness for Free"."""

from detectors.freerad.detector import FreeRAD
from detectors.freerad.settings import FreeRADSettings

__all__ = ["FreeRAD", "FreeRADSettings"]
