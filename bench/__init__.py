"""RADBench: the benchmark for the adversarial robustness of image anomaly detectors."""

from bench.api import Evaluation, evaluate, fit, test_images

__all__ = ["Evaluation", "evaluate", "fit", "test_images"]
