"""OCR-GAN: random selection is per image, the score is the formula, training learns and stops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from derivatives import check_derivative
from detector_pictures import normal_pictures, turned_pictures
from torch import nn

from detectors import registry
from detectors.contract.ball import far_corners
from detectors.errors import DetectorError
from detectors.noise import Noise, NoiseSeed, generator
from detectors.ocrgan.detector import OCRGAN, _Optimisers, paint
from detectors.ocrgan.network import Generator, initialise_dcgan_, split
from detectors.parts.training import holdout

TRAIN = normal_pictures(24, 32, seed=1)
TEST = normal_pictures(4, 32, seed=2)


def ocrgan(size: int = 32, **settings: Any) -> OCRGAN:
    detector = registry.create("ocr-gan", image_size=size, **{"batch_size": 8, **settings})
    assert isinstance(detector, OCRGAN)
    return detector


@pytest.fixture(scope="module")
def fitted() -> OCRGAN:
    return ocrgan(epochs=20, patience=20).fit(TRAIN, seed=0)


@pytest.fixture(scope="module")
def random_one() -> OCRGAN:
    return ocrgan(epochs=2, channel_selection="random").fit(TRAIN, seed=0)


def source(count: int, purpose: str = "test") -> Noise:
    return NoiseSeed(7).source(purpose, [f"image-{i}" for i in range(count)])


# -- channel selection ------------------------------------------------------------------------------------------------


def test_stochastic_follows_the_setting(fitted: OCRGAN, random_one: OCRGAN) -> None:
    assert not fitted.is_stochastic and random_one.is_stochastic and not OCRGAN.is_stochastic
    assert not any("select" in key for key in random_one.state_dict())
    assert any("select" in key for key in fitted.state_dict())


def test_every_image_has_its_own_random_selection(random_one: OCRGAN) -> None:
    copies = TEST[:1].expand(3, -1, -1, -1).contiguous()
    noise = source(3)
    scores = random_one.score(copies, noise=noise)
    assert len(set(scores.tolist())) == 3
    torch.testing.assert_close(random_one.score(copies[:1], noise=noise.pick([1])), scores[1:2])
    assert not torch.equal(random_one.score(copies, noise=noise.at(1)), scores)
    assert torch.equal(random_one.score(copies, noise=noise), scores)


def test_random_selection_and_the_map_share_their_draws(random_one: OCRGAN) -> None:
    """The map, the reconstruction and the score of one call are of the same networks."""
    noise = source(len(TEST))
    real = sum(random_one._bands(TEST))
    rebuilt = 2 * random_one.reconstruct(TEST, noise=noise) - 1
    torch.testing.assert_close(random_one.anomaly_map(TEST, noise=noise), (real - rebuilt).square().mean(dim=1))


# -- score and networks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subtraction", ["saturating", "signed"])
def test_score_is_the_formula(subtraction: str) -> None:
    detector = ocrgan(epochs=2, subtraction=subtraction).fit(TRAIN, seed=0)
    high, low = split(TEST, 2, saturating=subtraction == "saturating")
    bands = [2 * high - 1 if subtraction == "saturating" else 2 * high, 2 * low - 1]
    real, rebuilt = sum(bands), sum(detector.generator(bands))
    features = [detector.discriminator.features(image) for image in (real, rebuilt)]
    expected = 0.9 * ((real - rebuilt) ** 2).mean(dim=(1, 2, 3)) + 0.1 * ((features[0] - features[1]) ** 2).mean(dim=1)
    torch.testing.assert_close(detector.score(TEST), expected)
    # On [0, 1] the reconstruction is compared with the sum of the bands: the image itself where they are signed.
    target = TEST if subtraction == "signed" else torch.maximum(TEST, low)
    errors = 4 * (target - detector.reconstruct(TEST)).square().mean(dim=1)
    torch.testing.assert_close(detector.anomaly_map(TEST), errors)


def test_both_parts_of_the_score_have_a_gradient() -> None:
    for share in (0.0, 1.0):
        detector = ocrgan(feature_share=share, epochs=1).fit(TRAIN, seed=0)
        x = TEST.clone().requires_grad_()
        (found,) = torch.autograd.grad(detector.score(x).sum(), x)
        assert bool((found.flatten(1).norm(dim=1) > 1e-7).all())


def test_official_behaviour_has_a_true_gradient_but_at_flat_patches() -> None:
    """Where a picture is exactly flat the saturating split has a kink; the contract's strong anomalies are flat."""
    detector = ocrgan(epochs=2, subtraction="saturating", channel_selection="random").fit(TRAIN, seed=0)
    grainy = turned_pictures(2, 32, seed=5)
    for images in (TEST[:2], grainy, far_corners(TEST[:2])):
        check_derivative(detector, images)
    x = torch.full((1, 3, 32, 32), 0.5).requires_grad_()
    (flat,) = torch.autograd.grad(detector.score(x, noise=source(1)).sum(), x)
    assert bool(flat.isfinite().all()) and float(flat.norm()) > 0, "the low band keeps the gradient alive"


def test_a_larger_image_is_resized_inside() -> None:
    detector = ocrgan(64, work_size=32, levels=5, epochs=1).fit(normal_pictures(8, 64, seed=1), seed=0)
    x = normal_pictures(2, 64, seed=2)
    small = F.interpolate(x, size=(32, 32), mode="bilinear", antialias=True)
    same = ocrgan(epochs=1)
    same.load_state_dict(detector.state_dict())
    same._freeze()
    torch.testing.assert_close(detector.score(x), same.score(small))
    assert detector.reconstruct(x).shape == x.shape and detector.anomaly_map(x).shape == (2, 64, 64)


def test_a_step_is_the_plain_one() -> None:
    """As published: the generator's update, then the discriminator's, each with passes of its own."""
    mine, plain = (ocrgan(channels=4).double() for _ in range(2))
    plain.load_state_dict(mine.state_dict())
    mine_too, theirs = (_Optimisers(detector, detector.settings) for detector in (mine, plain))
    painted = TRAIN[8:16].flip(3).double()
    for _ in range(3):
        found = mine._step(TRAIN[:8].double(), painted, source(8), mine_too)
        torch.testing.assert_close(found, plain_step(plain, TRAIN[:8].double(), painted, theirs), rtol=1e-8, atol=1e-8)
    for key, value in plain.state_dict().items():
        if "running" in key or "tracked" in key:
            torch.testing.assert_close(mine.state_dict()[key], value, rtol=1e-6, atol=1e-8)


def plain_step(detector: OCRGAN, batch: torch.Tensor, painted: torch.Tensor, optimisers: _Optimisers) -> torch.Tensor:
    bands = detector._bands(batch)
    real, unlike = sum(bands), sum(detector._bands(painted))
    rebuilt = sum(detector.generator(bands))

    def should_be(wanted: float, image: torch.Tensor) -> torch.Tensor:
        logits = detector.discriminator(image)[0]
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, wanted))

    logits, features = detector.discriminator(rebuilt)
    adversarial = F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))
    latent = F.mse_loss(features, detector.discriminator(real)[1].detach())
    reconstruction = F.l1_loss(rebuilt, real)
    optimisers.generator.zero_grad()
    (adversarial + 50 * reconstruction + latent).backward()
    optimisers.generator.step()
    told_apart = should_be(1.0, real) + should_be(0.0, rebuilt.detach()) + should_be(0.0, unlike)
    optimisers.discriminator.zero_grad()
    told_apart.backward()
    optimisers.discriminator.step()
    return torch.stack([reconstruction, adversarial, latent, told_apart]).detach()


def test_paper_is_the_authors_network() -> None:
    settings = registry.get("ocr-gan").settings_for("paper", 256)
    assert (settings.work_size, settings.levels, settings.channels, settings.features) == (256, 8, 64, 100)
    network = Generator(2, 2, 8, trained_selection=True)  # 2 channels instead of 64: the same shape, and quick
    down, up = (
        [m for m in half.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
        for half in (network.down[0], network.up[0])
    )
    assert [m.out_channels for m in down] == [2, 4, 8, 16, 16, 16, 16, 16]
    assert [m.in_channels for m in up] == [4, 8, 16, 32, 32, 32, 32, 16], "the innermost has no skip connection"
    norms = [sum(isinstance(m, nn.BatchNorm2d) for m in half.modules()) for half in (network.down[0], network.up[0])]
    assert norms == [6, 7]
    assert all(m.kernel_size == (4, 4) and m.stride == (2, 2) for m in down + up)
    initialise_dcgan_(network, generator(0))
    assert float(down[-1].weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    with torch.no_grad():
        assert float(network(list(torch.rand(2, 2, 3, 256, 256, generator=generator(1))))[0].abs().max()) < 1


@pytest.mark.parametrize("side", [28, 32, 48, 100, 128, 224])
def test_any_input_size_gets_settings_that_work(side: int) -> None:
    for preset in ("quick", "paper"):
        settings = registry.get("ocr-gan").settings_for(preset, side)
        assert registry.create("ocr-gan", preset=preset, image_size=side, channels=2).settings.work_size == (
            settings.work_size
        )


# -- fitting ----------------------------------------------------------------------------------------------------------


def test_training_learns_to_reconstruct_and_reports_its_losses(fitted: OCRGAN) -> None:
    report = fitted.fit_report
    losses = report["losses"]
    assert len(losses) == 20 and all(len(row) == len(report["losses_are"]) == 5 for row in losses)
    assert losses[-1][0] < 0.5 * losses[0][0], "reconstruction"
    held_out = [row[-1] for row in losses]
    assert report["held_out_loss"] == min(held_out) == held_out[report["best_epoch"]]


def test_the_discriminator_learns_to_tell_made_up_anomalies_from_normals() -> None:
    """Made-up anomalies pass through the same split as real images, and count as fakes."""
    detector = ocrgan(learning_rate=5e-3)
    optimisers = _Optimisers(detector, detector.settings)
    painted = TRAIN[:8].flip(0).clone()
    painted[:, :, 8:24, 8:24] = 0
    losses = torch.stack([detector._step(TRAIN[:8], painted, source(8), optimisers) for _ in range(12)])
    detector.eval()
    with torch.no_grad():
        normal, fake = (detector.discriminator(sum(detector._bands(x)))[0] for x in (TRAIN[:8], painted))
    assert float(normal.min() - fake.max()) > 0.5
    # Not the last one's: against a generator that learns, too, the loss goes up and down, and rounding decides when.
    assert float(losses[1:, 3].min()) < float(losses[0, 3])
    assert all(p.requires_grad for p in detector.parameters()), "the discriminator stays trainable"


@pytest.mark.parametrize("selection", ["trained", "random"])
def test_training_stops_early_and_keeps_the_best_weights(selection: str) -> None:
    detector = ocrgan(epochs=30, patience=1, learning_rate=0.03, channel_selection=selection)
    detector.fit(TRAIN, seed=0)
    report = detector.fit_report
    assert len(report["losses"]) < 30 and len(report["losses"]) == report["best_epoch"] + 2
    _, held_out = holdout(len(TRAIN), detector.settings.holdout, generator(0, "ocr-gan-holdout"))
    noise = NoiseSeed(0).source("ocr-gan-fit", [str(int(i)) for i in held_out])
    kept = detector._held_out_loss(TRAIN[held_out], noise)
    assert kept == pytest.approx(report["held_out_loss"], rel=1e-4)


def test_statistics_of_normalisation_are_frozen_after_the_fit() -> None:
    detector = ocrgan(epochs=2).fit(TRAIN, seed=0)
    before = {key: value.clone() for key, value in detector.state_dict().items() if "running" in key}
    assert len(before) > 10
    detector.train()
    detector.score(TEST)
    assert all(torch.equal(value, detector.state_dict()[key]) for key, value in before.items())


def test_a_made_up_anomaly_is_a_moved_patch_and_a_black_square() -> None:
    image = torch.rand(3, 64, 64, generator=generator(1)) * 0.5 + 0.5
    kept = image.clone()
    shares = []
    for seed in range(50):
        painted = paint(image, generator(seed))
        assert painted.shape == image.shape and float(painted.min()) >= 0 and float(painted.max()) <= 1
        black = (painted == 0).all(dim=0)
        assert 1 <= int(black.sum()) <= 36, "20 of 256 pixels are 5 of 64"
        shares.append(float((painted != image).any(dim=0).float().mean()))
    assert torch.equal(image, kept)
    assert min(shares) > 0.01 and max(shares) < 0.25 and len(set(shares)) > 20
    assert torch.equal(paint(image, generator(3)), paint(image, generator(3)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"work_size": 48}, "power of two"),
        ({"levels": 7}, "levels"),
        ({"bands": 1}, "bands"),
        ({"bands": 9}, "bands"),
        ({"channel_selection": "official"}, "trained or random"),
        ({"subtraction": "unsigned"}, "signed or saturating"),
        ({"feature_share": 1.5}, "feature_share"),
    ],
)
def test_impossible_settings_are_refused_before_any_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DetectorError, match=message):
        ocrgan(**settings)


def test_diverging_training_is_refused() -> None:
    with pytest.raises(DetectorError, match="diverged"):
        ocrgan(epochs=2, learning_rate=1e30).fit(TRAIN, seed=0)


def test_two_images_are_enough() -> None:
    assert bool(ocrgan(epochs=1).fit(TRAIN[:2], seed=0).score(TEST).isfinite().all())
