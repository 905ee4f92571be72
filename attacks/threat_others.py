"""Threat models that are no balls: corruptions up to a severity, small turns and shifts of the hue, one square.

Of a transformed image it can't be measured how far it went, so the attack says what it did
(`AttackResult.transformation`), and the same is done once more to the clean image: what comes out must be the attacked
one. Which images are allowed, `epsilon` says in units of each kind's own.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NoReturn

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from attacks.errors import ThreatModelError
from attacks.image_changes import KINDS, SEVERITIES, corrupted, rehued, signs, turned
from attacks.threat import How, ThreatModel, largest_entry, register_norm
from detectors.noise import Noise

LARGEST_ANGLE = 30.0  # degrees, at strength 1
LARGEST_SHIFT = 0.5  # turns of the hue, at strength 1: every hue there is


@dataclass(frozen=True)
class Transformations(ThreatModel):
    """What some transformations make of the clean image: all with parameters that `epsilon` allows."""

    is_ball: ClassVar[bool] = False

    @abstractmethod
    def transformed(self, x: Tensor, how: How) -> Tensor:
        """What the transformations with these parameters make of clean images, (B, 3, H, W) in [0, 1]; the identity
        makes x itself, to the bit."""

    @abstractmethod
    def allowed(self, parameters: Tensor) -> Tensor:
        """The nearest parameters that `epsilon` allows, (B, P)."""

    @abstractmethod
    def told(self, parameters: Tensor) -> dict[str, float]:
        """What was done to B images at least, (B, P), in a few numbers for a record."""

    def at(self, image_size: int) -> ThreatModel:
        """The same at every size."""
        return self

    def inside(self, x_adv: Tensor, x: Tensor, how: How | None = None) -> Tensor:
        """Whether each image is what an allowed transformation makes of x (up to rounding), (B,) bool; NaN is outside.
        Raises ThreatModelError where nobody says which transformation it was."""
        how = self._known(how)
        is_allowed = (self.allowed(how.parameters) == how.parameters).all(dim=1)
        return is_allowed & (self._off(x_adv, x, how) <= self.tolerance(x)) & _in_range(x_adv)

    def brought_inside(self, x_adv: Tensor, x: Tensor, how: How | None = None) -> tuple[Tensor, How | None]:
        """What the transformations that the attack speaks of make of x, with parameters that are allowed."""
        known = self._known(how)
        known = How(self.allowed(known.parameters), known.noise)
        return self.transformed(x, known), known

    def tolerance(self, x: Tensor) -> float:
        """A transformation of a batch of another size rounds otherwise."""
        return 64 * torch.finfo(x.dtype).eps

    def distance(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """The largest change of a pixel, (B,): there is no other measure of it."""
        return largest_entry(x_adv - x)

    def random_start(self, x: Tensor, noise: Noise) -> Tensor:
        """Raises ThreatModelError: only a ball has one."""
        self._is_no_ball()

    def steepest_step(self, gradient: Tensor, step_size: float) -> Tensor:
        """Raises ThreatModelError: only a ball has one."""
        self._is_no_ball()

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Raises ThreatModelError: only a ball has one."""
        self._is_no_ball()

    def _off(self, x_adv: Tensor, x: Tensor, how: How) -> Tensor:
        return largest_entry(x_adv - self.transformed(x, How(self.allowed(how.parameters), how.noise)))

    def _known(self, how: How | None) -> How:
        if how is None:
            raise ThreatModelError(
                f"The threat model {self.norm} is a set of transformations: an attack in it must say what it did to "
                "each image (AttackResult.transformation)."
            )
        return how

    def _is_no_ball(self) -> NoReturn:
        raise ThreatModelError(
            f"The threat model {self.norm} is no ball, along whose norm an attack could step; use 'linf' or 'l2', or "
            f"the attack {self.norm}."
        )


@dataclass(frozen=True)
class CorruptionsUpTo(Transformations):
    """One corruption of `attacks.image_changes`, of this severity (`epsilon`, 1 to 5) or a lower one.

    Parameters are (kind, severity, sign): the kind by its place in `KINDS`; all are 0 where nothing was done.
    """

    norm: ClassVar[str] = "corruptions"
    epsilon: float = 3.0

    def __post_init__(self) -> None:
        """Raises ThreatModelError for a severity that there isn't."""
        super().__post_init__()
        if self.epsilon != round(self.epsilon) or self.epsilon > SEVERITIES:
            raise ThreatModelError(
                f"The epsilon of corruptions is a severity, a whole number from 1 to {SEVERITIES}; got "
                f"{self.epsilon:g}."
            )

    @property
    def meaning(self) -> str:
        """As in `ThreatModel`."""
        return "one kind of corruption, of this severity or a lower one"

    def told(self, parameters: Tensor) -> dict[str, float]:
        """The share of the images that each kind was the worst of, and of those that nothing was done to ("none")."""
        kind, severity, _ = parameters.unbind(dim=1)
        found = {"none": severity == 0} | {name: (severity > 0) & (kind == number) for number, name in enumerate(KINDS)}
        return {name: round(float(which.double().mean()), 4) for name, which in found.items()}

    def transformed(self, x: Tensor, how: How) -> Tensor:
        """As in `Transformations`."""
        found = x.clone()
        for one in torch.unique(how.parameters, dim=0).tolist():
            kind, severity, sign = (round(number) for number in one)
            rows = (how.parameters == how.parameters.new_tensor(one)).all(dim=1).nonzero().flatten()
            some = how.noise.pick(rows.tolist())
            found[rows] = corrupted(x[rows], KINDS[kind], severity, sign, some)
        return found

    def allowed(self, parameters: Tensor) -> Tensor:
        """As in `Transformations`."""
        kind, severity, sign = parameters.nan_to_num(0).round().unbind(dim=1)
        kind, severity = kind.clamp(0, len(KINDS) - 1), severity.clamp(0, self.epsilon)
        both = torch.tensor([len(signs(name)) > 1 for name in KINDS], device=kind.device)[kind.long()]
        sign = torch.where(both & (sign < 0), -1.0, 1.0).to(sign)
        nothing = severity == 0
        return torch.stack([torch.where(nothing, 0, part) for part in (kind, severity, sign)], dim=1)


@dataclass(frozen=True)
class SemanticRange(Transformations):
    """A turn by at most 30 `epsilon` degrees and a shift of the hue by at most half a turn times `epsilon`.

    Parameters are (angle in degrees, hue in turns). `epsilon` is a strength in (0, 1].
    """

    norm: ClassVar[str] = "semantic"
    epsilon: float = 0.1

    def __post_init__(self) -> None:
        """Raises ThreatModelError for a strength that there isn't."""
        super().__post_init__()
        if self.epsilon > 1:
            raise ThreatModelError(
                "The epsilon of semantic changes is a strength of at most 1, which is a turn by "
                f"{LARGEST_ANGLE:g} degrees and any hue; got {self.epsilon:g}."
            )

    @property
    def angle(self) -> float:
        """The largest turn, in degrees."""
        return LARGEST_ANGLE * self.epsilon

    @property
    def hue(self) -> float:
        """The largest shift of the hue, in turns of its circle."""
        return LARGEST_SHIFT * self.epsilon

    @property
    def meaning(self) -> str:
        """As in `ThreatModel`."""
        return f"a turn by at most {self.angle:.3g} degrees, a shift of the hue by at most {360 * self.hue:.3g}"

    def told(self, parameters: Tensor) -> dict[str, float]:
        """The share of the images that nothing was done to, and how far the others were changed in the mean."""
        some = parameters[(parameters != 0).any(dim=1)].double().abs()
        none = 1 - len(some) / len(parameters)
        angle, hue = some.mean(dim=0).tolist() if len(some) else (0.0, 0.0)
        return {"none": round(none, 4), "mean_degrees": round(angle, 3), "mean_hue_degrees": round(360 * hue, 2)}

    def transformed(self, x: Tensor, how: How) -> Tensor:
        """As in `Transformations`."""
        angle, hue = how.parameters.unbind(dim=1)
        return turned(rehued(x, hue), angle)

    def allowed(self, parameters: Tensor) -> Tensor:
        """As in `Transformations`."""
        largest = parameters.new_tensor([self.angle, self.hue])
        return torch.clamp(parameters.nan_to_num(0), -largest, largest)


@dataclass(frozen=True)
class Patch(ThreatModel):
    """Every changed pixel lies within one square, whose side is the share `epsilon` of the image's; its pixels may be
    anything in [0, 1]."""

    norm: ClassVar[str] = "patch"
    is_ball: ClassVar[bool] = False
    epsilon: float = 0.1

    def __post_init__(self) -> None:
        """Raises ThreatModelError for a share that there isn't."""
        super().__post_init__()
        if self.epsilon > 1:
            raise ThreatModelError(
                "The epsilon of a patch is its side as a share of the image's, at most 1 (0.1 is a tenth); got "
                f"{self.epsilon:g}."
            )

    @property
    def meaning(self) -> str:
        """As in `ThreatModel`."""
        return "anything within it"

    def at(self, image_size: int) -> Patch:
        """The same at every size."""
        return self

    def side(self, image_size: int) -> int:
        """The square's side in pixels: the nearest whole number to its share of the image's side, at least 1."""
        return min(max(round(self.epsilon * image_size), math.ceil(self.epsilon)), image_size)

    def random_start(self, x: Tensor, noise: Noise) -> Tensor:
        """A square anywhere, of uniform pixels."""
        side = self.side(min(x.shape[-2:]))
        place = noise.uniform((2,), stream="attack-start-place", like=x)
        free = place.new_tensor([size - side + 1 for size in x.shape[-2:]])
        top, left = (place * free).long().unbind(dim=1)
        return torch.where(square(x, top, left, side), noise.uniform(x.shape[1:], stream="attack-start", like=x), x)

    def steepest_step(self, gradient: Tensor, step_size: float) -> Tensor:
        """step_size * sign(gradient): in a square every pixel may go anywhere."""
        return gradient.sign() * step_size

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """The square in which the change is largest (by its sum of squares) stays, cut to [0, 1]."""
        side = self.side(min(x.shape[-2:]))
        top, left = best_place((x_adv - x).square().sum(dim=1), side)
        return torch.where(square(x, top, left, side), x_adv.clamp(0, 1), x)

    def inside(self, x_adv: Tensor, x: Tensor, how: How | None = None) -> Tensor:
        """Whether all that is changed lies in such a square, and all in [0, 1], exactly, (B,) bool; NaN is outside."""
        return (self._extent(x_adv, x) <= self.side(min(x.shape[-2:]))) & _in_range(x_adv)

    def distance(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """The side of the smallest square that holds all that is changed, as a share of the image's, (B,)."""
        return self._extent(x_adv, x).to(x) / min(x.shape[-2:])

    def tolerance(self, x: Tensor) -> float:
        """The side is a whole number of pixels."""
        return 1 / min(x.shape[-2:])

    @staticmethod
    def _extent(x_adv: Tensor, x: Tensor) -> Tensor:
        """Rows or columns, whichever are more, from the first changed pixel to the last, (B,)."""
        changed = (x_adv != x).any(dim=1)  # (B, H, W)
        sides = []
        for across in (2, 1):
            line = changed.any(dim=across)  # (B, H), then (B, W)
            place = torch.arange(1, line.shape[1] + 1, device=x.device)
            last = torch.where(line, place, 0).amax(dim=1)
            first = torch.where(line, place, line.shape[1] + 1).amin(dim=1)
            sides.append((last - first + 1).clamp_min(0))
        return torch.maximum(*sides)


def square(x: Tensor, top: Tensor, left: Tensor, side: int) -> Tensor:
    """Whether each pixel lies in its image's square, (B, 1, H, W) bool, for corners (B,) and a side in pixels."""
    row = torch.arange(x.shape[-2], device=x.device) - top[:, None]
    column = torch.arange(x.shape[-1], device=x.device) - left[:, None]
    rows, columns = (row >= 0) & (row < side), (column >= 0) & (column < side)
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def means_in_squares(values: Tensor, side: int) -> Tensor:
    """The mean of the values, (B, H, W), within every square of that side, (B, H - side + 1, W - side + 1)."""
    return avg_pool2d(values[:, None], side, stride=1)[:, 0]


def best_place(values: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Top and left of the square in which the values, (B, H, W), are largest in sum, each (B,)."""
    means = means_in_squares(values, side)
    at = means.flatten(1).argmax(dim=1)
    return at // means.shape[2], at % means.shape[2]


def _in_range(images: Tensor) -> Tensor:
    return ((images >= 0) & (images <= 1)).flatten(1).all(1)


register_norm(CorruptionsUpTo.norm, lambda e: CorruptionsUpTo() if e is None else CorruptionsUpTo(e))
register_norm(SemanticRange.norm, lambda e: SemanticRange() if e is None else SemanticRange(e))
register_norm(Patch.norm, lambda e: Patch() if e is None else Patch(e))
