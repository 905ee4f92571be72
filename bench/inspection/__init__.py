"""What is odd about a dataset, before any figure is believed: leaks, shortcuts, bit depth."""
