"""CFlow: the published score and code, anomalib's model with the same weights, and constants that no batch can move."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from detector_pictures import anomalous_pictures, normal_pictures
from torch import Tensor

from detectors import registry
from detectors.cflow import CFlow, position_code, rate
from detectors.errors import DetectorError
from detectors.noise import generator
from detectors.parts.training import holdout

TRAIN = normal_pictures(16, 64, seed=1)
TEST = torch.cat([normal_pictures(4, 64, seed=2), anomalous_pictures(4, 64, seed=3)])


def cflow(**settings: object) -> CFlow:
    detector = registry.create("cflow", image_size=64, **settings)
    assert isinstance(detector, CFlow)
    return detector


@pytest.fixture(scope="module")
def fitted() -> CFlow:
    detector = cflow(epochs=3)
    detector.fit(TRAIN, seed=0)
    return detector


def vectors_of(features: Tensor) -> Tensor:
    """(B, C, h, w) to (B, h w, C)."""
    return features.permute(0, 2, 3, 1).flatten(1, 2)


def published_likelihoods(detector: CFlow, x: Tensor) -> Tensor:
    """The sum over layers of exp(log p / C - m), upsampled: straight from the formulas, one vector at a time."""
    total = torch.zeros(len(x), x.shape[-1], x.shape[-1], dtype=x.dtype)
    for i, features in enumerate(detector.backbone(x)):
        mean, deviation = getattr(detector, f"mean_{i}"), getattr(detector, f"deviation_{i}")
        channels, height, width = features.shape[1:]
        vectors = features.permute(0, 2, 3, 1).reshape(-1, channels)
        code = position_code(height, width, detector.settings.condition).to(x.dtype).repeat(len(x), 1)
        z, log_determinant = detector.flows[i]((vectors - mean) / deviation, code)
        log_p = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(dim=1) + log_determinant
        likelihood = torch.exp(log_p / channels - detector.maxima[i]).view(-1, 1, height, width)
        total += F.interpolate(likelihood, size=x.shape[-2:], mode="bilinear", align_corners=True)[:, 0]
    return total


def test_map_and_score_are_the_published_ones(fitted: CFlow) -> None:
    expected = -published_likelihoods(fitted, TEST)
    torch.testing.assert_close(fitted.anomaly_map(TEST), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(fitted.score(TEST), expected.amax(dim=(1, 2)), rtol=1e-4, atol=1e-6)


def test_surrogate_is_a_monotone_function_of_the_score(fitted: CFlow) -> None:
    score, surrogate = fitted.score(TEST), fitted.surrogate_score(TEST)
    torch.testing.assert_close(surrogate, -torch.log(-score), rtol=1e-4, atol=1e-4)
    assert torch.equal(score.argsort(), surrogate.argsort())


def test_surrogate_lives_where_the_score_has_underflowed(fitted: CFlow) -> None:
    saturated = copy.deepcopy(fitted)
    for flow in saturated.flows:
        flow[-1].gain_parameter.data += 300
    x = TEST.clone().requires_grad_()
    score, surrogate = saturated.score(x), saturated.surrogate_score(x)
    (dead,) = torch.autograd.grad(score.sum(), x)
    (alive,) = torch.autograd.grad(surrogate.sum(), x)
    assert float(score.detach().abs().max()) == 0 and float(dead.abs().max()) == 0
    assert len(set(surrogate.tolist())) == len(TEST)
    assert bool(alive.isfinite().all()) and float(alive.flatten(1).norm(dim=1).min()) > 1e-3


def test_the_maxima_are_those_of_the_training_normals(fitted: CFlow) -> None:
    """Whatever is scored, and in whose company: the authors' maximum over the test images moves every score."""
    tops = [log.amax() for log in fitted._log_probabilities(fitted.backbone(TRAIN))]
    torch.testing.assert_close(fitted.maxima, torch.stack(tops), rtol=1e-4, atol=1e-5)
    before = fitted.maxima.clone()
    alone = fitted.score(TEST[-1:])
    together = fitted.score(torch.cat([TEST, TRAIN]))[len(TEST) - 1 : len(TEST)]
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-7)
    assert torch.equal(before, fitted.maxima)


def test_log_probability_is_that_of_a_change_of_variables(fitted: CFlow) -> None:
    """log p(v) = log N(z(v)) + log |det dz/dv|, per channel, in float64 against autograd's Jacobian."""
    detector = copy.deepcopy(fitted).double()
    vectors = vectors_of(detector.backbone(TEST[:1].double())[0])
    code = detector._code(0)
    found = detector._log_probability(0, vectors, code)
    for place in (0, 77, 255):
        v = detector._standardised(0, vectors[0, place])
        matrix = torch.autograd.functional.jacobian(lambda u, p=place: detector.flows[0](u, code[p])[0], v)
        z = detector.flows[0](v, code[place])[0]
        log_p = -0.5 * z.square().sum() - 0.5 * len(v) * math.log(2 * math.pi) + torch.linalg.slogdet(matrix).logabsdet
        torch.testing.assert_close(found[0, place], log_p / len(v), rtol=1e-5, atol=1e-5)


def _anomalibs(ours: CFlow) -> Any:
    torch_model = pytest.importorskip("anomalib.models.image.cflow.torch_model")
    settings = ours.settings
    theirs = torch_model.CflowModel(
        "resnet18",
        settings.layers,
        pre_trained=False,
        fiber_batch_size=4096,
        coupling_blocks=settings.blocks,
        condition_vector=settings.condition,
        clamp_alpha=settings.clamp,
    )
    theirs.encoder = _Named(ours.backbone)
    for flow, sequence in zip(ours.flows, theirs.decoders, strict=True):
        for block, other in zip(flow, sequence.module_list, strict=True):
            other.global_scale.data[:] = block.gain_parameter.view_as(other.global_scale)
            other.global_offset.data[:] = block.offset.view_as(other.global_offset)
            other.w_perm.data[:] = block.rotation.view_as(other.w_perm)
            other.subnet[0], other.subnet[2] = block.subnet.first, block.subnet.last
    return theirs


class _Named(torch.nn.Module):
    """Our backbone as anomalib's encoder: a dictionary of features."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.backbone.layers, self.backbone(x), strict=True))


def test_anomalibs_model_with_the_same_weights_and_constants_agrees() -> None:
    ours = cflow(
        backbone="resnet18",
        layers=("layer2", "layer3"),
        weights="random",
        standardise=False,
        blocks=3,
        hidden=2.0,
        epochs=1,
    )
    ours.fit(TRAIN[:6], seed=0)
    expected = _anomalibs(ours)(TEST).anomaly_map.squeeze(1)
    # Theirs takes both constants from the batch that it happens to see.
    ours.maxima.copy_(torch.stack([log.amax() for log in ours._log_probabilities(ours.backbone(TEST))]))
    found = ours.anomaly_map(TEST)
    torch.testing.assert_close(found - found.min(), expected, rtol=1e-4, atol=1e-5)


def test_position_code_equals_anomalibs_and_tells_positions_apart() -> None:
    code = position_code(5, 7, 16)
    assert code.shape == (35, 16) and len({tuple(row.tolist()) for row in code}) == 35
    assert torch.equal(code[:7, 8:], code[:1, 8:].expand(7, -1)), "one row, one code of the row"
    utils = pytest.importorskip("anomalib.models.image.cflow.utils")
    torch.testing.assert_close(code, utils.positional_encoding_2d(16, 5, 7).flatten(1).T)


def test_learning_rate_warms_up_and_falls() -> None:
    rates = [rate(epoch, 200, 0.08) for epoch in range(200)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == rates[16] and rates[16] > 0.98
    assert rates[-1] < 2e-3 and all(a > b for a, b in itertools.pairwise(rates[16:]))
    assert rate(0, 3, 0.0) == 1.0


def test_training_learns_reports_its_losses_and_keeps_the_best_weights(fitted: CFlow) -> None:
    report = fitted.fit_report
    losses = report["losses"]
    held_out = [held for _, held in losses]
    assert len(losses) == 3 and held_out[-1] < held_out[0]
    assert report["held_out_loss"] == min(held_out) and report["best_epoch"] == held_out.index(min(held_out))
    _, indices = holdout(len(TRAIN), fitted.settings.holdout, generator(0, "cflow-holdout"))
    logs = fitted._log_probabilities(fitted.backbone(TRAIN[indices]))
    kept = float(torch.stack([torch.log1p(torch.exp(-log)).mean() for log in logs]).mean())
    assert kept == pytest.approx(report["held_out_loss"], rel=1e-4)


def test_training_stops_early() -> None:
    detector = cflow(epochs=40, patience=1, learning_rate=0.3, warm_up=0.0)  # too high: the loss goes up again
    detector.fit(TRAIN, seed=0)
    report = detector.fit_report
    assert len(report["losses"]) < 40 and len(report["losses"]) <= report["best_epoch"] + 2


def test_an_epoch_visits_its_share_of_the_positions_once() -> None:
    detector = cflow(share=0.5, fibers=64)
    chunks = detector._positions(256, 16, generator(0, "positions"))
    visited = torch.cat(list(chunks)).tolist()
    assert len(visited) == 128 == len(set(visited)) and all(len(chunk) == 4 for chunk in chunks)


def test_standardised_features_have_mean_zero_and_deviation_one(fitted: CFlow) -> None:
    for i, features in enumerate(fitted.backbone(TRAIN)):
        vectors = fitted._standardised(i, vectors_of(features))
        assert float(vectors.mean(dim=(0, 1)).abs().max()) < 1e-3
        torch.testing.assert_close(vectors.std(dim=(0, 1)), torch.ones(vectors.shape[-1]), rtol=1e-2, atol=0)


def test_paper_settings_are_the_authors() -> None:
    settings = CFlow.settings_for("paper", 256)
    assert (settings.blocks, settings.hidden, settings.clamp, settings.condition) == (8, 2.0, 1.9, 128)
    assert settings.soft_permutation and not settings.standardise and settings.share == 1.0
    assert (settings.epochs, settings.batch_size, settings.fibers, settings.learning_rate) == (200, 32, 256, 2e-4)


def test_impossible_settings_and_diverging_training_are_refused() -> None:
    for wrong, match in (
        ({"score_domain": "sqrt"}, "score_domain"),
        ({"condition": 6}, "multiple of 4"),
        ({"blocks": 0}, "blocks"),
        ({"share": 0.0}, "share"),
        ({"layers": ("layer1",)}, "no layer"),
        ({"layers": ("blocks.2", "pooled")}, "no feature maps"),
        ({"layers": ("classifier",)}, "without its layer"),
    ):
        with pytest.raises(DetectorError, match=match):
            cflow(**wrong)
    with pytest.raises(DetectorError, match="diverged"):
        cflow(epochs=2, learning_rate=1e30).fit(TRAIN, seed=0)
