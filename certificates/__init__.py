"""Certificates: bounds that no attack of a given radius can break, and the smoothed detectors that have them."""
