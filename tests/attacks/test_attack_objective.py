import pytest
import torch
from attack_fakes import Detached, Fake, Flat, Linear, NaNWhereDark, NoisyWavy, Saturated, Wavy, images, labels, source

from attacks.errors import GradientCutError
from attacks.objective import Objective, loss, loss_and_gradient
from detectors.errors import ContractError


def test_gradient_is_the_finite_difference_of_y_times_the_score():
    detector, x, y = Wavy(), images(4, dtype=torch.float64), labels(4)
    gradient = loss_and_gradient(detector, x, y, source(4)).gradient
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    up, down = (loss(detector, x + h * direction, y, source(4)) for h in (1e-5, -1e-5))
    torch.testing.assert_close((gradient * direction).flatten(1).sum(1), (up - down) / 2e-5, rtol=1e-6, atol=1e-6)


def test_loss_is_y_times_the_score():
    detector, x, y = Wavy(), images(4), labels(4)
    assert torch.equal(loss_and_gradient(detector, x, y, source(4)).loss, y * detector.score(x))
    assert torch.equal(loss(detector, x, y, source(4)), y * detector.score(x))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradient_exists_whatever_mode_the_caller_is_in(mode):
    detector, y = Wavy(), labels(2)
    expected = loss_and_gradient(detector, images(2), y, source(2))
    with mode():
        found = loss_and_gradient(detector, images(2), y.clone(), source(2))
        surrogate = loss_and_gradient(detector, images(2), y.clone(), source(2), differentiate="surrogate")
    assert torch.equal(found.gradient, expected.gradient)
    assert torch.equal(surrogate.gradient, expected.gradient)
    assert not found.gradient.requires_grad and not found.loss.requires_grad


def test_a_cut_gradient_is_a_sentence_not_a_robust_detector():
    with pytest.raises(GradientCutError, match=r"score of fake has no gradient.*remove"):
        loss_and_gradient(Detached(), images(2), labels(2), source(2))


def test_a_gradient_cut_from_the_image_but_not_from_the_weights_is_found():
    detector = Detached()
    detector.requires_grad_(True)  # the score then has a graph, but not to the image
    with pytest.raises(GradientCutError):
        loss_and_gradient(detector, images(2), labels(2), source(2))
    assert detector.weight.grad is None


def test_a_cut_surrogate_is_named():
    class CutSurrogate(Linear):
        def _surrogate_score(self, x, noise):
            return self._score(x.detach(), noise)

    with pytest.raises(GradientCutError, match="surrogate_score"):
        loss_and_gradient(CutSurrogate(), images(2), labels(2), source(2), differentiate="surrogate")


def test_a_score_that_would_mix_the_images_by_broadcasting_is_refused():
    class Column(Linear):
        def _score(self, x, noise):
            return super()._score(x, noise)[:, None]

    with pytest.raises(ContractError, match="one number per image"):
        loss_and_gradient(Column(), images(2), labels(2), source(2))


def test_eot_gradient_is_the_mean_of_the_single_gradients():
    detector, x, y, noise = NoisyWavy(), images(3), labels(3), source(3).sub(4, 2)
    singles = []
    for i in range(5):
        leaf = x.clone().requires_grad_(True)
        (y * detector.score(leaf, noise=noise.sub(i))).sum().backward()
        singles.append(leaf.grad)
    evaluation = loss_and_gradient(detector, x, y, noise, eot=5)
    torch.testing.assert_close(evaluation.gradient, torch.stack(singles).mean(0))
    losses = torch.stack([y * detector.score(x, noise=noise.sub(i)) for i in range(5)])
    torch.testing.assert_close(evaluation.loss, losses.mean(0))
    assert not torch.allclose(singles[0], singles[1])


def test_bpda_takes_the_surrogates_gradient_and_the_scores_loss():
    detector, x, y = Saturated(), images(3), labels(3)
    plain = loss_and_gradient(detector, x, y, source(3))
    bpda = loss_and_gradient(detector, x, y, source(3), differentiate="surrogate")
    assert plain.is_zero.all()
    assert not bpda.is_zero.any()
    assert torch.equal(bpda.gradient, y[:, None, None, None] * detector.weight.expand(3, -1, -1, -1))
    assert torch.equal(bpda.loss, y * detector.score(x))


def test_zero_gradients_are_told_from_tiny_ones():
    assert loss_and_gradient(Flat(), images(2), labels(2), source(2)).is_zero.all()

    class Tiny(Linear):
        def _score(self, x, noise):
            return 1e-42 * super()._score(x, noise)

    assert not loss_and_gradient(Tiny(), images(2), labels(2), source(2)).is_zero.any()


def test_non_finite_entries_become_zero_and_are_counted_for_their_image_alone():
    x = images(3)
    x[:, 2, -1, -1] = torch.tensor([0.9, 0.1, 0.9])  # image 1 is dark: NaN at its first pixel
    evaluation = loss_and_gradient(NaNWhereDark(), x, labels(3), source(3))
    assert evaluation.is_finite.tolist() == [True, False, True]
    assert not evaluation.is_zero.any()
    assert torch.isfinite(evaluation.gradient).all()
    expected = loss_and_gradient(Linear(), x, labels(3), source(3)).gradient.clone()
    expected[1, 0, 0, 0] = 0
    assert torch.equal(evaluation.gradient, expected)


def test_objective_counts_passes_and_steps():
    objective = Objective(NoisyWavy(), labels(2))
    for step in range(3):
        objective.gradient(images(2), source(2).sub(step), 4)
    assert objective.losses(images(2), source(2, purpose="selection"), 5).shape == (5, 2)
    assert (objective.forwards, objective.gradients) == (3 * 4 + 5, 3 * 4)
    bpda = Objective(Saturated(), labels(2), differentiate="surrogate")
    bpda.gradient(images(2), source(2))
    assert (bpda.forwards, bpda.gradients) == (2, 1)


def test_objective_shares_are_per_image():
    class FlatWhereDark(Fake):
        def _score(self, x, noise):
            return torch.relu(x[:, 2, -1, -1] - 0.5)

    objective = Objective(FlatWhereDark(), labels(2))
    for last_pixel in ([0.1, 0.9], [0.2, 0.9], [0.9, 0.9], [0.9, 0.1]):
        x = images(2)
        x[:, 2, -1, -1] = torch.tensor(last_pixel)
        objective.gradient(x, source(2))
    assert objective.zero_gradients.tolist() == [0.5, 0.25]
    assert objective.non_finite_gradients.tolist() == [0, 0]


def test_eot_of_a_deterministic_detector_costs_one_draw():
    objective = Objective(Wavy(), labels(2))
    objective.gradient(images(2), source(2), 20)
    assert (objective.forwards, objective.gradients) == (1, 1)
