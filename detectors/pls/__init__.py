"""PLS, the principal latent space of Lo et al. (2022)."""

from detectors.pls.detector import PLS, PLSSettings

__all__ = ["PLS", "PLSSettings"]
