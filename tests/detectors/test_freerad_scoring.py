"""Algorithm 4 against a second implementation in numpy and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detector_pictures import normal_pictures
from freerad_small import lively, random_images, source
from numpy.typing import NDArray
from scipy import ndimage

from detectors.freerad.scoring import image_score, mean_filter, multiscale_error
from detectors.noise import NoiseSeed

Floats = NDArray[np.float64]


def _halved(images: Floats, factor: int) -> Floats:
    """(3, H, W) to (3, H / factor, W / factor): the mean of each square."""
    channels, height, width = images.shape
    return images.reshape(channels, height // factor, factor, width // factor, factor).mean(axis=(2, 4))


def _enlarged(image: Floats, side: int) -> Floats:
    """Bilinear, pixels as squares (align_corners=False), written as two matrices."""
    small = image.shape[-1]
    matrix = np.zeros((side, small))
    for i in range(side):
        position = min(max((i + 0.5) * small / side - 0.5, 0), small - 1)
        low = min(int(position), small - 2) if small > 1 else 0
        matrix[i, low] += 1 - (position - low)
        if small > 1:
            matrix[i, low + 1] += position - low
    return np.asarray(matrix @ image @ matrix.T)


def _algorithm_4(x: Floats, reconstruction: Floats, scales: int, size: int) -> Floats:
    side = x.shape[-1]
    maps = []
    for level in range(scales):
        small, rebuilt = _halved(x, 2**level), _halved(reconstruction, 2**level)
        maps.append(_enlarged(((small - rebuilt) ** 2).mean(axis=0), side))
    return np.asarray(ndimage.uniform_filter(np.mean(maps, axis=0), size, mode="mirror"))


@pytest.mark.parametrize(("side", "scales", "size"), [(32, 4, 11), (32, 4, 5), (16, 1, 3), (16, 3, 1), (8, 4, 7)])
def test_error_map_is_algorithm_4(side: int, scales: int, size: int) -> None:
    x = random_images(2, side)
    rebuilt = random_images(2, side, seed=1)
    found = multiscale_error(x, rebuilt, scales, size)
    assert found.shape == (2, side, side)
    for i in range(2):
        np.testing.assert_allclose(found[i], _algorithm_4(x[i].numpy(), rebuilt[i].numpy(), scales, size), atol=1e-12)


@pytest.mark.parametrize("size", [1, 3, 11, 31])
def test_a_constant_error_stays_what_it_is_up_to_the_border(size: int) -> None:
    """The filter is normalised and its border reflected: zero padding would darken the edge."""
    x = torch.full((1, 3, 32, 32), 0.8, dtype=torch.float64)
    torch.testing.assert_close(
        multiscale_error(x, x - 0.3, 4, size), torch.full((1, 32, 32), 0.09, dtype=torch.float64), rtol=1e-12, atol=0
    )


def test_mean_filter_is_symmetric_about_its_value_and_mirrors_the_border() -> None:
    lines = torch.zeros(2, 1, 15, dtype=torch.float64)
    lines[0, 0, 7] = lines[1, 0, 1] = 5.0
    expected = torch.zeros_like(lines)
    expected[0, 0, 5:10] = 1.0
    expected[1, 0, :4] = torch.tensor([2.0, 2.0, 1.0, 1.0])  # seen twice from 0 and 1, beyond the border once more
    torch.testing.assert_close(mean_filter(lines, 5), expected)


def test_a_perfect_reconstruction_has_no_error() -> None:
    x = random_images(2, 16)
    assert not bool(multiscale_error(x, x, 4, 3).any())


def test_image_score_is_the_largest_deviation_from_the_normal_map_in_either_direction() -> None:
    normal = torch.full((4, 4), 0.5)
    errors = normal.repeat(3, 1, 1)
    errors[0, 1, 2] += 0.2
    errors[1, 3, 3] -= 0.4  # smaller errors than normal count, too (Algorithm 4, line 7)
    errors[1, 0, 0] += 0.1
    torch.testing.assert_close(image_score(errors, normal), torch.tensor([0.2, 0.4, 0.0]))


def test_image_score_passes_nan_on() -> None:
    errors = torch.zeros(2, 4, 4)
    errors[0, 1, 1] = float("nan")
    assert image_score(errors, torch.zeros(4, 4)).isnan().tolist() == [True, False]


def test_the_detectors_score_is_algorithm_4_on_its_own_reconstruction() -> None:
    detector = lively()
    x = (random_images(2, 16) + 1) / 2
    noise = source(2)
    rebuilt = detector.reconstruct(x, noise=noise).numpy()
    normal = detector.normal_map.double().numpy()
    for i, score in enumerate(detector.score(x, noise=noise).tolist()):
        deviation = np.abs(_algorithm_4(x[i].numpy(), rebuilt[i], 4, 3) - normal)
        assert score == pytest.approx(deviation.max(), rel=1e-9)
        np.testing.assert_allclose(detector.anomaly_map(x, noise=noise)[i], deviation, atol=1e-9)


def test_one_draw_is_the_default_and_more_average_maps_before_the_maximum() -> None:
    x = (random_images(2, 16).float() + 1) / 2
    noise = source(2)
    single = lively()
    assert single.settings.score_draws == 1
    several = lively(score_draws=3)
    several.normal_map.copy_(single.normal_map)
    maps = torch.stack([single._errors(x, noise.sub(i)) for i in range(3)])
    torch.testing.assert_close(several.score(x, noise=noise), image_score(maps.mean(dim=0), single.normal_map))
    assert not torch.equal(maps[0], maps[1])
    mean_of_scores = torch.stack([single.score(x, noise=noise.sub(i)) for i in range(3)]).mean(dim=0)
    assert not torch.allclose(several.score(x, noise=noise), mean_of_scores, rtol=1e-3)


def test_the_normal_map_is_the_mean_error_of_the_normals_over_images_and_draws() -> None:
    detector = lively()
    total = torch.zeros(16, 16, dtype=torch.float64)
    normals = normal_pictures(6, 16, seed=1)
    for image in range(6):
        for draw in range(2):
            noise = NoiseSeed(0).source("freerad-normal-map", [str(image)]).at(draw)
            total += detector._errors(normals[image : image + 1], noise)[0].double()
    torch.testing.assert_close(detector.normal_map.double(), total / 12, rtol=1e-5, atol=1e-7)
    assert float(detector.normal_map.min()) > 0
