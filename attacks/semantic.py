"""Semantic changes: a small turn of the picture and a shift of its hues, which leave every defect what it is.

Spatial changes as attacks are Engstrom et al. 2019, shifts of the hue Hosseini & Poovendran 2018. There are two numbers
to choose, and losses over the angle have many local optima (Engstrom et al., section 4): a grid finds more than
gradients do, and is made finer around its best point.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from attacks.base import Attack, AttackSettings
from attacks.errors import AttackError
from attacks.registry import register
from attacks.result import AttackResult
from attacks.search import Search
from attacks.threat import How, ThreatModel
from attacks.threat_others import SemanticRange
from detectors.noise import Noise

if TYPE_CHECKING:
    from detectors.base import Detector, Progress

_AROUND = [(turn, shift) for turn, shift in product((-1, 0, 1), repeat=2) if (turn, shift) != (0, 0)]


@dataclass(frozen=True)
class SemanticSettings(AttackSettings):
    """Settings of semantic changes.

    Attributes:
        angles: turns of the grid, evenly from the largest to one side to the largest to the other; an odd number, so
            that 0 is among them; 1: no turns at all.
        hues: shifts of the hue, likewise; of an image without colours they change nothing and are left out.
        refinements: how often the grid is made twice as fine around each image's best point.
        search_draws: draws on which a stochastic detector's candidates are compared.
        selection_draws: draws on which the best of them is compared with the clean image.
    """

    angles: int = 11
    hues: int = 7
    refinements: int = 3
    search_draws: int = 4
    selection_draws: int = 16

    def __post_init__(self) -> None:
        """Raises AttackError for values that make no sense."""
        for field, least in (
            ("angles", 1),
            ("hues", 1),
            ("refinements", 0),
            ("search_draws", 1),
            ("selection_draws", 1),
        ):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise AttackError(f"{field} of semantic must be a whole number of at least {least}; got {value!r}.")
        for field in ("angles", "hues"):
            if getattr(self, field) % 2 == 0:
                raise AttackError(
                    f"{field} of semantic must be an odd number, so that 0 is among them; got {getattr(self, field)}."
                )


@register
class Semantic(Attack):
    """The worst of small turns and shifts of the hue."""

    name: ClassVar[str] = "semantic"
    title: ClassVar[str] = "Semantic changes"
    summary: ClassVar[str] = "A small turn and a shift of the hue: for each image the worst of a grid, made finer."
    norm: ClassVar[str] = SemanticRange.norm
    settings_class: ClassVar[type[AttackSettings]] = SemanticSettings
    budget_settings: ClassVar[tuple[str, ...]] = ("angles", "hues")
    can_stop: bool = True

    def gradients(self, *, is_stochastic: bool, gradients_followed: int = 1) -> int:
        """None: it follows no gradient."""
        return 0

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
        settings: SemanticSettings = self.settings
        if not isinstance(threat, SemanticRange):
            raise AttackError(f"{self.name} takes the threat model SemanticRange, not {threat!r}; pass that.")
        search = Search(
            detector,
            x,
            y,
            parameters=2,
            noise=noise,
            selection=selection,
            search_draws=settings.search_draws,
            selection_draws=settings.selection_draws,
            enough=enough,
        )
        has_colours = (x != x[:, :1]).flatten(1).any(dim=1)

        def tries(parameters: Tensor) -> None:
            """Parameters of each image, (B, 2)."""
            changes_nothing = (parameters[:, 0] == 0) & ((parameters[:, 1] == 0) | ~has_colours)
            rows = search.wanting(~changes_nothing)
            if len(rows):
                how = How(parameters[rows], noise.pick(rows.tolist()))
                search.offer(rows, threat.transformed(x[rows], how), how.parameters)

        largest = x.new_tensor([threat.angle, threat.hue])
        counts = x.new_tensor([settings.angles, settings.hues])
        points = list(product(_evenly(settings.angles), _evenly(settings.hues)))
        in_all = len(points) + settings.refinements * len(_AROUND)
        for number, point in enumerate(points):
            is_twin = ~has_colours & (point[1] != 0)
            parameters = (x.new_tensor(point) * largest).expand(len(x), -1)
            tries(torch.where(is_twin[:, None], 0, parameters))
            progress(number + 1, in_all, self.name)
        # What has one point on an axis does not move along it.
        spacing = torch.where(counts > 1, 2 * largest / (counts - 1).clamp_min(1), 0)
        for round_ in range(settings.refinements):
            spacing, centre = spacing / 2, search.transformation.clone()
            for number, step in enumerate(_AROUND):
                parameters = threat.allowed(centre + x.new_tensor(step) * spacing)
                is_known = (parameters == centre).all(dim=1) | (~has_colours & (step[1] != 0))
                tries(torch.where(is_known[:, None], 0, parameters))
                progress(len(points) + round_ * len(_AROUND) + number + 1, in_all, self.name)
        return search.result()


def _evenly(count: int) -> list[float]:
    """From -1 to 1; 0 alone where it is one."""
    return [0.0] if count == 1 else [2 * place / (count - 1) - 1 for place in range(count)]
