"""Broken detectors fail the contract's checks: each of these bugs would make a robustness number a lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import contract_checks as checks
import pytest
import torch
from detector_pictures import anomalous_pictures, normal_pictures
from torch import Tensor

from detectors.base import Detector, Progress, Settings
from detectors.noise import Noise

SIZE = 16
NORMALS = normal_pictures(8, SIZE, seed=1)
IMAGES = torch.cat([normal_pictures(3, SIZE, seed=2), anomalous_pictures(2, SIZE, seed=3)])


@dataclass(frozen=True)
class NoSettings(Settings):
    pass


class Honest(Detector):
    """Mean squared distance to the mean normal image, which every check must let pass."""

    name, title, paper = "honest", "Honest", "test"
    centre: Tensor

    def __init__(self) -> None:
        super().__init__(NoSettings(), SIZE)
        self.register_buffer("centre", torch.zeros(3, SIZE, SIZE))

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> Settings:
        return NoSettings()

    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        self.centre.copy_(normals.mean(dim=0))

    def _distance(self, x: Tensor) -> Tensor:
        return (x - self.centre).square().mean(dim=(1, 2, 3))

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        return self._distance(x)


class HonestStochastic(Honest):
    is_stochastic = True

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        return self._distance(x + 0.1 * noise.normal(x.shape[1:], stream="blur", like=x))


class CutGradient(Honest):
    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        return self._distance(x) + self._distance(x.detach())


class PartlyCutGradient(Honest):
    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        left, right = x.chunk(2, dim=3)
        return self._distance(torch.cat([left, right.detach()], dim=3))


class NoGradient(Honest):
    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        return self._distance(x.detach()) + 0 * x.mean(dim=(1, 2, 3))


class StraightThroughRounding(Honest):
    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        return self._distance(x + ((x * 255).round() / 255 - x).detach())


class Saturating(Honest):
    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        return self._distance(x).clamp(max=0.01)


class NoiseRedrawnInBackward(HonestStochastic):
    """Its gradient belongs to other noise than its score."""

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        honest, other = super()._score(x, noise), super()._score(x, noise.at(5))
        return other + (honest - other).detach()


class BatchStatistic(Honest):
    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        distance = self._distance(x)
        return distance / distance.max()


class DetachedBatchStatistic(Honest):
    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        return self._distance(x - 0.01 * x.mean(dim=0, keepdim=True).detach())


class Counter(Honest):
    calls = 0

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        self.calls += 1
        return self._distance(x) + 1e-4 * self.calls


class MovingAverage(Honest):
    """Learns from what it scores."""

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        distance = self._distance(x)
        self.centre.lerp_(x.detach().mean(dim=0), 0.01)
        return distance


class DependsOnGradientMode(Honest):
    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        return self._distance(x) * (1.0 if torch.is_grad_enabled() else 1.01)


class GlobalNoise(Honest):
    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        return self._distance(x + 0.01 * torch.randn_like(x))


class ReseedsTheWorld(Honest):
    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        torch.manual_seed(0)
        return self._distance(x)


class PretendsToBeStochastic(Honest):
    is_stochastic = True


class PretendsToBeDeterministic(HonestStochastic):
    is_stochastic = False


class FixedNoiseByDefault(HonestStochastic):
    def score(self, x: Tensor, *, noise: Noise | None = None) -> Tensor:
        return super().score(x, noise=noise or checks.source(len(x)))


class NoiseByPosition(HonestStochastic):
    """Draws for the whole batch at once: an image's noise depends on its neighbours."""

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        draws = torch.Generator().manual_seed(noise.draw[0])
        return self._distance(x + 0.1 * torch.randn(x.shape, generator=draws).to(x))


class SinglePrecisionInside(Honest):
    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        return self._distance(x.float())


class CutInSinglePrecision(Honest):
    """Finite differences, in float64, find nothing wrong with it."""

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        kept = torch.arange(SIZE) % 8 == 0
        return self._distance(x if x.dtype == torch.float64 else torch.where(kept, x, x.detach()))


class SwallowsNaN(Honest):
    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        return self._distance(x.nan_to_num())


class ChangesItsInput(Honest):
    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        distance = self._distance(x)
        x.detach().mul_(0.5)
        return distance


class Constant(Honest):
    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        return 0 * self._distance(x)


class SecretSurrogate(Honest):
    """Attacks would not know that there is another gradient to follow."""

    def _surrogate_score(self, x: Tensor, noise: Noise) -> Tensor:
        return self._distance(x).log()


class SurrogateInNameAlone(Honest):
    has_surrogate = True


class FitsFromGlobalRandomness(Honest):
    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        self.centre.copy_(normals[torch.randperm(len(normals))[:4]].mean(dim=0))


class SeedsTheWorldInFit(Honest):
    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        torch.manual_seed(seed)
        self.centre.copy_(normals[torch.randperm(len(normals))[:4]].mean(dim=0))


class StartsWhereItsLastFitEnded(Honest):
    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        self.centre.lerp_(normals.mean(dim=0), 0.9)


def reproducible(detector: Detector, x: Tensor) -> None:
    checks.check_fit_is_reproducible(type(detector), detector, NORMALS, seed=0)


ALL: tuple[Callable[[Any, Tensor], object], ...] = (
    checks.check_score_has_one_number_per_image,
    checks.check_gradient_lives,
    checks.check_finite_differences,
    checks.check_float32_gradient,
    checks.check_ignores_batch_neighbours,
    checks.check_ignores_gradient_mode,
    checks.check_ignores_its_history,
    checks.check_stays_in_evaluation_mode,
    checks.check_ignores_global_randomness,
    checks.check_noise_is_honest,
    checks.check_follows_the_dtype,
    checks.check_refuses_what_is_no_image,
    checks.check_passes_nan_on,
    checks.check_surrogate_is_declared,
    reproducible,
)

BROKEN = [
    (CutGradient, checks.check_finite_differences),
    (PartlyCutGradient, checks.check_finite_differences),
    (NoGradient, checks.check_gradient_lives),
    (StraightThroughRounding, checks.check_finite_differences),
    (Saturating, checks.check_gradient_lives),
    (NoiseRedrawnInBackward, checks.check_finite_differences),
    (BatchStatistic, checks.check_ignores_batch_neighbours),
    (DetachedBatchStatistic, checks.check_ignores_batch_neighbours),
    (Counter, checks.check_ignores_its_history),
    (MovingAverage, checks.check_ignores_its_history),
    (DependsOnGradientMode, checks.check_ignores_gradient_mode),
    (GlobalNoise, checks.check_ignores_global_randomness),
    (ReseedsTheWorld, checks.check_ignores_global_randomness),
    (PretendsToBeStochastic, checks.check_noise_is_honest),
    (PretendsToBeDeterministic, checks.check_noise_is_honest),
    (FixedNoiseByDefault, checks.check_noise_is_honest),
    (NoiseByPosition, checks.check_ignores_batch_neighbours),
    (SinglePrecisionInside, checks.check_finite_differences),
    (CutInSinglePrecision, checks.check_float32_gradient),
    (SwallowsNaN, checks.check_passes_nan_on),
    (ChangesItsInput, checks.check_score_has_one_number_per_image),
    (Constant, checks.check_score_has_one_number_per_image),
    (SecretSurrogate, checks.check_surrogate_is_declared),
    (SurrogateInNameAlone, checks.check_surrogate_is_declared),
    (FitsFromGlobalRandomness, reproducible),
    (SeedsTheWorldInFit, reproducible),
    (StartsWhereItsLastFitEnded, reproducible),
]


@pytest.mark.parametrize("check", ALL)
@pytest.mark.parametrize("kind", [Honest, HonestStochastic])
def test_honest_detectors_pass_every_check(kind: type[Honest], check: Callable[[Any, Tensor], object]) -> None:
    check(kind().fit(NORMALS, seed=0), IMAGES.clone())


@pytest.mark.parametrize(("kind", "check"), BROKEN)
def test_a_broken_detector_fails_its_check(kind: type[Honest], check: Callable[[Any, Tensor], object]) -> None:
    detector = kind().fit(NORMALS, seed=0)
    with pytest.raises(AssertionError):
        check(detector, IMAGES.clone())


def test_differences_alone_would_let_a_cut_in_float32_pass() -> None:
    checks.check_finite_differences(CutInSinglePrecision().fit(NORMALS, seed=0), IMAGES.clone())


def test_an_auc_below_the_floor_is_noticed() -> None:
    detector = Honest().fit(NORMALS, seed=0)
    with pytest.raises(AssertionError, match="below"):
        checks.check_beats(detector, anomalous_pictures(6, SIZE, seed=3), normal_pictures(6, SIZE, seed=2), 90)
