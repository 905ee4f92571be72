"""What detectors are built from, each part in its own file, in plain PyTorch."""
