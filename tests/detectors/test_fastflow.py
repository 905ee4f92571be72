"""FastFlow: the published score and loss, anomalib's model with the same weights, and where the score saturates."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from detector_pictures import anomalous_pictures, normal_pictures
from torch import Tensor, nn

from detectors import registry
from detectors.errors import CheckpointError, DetectorError
from detectors.fastflow import FastFlow
from detectors.noise import generator
from detectors.parts.training import holdout

TRAIN = normal_pictures(16, 64, seed=1)
TEST = torch.cat([normal_pictures(4, 64, seed=2), anomalous_pictures(4, 64, seed=3)])


def fastflow(**settings: object) -> FastFlow:
    detector = registry.create("fastflow", image_size=64, **settings)
    assert isinstance(detector, FastFlow)
    return detector


@pytest.fixture(scope="module")
def fitted() -> FastFlow:
    detector = fastflow(epochs=4)
    detector.fit(TRAIN, seed=0)
    return detector


@pytest.fixture(scope="module")
def saturated(fitted: FastFlow) -> FastFlow:
    """As after a long training, or at a strong anomaly: z so large that exp(-0.5 z^2) underflows in float32."""
    detector = copy.deepcopy(fitted)
    for flow in detector.flows:
        flow[-1].gain_parameter.data += 200
    return detector


def published_map(detector: FastFlow, x: Tensor) -> Tensor:
    scales = []
    for features, norm, flow in zip(detector.backbone(x), detector.norms, detector.flows, strict=True):
        z, _ = flow(norm(features))
        likelihood = torch.exp(-0.5 * (z**2).mean(dim=1, keepdim=True))
        scales.append(-F.interpolate(likelihood, size=x.shape[-2:], mode="bilinear", align_corners=False)[:, 0])
    return torch.stack(scales).mean(dim=0)


def test_map_and_score_are_the_published_ones(fitted: FastFlow) -> None:
    expected = published_map(fitted, TEST)
    torch.testing.assert_close(fitted.anomaly_map(TEST), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(fitted.score(TEST), expected.amax(dim=(1, 2)), rtol=1e-4, atol=1e-6)


def test_surrogate_is_a_monotone_function_of_the_score(fitted: FastFlow) -> None:
    score, surrogate = fitted.score(TEST), fitted.surrogate_score(TEST)
    torch.testing.assert_close(surrogate, -torch.log(-score))
    assert torch.equal(score.argsort(), surrogate.argsort())
    assert torch.equal(published_map(fitted, TEST).amax(dim=(1, 2)).argsort(), surrogate.argsort())


def test_surrogate_lives_where_the_score_has_underflowed(saturated: FastFlow) -> None:
    x = TEST.clone().requires_grad_()
    score, surrogate = saturated.score(x), saturated.surrogate_score(x)
    (dead,) = torch.autograd.grad(score.sum(), x)
    (alive,) = torch.autograd.grad(surrogate.sum(), x)
    assert float(score.detach().abs().max()) == 0 and float(dead.abs().max()) == 0
    assert len(set(surrogate.tolist())) == len(TEST)
    assert bool(alive.isfinite().all()) and float(alive.flatten(1).norm(dim=1).min()) > 1e-3


def test_the_score_domain_is_a_setting_that_the_record_shows(fitted: FastFlow, tmp_path: Path) -> None:
    logarithmic = fastflow(epochs=4, score_domain="log")
    logarithmic.fit(TRAIN, seed=0)
    assert fitted.has_surrogate and not logarithmic.has_surrogate
    torch.testing.assert_close(logarithmic.score(TEST), fitted.surrogate_score(TEST))
    path = fitted.save(tmp_path / "exp.safetensors")
    with pytest.raises(CheckpointError, match="settings"):
        logarithmic.load(path)


def _anomalibs(ours: FastFlow, side: int) -> Any:
    torch_model = pytest.importorskip("anomalib.models.image.fastflow.torch_model")
    theirs = torch_model.FastflowModel(
        (side, side),
        "resnet18",
        pre_trained=False,
        flow_steps=ours.settings.flow_steps,
        conv3x3_only=ours.settings.only_3x3,
        hidden_ratio=ours.settings.hidden,
    )
    theirs.feature_extractor = ours.backbone
    theirs.norms.load_state_dict(ours.norms.state_dict())
    for flow, sequence in zip(ours.flows, theirs.fast_flow_blocks, strict=True):
        for block, other in zip(flow, sequence.module_list, strict=True):
            other.global_scale.data[:] = block.gain_parameter.view_as(other.global_scale)
            other.global_offset.data[:] = block.offset.view_as(other.global_offset)
            other.w_perm.data[:] = block.rotation.view_as(other.w_perm)
            other.subnet[0], other.subnet[2] = block.subnet.first, block.subnet.last
    return theirs


@pytest.mark.parametrize("only_3x3", [True, False])
def test_anomalibs_model_with_the_same_weights_agrees(only_3x3: bool) -> None:
    loss = pytest.importorskip("anomalib.models.image.fastflow.loss")
    ours = registry.create(
        "fastflow",
        image_size=64,
        backbone="resnet18",
        layers=("layer1", "layer2", "layer3"),
        weights="random",
        only_3x3=only_3x3,
        flow_steps=3,
        epochs=2,
        hidden=1.0,
    )
    assert isinstance(ours, FastFlow)
    ours.fit(TRAIN[:6], seed=0)
    theirs = _anomalibs(ours, 64)
    with torch.no_grad():
        hidden, determinants = theirs.train()(TEST)
        found = theirs.eval()(TEST)
        features = ours.backbone(TEST)
        expected = loss.FastflowLoss()(hidden, determinants)
        torch.testing.assert_close(ours._losses(features).mean(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(ours.anomaly_map(TEST), found.anomaly_map[:, 0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours.score(TEST), found.pred_score[:, 0], rtol=1e-4, atol=1e-6)


def test_held_out_likelihood_counts_layer_norms_gain() -> None:
    """Shrinking the gain lowers the published loss; the likelihood of the normalised features is what Jacobians say."""
    detector = fastflow(layers=("blocks.4",), flow_steps=2)
    norm, flow = nn.LayerNorm([3, 2, 2]).double(), detector.flows[0]
    detector.norms[0] = norm
    detector.flows[0] = flow = type(flow)(_small_flow())
    norm.weight.data.uniform_(0.2, 0.4, generator=generator(0, "gain"))
    x = F.layer_norm(torch.randn(1, 3, 2, 2, generator=generator(0, "x"), dtype=torch.float64), [3, 2, 2], eps=0)

    def latent(v: Tensor) -> Tensor:
        z: Tensor = flow(v.view(1, 3, 2, 2) * norm.weight + norm.bias)[0]
        return z.flatten()

    matrix = torch.autograd.functional.jacobian(latent, x.flatten())
    expected = 0.5 * latent(x.flatten()).square().sum() - torch.linalg.slogdet(matrix).logabsdet
    torch.testing.assert_close(detector._negative_log_likelihood([x])[0], expected, rtol=1e-4, atol=1e-4)
    assert abs(float((detector._losses([x])[0] - expected).detach())) > 5


def _small_flow() -> Any:
    from detectors.parts.flow import MapSubnet, map_flow

    made = map_flow(3, 2, lambda i, o, s: MapSubnet(i, o, 4, 3), clamp=2.0)
    made.initialise(generator(1, "flow"), soft=True)
    return made.double()


def test_training_learns_reports_its_losses_and_keeps_the_best_weights(fitted: FastFlow) -> None:
    report = fitted.fit_report
    losses = report["losses"]
    assert len(losses) == 4 and losses[-1][0] < losses[0][0]
    held_out = [held for _, held in losses]
    assert report["held_out_loss"] == min(held_out) and report["best_epoch"] == held_out.index(min(held_out))
    _, indices = holdout(len(TRAIN), fitted.settings.holdout, generator(0, "fastflow-holdout"))
    features = fitted.backbone(TRAIN[indices])
    kept = float(fitted._negative_log_likelihood(features).mean()) / sum(f[0].numel() for f in features)
    assert kept == pytest.approx(report["held_out_loss"], rel=1e-4)


def test_training_stops_early() -> None:
    detector = fastflow(epochs=40, patience=1, learning_rate=0.1)  # too high: the loss goes up again
    detector.fit(TRAIN, seed=0)
    report = detector.fit_report
    assert len(report["losses"]) < 40 and len(report["losses"]) <= report["best_epoch"] + 2


def test_another_seed_gives_other_permutations(fitted: FastFlow) -> None:
    other = fastflow(epochs=1)
    other.fit(TRAIN, seed=1)
    assert not torch.equal(other.flows[0][0].rotation, fitted.flows[0][0].rotation)


def test_paper_settings_are_the_authors() -> None:
    settings = FastFlow.settings_for("paper", 256)
    assert (settings.flow_steps, settings.only_3x3, settings.hidden, settings.clamp) == (8, False, 1.0, 2.0)
    assert (settings.learning_rate, settings.weight_decay) == (1e-3, 1e-5)
    assert (settings.epochs, settings.batch_size) == (500, 32)
    detector = fastflow(flow_steps=4, epochs=1)
    kernels = [block.subnet.first.kernel_size[0] for block in detector.flows[0]]
    assert kernels == [3, 1, 3, 1]


def test_impossible_settings_and_diverging_training_are_refused() -> None:
    for wrong, match in (
        ({"score_domain": "sqrt"}, "score_domain"),
        ({"flow_steps": 0}, "flow_steps"),
        ({"hidden": 0.0}, "hidden"),
        ({"layers": ("layer1",)}, "no layer"),
        ({"layers": ("blocks.2", "pooled")}, "no feature maps"),
        ({"layers": ("classifier",)}, "without its layer"),
    ):
        with pytest.raises(DetectorError, match=match):
            fastflow(**wrong)
    with pytest.raises(DetectorError, match="diverged"):
        fastflow(epochs=2, learning_rate=1e30).fit(TRAIN, seed=0)
