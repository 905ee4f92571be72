"""Threat models: a norm ball around the clean image, intersected with the pictures' range [0, 1].

Every epsilon is measured on [0, 1] (l-inf: 2/255, not 2). Three methods are all that an attack needs of a norm: a
random start, the steepest step, and the projection. What is no ball is in `attacks.threat_others`.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from attacks.errors import ThreatModelError
from detectors.noise import Noise

LINF_EPSILON = 2 / 255
L2_EPSILON_AT_256 = 0.2
_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_EPSILON = re.compile(rf"\s*({_NUMBER})\s*(?:/\s*({_NUMBER})\s*)?")


class How(NamedTuple):
    """What an attack says that it did to each image, where the threat model is a set of transformations.

    Attributes:
        parameters: of the transformations, (B, P), as the threat model counts them.
        noise: where those that draw noise take it from.
    """

    parameters: Tensor
    noise: Noise


@dataclass(frozen=True)
class ThreatModel(ABC):
    """A norm ball around the clean image, intersected with [0, 1]. Images are (B, 3, H, W).

    Attributes:
        epsilon: the ball's radius on [0, 1]; of what is no ball, how far it goes in units of its own. 0: the clean
            image alone.
        norm: the name of its norm, or of its kind where it is no ball.
        is_ball: whether it is one.
    """

    epsilon: float
    norm: ClassVar[str]
    is_ball: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raises ThreatModelError for an epsilon that no ball on [0, 1] has."""
        try:
            epsilon = float(self.epsilon)
        except (TypeError, ValueError, OverflowError):
            raise ThreatModelError(
                f"epsilon must be a number; got {self.epsilon!r}; parse_epsilon reads texts."
            ) from None
        object.__setattr__(self, "epsilon", epsilon + 0.0)  # 1 and 1.0, 0.0 and -0.0 are the same cell in a record
        if not math.isfinite(self.epsilon) or self.epsilon < 0:
            raise ThreatModelError(f"epsilon must be a number of at least 0; got {self.epsilon:g}.")

    @property
    def is_a_point(self) -> bool:
        """Whether the clean image is all that it allows."""
        return self.epsilon == 0

    @property
    def meaning(self) -> str:
        """What an epsilon in units of its own allows, in words; "" of a ball, where it needs none."""
        return ""

    @abstractmethod
    def at(self, image_size: int) -> ThreatModel:
        """This threat model at an image side in pixels. Raises ThreatModelError where it makes no sense there."""

    @abstractmethod
    def random_start(self, x: Tensor, noise: Noise) -> Tensor:
        """Images uniform in the ball around x, then cut to [0, 1]."""

    @abstractmethod
    def steepest_step(self, gradient: Tensor, step_size: float) -> Tensor:
        """The step of length `step_size` in this norm that a linear objective gains most by; zero for no gradient."""

    @abstractmethod
    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """x_adv brought into the ball around the ORIGINAL image x, then into [0, 1] (Eq. 3.1, 3.2).

        The result is still in the ball: x lies in [0, 1], so cutting to [0, 1] moves no pixel away from x.
        """

    def around(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """`project` for many candidates around the same original images: what depends on these is computed once."""
        return lambda x_adv: self.project(x_adv, x)

    @abstractmethod
    def distance(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """How far each image is from its original in this norm, (B,)."""

    @abstractmethod
    def tolerance(self, x: Tensor) -> float:
        """By how much a projected image can exceed epsilon because pixels are rounded to x's dtype."""

    def inside(self, x_adv: Tensor, x: Tensor, how: How | None = None) -> Tensor:
        """Whether each image is in the ball (up to rounding) and, exactly, in [0, 1], (B,) bool; NaN is outside. `how`
        is what the attack says that it did; a ball can be measured without."""
        in_ball = self.distance(x_adv, x) <= self.epsilon + self.tolerance(x)
        return in_ball & ((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(1)

    def brought_inside(self, x_adv: Tensor, x: Tensor, how: How | None = None) -> tuple[Tensor, How | None]:
        """Images of the threat model in place of those that are none, projected ones, and what was done to get them."""
        return self.project(x_adv, x), how

    def assert_inside(self, x_adv: Tensor, x: Tensor, how: How | None = None) -> None:
        """Raise ThreatModelError unless every image of x_adv is one that this threat model allows for x."""
        self.assert_comparable(x_adv, x)
        outside = ~self.inside(x_adv, x, how)
        if bool(outside.any()):
            worst = float(self.distance(x_adv, x).max())
            limit = f"{self.norm} ball of radius" if self.is_ball else f"threat model {self.norm} with epsilon"
            raise ThreatModelError(
                f"{int(outside.sum())} of {len(x)} adversarial images are outside the {limit} "
                f"{self.epsilon:g} or the range [0, 1] (largest distance {worst:g}, values {float(x_adv.min()):g} to "
                f"{float(x_adv.max()):g}); the attack that made them must project."
            )

    @staticmethod
    def assert_comparable(x_adv: Tensor, x: Tensor) -> None:
        """Raise ThreatModelError unless x_adv has x's shape, dtype and device and is finite."""
        if x_adv.shape != x.shape or x_adv.dtype != x.dtype or x_adv.device != x.device:
            raise ThreatModelError(
                f"Adversarial images must be {x.dtype} {tuple(x.shape)} on {x.device} as the clean ones are; got "
                f"{x_adv.dtype} {tuple(x_adv.shape)} on {x_adv.device}."
            )
        broken = ~torch.isfinite(x_adv).flatten(1).all(1)
        if bool(broken.any()):
            raise ThreatModelError(
                f"{int(broken.sum())} of {len(x)} adversarial images hold values that are not finite; "
                "the attack that made them must not step along NaN."
            )


@dataclass(frozen=True)
class LInf(ThreatModel):
    """No pixel changes by more than epsilon."""

    norm: ClassVar[str] = "linf"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epsilon > 1:
            raise ThreatModelError(
                f"epsilon {self.epsilon:g} looks like a 0-255 value: write {self.epsilon:g}/255 "
                "(epsilon is measured on [0, 1])."
            )

    def at(self, image_size: int) -> LInf:
        """The same at every size."""
        return self

    def random_start(self, x: Tensor, noise: Noise) -> Tensor:
        """Every pixel's change uniform in [-epsilon, epsilon]."""
        change = noise.uniform(x.shape[1:], stream="attack-start", like=x) * 2 - 1
        return self.project(x + self.epsilon * change, x)

    def steepest_step(self, gradient: Tensor, step_size: float) -> Tensor:
        """step_size * sign(gradient) (Eq. 3.1)."""
        return gradient.sign().mul_(step_size)

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Each pixel into [x - epsilon, x + epsilon], then into [0, 1]."""
        return self.around(x)(x_adv)

    def around(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """Clipping to an interval and then to [0, 1] is clipping to the clipped interval, to the last bit."""
        low, high = (x - self.epsilon).clamp_(0, 1), (x + self.epsilon).clamp_(0, 1)
        return lambda x_adv: torch.clamp(x_adv, low, high)

    def distance(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """The largest change of a pixel, (B,)."""
        return largest_entry(x_adv - x)

    def tolerance(self, x: Tensor) -> float:
        """A pixel is rounded by at most half a unit in the last place of 1; x + epsilon and epsilon itself are too."""
        return 4 * torch.finfo(x.dtype).eps


@dataclass(frozen=True)
class L2(ThreatModel):
    """The Euclidean length of the whole image's change is at most epsilon."""

    norm: ClassVar[str] = "l2"

    def at(self, image_size: int) -> L2:
        """The same, unless the ball is larger than the whole range of such images."""
        diameter = math.sqrt(3) * image_size
        if self.epsilon > diameter:
            raise ThreatModelError(
                f"l2 epsilon {self.epsilon:g} exceeds {diameter:.1f}, the distance from the black to the white "
                f"{image_size}x{image_size} image; epsilon is measured on [0, 1], not on 0-255: divide it by 255."
            )
        return self

    def random_start(self, x: Tensor, noise: Noise) -> Tensor:
        """Uniform in the ball: a uniform direction times epsilon * u^(1/d)."""
        direction = noise.normal(x.shape[1:], stream="attack-start", like=x)
        u = noise.uniform((), stream="attack-start-radius", like=x)
        radius = self.epsilon * u ** (1 / x[0].numel())
        return self.project(x + direction * _per_image(radius / _length(direction)), x)

    def steepest_step(self, gradient: Tensor, step_size: float) -> Tensor:
        """step_size * gradient / |gradient| (Eq. 3.2); no gradient, no step."""
        # Scaled to a largest entry of 1 first: the squares of a gradient of 1e-25 are zero in float32, and a tiny
        # gradient would pass for none.
        largest = largest_entry(gradient)
        scaled = gradient / _per_image(torch.where(largest > 0, largest, 1))
        return scaled.mul_(_per_image(step_size / _length(scaled).clamp_min(1)))

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Pull the change back to length epsilon where it is longer, then cut to [0, 1]."""
        change = x_adv - x
        shrink = (self.epsilon / _length(change).clamp_min(torch.finfo(x.dtype).tiny)).clamp(max=1)
        return change.mul_(_per_image(shrink)).add_(x).clamp_(0, 1)

    def distance(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """The Euclidean length of the change, (B,)."""
        return _length(x_adv - x)

    def tolerance(self, x: Tensor) -> float:
        """Each of the d pixels is rounded by at most a quarter of the dtype's eps, the length's sum by a little."""
        return torch.finfo(x.dtype).eps * (0.5 * math.sqrt(x[0].numel()) + 16 * self.epsilon)


@dataclass(frozen=True)
class ScaledL2:
    """An l2 ball whose radius grows with the image's side: equal energy per pixel at every resolution.

    Attributes:
        epsilon_at_256: the radius at 256x256.
    """

    epsilon_at_256: float = L2_EPSILON_AT_256
    norm: ClassVar[str] = "l2"

    def at(self, image_size: int) -> L2:
        """The ball at an image side in pixels."""
        return L2(self.epsilon_at_256 * image_size / 256).at(image_size)


Threat = ThreatModel | ScaledL2


# What makes a threat model of an epsilon, or of None for the default one, by norm.
_MAKERS: dict[str, Callable[[float | None], Threat]] = {
    LInf.norm: lambda epsilon: LInf(LINF_EPSILON if epsilon is None else epsilon),
    L2.norm: lambda epsilon: ScaledL2() if epsilon is None else L2(epsilon),
}


def register_norm(norm: str, make: Callable[[float | None], Threat]) -> None:
    """From now on `threat_model` knows a norm, or a kind of what is no ball."""
    _MAKERS[norm] = make


def threat_model(norm: str, epsilon: float | None = None) -> Threat:
    """The threat model of a norm ("linf", "l2"): of this radius, or the default one (l2's depends on the image's side).

    Raises:
        ThreatModelError: an unknown norm or an epsilon that makes no sense.
    """
    if norm not in _MAKERS:
        *others, last = map(repr, _MAKERS)
        raise ThreatModelError(f"There is no norm {norm!r}; use {', '.join(others)} or {last}.")
    return _MAKERS[norm](epsilon)


def scaled_l2_epsilon(side: int) -> float:
    """The default l2 epsilon at an image side in pixels: 0.2 * side / 256."""
    return ScaledL2().at(side).epsilon


def parse_epsilon(text: str, *, norm: str = "linf") -> float:
    """An epsilon as a user writes it, "2/255" or "0.0078", as a number on [0, 1].

    Raises:
        ThreatModelError: it is no such number, or an l-inf epsilon that looks like a 0-255 value.
    """
    match = _EPSILON.fullmatch(text)
    if match is None or (match[2] is not None and float(match[2]) == 0):
        raise ThreatModelError(f"epsilon {text!r} is no number from 0 up; write a fraction or a decimal such as 2/255.")
    epsilon = float(match[1]) / float(match[2] or 1)
    threat_model(norm, epsilon)  # raises where the norm has no such ball
    return epsilon


def largest_entry(images: Tensor) -> Tensor:
    """The largest absolute value of each image, (B,); NaN where it holds one."""
    flat = images.flatten(1)
    return torch.maximum(flat.amax(1), -flat.amin(1))  # several times faster on a CPU than |.| or the infinity norm


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]  # (B,) to (B, 1, 1, 1)


def _length(images: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(images.flatten(1), dim=1)  # (B,)
    return length
