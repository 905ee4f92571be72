"""A smooth maximum of the anomaly map, followed where the score is the map's maximum and noise hides of which pixel."""

import math
from dataclasses import replace

import pytest
import torch
from attack_fakes import SIDE, Fake, Linear, NoisyWavy, Wavy
from torch import Tensor

from attacks import AttackResult, get
from attacks.errors import AttackError, GradientCutError
from attacks.objective import Objective, loss_and_gradient, map_scale, smooth_maximum
from attacks.pgd import PGD, PGDSettings
from attacks.threat import LInf
from detectors.noise import Noise, NoiseSeed


class Peaks(Fake):
    """A map of noisy squares, and its maximum as the score: any of many pixels may be the largest."""

    is_stochastic = has_map = score_is_map_maximum = True
    forwards = 0

    def _anomaly_map(self, x: Tensor, noise: Noise) -> Tensor:
        self.forwards += len(x)
        noisy = x.mean(dim=1) + 0.3 * noise.normal(x.shape[2:], stream="score", like=x)
        return (noisy - 0.5).square()

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        return self._anomaly_map(x, noise).flatten(1).amax(dim=1)


def images(count: int = 8) -> tuple[Tensor, Tensor, Noise]:
    x = torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    return x, torch.tensor([1.0, -1.0] * (count // 2)), NoiseSeed(0).source("attack", [str(i) for i in range(count)])


def test_a_smooth_maximum_lies_above_the_maximum_by_at_most_the_scale_times_log_of_the_pixels():
    maps = torch.rand(5, 6, 7, generator=torch.Generator().manual_seed(0))
    scale = torch.tensor([1e-3, 0.01, 0.1, 1.0, 10.0])
    above = smooth_maximum(maps, scale) - maps.flatten(1).amax(dim=1)
    assert (above >= 0).all() and (above <= scale * math.log(42) + 1e-6).all()
    expected = scale[2] * torch.log(torch.exp(maps[2] / scale[2]).sum())
    torch.testing.assert_close(smooth_maximum(maps, scale)[2], expected)


def test_its_gradient_is_that_of_the_formula_and_the_scale_is_the_clean_maps():
    x, y, noise = images()
    detector = Peaks()
    scale = map_scale(detector, x, noise)
    torch.testing.assert_close(scale, detector.anomaly_map(x, noise=noise).flatten(1).std(dim=1))
    found = loss_and_gradient(detector, x, y, noise, differentiate="map", scale=scale, eot=2)
    leaf = x.clone().requires_grad_()
    expected = torch.zeros(())
    for draw in range(2):
        maps = detector.anomaly_map(leaf, noise=noise.sub(draw)).flatten(1)
        expected = expected + (y * scale * torch.logsumexp(maps / scale[:, None], dim=1)).sum() / 2
    (gradient,) = torch.autograd.grad(expected, leaf)
    torch.testing.assert_close(found.gradient, gradient)
    assert ((found.gradient != 0).flatten(1).double().mean(dim=1) > 0.9).all(), "it reaches all pixels"


def test_without_a_scale_it_is_refused_and_a_flat_map_has_one_above_zero():
    x, y, noise = images()
    with pytest.raises(AttackError, match="map_scale"):
        loss_and_gradient(Peaks(), x, y, noise, differentiate="map")

    class Flat(Peaks):
        def _anomaly_map(self, x: Tensor, noise: Noise) -> Tensor:
            return 0 * x.mean(dim=1)

    assert (map_scale(Flat(), x, noise) > 0).all()


def test_a_map_without_a_graph_is_named():
    class Cut(Peaks):
        def _anomaly_map(self, x: Tensor, noise: Noise) -> Tensor:
            return super()._anomaly_map(x.detach(), noise)

    x, y, noise = images()
    with pytest.raises(GradientCutError, match="anomaly_map"):
        loss_and_gradient(Cut(), x, y, noise, differentiate="map", scale=torch.ones(8))


SMOOTH = PGDSettings(steps=15, eot=2, momentum=0.9, schedule="cosine", smooth_map=True)


def test_auto_follows_it_of_a_stochastic_detector_whose_score_is_its_maps_maximum_and_the_protocol_says_so():
    def followed(detector: Fake, **changed: object) -> str:
        return PGD(LInf(0.05), replace(SMOOTH, **changed)).settled(detector).settings.differentiate

    class Mean(Peaks):
        score_is_map_maximum = False

    class Deterministic(Peaks):
        is_stochastic = False

    assert followed(Peaks()) == followed(Peaks(), differentiate="map") == "map"
    assert followed(Peaks(), smooth_map=False) == followed(Peaks(), differentiate="score") == "score"
    assert followed(Mean()) == followed(Deterministic()) == "score"
    assert followed(Wavy(), differentiate="map") == "score", "without a map there is the score's to follow"
    assert PGD(LInf(0.05), SMOOTH).settled(Wavy()).settings.smooth_map is False


def test_it_finds_more_than_the_scores_own_gradient_under_noise():
    x, y, noise = images(40)
    detector = Peaks()
    selection = NoiseSeed(0).source("selection", noise.image_ids)
    verdict = NoiseSeed(1).source("verdict", noise.image_ids)

    def left(settings: PGDSettings) -> float:
        found = PGD(LInf(0.05), settings).run(detector, x, y, noise=noise, selection=selection)
        losses = Objective(detector, y).losses(found.images, verdict, 60)
        return float(losses.mean())

    assert left(SMOOTH) > left(replace(SMOOTH, smooth_map=False)) > left(replace(SMOOTH, steps=1, eot=1))


def test_candidates_are_compared_by_the_score_and_a_step_costs_no_pass_more():
    x, y, noise = images()
    detector = Peaks()
    attack = PGD(LInf(0.05), SMOOTH)
    found = attack.run(detector, x, y, noise=noise)
    assert found.gradients == 30 and not found.zero_gradients.any()
    assert found.forwards == 30 + 2 + 3 * 16, "gradients, the last loss, three candidates on the selection's draws"
    plain = PGD(LInf(0.05), replace(SMOOTH, smooth_map=False)).run(detector, x, y, noise=noise)
    torch.testing.assert_close(found.clean_loss, plain.clean_loss)


class Still(Linear):
    """The score is the maximum of two halves' sums, and the map has both: whoever follows the score sees one half."""

    has_map = score_is_map_maximum = True

    def _anomaly_map(self, x: Tensor, noise: Noise) -> Tensor:
        return (self.weight * torch.sin(3 * x)).sum(dim=1)

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        return self._anomaly_map(x, noise).flatten(1).amax(dim=1)


class Monotone(Still):
    has_surrogate = surrogate_is_monotone = True

    def _surrogate_score(self, x: Tensor, noise: Noise) -> Tensor:
        return 3 * self._score(x, noise) + 1


@pytest.mark.parametrize("detector", [Still(), Monotone()], ids=["still", "monotone"])
def test_of_a_deterministic_detector_it_is_followed_where_it_is_asked_for_and_the_score_compares(
    detector: Still,
) -> None:
    x, y, noise = images()

    def run(**settings: object) -> AttackResult:
        return PGD(LInf(0.1), PGDSettings(steps=12, **settings)).run(detector, x, y, noise=noise)  # type: ignore[arg-type]

    along_map, along_score = run(differentiate="map"), run(differentiate="score")
    assert not torch.equal(along_map.images, along_score.images) and along_map.gradients == 12
    attack = PGD(LInf(0.1), PGDSettings(differentiate="map"))
    torch.testing.assert_close(along_map.best_loss, attack.compared_loss(detector, along_map.images, y, noise))
    up = y > 0  # a maximum is pushed down pixel by pixel, where the smooth one sees them all
    lowered = [(y * detector.score(f.images) - y * detector.score(x))[~up].mean() for f in (along_map, along_score)]
    assert lowered[0] > lowered[1] > 0
    enough = along_map.clean_loss + 0.5 * (along_map.best_loss - along_map.clean_loss)
    early = attack.run(detector, x, y, noise=noise, enough=enough)
    assert early.had_enough is not None and early.had_enough.all()
    other = attack.along_the_score(detector)
    assert other is not None and other.follows(detector) == "score"
    assert PGD(LInf(0.05), SMOOTH).follows(Still()) == "score", "unasked, the score's own"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("pgd-linf", "map"), ("pgd-l2", "map"), ("apgd-linf", "map"), ("apgd-l2", "mean-map"), ("patch", "map")],
)
@pytest.mark.parametrize("detector", [Wavy(), NoisyWavy()], ids=["still", "noisy"])
def test_a_detector_without_a_map_is_no_silent_other_attack(name: str, wanted: str, detector: Fake) -> None:
    x, y, _ = images()
    attack = get(name, differentiate=wanted, image_size=SIDE)
    with pytest.raises(AttackError, match=rf"{name} is told to follow the anomaly map .*{wanted}.* fake has none"):
        attack(detector, x, y)
    # A run over many detectors settles the attack on each, and its record says what was followed.
    assert attack.settled(detector).describe()["differentiate"] == "score"
    assert torch.isfinite(attack.settled(detector).run(detector, x, y).best_loss).all()


def test_along_the_score_is_another_attack_where_the_map_is_followed():
    attack = PGD(LInf(0.05), SMOOTH)
    other = attack.along_the_score(Peaks())
    assert other is not None and other.settled(Peaks()).settings.differentiate == "score"
    assert other.along_the_score(Peaks()) is None and attack.settings == SMOOTH
