"""A patch: one visible square, whose place and pixels the attack chooses (Brown et al. 2017; the place searched).

Where it goes: the gradient at the clean image says of every place at once what the best square there gains to first
order, which is all there is to know of a linear score. Places of a grid are tried beside these, in black, white and the
gradient's colours, for a score whose gradient says little. From the best few, sign steps climb within the square; at
the best place once more from random pixels, since a square of black and white is a corner that steps may not leave.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor

from attacks import ascent
from attacks.ascent import Climb
from attacks.base import Attack, AttackSettings
from attacks.candidates import Highest, mean_over_draws
from attacks.errors import AttackError
from attacks.objective import Objective
from attacks.objective import loss as loss_of
from attacks.registry import register
from attacks.result import AttackResult
from attacks.threat import ThreatModel
from attacks.threat_others import Patch, means_in_squares, square
from detectors.noise import Noise

if TYPE_CHECKING:
    from detectors.base import Detector, Progress

FIRST_STEP, LAST_STEP = 1 / 4, 1 / 100  # of a pixel's range
_OF_THE_PLACES, _OF_THE_COMPARISON, _OF_THE_PIXELS = -2, -3, -4  # no run has these numbers: noise of their own
_DIFFERENTIATE = ("auto", "score", "surrogate", "map", "mean-map")


@dataclass(frozen=True)
class PatchSettings(AttackSettings):
    """Settings of the patch.

    Attributes:
        positions: rows, and columns, of the grid of places that are tried whatever the gradient says.
        squares: the best places, at each of which the pixels climb; at the best one a second time.
        steps: of each climb.
        differentiate: whose gradient is followed, as of APGD (`attacks.apgd.APGDSettings`). Candidates are compared by
            the score.

    Of a stochastic detector:
        eot: draws that each gradient is averaged over.
        search_draws: draws on which places are compared.
        selection_draws: draws on which candidates are compared at the end.
    """

    positions: int = 5
    squares: int = 2
    steps: int = 40
    differentiate: Literal["auto", "score", "surrogate", "map", "mean-map"] = "auto"
    eot: int = 5
    search_draws: int = 4
    selection_draws: int = 16

    def __post_init__(self) -> None:
        """Raises AttackError for values that make no sense."""
        for field in ("positions", "squares", "steps", "eot", "search_draws", "selection_draws"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise AttackError(f"{field} of the patch must be a whole number of at least 1; got {value!r}.")
        if self.differentiate not in _DIFFERENTIATE:
            raise AttackError(
                f"differentiate of the patch must be one of {', '.join(_DIFFERENTIATE)}; got {self.differentiate!r}."
            )


class Placed(NamedTuple):
    """Squares in the images, of one side.

    Attributes:
        images: with the squares in them, (B, 3, H, W).
        top, left: their corners, (B,).
        loss: what they reach, (B,); minus infinity where nobody has looked, as of images without a square.
    """

    images: Tensor
    top: Tensor
    left: Tensor
    loss: Tensor

    def filled(self, x: Tensor, side: int, noise: Noise) -> Placed:
        """The same squares with uniform pixels, of which it is not known what they reach."""
        pixels = noise.uniform(x.shape[1:], stream="patch", like=x)
        is_placed = (self.loss != -math.inf)[:, None, None, None]
        images = torch.where(square(x, self.top, self.left, side) & is_placed, pixels, x)
        return self._replace(images=images, loss=torch.full_like(self.loss, -math.inf))


@register
class PatchAttack(Attack):
    """One square of any pixels, at the worst place that was found."""

    name: ClassVar[str] = "patch"
    title: ClassVar[str] = "Patch"
    summary: ClassVar[str] = "A visible square of any pixels; its place is searched, its pixels climb."
    norm: ClassVar[str] = Patch.norm
    settings_class: ClassVar[type[AttackSettings]] = PatchSettings
    budget_settings: ClassVar[tuple[str, ...]] = ("squares", "steps", "eot")
    can_stop: bool = True

    def settled(self, detector: Detector) -> Self:
        """As `ascent.settled_gradient` says; a deterministic detector has no noise to average."""
        settings: PatchSettings = self.settings
        wanted: Any = ascent.settled_gradient(settings.differentiate, detector, smooth_map=True)
        settings = replace(settings, differentiate=wanted)
        if not detector.is_stochastic:
            settings = replace(settings, eot=1, search_draws=1)
        settled = copy.copy(self)
        settled.settings = settings
        return settled

    def follows(self, detector: Detector) -> str:
        """As in `Attack`."""
        return str(self.settled(detector).settings.differentiate)

    def gradients(self, *, is_stochastic: bool, gradients_followed: int = 1) -> int:
        """As in `Attack`; one step more finds the places."""
        settings: PatchSettings = self.settings
        steps = (settings.squares + 1) * settings.steps + 1
        return gradients_followed * steps * (settings.eot if is_stochastic else 1)

    def with_draws(self, factor: int) -> Self:
        """As in `Attack`."""
        more = copy.copy(self)
        more.settings = replace(self.settings, eot=factor * self.settings.eot)
        return more

    def along_the_score(self, detector: Detector) -> Self | None:
        """As in `Attack`."""
        if not self.follows(detector).endswith("map"):
            return None
        other = copy.copy(self)
        other.settings = replace(self.settings, differentiate="score")
        return other

    def compared_loss(self, detector: Detector, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """As in `Attack`."""
        is_score = self.follows(detector) == "score"
        return loss_of(detector, x, y, noise, differentiate="score" if is_score else "surrogate")

    def _run(
        self,
        detector: Detector,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        *,
        noise: Noise,
        selection: Noise,
        progress: Progress,
        enough: Tensor | None = None,
    ) -> AttackResult:
        ascent.check_map(self.name, self.settings.differentiate, detector)
        settings: PatchSettings = self.settled(detector).settings
        if not isinstance(threat, Patch):
            raise AttackError(f"{self.name} takes the threat model Patch, not {threat!r}; pass that.")
        side = threat.side(min(x.shape[-2:]))
        followed = ascent.objectives(settings.differentiate, detector, x, y, noise)
        compared_by = next(iter(followed.values()))

        def compare(images: Tensor) -> Tensor:
            """Losses of candidates on common draws, (D, B)."""
            return compared_by.losses(images, selection, settings.selection_draws)

        clean = compare(x)
        highest = None if detector.is_stochastic else Highest(x)
        if highest is not None:
            highest.offer(x, clean[0], run=0)
        runs: list[Climb] = []
        count = len(followed) * (settings.squares + 1) * settings.steps
        for objective in followed.values():
            wanting = torch.ones_like(y, dtype=torch.bool)
            if highest is not None and enough is not None:
                wanting = ~(highest.loss > enough)
            starts = _places(objective, x, side, settings, noise, wanting.nonzero().flatten())
            again = starts[0].filled(x, side, noise.sub(_OF_THE_PIXELS))
            sizes, smaller = step_sizes(settings.steps), step_sizes(settings.steps, first=2 / settings.steps)
            for start, ladder in [*((start, sizes) for start in starts), (again, smaller)]:
                run = Climb(objective, len(runs), noise.sub(len(runs)), settings.steps, highest, enough)
                if highest is not None:
                    highest.offer(start.images, start.loss, run.number)
                within, x_adv = square(x, start.top, start.left, side), start.images
                for step, size in enumerate(ladder):
                    gradient = run.slope(x_adv, settings.eot).gradient
                    x_adv = torch.where(within, (x_adv + threat.steepest_step(gradient, size)).clamp(0, 1), x_adv)
                    progress(run.number * settings.steps + step + 1, count, self.name)
                run.end(x_adv, settings.eot)
                runs.append(run)
        found = ascent.result(x, followed, runs, clean, compare, highest, keep_best=True)
        return ascent.with_enough(found, followed, enough)


def step_sizes(steps: int, *, first: float = FIRST_STEP) -> list[float]:
    """They fall as a cosine from so much of a pixel's range, a quarter at most, to a hundredth. From 2 / steps on they
    reach from one end of the range to the other together, and lead fewer pixels past a maximum to an end."""
    first = max(min(first, FIRST_STEP), LAST_STEP)
    waves = [(1 + math.cos(math.pi * step / max(1, steps - 1))) / 2 for step in range(steps)]
    return [LAST_STEP + (first - LAST_STEP) * wave for wave in waves]


def _places(
    objective: Objective, x: Tensor, side: int, settings: PatchSettings, noise: Noise, rows: Tensor
) -> list[Placed]:
    """The best squares of each image, at least half a side off one another; those of images that are not among the rows
    are the images themselves.

    Tried are the best places by the gradient at the clean image, in its colours, and those of a grid in these colours,
    black and white.
    """
    none = torch.zeros(len(x), dtype=torch.long, device=x.device)
    lowest = torch.full_like(x[:, 0, 0, 0], -math.inf)
    found = [Placed(x.clone(), none.clone(), none.clone(), lowest.clone()) for _ in range(settings.squares)]
    if not len(rows):
        return found
    clean = x[rows]
    draws = noise.sub(_OF_THE_PLACES).pick(rows.tolist())
    gradient = objective.gradient(clean, draws, settings.eot, rows=rows).gradient
    colours = torch.where(gradient > 0, 1, torch.where(gradient < 0, 0, clean))  # the best pixels of a linear score
    gain = means_in_squares((gradient * (colours - clean)).sum(dim=1), side)  # at least 0
    tried = [_Try(*at, colours) for at in _best_places(gain, side, settings.squares)]
    fills = (colours, torch.zeros_like(clean), torch.ones_like(clean))
    for row, column in product(*(_evenly(size - side, settings.positions) for size in x.shape[-2:])):
        top, left = torch.full_like(rows, row), torch.full_like(rows, column)
        tried += [_Try(top, left, fill) for fill in fills]
    common = noise.sub(_OF_THE_COMPARISON).pick(rows.tolist())
    losses = torch.stack(
        [
            mean_over_draws(objective.losses(one.within(clean, side), common, settings.search_draws, rows=rows))
            for one in tried
        ]
    )  # (tried, B')
    left_over = losses.nan_to_num(-math.inf)
    all_top, all_left = torch.stack([one.top for one in tried]), torch.stack([one.left for one in tried])
    every = torch.arange(len(rows), device=x.device)
    for start in found:
        best = left_over.argmax(dim=0)  # of equal ones the first: the gradient's
        fill = torch.stack([tried[number].fill[place] for place, number in enumerate(best.tolist())])
        chosen = _Try(all_top[best, every], all_left[best, every], fill)
        start.images[rows], start.loss[rows] = chosen.within(clean, side), losses[best, every]
        start.top[rows], start.left[rows] = chosen.top, chosen.left
        is_near = _is_near(all_top, chosen.top, side) & _is_near(all_left, chosen.left, side)
        left_over = left_over.masked_fill(is_near, -math.inf)
    return found


class _Try(NamedTuple):
    """A square that is tried in each image: its corner, (B,), and the pixels that it shows, (B, 3, H, W)."""

    top: Tensor
    left: Tensor
    fill: Tensor

    def within(self, x: Tensor, side: int) -> Tensor:
        """The images with the square."""
        return torch.where(square(x, self.top, self.left, side), self.fill, x)


def _best_places(values: Tensor, side: int, count: int) -> list[tuple[Tensor, Tensor]]:
    """Top and left, (B,), of the squares of the largest values, (B, H - side + 1, W - side + 1), at least half a side
    off one another."""
    rows, columns = (torch.arange(size, device=values.device) for size in values.shape[1:])
    found = []
    for _ in range(count):
        at = values.flatten(1).argmax(dim=1)
        top, left = at // values.shape[2], at % values.shape[2]
        found.append((top, left))
        near_rows, near_columns = _is_near(rows, top[:, None], side), _is_near(columns, left[:, None], side)
        values = values.masked_fill(near_rows[:, :, None] & near_columns[:, None, :], -math.inf)
    return found


def _is_near(places: Tensor, place: Tensor, side: int) -> Tensor:
    """Whether they are less than half a side apart."""
    return 2 * (places - place).abs() < side


def _evenly(last: int, count: int) -> list[int]:
    """So many whole numbers from 0 to the last, evenly; each once."""
    return sorted({round(last * place / max(1, count - 1)) for place in range(count)})
