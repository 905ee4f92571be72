"""OCR-GAN's split into frequency bands is the official one made differentiable."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detector_pictures import normal_pictures, turned_pictures
from numpy.typing import NDArray
from torch import Tensor

from detectors.noise import generator
from detectors.ocrgan.network import _doubler, _halver, split

TEST = normal_pictures(4, 32, seed=2)
KERNEL = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1])


def _bytes_half(image: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pyramid down on 8-bit pixels (S, S): the 25 taps around every second pixel, mirrored border, rounded."""
    padded = np.pad(image, 2, mode="reflect")
    side = len(image) // 2
    found = [[(padded[2 * r : 2 * r + 5, 2 * c : 2 * c + 5] * KERNEL).sum() for c in range(side)] for r in range(side)]
    return (np.array(found) + 128) >> 8


def _bytes_double(image: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pyramid up: zeros between the pixels, the same taps times 4, rounded. The border is mirrored before the zeros."""
    rim = np.pad(np.pad(image, ((1, 0), (1, 0)), mode="reflect"), ((0, 1), (0, 1)), mode="edge")
    sparse = np.zeros((2 * len(rim), 2 * len(rim)), dtype=np.int64)
    sparse[::2, ::2] = rim
    sparse = np.pad(sparse, 2)
    side = 2 * len(image)
    found = [[(sparse[2 + r : 7 + r, 2 + c : 7 + c] * KERNEL).sum() for c in range(side)] for r in range(side)]
    return (np.array(found) + 32) >> 6


def _bytes_pictures() -> Tensor:
    draws = torch.Generator().manual_seed(3)
    noise = torch.randint(0, 256, (1, 3, 32, 32), generator=draws)
    return torch.cat([noise, (turned_pictures(2, 32, seed=5) * 255).round().long()])


def test_the_split_is_the_8_bit_saturating_one_up_to_rounding() -> None:
    pictures = _bytes_pictures()
    high, low = split(pictures.double() / 255, 2, saturating=True)
    for i, channel in np.ndindex(len(pictures), 3):
        picture = pictures[i, channel].numpy()
        coarse = _bytes_double(_bytes_half(picture))
        detail = np.clip(picture - coarse, 0, 255)
        # Rounding down and then up is off by at most 0.5 + 0.5 grey levels.
        assert np.abs(255 * low[i, channel].numpy() - coarse).max() <= 1.001
        assert np.abs(255 * high[i, channel].numpy() - detail).max() <= 1.001


def test_the_split_is_opencvs_up_to_rounding() -> None:
    cv2 = pytest.importorskip("cv2")
    pictures = _bytes_pictures().permute(0, 2, 3, 1).numpy().astype(np.uint8)
    high, low = (band.permute(0, 2, 3, 1).numpy() for band in split(_bytes_pictures() / 255, 2, saturating=True))
    for i, picture in enumerate(pictures):
        coarse = cv2.pyrUp(cv2.pyrDown(picture))
        assert np.abs(255 * low[i] - coarse).max() <= 1.001
        assert np.abs(255 * high[i] - cv2.subtract(picture, coarse)).max() <= 1.001


@pytest.mark.parametrize("bands", [2, 3, 4])
def test_signed_bands_add_up_to_the_image(bands: int) -> None:
    parts = split(TEST, bands, saturating=False)
    assert len(parts) == bands and all(part.shape == TEST.shape for part in parts)
    torch.testing.assert_close(torch.stack(parts).sum(dim=0), TEST)


def test_saturating_bands_lose_what_is_darker_than_its_surroundings() -> None:
    high, low = split(TEST, 2, saturating=True)
    torch.testing.assert_close(high + low, torch.maximum(TEST, low))
    assert bool((high >= 0).all()) and bool((high == 0).any())
    signed, same_low = split(TEST, 2, saturating=False)
    assert torch.equal(high, signed.relu()) and torch.equal(low, same_low)


def test_a_constant_image_is_all_low_frequency() -> None:
    for value in (0.0, 0.3, 1.0):
        *details, low = split(torch.full((1, 3, 16, 16), value), 3, saturating=False)
        torch.testing.assert_close(low, torch.full_like(low, value))
        assert all(float(detail.abs().max()) < 1e-6 for detail in details)


def test_the_split_is_differentiable_and_linear_where_it_is_signed() -> None:
    x = turned_pictures(1, 16, seed=1).double()[:, :1]
    for saturating in (False, True):
        assert torch.autograd.gradcheck(
            lambda image, cut=saturating: tuple(split(image, 3, saturating=cut)),
            x.clone().requires_grad_(),
            fast_mode=True,
        )
    a, b = torch.rand(2, 1, 3, 16, 16, dtype=torch.float64, generator=generator(0, "linear"))
    for mixed, first, second in zip(*(split(i, 2, saturating=False) for i in (2 * a - 3 * b, a, b)), strict=True):
        torch.testing.assert_close(mixed, 2 * first - 3 * second)


def test_halving_and_doubling_are_adjoint_inside() -> None:
    """Doubling uses the same taps: away from the border it is four times the transpose of halving."""
    x = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    x[..., 12:20, 12:20] = torch.rand(8, 8, generator=generator(1), dtype=torch.float64)
    y = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    y[..., 6:10, 6:10] = torch.rand(4, 4, generator=generator(2), dtype=torch.float64)
    halver, doubler = _halver(32, x), _doubler(16, y)
    torch.testing.assert_close(4 * (halver @ x @ halver.T * y).sum(), (x * (doubler @ y @ doubler.T)).sum())
