"""FreeRAD, the diffusion detector of "Robustness for Free"."""

from detectors.freerad.detector import FreeRAD, FreeRADSettings

__all__ = ["FreeRAD", "FreeRADSettings"]
