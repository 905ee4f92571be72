"""Corruptions (after Hendrycks & Dietterich 2019): of noise, blur, brightness, contrast and JPEG the worst.

What cameras and files do to pictures, no adversary: of each image the worst of all kinds at the severity that is asked
for and at those below, the clean image among them. It needs no gradient. What each kind does at each severity is in
`attacks.image_changes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from attacks.base import Attack, AttackSettings
from attacks.errors import AttackError
from attacks.image_changes import KINDS, corrupted, signs
from attacks.registry import register
from attacks.result import AttackResult
from attacks.search import Search
from attacks.threat import ThreatModel
from attacks.threat_others import CorruptionsUpTo
from detectors.noise import Noise

if TYPE_CHECKING:
    from detectors.base import Detector, Progress


@dataclass(frozen=True)
class CorruptionsSettings(AttackSettings):
    """Settings of corruptions.

    Attributes:
        kinds: which are tried, in turn.
        search_draws: draws on which a stochastic detector's candidates are compared.
        selection_draws: draws on which the best of them is compared with the clean image.
    """

    kinds: tuple[str, ...] = KINDS
    search_draws: int = 4
    selection_draws: int = 16

    def __post_init__(self) -> None:
        """Raises AttackError for values that make no sense."""
        given: object = self.kinds
        is_list = isinstance(given, Sequence) and not isinstance(given, str)
        if not is_list or not given or any(kind not in KINDS for kind in self.kinds):
            raise AttackError(
                f"The kinds of corruptions must be some of {', '.join(KINDS)}, in a tuple; got {given!r}."
            )
        object.__setattr__(self, "kinds", tuple(dict.fromkeys(self.kinds)))
        for field in ("search_draws", "selection_draws"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise AttackError(f"{field} of corruptions must be a whole number of at least 1; got {value!r}.")


@register
class Corruptions(Attack):
    """The worst of all kinds of corruption up to a severity."""

    name: ClassVar[str] = "corruptions"
    title: ClassVar[str] = "Corruptions"
    summary: ClassVar[str] = "Noise, blur, brightness, contrast, JPEG: for each image the worst up to a severity."
    norm: ClassVar[str] = CorruptionsUpTo.norm
    settings_class: ClassVar[type[AttackSettings]] = CorruptionsSettings
    can_stop: bool = True

    def gradients(self, *, is_stochastic: bool, gradients_followed: int = 1) -> int:
        """None: it follows no gradient."""
        return 0

    def describe(self) -> dict[str, Any]:
        """As everywhere; JSON knows lists, no tuples."""
        return {**super().describe(), "kinds": list(self.settings.kinds)}

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
        settings: CorruptionsSettings = self.settings
        if not isinstance(threat, CorruptionsUpTo):
            raise AttackError(f"{self.name} takes the threat model CorruptionsUpTo, not {threat!r}; pass that.")
        search = Search(
            detector,
            x,
            y,
            parameters=3,
            noise=noise,
            selection=selection,
            search_draws=settings.search_draws,
            selection_draws=settings.selection_draws,
            enough=enough,
        )
        tried = [
            (kind, severity, sign)
            for kind in settings.kinds
            for severity in range(1, int(threat.epsilon) + 1)
            for sign in signs(kind)
        ]
        for number, (kind, severity, sign) in enumerate(tried):
            rows = search.wanting()
            if not len(rows):
                break
            images = corrupted(x[rows], kind, severity, sign, noise.pick(rows.tolist()))
            done = x.new_tensor([KINDS.index(kind), severity, sign])
            search.offer(rows, images, done.expand(len(rows), -1))
            progress(number + 1, len(tried), self.name)
        return search.result()
