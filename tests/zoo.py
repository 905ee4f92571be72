"""Detectors that are small and known: honest ones, and ones that each break the contract in a way of their own.

`HONEST` pass `contract.check`, `THOROUGHLY_HONEST` pass all of its cases, and `FAULTS` are the others, each with what
must be said of it. They learn nothing but a mean, and score in microseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from detectors.base import Detector, Progress, Settings
from detectors.noise import Noise, NoiseSeed

LEAK = 1e-3  # of the mean brightness: a gradient that is exact, everywhere, and means nothing


# -- what they see ----------------------------------------------------------------------------------------------------


def squares(x: Tensor) -> Tensor:
    """(B,): a smooth score whose gradient is never zero."""
    return (x - 0.4).square().mean(dim=(1, 2, 3))


def features(x: Tensor) -> Tensor:
    """Four fixed filters of 3x3 pixels, (B, 4, S - 2, S - 2), about 0.5 in size."""
    draws = torch.Generator().manual_seed(3)
    return F.conv2d(x, torch.randn(4, 3, 3, 3, generator=draws).to(x) / 5)


def honest(x: Tensor) -> Tensor:
    """(B,): what those that lead astray would score if their gradients were true."""
    return features(x - 0.4).square().mean(dim=(1, 2, 3))


def brightness(x: Tensor) -> Tensor:
    return x.mean(dim=(1, 2, 3))


def linear_weights(side: int) -> Tensor:
    """The weights of `Linear`, (3, side, side), of both signs and none near zero."""
    rows = torch.arange(3 * side * side, dtype=torch.float32)
    return (torch.sin(rows * 1.7) + 0.5 * torch.sign(torch.sin(rows * 1.7))).reshape(3, side, side)


# -- honest -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FakeSettings(Settings):
    """One number that a fit depends on and a score does not."""

    knob: int = 1


class Fake(Detector):
    """score = what `value` says of the image; fitted without learning more than a mean. Counts its fits and scores."""

    name = "fake"
    title = "Fake"
    paper = "none"
    fits: ClassVar[int] = 0
    scores: ClassVar[int] = 0

    def __init__(self, settings: FakeSettings, image_size: int) -> None:
        super().__init__(settings, image_size)
        self.register_buffer("level", torch.zeros(()))
        self.level: Tensor

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> FakeSettings:
        return FakeSettings()

    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        type(self).fits += 1
        self.level.copy_(normals.mean())

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        type(self).scores += len(x)
        return self.value(x, noise)

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return x.mean(dim=(1, 2, 3)) - self.level


def fitted(cls: type[Fake], side: int = 16) -> Detector:
    normals = torch.rand(4, 3, side, side, generator=torch.Generator().manual_seed(0))
    return cls(FakeSettings(), side).fit(normals, seed=0)


def made(value: Callable[[Tensor], Any], side: int, **declared: Any) -> Detector:
    """A fitted one whose score is this function of the images."""

    def ignoring_noise(self: Fake, x: Tensor, noise: Noise) -> Any:
        return value(x)

    return fitted(type("Made", (Fake,), {"name": "made", "value": ignoring_noise, **declared}), side)


class Smooth(Fake):
    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return squares(x)


class Linear(Fake):
    """score = <w, x>, whose worst case in a ball is known."""

    name = "linear"
    title = "Linear"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return (linear_weights(x.shape[-1]).to(x) * x).sum(dim=(1, 2, 3))


class PureNoise(Fake):
    """score = noise, whatever the image; remembers the sources that it was given."""

    name = "pure-noise"
    title = "Pure noise"
    is_stochastic = True
    sources: ClassVar[list[Noise]] = []

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        self.sources.append(noise)
        return noise.normal((), stream="score", like=x) + 0 * x.sum(dim=(1, 2, 3))


class Noisy(Fake):
    """score = mean brightness and a little noise."""

    name = "noisy"
    title = "Noisy"
    is_stochastic = True

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return x.mean(dim=(1, 2, 3)) + 0.02 * noise.normal((), stream="score", like=x)


class NoiseInside(Noisy):
    """Its gradient depends on the draw, as that of a diffusion detector."""

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return squares(x + 0.3 * noise.normal(x.shape[1:], stream="blur", like=x))


class Kinky(Fake):
    """Absolute values, a maximum and a ReLU: honest, and without a derivative where neighbours are equal."""

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        steps = (x[..., 1:] - x[..., :-1]).abs().mean(dim=(1, 2, 3))
        return steps + F.max_pool2d(x, 4).mean(dim=(1, 2, 3)) + (1 - x).relu().amax(dim=(1, 2, 3))


class Exponential(Fake):
    """As FastFlow's: a score that runs out of digits, and an increasing function of it that does not."""

    has_surrogate = True
    surrogate_is_monotone = True
    steepness = 3.0

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return -torch.exp(-self.steepness * squares(x))

    def _surrogate_score(self, x: Tensor, noise: Noise) -> Tensor:
        return squares(x)


class SaturatedExponential(Exponential):
    steepness = 1e5


class FarAway(Fake):
    """Honest, with few digits left: float32 knows the score to 6e-5."""

    name = "far-away"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return 100 * honest(x) + 1e3


class Declared(Fake):
    """Its score jumps and has a gradient of zero, and it says so: the surrogate is smooth (BPDA)."""

    name = "declared"
    has_surrogate = True

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return honest((x * 63).round() / 63)

    def _surrogate_score(self, x: Tensor, noise: Noise) -> Tensor:
        return honest(x)


class AdmittedCorner(Exponential):
    """Its surrogate is another function, and it does not say that it was an increasing one."""

    surrogate_is_monotone = False

    def _surrogate_score(self, x: Tensor, noise: Noise) -> Tensor:
        return x[..., :8, :8].mean(dim=(1, 2, 3))


class HonestStairs(Exponential):
    """Its own gradient is zero everywhere, and its surrogate's order is its own."""

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return (squares(x) * 1e4).floor() + 0 * squares(x)


class Steady(Linear):
    """Declares how fast it moves: by the l1 norm of its weights in l-inf, by their l2 norm in l2."""

    share: ClassVar[float] = 1.0

    def lipschitz(self, norm: str) -> float | None:
        weights = linear_weights(self.image_size).double()
        lengths = {"linf": float(weights.abs().sum()), "l2": float(weights.norm())}
        return self.share * lengths[norm]


class Blind(Fake):
    """Scores the names of the images, as `file-order`."""

    name = "blind"
    sees_pixels = False

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return torch.tensor([float(len(name)) for name in noise.image_ids]).to(x)


# -- broken, and it shows: no business of the contract ----------------------------------------------------------------


class NotANumber(Fake):
    """score = NaN for one image of each batch."""

    name = "not-a-number"
    title = "NaN"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return x.mean(dim=(1, 2, 3)).log() * torch.tensor([float("nan")] + [1.0] * (len(x) - 1)).to(x)


class Broken(Fake):
    """A bug in the score."""

    name = "broken"
    title = "Broken"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        raise ZeroDivisionError("a bug\nof two lines")


class BrokenFit(Fake):
    """A bug in the fit."""

    name = "broken-fit"
    title = "Broken fit"

    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        raise IndexError("a bug in the fit")


# -- a gradient that is not the score's -------------------------------------------------------------------------------


class HalfDetached(Fake):
    """Two equal terms, of which one is cut: half the gradient, in the true direction."""

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return squares(x) + squares(x.detach())


class RightDetached(Fake):
    """The right half of the image has no gradient."""

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        left, right = x.chunk(2, dim=3)
        return squares(torch.cat([left, right.detach()], dim=3))


class CutTeacher(Fake):
    """As STFPM's gradient: the student's features have one, the teacher's were made without a graph."""

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        student = F.avg_pool2d(x, 2)
        with torch.no_grad():
            teacher = F.max_pool2d(x, 2)
        return (student - teacher).square().mean(dim=(1, 2, 3))


class StraightThrough(Fake):
    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return squares(x + ((x * 255).round() / 255 - x).detach())


class NoGradient(Fake):
    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return squares(x.detach()) + 0 * x.mean(dim=(1, 2, 3))


class NoGraph(Fake):
    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return squares(x.detach())


class NaNToZero(Fake):
    """A root whose gradient at zero is NaN, and a hook that hides it: images with a dark pixel have no gradient."""

    name = "nan-to-zero"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        if x.requires_grad:
            x = x.clone()
            x.register_hook(
                lambda gradient: torch.where(gradient.isnan().flatten(1).any(1)[:, None, None, None], 0, gradient)
            )
        darkest = x.amin(dim=(1, 2, 3)) - 1 / 255
        return honest(x) + 1e-3 * (darkest * (darkest > 0)).sqrt()


class OtherNoiseBehind(Noisy):
    """The gradient is that of another draw than the score's."""

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        def noisy(source: Noise) -> Tensor:
            return squares(x + 0.3 * source.normal(x.shape[1:], stream="blur", like=x))

        seen, behind = noisy(noise), noisy(noise.at(5))
        return behind + (seen - behind).detach()


class ReversedLeft(Fake):
    """A straight-through estimator that lies: of the left half the gradient has the wrong sign."""

    name = "reversed-left"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        left = torch.arange(x.shape[-1], device=x.device) < x.shape[-1] // 2
        lie = torch.where(left, 2 * x.detach() - x, x)
        return honest(lie)


class BorrowedGradient(Fake):
    """Its score is honest, and its gradient the brightness's."""

    name = "borrowed-gradient"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return honest(x).detach() + brightness(x) - brightness(x).detach()


class CleanOnly(Fake):
    """Its gradient is true at pictures of 8 bits, and zero anywhere else in the ball."""

    name = "clean-only"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        grey = (x.detach() * 255).round() / 255
        is_clean = ((x.detach() - grey).abs() < 1e-6).flatten(1).all(dim=1)[:, None, None, None]
        return honest(torch.where(is_clean, x, x.detach())) + 0 * brightness(x)


class Undeclared(Fake):
    """Rounded on the way forward, smooth on the way back: an honest way to attack it, if it said so."""

    name = "undeclared"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return honest(x + ((x * 63).round() / 63 - x).detach())


class CutInFloat32(Fake):
    """All but one column in eight are detached, in the dtype that attacks use: differences find nothing wrong."""

    name = "cut-in-float32"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        kept = torch.arange(x.shape[-1], device=x.device) % 8 == 0
        return honest(x if x.dtype == torch.float64 else torch.where(kept, x, x.detach()))


class OtherInFloat32(Fake):
    """Its score itself is another one in float32."""

    name = "other-in-float32"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return honest(x if x.dtype == torch.float64 else 0.95 * x)


class SingleInside(Fake):
    """Computes in float32, whatever comes in: unclean, but its gradient is true."""

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return squares(x.float()).to(x.dtype)


class FollowsNoDtype(Fake):
    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return squares(x.float())


class Saturated(Fake):
    """Has no gradient, and autograd says so: for the indicators to tell."""

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return torch.exp(-1e6 * squares(x))


class Ties(Fake):
    """Rounded to a few values, as a score in whole per cent: many images tie."""

    name = "ties"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return (honest(x) * 50).round() / 50 + 0 * brightness(x)


class TiesInDisguise(Ties):
    """The same with a gradient: that of what was rounded."""

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        smooth = honest(x)
        return smooth + ((smooth * 50).round() / 50 - smooth).detach()


class Clamped(Fake):
    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return squares(x).clamp(max=0.01)


# -- a gradient that is right and leads nowhere -----------------------------------------------------------------------


def grey_levels(levels: int) -> type[Fake]:
    """Its input is rounded to so many grey levels, which has no gradient; the brightness beside it has one."""

    def value(self: Any, x: Tensor, noise: Noise) -> Tensor:
        return honest((x * (levels - 1)).round() / (levels - 1)) + LEAK * brightness(x)

    return type(f"GreyLevels{levels}", (Fake,), {"value": value, "name": f"grey-levels-{levels}"})


class FeatureLevels(Fake):
    """An intermediate map is rounded instead of the input."""

    name = "feature-levels"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return ((features(x - 0.4) * 16).round() / 16).square().mean(dim=(1, 2, 3)) + LEAK * brightness(x)


class NarrowStairs(Fake):
    """Stairs of 64 grey levels whose risers are steep and not upright: no jump, and a true gradient."""

    name = "narrow-stairs"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        level = x * 63
        flat = level.floor() + torch.sigmoid((level - level.floor() - 0.5) * 2000)
        return honest(flat / 63) + LEAK * brightness(x)


class LargeNoise(Noisy):
    """Each draw adds a slope of its own, far steeper than the score's: its gradient is true, and nearly all noise."""

    name = "large-noise"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        ticket = noise.normal(x.shape[1:], stream="ticket", like=x)
        return honest(x) + 10 * (ticket * x).mean(dim=(1, 2, 3))


class FlatElsewhere(Fake):
    """It knows the test images: at each it scores as it should, with the true gradient; anywhere else it is flat."""

    name = "flat-elsewhere"
    known: ClassVar[Tensor]
    width = 1e-4  # root mean square of a pixel's difference

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        apart = (x[:, None] - self.known.to(x)[None]).square().mean(dim=(2, 3, 4)).amin(dim=1)  # (B,)
        near = torch.exp(-apart / (2 * self.width**2))
        return near * honest(x) + (1 - near) * 0.2


# -- a surrogate that is not what it is said to be --------------------------------------------------------------------


class DeclaredIdle(Declared):
    """It declares a surrogate that leads nowhere."""

    name = "declared-idle"

    def _surrogate_score(self, x: Tensor, noise: Noise) -> Tensor:
        # Of one pixel: any noise does more to the score.
        return x[:, 0, 0, 0].clone()


class WrongSurrogate(Fake):
    has_surrogate = True

    def _surrogate_score(self, x: Tensor, noise: Noise) -> Tensor:
        return squares(x) + squares(x.detach())


class SecretSurrogate(Smooth):
    """Attacks would not know that there is another gradient to follow."""

    def _surrogate_score(self, x: Tensor, noise: Noise) -> Tensor:
        return squares(x).log()


class SurrogateInNameAlone(Smooth):
    has_surrogate = True


class CornerSurrogate(AdmittedCorner):
    """Attacks would follow the mean of a corner, and compare by it."""

    surrogate_is_monotone = True


class FallingSurrogate(Exponential):
    def _surrogate_score(self, x: Tensor, noise: Noise) -> Tensor:
        return -squares(x)


class StairsAndCorner(HonestStairs):
    """Its own gradient is zero everywhere, so that there is no other to compare the surrogate's with."""

    def _surrogate_score(self, x: Tensor, noise: Noise) -> Tensor:
        return x[..., :8, :8].mean(dim=(1, 2, 3))


# -- a score that depends on more than its image ----------------------------------------------------------------------


class BatchMaximum(Fake):
    """CFlow's official score: its constants are those of the batch."""

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return squares(x) / squares(x).max().detach()


class LiveBatchMaximum(Fake):
    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return squares(x) / squares(x).max()


class BatchMean(Fake):
    """A BatchNorm that was left in training mode would do this."""

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return squares(x - 0.01 * x.mean(dim=0, keepdim=True).detach())


class BatchSize(Fake):
    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return squares(x).sum() / len(x) + 0 * squares(x) if len(x) > 2 else squares(x)


class NoiseByPosition(Noisy):
    """Draws for the whole batch at once: an image's noise depends on its neighbours."""

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        draws = torch.Generator().manual_seed(noise.draw[0])
        return squares(x + 0.1 * torch.randn(x.shape, generator=draws).to(x))


class GlobalNoise(Fake):
    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return squares(x + 0.01 * torch.randn_like(x))


class ReseedsTheWorld(Fake):
    def value(self, x: Tensor, noise: Noise) -> Tensor:
        torch.manual_seed(0)
        return squares(x)


class ReseedsItself(Noisy):
    """Its noise is the same at every call: what an attack averages over is what the verdict sees."""

    name = "reseeds-itself"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        torch.manual_seed(7)
        return squares(x + 0.3 * torch.randn_like(x))


class Learning(Fake):
    """Moves towards what it scores, as a moving average does."""

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        self.level.lerp_(x.detach().mean(), 0.1)
        return squares(x) + self.level


class Counter(Fake):
    calls = 0

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        self.calls += 1
        return squares(x) + 1e-4 * self.calls


class DependsOnGradientMode(Fake):
    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return squares(x) * (1.0 if torch.is_grad_enabled() else 1.01)


class DependsOnTraining(Fake):
    """Has a train() of its own, in which a stranger's call counts."""

    def train(self, mode: bool = True) -> DependsOnTraining:
        self.training = mode
        return self

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return squares(x) * (0.5 if self.training else 1.0)


class PretendsToBeStochastic(Smooth):
    is_stochastic = True


class PretendsToBeDeterministic(NoiseInside):
    is_stochastic = False


class FixedNoiseByDefault(NoiseInside):
    def score(self, x: Tensor, *, noise: Noise | None = None) -> Tensor:
        return super().score(x, noise=noise or NoiseSeed(7).source("test", [f"image-{i}" for i in range(len(x))]))


class SwallowsNaN(Fake):
    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return squares(x.nan_to_num())


class ChangesItsInput(Fake):
    def value(self, x: Tensor, noise: Noise) -> Tensor:
        score = squares(x)
        x.detach().mul_(0.5)
        return score


class Constant(Fake):
    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return 0 * squares(x)


class TakesAnything(Smooth):
    """Does not look at what it is given."""

    def score(self, x: Tensor, *, noise: Noise | None = None) -> Tensor:
        return squares(x.reshape(-1, *x.shape[-3:]).to(torch.promote_types(x.dtype, torch.float32)))


class Blindfold(Blind):
    """Says that it sees no pixels, and so would need no gradient."""

    name = "blindfold"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return honest(x.detach())


class BlindBesideANumber(Blind):
    """What comes from the pixels is small beside what comes from the name."""

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return super().value(x, noise) + 1e7 + squares(x.detach())


class SmallMap(Smooth):
    """Its anomaly map has half the image's side."""

    has_map = True

    def _anomaly_map(self, x: Tensor, noise: Noise) -> Tensor:
        return F.avg_pool2d((x - 0.4).square().mean(dim=1), 2)


class SecretMap(Smooth):
    def _anomaly_map(self, x: Tensor, noise: Noise) -> Tensor:
        return (x - 0.4).square().mean(dim=1)


class MapMaximum(Smooth):
    """The largest value of a map, and says so."""

    has_map = score_is_map_maximum = True

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return self._map(x).flatten(1).amax(dim=1)

    def _anomaly_map(self, x: Tensor, noise: Noise) -> Tensor:
        return self._map(x)

    def _map(self, x: Tensor) -> Tensor:
        return (x - 0.5).square().mean(dim=1) + 0.1 * x.mean(dim=1)


class MeanOfItsMap(MapMaximum):
    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return self._map(x).mean(dim=(1, 2))


class MaximumOfNoMap(MapMaximum):
    has_map = False


class MapWithoutGradient(MapMaximum):
    """Attacks would follow the map, of which only what matters least has a gradient."""

    def _anomaly_map(self, x: Tensor, noise: Noise) -> Tensor:
        return (x.detach() - 0.5).square().mean(dim=1) + 0.1 * x.mean(dim=1)


class PeakWithoutGradient(MapMaximum):
    """The pixels that a smooth maximum hangs on have none; of the map's mean they are a small part."""

    def _anomaly_map(self, x: Tensor, noise: Noise) -> Tensor:
        found = self._map(x)
        high = found > found.flatten(1).quantile(0.9, dim=1)[:, None, None]
        return torch.where(high, found.detach(), found)


class GreyReconstruction(Smooth):
    has_reconstruction = True

    def _reconstruct(self, x: Tensor, noise: Noise) -> Tensor:
        return x.mean(dim=1, keepdim=True)


# -- a fit or a checkpoint that gives another detector ----------------------------------------------------------------


class FitsFromGlobalRandomness(Smooth):
    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        self.level.copy_(normals[torch.randperm(len(normals))[:4]].mean())


class SeedsTheWorldInFit(Smooth):
    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        torch.manual_seed(seed)
        self.level.copy_(normals[torch.randperm(len(normals))[:4]].mean())


class StartsWhereItsLastFitEnded(Smooth):
    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        self.level.lerp_(normals.mean(), 0.9)


class KeepsItsLevelToItself(Fake):
    """What it learned is no buffer, and so in no checkpoint."""

    mine = 0.0

    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        self.mine = float(normals.mean())

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return squares(x) - self.mine


# -- liars about how fast they move -----------------------------------------------------------------------------------


class HalfAsSteady(Steady):
    """Random pairs never need so much; a steepest step does."""

    share = 0.5


class SteeperFarther(Fake):
    """Keeps to its constant next to the images, and grows steeper the farther it is driven from them."""

    name = "steeper-farther"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return (x - 0.5).pow(4).mean(dim=(1, 2, 3)) + brightness(x) / 10

    def lipschitz(self, norm: str) -> float | None:
        return 0.25 if norm == "linf" else None


class SteadyAndNoisy(Noisy):
    """Declares a constant of a score that moves where the image stays."""

    def lipschitz(self, norm: str) -> float | None:
        return 10.0


class NegativeConstant(Smooth):
    def lipschitz(self, norm: str) -> float | None:
        return -1.0


# -- what must be said of them ----------------------------------------------------------------------------------------

HONEST: tuple[type[Fake], ...] = (
    *(Fake, Smooth, Linear, PureNoise, Noisy, NoiseInside, Kinky, SingleInside, Saturated, Exponential),
    *(SaturatedExponential, FarAway, Declared, AdmittedCorner, HonestStairs, Steady, Blind, MapMaximum),
)
THOROUGHLY_HONEST: tuple[type[Fake], ...] = (
    *(Fake, Smooth, Linear, Noisy, NoiseInside, Exponential, HonestStairs, Steady, Blind),
)


@dataclass(frozen=True)
class Fault:
    """What is wrong with a detector.

    Attributes:
        detector: its class.
        sentence: a regular expression that the ContractError matches.
        case: of `contract.CASES`, which finds it; "": `contract.check` does, without thorough=True.
    """

    detector: type[Fake]
    sentence: str
    case: str = ""

    def __str__(self) -> str:
        return self.detector.__name__ + (f"-{self.case}" if self.case else "")


_WRONG = r"gradient is wrong by \S+ % of its size.*artefact"
_BATCH = r"other images of its batch.*artefact"
_CALL = r"another score at another call.*artefact"
# On fine stairs even the differences notice.
_JUMPS = r"knows nothing of .* noise inside the ball|gradient is wrong by 100 %"
_STATE = "a global random state"
_BLIND = "sees_pixels = False, which excuses it"

FAULTS = (
    *(Fault(cls, _WRONG) for cls in (HalfDetached, RightDetached, CutTeacher, StraightThrough, NoGradient)),
    *(Fault(cls, _WRONG) for cls in (OtherNoiseBehind, ReversedLeft, BorrowedGradient, CleanOnly, Undeclared)),
    Fault(NoGraph, r"score of fake has no gradient with respect to the image.*detach\(\)"),
    *(Fault(grey_levels(n), _JUMPS) for n in (12, 32, 64, 256)),
    Fault(FeatureLevels, _JUMPS),
    Fault(NarrowStairs, _JUMPS),
    Fault(CutInFloat32, "gradient in float32, which attacks follow"),
    Fault(OtherInFloat32, "score in float32, which is attacked and judged"),
    Fault(DeclaredIdle, "noise is a better attack"),
    Fault(WrongSurrogate, "surrogate's gradient is wrong by"),
    Fault(SecretSurrogate, "set has_surrogate = True"),
    *(
        Fault(cls, r"no increasing function of its score \(.*surrogate_is_monotone = False")
        for cls in (CornerSurrogate, FallingSurrogate)
    ),
    Fault(StairsAndCorner, r"order \d+ % of pairs of pictures differently"),
    *(Fault(cls, _BATCH) for cls in (BatchMaximum, LiveBatchMaximum, BatchMean, BatchSize, NoiseByPosition)),
    *(Fault(cls, _CALL) for cls in (GlobalNoise, Learning, Counter)),
    Fault(PretendsToBeDeterministic, "draws noise and is_stochastic is False"),
    *(Fault(cls, _BLIND) for cls in (Blindfold, BlindBesideANumber)),
    Fault(MeanOfItsMap, "score is not the largest value of its anomaly map"),
    Fault(MaximumOfNoMap, "score_is_map_maximum is True and has_map is False"),
    *(Fault(cls, "anomaly map's gradient is wrong by") for cls in (MapWithoutGradient, PeakWithoutGradient)),
    Fault(HalfAsSteady, "neighbouring images its score moves by 2 times what"),
    Fault(SteeperFarther, "neighbouring images its score moves by .* certificate would be void"),
    Fault(SteadyAndNoisy, "declares a Lipschitz constant and its score draws noise"),
    Fault(NegativeConstant, r"its lipschitz\('linf'\) is -1.0; return a number"),
    # What a closer look finds, each by the case that is there for it.
    *(
        Fault(cls, _WRONG, "gradient_is_the_derivative")
        for cls in (HalfDetached, RightDetached, StraightThrough, OtherNoiseBehind, SingleInside)
    ),
    *(
        Fault(cls, "gradient vanishes or is not finite", "gradient_is_finite_and_not_zero")
        for cls in (NoGradient, Saturated, Clamped)
    ),
    Fault(CutInFloat32, "gradient in float32, which attacks follow", "gradient_in_float32_is_the_one_in_float64"),
    *(
        Fault(cls, _BATCH, "score_ignores_batch_neighbours")
        for cls in (BatchMaximum, LiveBatchMaximum, BatchMean, NoiseByPosition)
    ),
    *(Fault(cls, _CALL, "score_ignores_earlier_calls") for cls in (Counter, Learning)),
    Fault(DependsOnGradientMode, "depends on the gradient mode", "score_ignores_the_gradient_mode"),
    Fault(DependsOnTraining, r"train\(\) changes its score", "train_changes_nothing"),
    *(Fault(cls, _STATE, "score_ignores_global_randomness") for cls in (GlobalNoise, ReseedsTheWorld)),
    Fault(PretendsToBeStochastic, "is_stochastic = True and another draw changes nothing", "noise_is_honest"),
    Fault(PretendsToBeDeterministic, "draws noise and is_stochastic is False", "noise_is_honest"),
    Fault(FixedNoiseByDefault, "fresh noise changes nothing|its score repeats itself", "noise_is_honest"),
    Fault(NoiseByPosition, "changes nothing", "noise_is_honest"),
    Fault(FollowsNoDtype, r"its score of float64 images is torch\.float32", "score_follows_the_dtype"),
    Fault(SwallowsNaN, "a NaN gets an ordinary score", "nan_never_becomes_an_ordinary_score"),
    Fault(BatchMaximum, "a NaN in one image changes", "nan_never_becomes_an_ordinary_score"),
    Fault(ChangesItsInput, r"score\(\) changes its input", "score_has_one_number_per_image"),
    Fault(Constant, "different images get the same score", "score_has_one_number_per_image"),
    Fault(TakesAnything, "it accepts a .* as 16x16 images", "what_is_no_image_is_refused"),
    Fault(SecretSurrogate, "set has_surrogate = True", "surrogate_is_declared"),
    Fault(SurrogateInNameAlone, "set has_surrogate = False", "surrogate_is_declared"),
    Fault(HalfAsSteady, "so its certificate would be void", "lipschitz_constant_holds"),
    Fault(SmallMap, r"its anomaly map is \(2, 8, 8\)", "map_has_the_size_of_the_image"),
    Fault(SecretMap, "has_map = False and has a map", "map_has_the_size_of_the_image"),
    Fault(GreyReconstruction, r"its reconstruction is \(5, 1, 16, 16\)", "reconstruction_has_the_size_of_the_image"),
    Fault(KeepsItsLevelToItself, "a loaded checkpoint gives other scores", "checkpoint_gives_the_same_scores"),
    *(Fault(cls, _STATE, "fit_repeats_itself") for cls in (FitsFromGlobalRandomness, SeedsTheWorldInFit)),
    Fault(StartsWhereItsLastFitEnded, "two fits with the same seed differ in level", "fit_repeats_itself"),
)
