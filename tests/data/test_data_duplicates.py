"""Near-duplicates are copies of one photograph, and not two photographs of one kind of part."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bench.data import duplicates


def parts(count: int, seed: int) -> Tensor:
    """Aligned parts on a plain ground, uint8 (N, 3, 64, 64): the same disc, each with its own scratches and noise."""
    source = np.random.default_rng(seed)
    row, column = np.mgrid[:64, :64]
    pictures = np.full((count, 64, 64), 60.0)
    pictures[:, (row - 32) ** 2 + (column - 32) ** 2 < 500] = 160
    for picture in pictures:
        for y, x in source.integers(8, 52, (12, 2)):
            picture[y : y + 4, x : x + 4] += source.normal(0, 25)
    pictures += source.normal(0, 3, pictures.shape)
    return torch.from_numpy(pictures.clip(0, 255).astype(np.uint8))[:, None].repeat(1, 3, 1, 1)


def jpeg(images: Tensor) -> Tensor:
    out = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=85)
        out.append(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1))
    return torch.stack(out)


def noisy(images: Tensor) -> Tensor:
    noise = torch.randint(0, 9, images.shape, generator=torch.Generator().manual_seed(0))
    return (images + noise).clamp(0, 255).to(torch.uint8)


TRAIN = parts(60, seed=1)
COPIES = {
    "equal": lambda images: images,
    "JPEG": jpeg,
    "brighter": lambda images: (images.float() * 1.1).clamp(0, 255).to(torch.uint8),
    "less contrast": lambda images: (images.float() * 0.8 + 25).to(torch.uint8),
    "noisy": noisy,
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES.keys())
def test_a_copy_is_found_with_its_original(copied: object) -> None:
    rows = [3, 17, 40]
    test = torch.cat([parts(5, seed=2), copied(TRAIN[rows])])  # type: ignore[operator]
    assert duplicates.near([TRAIN[:20], TRAIN[20:]], test) == [(5, 3), (6, 17), (7, 40)]


def test_other_parts_in_the_same_place_are_none() -> None:
    assert duplicates.near([TRAIN[:20], TRAIN[20:]], parts(100, seed=3)) == []


def test_noise_and_plain_colours_are_none() -> None:
    source = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (60, 3, 16, 16), generator=source, dtype=torch.uint8)
    assert duplicates.near([noise[:30]], noise[30:]) == []
    plain = torch.arange(20, dtype=torch.uint8)[:, None, None, None].expand(20, 3, 16, 16)
    assert duplicates.near([plain[:10]], plain[10:]) == []
    assert duplicates.near([plain[:2]], plain[:2]) == []


def test_digests_are_equal_where_pixels_are() -> None:
    one = duplicates.digests(TRAIN)
    assert len(set(one)) == len(TRAIN)
    assert duplicates.digests(TRAIN.clone().flip(0)) == one[::-1]
