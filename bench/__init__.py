"""RADBench: the benchmark for the adversarial robustness of image anomaly detectors."""
