"""CFA against a second implementation of its score, its loss and its memory bank."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from detector_pictures import normal_pictures
from scipy.ndimage import gaussian_filter
from torch import Tensor

from detectors import registry
from detectors.cfa import CFA, CFASettings, CoordConv, soft_boundary_loss
from detectors.errors import DetectorError
from detectors.noise import generator
from detectors.parts.training import holdout, initialise_

SIZE = 64
TRAIN = normal_pictures(16, SIZE, seed=1)
TEST = normal_pictures(3, SIZE, seed=2)


def cfa(size: int = SIZE, **settings: object) -> CFA:
    """At three strides as the paper's, 176 channels together; the quick preset has two."""
    settings = {"layers": ("blocks.1", "blocks.2", "blocks.4"), **settings}
    detector = registry.create("cfa", image_size=size, **settings)
    assert isinstance(detector, CFA)
    return detector


@pytest.fixture(scope="module")
def fitted() -> CFA:
    detector = cfa(epochs=4)
    detector.fit(TRAIN, seed=0)
    return detector


def descriptors(detector: CFA, x: Tensor, conv: CoordConv | None = None) -> Tensor:
    """The authors' way: every layer pooled and enlarged, two coordinate channels, a 1x1 convolution; (B, D, h, w)."""
    maps = [F.avg_pool2d(f, 3, 1, 1) for f in detector.backbone(x)]
    side = maps[0].shape[-1]
    sized = [F.interpolate(m, size=(side, side), mode="bilinear", align_corners=False) for m in maps]
    axis = torch.arange(side, dtype=x.dtype) / (side - 1) * 2 - 1
    columns, rows = axis.expand(len(x), 1, side, side), axis[:, None].expand(len(x), 1, side, side)
    linear = (conv or detector.descriptor).linear
    return F.conv2d(torch.cat([*sized, columns, rows], dim=1), linear.weight[:, :, None, None], linear.bias)


@pytest.mark.parametrize(("neighbours", "gamma_c", "gamma_d"), [(3, 1, 1), (1, 1, 2), (4, 4, 1)])
def test_map_and_score_are_the_smoothed_softmin_distance(neighbours: int, gamma_c: int, gamma_d: int) -> None:
    detector = cfa(neighbours=neighbours, gamma_c=gamma_c, gamma_d=gamma_d, epochs=2)
    detector.fit(TRAIN, seed=0)
    x = TEST.double()
    found, scores = detector.anomaly_map(x), detector.score(x)
    queries = descriptors(detector, x)
    bank = detector.bank
    assert bank.shape == (16 * 16 // gamma_c, queries.shape[1]) and queries.shape[1] == (24 + 40 + 112) // gamma_d
    distances = torch.cdist(queries.flatten(2).transpose(1, 2), bank).sort(dim=2).values[..., :neighbours]
    coarse = (distances[..., 0] * F.softmin(distances, dim=2)[..., 0]).view(3, 1, 16, 16)
    large = F.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear", align_corners=False)[:, 0]
    expected = torch.stack([torch.from_numpy(gaussian_filter(m.numpy(), sigma=4 * SIZE / 256)) for m in large])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scores, expected.amax(dim=(1, 2)), rtol=1e-5, atol=1e-6)
    detector.score(TEST)  # back to float32


def test_bank_is_the_mean_of_the_untrained_descriptors_and_frozen(fitted: CFA) -> None:
    untrained = CoordConv(176, 176, 16)
    initialise_(untrained, generator(0, "cfa-initial-weights"))
    training, _ = holdout(len(TRAIN), fitted.settings.holdout, generator(0, "cfa-holdout"))
    expected = descriptors(fitted, TRAIN[training], untrained).mean(dim=0).flatten(1).T.detach()
    torch.testing.assert_close(fitted.bank, expected, rtol=1e-4, atol=1e-4)
    assert not torch.equal(untrained.linear.weight, fitted.descriptor.linear.weight), "nothing was learned"


def test_loss_is_the_soft_boundary_of_coupled_hyperspheres() -> None:
    settings = CFASettings(neighbours=2, hard_negatives=1, nu=0.01, alpha=0.5)
    squares = torch.tensor([[0.5, 2.0, 3.0], [5.0, 6.0, 7.0]], dtype=torch.float64)
    radius = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    attraction = (0 + 0 + (5 - 4) + (6 - 4)) / 4  # squared distance beyond radius^2 = 4, of K neighbours
    repulsion = ((4 - 3 - 0.5) + 0) / 2  # radius^2 less the margin beyond the distance, of J hard negatives
    loss = soft_boundary_loss(squares, radius, settings)
    assert float(loss.detach()) == pytest.approx((attraction + repulsion) / 0.01)
    (slope,) = torch.autograd.grad(loss, radius)
    assert float(slope) == pytest.approx((-2 * 2 * 2 / 4 + 2 * 2 / 2) / 0.01), "the radius is learned"
    alone = soft_boundary_loss(squares[:, :2], radius, settings)
    assert float(alone.detach()) == pytest.approx(attraction / 0.01), "without hard negatives there is no repulsion"


def test_training_lowers_the_held_out_loss_and_reports_it(fitted: CFA) -> None:
    report = fitted.fit_report
    held = [loss for _, loss in report["losses"]]
    assert report["held_out_loss"] == min(held) < 0.95 * held[0] and report["best_epoch"] == held.index(min(held))
    assert float(fitted.radius) == pytest.approx(report["radius"]) and report["radius"] != fitted.settings.radius


def test_training_stops_early_and_keeps_the_best_weights() -> None:
    detector = cfa(epochs=30, patience=1, learning_rate=0.3)  # too high: the loss goes up again
    detector.fit(TRAIN, seed=0)
    report = detector.fit_report
    assert len(report["losses"]) == report["best_epoch"] + 2 < 30
    _, held_out = holdout(len(TRAIN), detector.settings.holdout, generator(0, "cfa-holdout"))
    with torch.no_grad():
        kept = float(detector._loss(detector._patches(TRAIN[held_out])))
    assert kept == pytest.approx(report["held_out_loss"], rel=1e-3)


def test_features_that_do_not_fit_into_memory_are_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, made_anew = cfa(epochs=2), cfa(epochs=2)
    kept.fit(TRAIN, seed=0)
    monkeypatch.setattr("detectors.parts.features.LIMIT", 0)
    made_anew.fit(TRAIN, seed=0)
    torch.testing.assert_close(kept.score(TEST), made_anew.score(TEST), rtol=1e-3, atol=0)


def test_a_picture_that_is_the_bank_has_a_finite_gradient(fitted: CFA) -> None:
    detector = cfa(epochs=1)
    detector.fit(TRAIN, seed=0)
    with torch.no_grad():
        detector.bank.copy_(detector.descriptor(detector._patches(TEST[:1]))[0])
    x = TEST[:1].clone().requires_grad_()
    score = detector.score(x)
    (gradient,) = torch.autograd.grad(score.sum(), x)
    assert float(score.detach()) < 1e-2 < float(fitted.score(TEST[:1])) and bool(gradient.isfinite().all())


def test_map_points_at_the_defect_and_the_score_is_its_maximum(fitted: CFA) -> None:
    x = normal_pictures(1, SIZE, seed=9)
    x[:, :, 8:24, 40:56] = 1.0
    found = fitted.anomaly_map(x)[0]
    row, column = divmod(int(found.argmax()), SIZE)
    assert 8 <= row < 24 and 40 <= column < 56
    assert float(found[row, column]) == float(fitted.score(x))


@pytest.fixture(scope="module")
def cropped() -> CFA:
    detector = cfa(epochs=1, crop=192)  # 48 of 64 pixels, 8 on each side fall away
    detector.fit(TRAIN, seed=0)
    return detector


def test_a_crops_score_is_that_of_the_cropped_image_alone(cropped: CFA) -> None:
    """The same weights and bank in a detector of small images, to which nothing is cropped."""
    small = cfa(size=48, epochs=1, crop=0, sigma=4 * 64 / 48)  # as many pixels of smoothing
    inside = slice(8, 56)
    small.fit(TRAIN[..., inside, inside], seed=0)
    torch.testing.assert_close(small.bank, cropped.bank)
    torch.testing.assert_close(cropped.score(TEST), small.score(TEST[..., inside, inside]))
    maps = cropped.anomaly_map(TEST)
    torch.testing.assert_close(maps[:, inside, inside], small.anomaly_map(TEST[..., inside, inside]))


def test_a_crop_gives_the_frame_no_anomaly_and_no_gradient(cropped: CFA) -> None:
    x = TEST.clone().requires_grad_()
    maps = cropped.anomaly_map(x).detach()
    frame = torch.ones(SIZE, SIZE, dtype=torch.bool)
    frame[8:56, 8:56] = False
    assert float(maps[:, frame].abs().max()) == 0 < float(maps[:, ~frame].min())
    (gradient,) = torch.autograd.grad(cropped.score(x).sum(), x)
    assert float(gradient[..., frame].abs().max()) == 0 < float(gradient[..., ~frame].abs().max())
    changed = torch.where(frame, torch.rand(()), TEST)
    torch.testing.assert_close(cropped.score(changed), cropped.score(TEST), rtol=0, atol=0)


def test_a_cropped_map_stays_where_the_defect_is_in_the_whole_image(cropped: CFA) -> None:
    x = normal_pictures(1, SIZE, seed=9)
    x[:, :, 12:24, 40:54] = 1.0
    row, column = divmod(int(cropped.anomaly_map(x)[0].argmax()), SIZE)
    assert 12 <= row < 24 and 40 <= column < 54


def test_the_paper_preset_is_the_published_network_on_the_central_224_of_256_pixels() -> None:
    detector = registry.create("cfa", preset="paper", image_size=32, weights="random", epochs=1)
    assert isinstance(detector, CFA) and sum(detector.backbone.channels) == 1792 and detector.bank.shape == (49, 1792)
    detector.fit(normal_pictures(4, 32, seed=1), seed=0)
    x = normal_pictures(2, 32, seed=2).requires_grad_()
    (gradient,) = torch.autograd.grad(detector.score(x).sum(), x)
    assert bool(gradient.isfinite().all()) and float(gradient.abs().max()) > 0
    whole = registry.create("cfa", preset="paper", image_size=256, weights="random")
    assert isinstance(whole, CFA) and whole.backbone.crop == 224 and len(whole.bank) == 56 * 56
    assert cfa().settings.crop == 0, "quick sees the whole image"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"neighbours": 300}, r"has 256 centres at 64 px with gamma_c 1, fewer than the 303 .* enlarge the images"),
        ({"gamma_c": 64}, "has 4 centres"),
        ({"size": 8}, "has 4 centres at 8 px"),
        ({"gamma_d": 1000}, "at most 176"),
        ({"neighbours": 0}, "neighbours must be at least 1"),
        ({"hard_negatives": -1}, "hard_negatives must be at least 0"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"nu": 0.0}, "nu must be a number above 0"),
        ({"sigma": float("nan")}, "sigma must be a number above 0"),
        ({"holdout": 1.0}, "between 0 and 1"),
        ({"crop": 300}, r"256 px and must lie in 0\.\.256 \(0: none\); got 300"),
        ({"crop": -1}, "got -1"),
        ({"crop": 1}, "fewer than the"),
        ({"layers": ("layer1",)}, "no layer"),
        ({"layers": ("blocks.2", "blocks.1")}, "finest first"),
        ({"layers": ("blocks.1", "pooled")}, "feature maps"),
    ],
)
def test_impossible_settings_are_refused_before_any_fit(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(DetectorError, match=sentence):
        cfa(**settings)  # type: ignore[arg-type]


def test_too_few_images_and_diverging_training_are_refused() -> None:
    with pytest.raises(DetectorError, match="at least 2 normal training images"):
        cfa().fit(TRAIN[:1], seed=0)
    with pytest.raises(DetectorError, match="diverged"):
        cfa(epochs=2, learning_rate=1e30).fit(TRAIN[:4], seed=0)
