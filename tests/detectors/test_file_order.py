"""The baseline that sees no pixels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from detectors import contract, registry
from detectors.base import Detector
from detectors.errors import DetectorError
from detectors.file_order import distances, running_number
from detectors.noise import NoiseSeed

TRAINING = tuple(f"train/good/tile_{number}.png" for number in ("0010", "0011", "0020", "90"))


def fitted() -> Detector:
    detector = registry.create("file-order", image_size=8)
    return detector.fit(torch.rand(4, 3, 8, 8), seed=0, names=TRAINING)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("test/good/003.png", 3),
        ("exp1_num_10181.jpg", 10181),
        ("images/cell0361.png", 361),
        ("a7/b.png", 0),
        ("2026/part-12-view-2.tar.png", 2),
        ("part 5", 5),
        ("train/cat/00012", 12),
    ],
)
def test_the_running_number_is_the_last_of_the_files_name(name: str, number: int) -> None:
    assert running_number(name) == number


def test_a_name_of_thousands_of_digits_is_a_number_all_the_same() -> None:
    assert running_number("9" * 5000 + ".png") == 999999999999999


def test_the_score_is_the_mean_distance_to_the_three_nearest_training_numbers() -> None:
    names = ["test/good/0012.png", "test/bent/0500.png"]
    noise = NoiseSeed(0).source("verdict", names)
    expected = [(1 + 2 + 8) / 3, (410 + 480 + 489) / 3]
    found = fitted().score(torch.rand(2, 3, 8, 8), noise=noise)
    torch.testing.assert_close(found, torch.tensor(expected))
    assert distances(["5"], [1, 2]).tolist() == [3.5]  # fewer than three are all there are


def test_pixels_play_no_part_and_there_is_no_gradient() -> None:
    detector, noise = fitted(), NoiseSeed(0).source("verdict", ["1", "2"])
    black, white = (detector.score(torch.full((2, 3, 8, 8), shade), noise=noise) for shade in (0.0, 1.0))
    assert torch.equal(black, white)
    assert not detector.sees_pixels
    assert not detector.score(torch.rand(2, 3, 8, 8).requires_grad_(), noise=noise).requires_grad


def test_it_keeps_the_contract_of_what_sees_no_pixels() -> None:
    found = contract.check(fitted(), torch.rand(4, 3, 8, 8), names=["1", "2", "30", "4"], thorough=True)
    assert found.remark == "it sees no pixels"


def test_it_needs_the_names_of_what_it_is_fitted_on() -> None:
    with pytest.raises(DetectorError, match="names"):
        registry.create("file-order", image_size=8).fit(torch.rand(4, 3, 8, 8), seed=0)


def test_a_checkpoint_keeps_every_number_whatever_their_count(tmp_path: Path) -> None:
    detector, noise = fitted(), NoiseSeed(0).source("verdict", ["1", "2"])
    loaded = registry.create("file-order", image_size=8).load(detector.save(tmp_path / "f.safetensors"))
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(loaded.score(x, noise=noise), detector.score(x, noise=noise))
    assert torch.equal(loaded.score(x.double(), noise=noise).float(), detector.score(x, noise=noise))
