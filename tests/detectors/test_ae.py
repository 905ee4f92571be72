"""The autoencoder: its score is the error of its reconstruction, and training stops when the held-out loss does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from detector_pictures import normal_pictures
from torch import Tensor, nn

from detectors import registry
from detectors.ae import AE
from detectors.base import Detector
from detectors.errors import DetectorError
from detectors.noise import generator
from detectors.parts.training import batches, holdout, initialise_
from detectors.store import FolderStore

TRAIN = normal_pictures(24, 32, seed=1)
TEST = normal_pictures(4, 32, seed=2)


def autoencoder(size: int = 32, **settings: object) -> AE:
    detector = registry.create("ae", image_size=size, **settings)
    assert isinstance(detector, AE)
    return detector


@pytest.fixture(scope="module")
def fitted() -> AE:
    detector = autoencoder(epochs=60, patience=60)
    detector.fit(TRAIN, seed=0)
    return detector


def test_score_is_the_mean_squared_error_of_the_reconstruction(fitted: AE) -> None:
    expected = ((TEST - fitted.reconstruct(TEST)) ** 2).mean(dim=(1, 2, 3))
    torch.testing.assert_close(fitted.score(TEST), expected)


def test_map_averages_to_the_score(fitted: AE) -> None:
    torch.testing.assert_close(fitted.anomaly_map(TEST).mean(dim=(1, 2)), fitted.score(TEST))


def test_a_larger_image_is_resized_inside() -> None:
    detector = autoencoder(64, work_size=32, epochs=2)
    detector.fit(normal_pictures(8, 64, seed=1), seed=0)
    x = normal_pictures(2, 64, seed=2)
    small = F.interpolate(x, size=(32, 32), mode="bilinear", antialias=True)
    expected = (small - detector.network(small)).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(detector.score(x), expected)
    assert detector.reconstruct(x).shape == x.shape and detector.anomaly_map(x).shape == (2, 64, 64)


def test_training_learns_and_reports_its_losses(fitted: AE) -> None:
    losses = fitted.fit_report["losses"]
    assert len(losses) == 60 and losses[-1][0] < 0.5 * losses[0][0]
    held_out = [held for _, held in losses]
    assert fitted.fit_report["held_out_loss"] == min(held_out)
    assert fitted.fit_report["best_epoch"] == held_out.index(min(held_out))


def test_training_stops_early_and_keeps_the_best_weights() -> None:
    detector = autoencoder(epochs=40, patience=2, learning_rate=0.05)  # too high: the loss goes up again
    detector.fit(TRAIN, seed=0)
    report = detector.fit_report
    assert len(report["losses"]) < 40 and len(report["losses"]) == report["best_epoch"] + 3
    _, held_out = holdout(len(TRAIN), detector.settings.holdout, generator(0, "ae-holdout"))
    kept = float(F.mse_loss(detector.reconstruct(TRAIN[held_out]), TRAIN[held_out]))
    assert kept == pytest.approx(report["held_out_loss"], rel=1e-4)


def test_another_seed_gives_another_network(fitted: AE) -> None:
    other = autoencoder(epochs=1)
    other.fit(TRAIN, seed=1)
    assert not torch.equal(next(other.network.parameters()), next(fitted.network.parameters()))


def test_impossible_sizes_and_diverging_training_are_refused() -> None:
    with pytest.raises(DetectorError, match="multiple of"):
        autoencoder(work_size=30)
    with pytest.raises(DetectorError, match="diverged"):
        autoencoder(epochs=3, learning_rate=1e30).fit(TRAIN, seed=0)


def test_initial_weights_follow_the_generator_and_pytorchs_distribution() -> None:
    network = nn.Sequential(nn.Conv2d(8, 64, 3), nn.BatchNorm2d(64), nn.Linear(64, 32), nn.ConvTranspose2d(4, 4, 2))
    for seed in (1, 2):
        torch.manual_seed(seed)  # what constructors draw must not matter
        other = nn.Sequential(nn.Conv2d(8, 64, 3), nn.BatchNorm2d(64), nn.Linear(64, 32), nn.ConvTranspose2d(4, 4, 2))
        initialise_(network, generator(5, "weights"))
        initialise_(other, generator(5, "weights"))
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))
    bound = (8 * 9) ** -0.5  # torch.nn.Conv2d: uniform in +-1 / sqrt(fan in)
    weight = network[0].weight.detach()
    assert float(weight.abs().max()) <= bound and float(weight.std()) == pytest.approx(bound / 3**0.5, rel=0.05)
    with pytest.raises(TypeError, match="Embedding"):
        initialise_(nn.Embedding(3, 3), generator(5))


def test_batches_cover_every_image_once_and_the_holdout_is_disjoint() -> None:
    drawn = list(batches(10, 4, generator(1)))
    assert [len(b) for b in drawn] == [4, 4, 2] and sorted(torch.cat(drawn).tolist()) == list(range(10))
    assert [len(b) for b in batches(10, 4, generator(1), most=2)] == [4], "a batch is never cut"
    some = [torch.cat(list(batches(10, 4, generator(i), most=6))).tolist() for i in range(20)]
    assert all(len(part) == len(set(part)) == 6 for part in some)
    assert {index for part in some for index in part} == set(range(10))  # drawn anew, so that all of them come up
    kept, held = holdout(10, 0.2, generator(1))
    assert len(held) == 2 and sorted([*kept.tolist(), *held.tolist()]) == list(range(10))
    assert [len(part) for part in holdout(2, 0.01, generator(1))] == [1, 1]


@pytest.mark.parametrize(("first", "second"), [("ae", "apae"), ("apae", "ae")])
def test_ae_and_apae_train_the_network_that_they_share_once(tmp_path: Path, first: str, second: str) -> None:
    def fitted(name: str, *, seed: int = 0, may_take: bool = True, **settings: object) -> Detector:
        detector = registry.create(name, image_size=32, **{"epochs": 2, **settings})
        store = FolderStore(tmp_path, takes=may_take, about={"command": "fit"})
        return detector.fit(TRAIN, seed=seed, store=store)

    one = fitted(first)
    assert "network_from" not in one.fit_report
    two = fitted(second)
    assert two.fit_report["network_from"] == first and two.fit_report["network_fit"]["command"] == "fit"
    assert two.fit_report["losses"] == one.fit_report["losses"]
    for other in ({"seed": 1}, {"may_take": False}, {"epochs": 3}):
        assert "network_from" not in fitted(second, **other).fit_report, other  # type: ignore[arg-type]
    alone = registry.create(second, image_size=32, epochs=2).fit(TRAIN, seed=0)
    for key, value in alone.state_dict().items():
        assert torch.equal(value, two.state_dict()[key]), key


def test_a_network_of_other_images_or_a_damaged_one_is_not_taken_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = FolderStore(tmp_path)
    autoencoder(epochs=2).fit(TRAIN, seed=0, store=store)
    (path,) = tmp_path.glob("*.safetensors")
    other = autoencoder(epochs=2).fit(TRAIN.flip(0), seed=0, store=store)
    assert "network_from" not in other.fit_report
    path.write_bytes(b"damaged")
    again = autoencoder(epochs=2).fit(TRAIN, seed=0, store=store)
    assert "network_from" not in again.fit_report and "trained anew" in caplog.text


@pytest.mark.parametrize("name", ["ae", "rae", "pls", "ocr-gan", "fastflow"])
def test_an_epoch_takes_no_more_images_than_it_may(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def counted(*args: Any, **options: Any) -> Iterator[Tensor]:
        for part in batches(*args, **options):
            seen.append(len(part))
            yield part

    module = {
        "ae": "parts.autoencoder",
        "rae": "parts.autoencoder",
        "ocr-gan": "ocrgan.detector",
        "pls": "pls.detector",
    }.get(name, name)
    monkeypatch.setattr(f"detectors.{module}.batches", counted)
    images = torch.rand(30, 3, 32, 32, generator=generator(0))
    more: dict[str, Any] = {"weights": "random"} if name == "fastflow" else {}
    fitted = registry.create(name, image_size=32, epochs=2, batch_size=10, epoch_images=20, **more).fit(images, seed=0)
    assert seen == [10] * 4
    assert len(fitted.fit_report["losses"]) == 2
    with pytest.raises(DetectorError, match="epoch_images must be 0, for all, or more; got -4"):
        registry.create(name, image_size=32, epoch_images=-4, **more)


@pytest.mark.parametrize("name", ["ae", "pls", "fastflow"])
def test_the_loss_of_an_epoch_is_the_mean_over_the_images_that_it_took(name: str) -> None:
    same = torch.rand(1, 3, 32, 32, generator=generator(0)).expand(30, -1, -1, -1)
    settings: dict[str, Any] = {"epochs": 1, "batch_size": 10, "learning_rate": 1e-9}
    settings |= {"ae": {}, "pls": {"attack_epsilon": 0.0}, "fastflow": {"weights": "random"}}[name]
    losses = [
        registry.create(name, image_size=32, epoch_images=most, **settings).fit(same, seed=0).fit_report["losses"][0][0]
        for most in (0, 20)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
