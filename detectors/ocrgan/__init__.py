"""OCR-GAN, the omni-frequency channel-selection reconstruction of Liang et al. (2022)."""

from detectors.ocrgan.detector import OCRGAN, OCRGANSettings

__all__ = ["OCRGAN", "OCRGANSettings"]
