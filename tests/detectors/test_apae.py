"""APAE: its projection descends, its gradient is the one through all steps, and without steps it is a weighted AE."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from detector_pictures import anomalous_pictures, normal_pictures
from torch import Tensor, nn

import attacks
from detectors import registry
from detectors.apae import APAE, curvature, project
from detectors.errors import DetectorError
from detectors.noise import generator
from detectors.parts.autoencoder import Autoencoder
from detectors.parts.training import initialise_

TRAIN = normal_pictures(24, 32, seed=1)
TEST = torch.cat([normal_pictures(4, 32, seed=2), anomalous_pictures(4, 32, seed=3)])
TRAINING = {"epochs": 20, "patience": 20}


def apae(**settings: object) -> APAE:
    detector = registry.create("apae", image_size=32, **settings)
    assert isinstance(detector, APAE)
    return detector


@pytest.fixture(scope="module")
def fitted() -> APAE:
    return apae(steps=4, **TRAINING).fit(TRAIN, seed=0)


@pytest.fixture(scope="module")
def without_steps() -> APAE:
    return apae(steps=0, **TRAINING).fit(TRAIN, seed=0)


def small_network() -> Autoencoder:
    network = Autoencoder(4, 2, 3).double()
    initialise_(network, generator(1, "weights"))
    return network.requires_grad_(False)


def unrolled(decode: nn.Module, start: Tensor, target: Tensor, steps: int, rate: float) -> Tensor:
    """The same descent by autograd alone, with the whole graph in memory."""
    code = start
    for _ in range(steps):
        (slope,) = torch.autograd.grad(0.5 * (decode(code) - target).square().sum(), code, create_graph=True)
        code = code - rate * slope
    return code


@pytest.mark.parametrize("kept", [10**9, 0])
def test_the_projections_gradient_is_that_of_finite_differences(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through every step, by the code and by the target, with all of them in memory or none."""
    monkeypatch.setattr("detectors.apae._KEPT_VALUES", kept)
    network = small_network()
    target = torch.rand(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    start = network.latent_of(target).detach() + 0.3

    def projected(z: Tensor, x: Tensor) -> Tensor:
        return project(network.image_of, z, x, steps=3, rate=torch.tensor(2.0))

    assert float((projected(start, target) - network.image_of(start)).abs().max()) > 1e-3, "it did not move"
    assert torch.autograd.gradcheck(projected, (start.requires_grad_(), target.requires_grad_()))


def test_every_step_of_the_projection_lowers_the_mean_error(fitted: APAE) -> None:
    small = fitted._work(TEST)
    means = []
    for steps in range(0, 40, 4):
        means.append(float((small - fitted._projected(small, steps)).square().mean()))
    assert all(after < before for before, after in pairwise(means)), means
    assert means[-1] < 0.9 * means[0], "40 steps change nothing to speak of"


def test_score_is_the_weighted_error_of_the_projected_reconstruction(fitted: APAE) -> None:
    code = fitted.network.latent_of(TEST).requires_grad_()
    code = unrolled(fitted.network.image_of, code, TEST, fitted.settings.steps, float(fitted.rate))
    rebuilt = fitted.network.image_of(code).detach()
    torch.testing.assert_close(fitted.reconstruct(TEST), rebuilt, rtol=1e-4, atol=1e-5)
    expected = (fitted.weights * (TEST - rebuilt).square()).mean(dim=(1, 2, 3))
    torch.testing.assert_close(fitted.score(TEST), expected, rtol=1e-4, atol=1e-7)


def test_without_steps_it_is_the_autoencoder_with_weights(without_steps: APAE) -> None:
    autoencoder = registry.create("ae", image_size=32, **TRAINING).fit(TRAIN, seed=0)
    errors = (TRAIN - autoencoder.reconstruct(TRAIN)).square()
    weights = 1 / (errors.median(dim=0).values + 1e-3)  # Goodge et al.: 1 / (median + epsilon)
    weights = weights / weights.mean()
    expected = (weights * (TEST - autoencoder.reconstruct(TEST)).square()).mean(dim=(1, 2, 3))
    torch.testing.assert_close(without_steps.score(TEST), expected)
    assert float(without_steps.weights.max() / without_steps.weights.min()) > 1.5, "the weights are all alike"


def test_surrogate_leaves_the_projection_out(fitted: APAE, without_steps: APAE) -> None:
    torch.testing.assert_close(fitted.surrogate_score(TEST), without_steps.score(TEST))
    assert not torch.allclose(fitted.surrogate_score(TEST), fitted.score(TEST), rtol=1e-3)


@pytest.mark.parametrize("differentiate", ["score", "surrogate"])
def test_pgd_and_bpda_attack_the_defended_score(fitted: APAE, differentiate: str) -> None:
    y = torch.tensor([1.0] * 4 + [-1.0] * 4)
    attack = attacks.get("pgd-linf", image_size=32, epsilon=8 / 255, steps=5, differentiate=differentiate)
    result = attack.run(fitted, TEST, y)
    torch.testing.assert_close(result.best_loss, y * fitted.score(result.images), rtol=1e-3, atol=1e-7)
    assert bool((result.best_loss > result.clean_loss).all())
    followed = result.zero_gradients if differentiate == "score" else result.surrogate_zero_gradients
    assert followed is not None and float(followed.max()) == 0.0


def test_curvature_is_the_largest_eigenvalue_of_the_jacobians_gram_matrix() -> None:
    network = small_network()
    code = torch.randn(2, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    start = torch.randn(code.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found = curvature(network.image_of, code, start)
    for i in range(2):
        jacobian = torch.autograd.functional.jacobian(network.image_of, code[i : i + 1]).reshape(-1, code[0].numel())
        largest = float(torch.linalg.eigvalsh(jacobian.T @ jacobian)[-1])
        assert float(found[i]) == pytest.approx(largest, rel=0.1) and float(found[i]) <= largest * (1 + 1e-9)


def test_a_rate_that_would_climb_is_lowered(fitted: APAE) -> None:
    bold = apae(steps=4, rate=1e6, **TRAINING).fit(TRAIN, seed=0)
    assert float(bold.rate) == pytest.approx(1 / bold.fit_report["curvature"])
    errors = [error for _, error in bold.fit_report["projection"]]
    assert errors == sorted(errors, reverse=True)
    shy = apae(steps=4, rate=1e-3, **TRAINING).fit(TRAIN, seed=0)
    assert float(shy.rate) == pytest.approx(1e-3)


def test_settings_that_cannot_be_are_refused() -> None:
    for wrong in ({"steps": -1}, {"rate": 0.0}, {"weight_floor": 0.0}, {"rate": float("nan")}):
        with pytest.raises(DetectorError, match=next(iter(wrong))):
            apae(**wrong)


def test_what_is_kept_gives_the_gradient_of_what_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = apae(steps=4, **TRAINING).fit(TRAIN, seed=0)
    found = []
    with torch.no_grad():
        judged = detector.score(TEST)
    for kept in (10**9, 0):
        monkeypatch.setattr("detectors.apae._KEPT_VALUES", kept)
        leaf = TEST.clone().requires_grad_()
        scores = detector.score(leaf)
        gradients = [torch.autograd.grad(scores.sum(), leaf, retain_graph=True)[0] for _ in range(2)]
        assert torch.equal(*gradients), "a second way back through the same score"
        found.append((scores.detach(), gradients[0]))
    (kept_scores, kept_gradient), (scores, gradient) = found
    assert torch.equal(kept_scores, judged), "the verdict must see the score that the attack saw"
    assert torch.equal(kept_scores, scores)
    assert torch.equal(kept_gradient, gradient)


def test_a_score_in_inference_mode_is_the_score(fitted: APAE) -> None:
    with torch.inference_mode():
        found = fitted.score(TEST)
    assert torch.equal(found, fitted.score(TEST))
