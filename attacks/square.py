"""Square Attack (Andriushchenko et al. 2020): random search with squares, which asks for scores, never for gradients.

Each query changes one square of the image and keeps the change where the loss rises. Squares become smaller as the
queries are used up. It shows what gradients hide: a score that is masked, rounded or saturated.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from attacks.base import Attack, AttackSettings
from attacks.candidates import Highest, Significant, mean_over_draws
from attacks.errors import AttackError
from attacks.objective import Objective
from attacks.registry import register
from attacks.result import AttackResult
from attacks.threat import ThreatModel
from detectors.noise import Noise

if TYPE_CHECKING:
    from detectors.base import Detector, Progress

# Of 10,000 queries: from each of these on, the share of the image that a square covers is halved (section 4.1).
HALVED_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@dataclass(frozen=True)
class SquareSettings(AttackSettings):
    """Settings of the Square Attack.

    Attributes:
        queries: images tried of each image, the start among them.
        first_share: of the image that the first squares cover (p of the paper; 0.8 as in AutoAttack).
        selection_draws: draws on which a stochastic detector's result is compared with the clean image.
    """

    queries: int = 5000
    first_share: float = 0.8
    selection_draws: int = 16

    def __post_init__(self) -> None:
        """Raises AttackError for values that make no sense."""
        for field in ("queries", "selection_draws"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise AttackError(f"{field} of Square must be a whole number of at least 1; got {value!r}.")
        if not 0 < self.first_share <= 1:
            raise AttackError(f"The share of Square must be a number above 0, and at most 1; got {self.first_share!r}.")


def share_at(query: int, settings: SquareSettings) -> float:
    """The share of the image that the square of a query covers."""
    scaled = 10_000 * query / settings.queries
    return float(settings.first_share / 2 ** sum(scaled > at for at in HALVED_AT))


class Square(Attack):
    """Random search with squares. Of a stochastic detector each query compares both images on the same fresh draw."""

    name: ClassVar[str] = "square"
    title: ClassVar[str] = "Square"
    summary: ClassVar[str] = "Random search with squares, without gradients."
    settings_class: ClassVar[type[AttackSettings]] = SquareSettings
    budget_settings: ClassVar[tuple[str, ...]] = ("queries",)
    can_stop: bool = True
    can_start: ClassVar[bool] = True

    def gradients(self, *, is_stochastic: bool, gradients_followed: int = 1) -> int:
        """None: it follows no gradient."""
        return 0

    @abstractmethod
    def start(self, x: Tensor, threat: ThreatModel, random: _Numbers) -> Tensor:
        """The first candidate, (B, 3, H, W)."""

    @abstractmethod
    def propose(self, best: Tensor, x: Tensor, threat: ThreatModel, side: int, random: _Numbers) -> Tensor:
        """Another candidate with one square of that side changed, for the images at hand."""

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
        start: Tensor | None = None,
    ) -> AttackResult:
        settings: SquareSettings = self.settings
        objective = Objective(detector, y, differentiate="surrogate")  # as `compared_loss`
        random = _Numbers(noise, settings.queries, x)
        first = noise.sub(0)
        clean = objective.losses(x, selection, settings.selection_draws)
        clean_loss = mean_over_draws(clean)
        images, loss = x.clone(), clean[0].clone()
        trace = [clean_loss if detector.is_stochastic else loss.clone()]
        limit = torch.full_like(loss, math.inf) if enough is None else enough
        rows = torch.arange(len(x), device=x.device)
        if start is not None:  # what the search starts from where it is better, or where losses would select luck
            begun = objective.losses(start, first, 1)[0]
            better = (begun > loss) | (loss.isnan() & ~begun.isnan()) | detector.is_stochastic
            images[better] = start[better]
            loss = torch.where(better, begun, loss)
        here, there = images.clone(), x  # the best and the clean images of those rows
        for query in range(settings.queries):
            wanting = ~(loss[rows] > limit[rows])
            if not bool(wanting.all()):
                images[rows] = here
                rows, here, there = rows[wanting], here[wanting], there[wanting]
            if not len(rows):
                break
            random.at(query, rows)
            if query == 0:
                tried = self.start(there, threat, random)
            else:
                tried = self.propose(here, there, threat, side_of(share_at(query, settings), x.shape[-1]), random)
            draw = noise.sub(query).pick(rows.tolist()) if detector.is_stochastic else first.pick(rows.tolist())
            known = objective.losses(here, draw, 1, rows=rows)[0] if detector.is_stochastic else loss[rows]
            found = objective.losses(tried, draw, 1, rows=rows)[0]
            better = (found > known) | (known.isnan() & ~found.isnan())
            here[better] = tried[better]
            loss[rows] = torch.where(better, found, known)
            trace.append(loss.clone())
            progress(query + 1, settings.queries, self.name)
        images[rows] = here
        best: Highest | Significant
        if detector.is_stochastic:
            best = Significant(x, clean, 0)
            best.challenge(images, objective.losses(images, selection, settings.selection_draws), 1)
        else:
            best = Highest(x)
            best.offer(images, loss, 0)
        return AttackResult.without_gradients(
            best.images,
            best.loss,
            clean_loss=clean_loss,
            trace=torch.stack(trace),
            forwards=objective.forwards,
            enough=enough,
        )


def side_of(share: float, side: int) -> int:
    """The side in pixels of a square that covers a share of an image of that side."""
    return min(max(round(math.sqrt(share * side**2)), 1), side)


class _Numbers:
    """The random numbers of all queries, drawn once for each image: asking anew at each query would cost more than a
    small network."""

    COUNT = 8  # of a query: two corners (2 + 2), a sign for each channel (3), which way a pattern lies (1)

    def __init__(self, noise: Noise, queries: int, x: Tensor) -> None:
        self._all = noise.uniform((queries, self.COUNT), stream="square", like=x)  # (B, queries, COUNT)
        self._of_the_start = noise.uniform((3, 5, x.shape[-1]), stream="square-start", like=x)
        self._now = self._all[:, 0]
        self._rows = torch.arange(len(x), device=x.device)

    def at(self, query: int, rows: Tensor) -> None:
        """From now on the numbers of a query, for these images."""
        self._now, self._rows = self._all[rows, query], rows

    def corner(self, free: tuple[int, int], which: int = 0) -> tuple[Tensor, Tensor]:
        """Top and left of a square, each from 0 to the free rows and columns, (B,) whole numbers."""
        top, left = self._now[:, 2 * which], self._now[:, 2 * which + 1]
        return (top * (free[0] + 1)).long(), (left * (free[1] + 1)).long()

    @property
    def signs(self) -> Tensor:
        """+1 or -1 for each channel, (B, 3, 1, 1)."""
        return _signs(self._now[:, 4:7])[:, :, None, None]

    @property
    def is_turned(self) -> Tensor:
        """Whether a pattern lies on its side, (B,) bool."""
        return self._now[:, 7] < 0.5

    def start_signs(self, height: int, width: int) -> Tensor:
        """+1 or -1 for each channel and cell of a start, (B, 3, height, width) with height at most 5."""
        return _signs(self._of_the_start[self._rows, :, :height, :width])


def _signs(uniform: Tensor) -> Tensor:
    return 1 - 2 * (uniform < 0.5).to(uniform.dtype)


def _within(top: Tensor, left: Tensor, side: int, x: Tensor) -> Tensor:
    """Whether each pixel lies in its image's square, (B, 1, H, W) bool."""
    row = torch.arange(x.shape[-2], device=x.device) - top[:, None]
    column = torch.arange(x.shape[-1], device=x.device) - left[:, None]
    rows, columns = (row >= 0) & (row < side), (column >= 0) & (column < side)
    return (rows[:, :, None] & columns[:, None, :])[:, None]


@register
class SquareLInf(Square):
    """Square Attack in the l-inf ball (Algorithm 2): a square's channels go to plus or minus epsilon."""

    name: ClassVar[str] = "square-linf"
    title: ClassVar[str] = "Square (l-inf)"
    summary: ClassVar[str] = "Random search with squares in the l-inf ball, without gradients."
    norm: ClassVar[str] = "linf"

    def start(self, x: Tensor, threat: ThreatModel, random: _Numbers) -> Tensor:
        """Vertical stripes one pixel wide (section 3.3)."""
        return threat.project(x + threat.epsilon * random.start_signs(1, x.shape[-1]), x)

    def propose(self, best: Tensor, x: Tensor, threat: ThreatModel, side: int, random: _Numbers) -> Tensor:
        """One sign for each channel, all over the square."""
        top, left = random.corner((x.shape[-2] - side, x.shape[-1] - side))
        # The squares alone are touched: whole images would cost more than a small network.
        image = torch.arange(len(x), device=x.device)[:, None, None]
        across = torch.arange(side, device=x.device)
        row, column = (top[:, None] + across)[:, :, None], (left[:, None] + across)[:, None, :]
        square = x[image, :, row, column]  # (B, side, side, 3)
        changed = best.clone()
        changed[image, :, row, column] = threat.project(square + threat.epsilon * random.signs.movedim(1, -1), square)
        return changed


@register
class SquareL2(Square):
    """Square Attack in the l2 ball (Algorithm 3): the change of one square moves into another, in two humps."""

    name: ClassVar[str] = "square-l2"
    title: ClassVar[str] = "Square (l2)"
    summary: ClassVar[str] = "Random search with squares in the l2 ball, without gradients."
    norm: ClassVar[str] = "l2"

    def start(self, x: Tensor, threat: ThreatModel, random: _Numbers) -> Tensor:
        """A grid of 5 x 5 humps with a sign each (section 3.4)."""
        cell = max(x.shape[-1] // 5, 1)
        grid = min(5, x.shape[-1] // cell)
        signs = random.start_signs(grid, grid).repeat_interleave(cell, -2).repeat_interleave(cell, -1)
        tile = hump(cell, cell, x).repeat(grid, grid)
        margin = (x.shape[-1] - grid * cell) // 2
        change = torch.zeros_like(x)
        change[..., margin : margin + grid * cell, margin : margin + grid * cell] = tile * signs
        return threat.project(x + threat.steepest_step(change, threat.epsilon), x)

    def propose(self, best: Tensor, x: Tensor, threat: ThreatModel, side: int, random: _Numbers) -> Tensor:
        """Into the first square come two humps, one up and one down, added to the direction that was there; their
        length is what the second square gives up, and what was left of the ball."""
        side = min(max(side, 3) | 1, x.shape[-1])  # odd, so that there is a middle
        free = (x.shape[-2] - side, x.shape[-1] - side)
        first, second = random.corner(free, 0), random.corner(free, 1)
        here, there = _within(*first, side, x), _within(*second, side, x)
        change = best - x
        unused = (threat.epsilon**2 - _length(change) ** 2).clamp_min(0) / x.shape[1]
        length = (unused + _length(change * (here | there)) ** 2 / x.shape[1]).sqrt()
        new = self._humps(first, side, x, random) + change * here / _length(change * here).clamp_min(1e-12)
        # Each channel gets the same share, as in the paper.
        of_channels = new.square().sum(dim=(2, 3), keepdim=True).sqrt().clamp_min(1e-12)
        changed = torch.where(here, new / of_channels * length, torch.where(there, 0, change))
        return threat.project(x + threat.steepest_step(changed, threat.epsilon), x)

    def _humps(self, corner: tuple[Tensor, Tensor], side: int, x: Tensor, random: _Numbers) -> Tensor:
        """The two humps at their place, zero elsewhere, (B, 3, H, W)."""
        half = side // 2
        pattern = torch.cat([hump(half, side, x), -hump(side - half, side, x)])
        pattern = pattern / pattern.norm()
        top, left = corner
        row = (torch.arange(x.shape[-2], device=x.device) - top[:, None]).clamp(0, side - 1)[:, :, None]
        column = (torch.arange(x.shape[-1], device=x.device) - left[:, None]).clamp(0, side - 1)[:, None, :]
        turned = random.is_turned[:, None, None]
        placed = torch.where(turned, pattern[column, row], pattern[row, column])
        return torch.where(_within(top, left, side, x), placed[:, None] * random.signs, 0)


def hump(height: int, width: int, like: Tensor) -> Tensor:
    """A hump of length 1, (height, width): concentric rectangles, the k-th from the middle adding 1 / (k + 1)^2 to all
    that lies within it (Eq. 2)."""
    rows = (torch.arange(height, device=like.device) - height // 2).abs()
    columns = (torch.arange(width, device=like.device) - width // 2).abs()
    distance = torch.maximum(rows[:, None], columns[None, :])
    adds = 1 / torch.arange(1, max(height, width) // 2 + 2, device=like.device, dtype=like.dtype) ** 2
    found = adds.flip(0).cumsum(0).flip(0)[distance]
    normed: Tensor = found / found.norm()
    return normed


def _length(change: Tensor) -> Tensor:
    length: Tensor = change.flatten(1).norm(dim=1)
    return length[:, None, None, None]
