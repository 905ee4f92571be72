"""SPADE against a second implementation, and where single precision would betray it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from detector_pictures import normal_pictures, turned_pictures
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from detectors import registry
from detectors.errors import CheckpointError, DetectorError, NoAnomalyMapError
from detectors.spade import SPADE

TRAIN = normal_pictures(24, 64, seed=1)
TEST = torch.cat([normal_pictures(4, 64, seed=2), turned_pictures(4, 64, seed=3)])


def spade(**settings: object) -> SPADE:
    detector = registry.create("spade", image_size=64, **settings)
    assert isinstance(detector, SPADE)
    return detector


@pytest.fixture(scope="module")
def fitted() -> SPADE:
    detector = spade()
    detector.fit(TRAIN, seed=0)
    return detector


@pytest.fixture(scope="module")
def mapped() -> SPADE:
    detector = spade(pixel_map=True, neighbours=3)
    detector.fit(TRAIN, seed=0)
    return detector


@pytest.mark.parametrize("neighbours", [1, 5, 24])
def test_score_is_scikit_learns_mean_distance_to_k_neighbours(neighbours: int) -> None:
    detector = spade(neighbours=neighbours)
    detector.fit(TRAIN, seed=0)
    bank, queries = (detector.backbone(x)[0].double().numpy() for x in (TRAIN, TEST))
    distances, _ = NearestNeighbors(n_neighbors=neighbours, algorithm="brute").fit(bank).kneighbors(queries)
    expected = torch.from_numpy(distances.mean(axis=1))
    torch.testing.assert_close(detector.score(TEST).double(), expected, rtol=1e-5, atol=1e-6)


def test_a_training_image_has_distance_zero_and_a_finite_gradient() -> None:
    detector = spade(neighbours=1)
    detector.fit(TRAIN, seed=0)
    x = TRAIN[:2].clone().requires_grad_()
    scores = detector.score(x)
    (gradient,) = torch.autograd.grad(scores.sum(), x)
    assert float(scores.detach().max()) < 1e-2 and bool(gradient.isfinite().all())


def test_neighbours_are_chosen_anew_at_every_call(fitted: SPADE) -> None:
    a, b = TRAIN[:1], TRAIN[5:6]
    assert int(fitted._nearest(fitted.backbone(a)[0])[0, 0]) == 0
    assert int(fitted._nearest(fitted.backbone(b)[0])[0, 0]) == 5


def test_map_is_the_brute_force_nearest_neighbour_distance(mapped: SPADE) -> None:
    x = TEST[:1]
    pooled, *maps = mapped.backbone(x)
    side = maps[0].shape[-1]

    def stacked(features: list[Tensor]) -> Tensor:
        sized = [F.interpolate(f, size=(side, side), mode="bilinear", align_corners=False) for f in features]
        return torch.cat(sized, dim=1)[0].flatten(1).T  # (positions, C)

    order = torch.cdist(pooled, mapped.bank)[0].argsort()[:3]
    gallery = torch.cat([stacked(mapped.backbone(TRAIN[i : i + 1])[1:]) for i in order])
    expected = torch.cdist(stacked(maps).double(), gallery.double()).amin(dim=1).view(1, 1, side, side)
    expected = F.interpolate(expected, size=(64, 64), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(mapped.anomaly_map(x).double(), expected, rtol=1e-3, atol=1e-3 * float(expected.max()))


def test_map_points_at_the_defect(mapped: SPADE) -> None:
    x = normal_pictures(1, 64, seed=9)
    x[:, :, 8:24, 40:56] = x[:, :, 8:24, 40:56].transpose(2, 3).flip(2).contiguous()
    found = mapped.anomaly_map(x)[0]
    assert float(found[8:24, 40:56].mean()) > 1.5 * float(found[40:, :32].mean())


def test_without_pixel_map_there_is_none_and_the_sentence_says_why(fitted: SPADE, mapped: SPADE) -> None:
    assert not fitted.has_map and mapped.has_map
    with pytest.raises(NoAnomalyMapError, match="pixel_map=True"):
        fitted.anomaly_map(TEST)


def test_a_crop_gives_the_frame_no_anomaly_and_no_gradient() -> None:
    detector = spade(pixel_map=True, input_size=64, crop=48, neighbours=2)
    detector.fit(TRAIN, seed=0)
    x = TEST[:1].clone().requires_grad_()
    found = detector.anomaly_map(x).detach()
    assert float(found[:, :8].abs().max()) == 0 and float(found[:, 8:56, 8:56].min()) > 0
    (gradient,) = torch.autograd.grad(detector.score(x).sum(), x)
    assert float(gradient[..., :8, :].abs().max()) == 0, "SPADE does not see what its crop removes"


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(DetectorError, match="at least 1"):
        spade(neighbours=0)
    with pytest.raises(DetectorError, match="at least 25 normal"):
        spade(neighbours=25).fit(TRAIN, seed=0)
    with pytest.raises(DetectorError, match="no layer"):
        spade(pixel_map=True, map_layers=("layer1",))
    with pytest.raises(DetectorError, match="map_layers"):
        spade(pixel_map=True, map_layers=())


def test_random_weights_never_pass_for_pretrained_ones(tmp_path: Path) -> None:
    unreal = spade(weights="random")
    assert next(iter(unreal.frozen_hashes().values())).startswith("random:")
    unreal.fit(TRAIN, seed=0)
    path = unreal.save(tmp_path / "unreal.safetensors")
    with pytest.raises(CheckpointError):
        spade().load(path)
