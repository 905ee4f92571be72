"""A small folder in MVTec layout, made anew for each test."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MakeFolder = Callable[..., Path]


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """make_folder(name, train=6, good=4, crack=3, masks=3): pictures of 12x10 pixels, each of its own colour."""

    def make(name: str = "bolt", *, train: int = 6, good: int = 4, crack: int = 3, masks: int = 0) -> Path:
        root = tmp_path / name
        for place, count in (("train/good", train), ("test/good", good), ("test/crack", crack)):
            (root / place).mkdir(parents=True)
            for number in range(count):
                seed = sum(place.encode()) + number
                pixels = np.random.default_rng(seed).integers(0, 256, (10, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / place / f"{number:03d}.png")
        for number in range(masks):
            (root / "ground_truth/crack").mkdir(parents=True, exist_ok=True)
            mask = np.zeros((10, 12), dtype=np.uint8)
            mask[number, 0] = 255
            Image.fromarray(mask).save(root / "ground_truth/crack" / f"{number:03d}_mask.png")
        return root

    return make
