"""AutoAttack for one score: several attacks in turn, and of each image the worst that any of them found.

AutoAttack (Croce & Hein 2020) is defined for classifiers. Of it is kept what carries over to a real-valued score: no
parameter to tune, several objectives, a black box beside the gradients, and images that are lost already cost nothing
more. docs/attacks.md defines it to the last number. Of a deterministic detector the image-by-image worst case is the
worst case of the AUC. Of a stochastic one it is not, and the best of several noisy candidates is worse than the last
iterate of a long one, so there `autoattack-rand` averages instead.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from attacks.apgd import APGD, APGDL2, APGDLInf, APGDSettings
from attacks.base import Attack, AttackSettings
from attacks.errors import AttackError
from attacks.merging import is_better, merged
from attacks.pgd import PGD, PGDL2, PGDLInf, PGDSettings
from attacks.registry import register
from attacks.result import AttackResult
from attacks.square import Square, SquareL2, SquareLInf, SquareSettings
from attacks.threat import ThreatModel
from detectors.noise import Noise

if TYPE_CHECKING:
    from detectors.base import Detector, Progress

_APGD: dict[str, type[APGD]] = {"linf": APGDLInf, "l2": APGDL2}
_PGD: dict[str, type[PGD]] = {"linf": PGDLInf, "l2": PGDL2}
_SQUARE: dict[str, type[Square]] = {"linf": SquareLInf, "l2": SquareL2}
OVERESTIMATES = "AutoAttack for deterministic detectors on a stochastic one: it averages no noise and overestimates"


def _check_counts(settings: AttackSettings, title: str, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise AttackError(f"{title}'s {name} must be a whole number of at least 1; got {value!r}.")


@dataclass(frozen=True)
class AutoAttackSettings(AttackSettings):
    """Settings of AutoAttack on a deterministic detector. Their names are their own: what a protocol sets of the steps
    of PGD weakens no AutoAttack.

    Attributes:
        iterations: of each run of APGD.
        starts: of APGD along the score (along the surrogate, where it is a monotone function of the score).
        other_starts: of APGD along each other loss: a surrogate that is not, the map's smooth maximum, its mean.
        queries: of Square.
        force: attack a stochastic detector all the same, of which this attack overestimates the robustness.
    """

    iterations: int = 100
    starts: int = 5
    other_starts: int = 2
    queries: int = 5000
    force: bool = False

    def __post_init__(self) -> None:
        """Raises AttackError for values that make no sense."""
        _check_counts(self, "AutoAttack", "iterations", "starts", "other_starts", "queries")
        if not isinstance(self.force, bool):
            raise AttackError(f"AutoAttack's force must be True or False; got {self.force!r}.")


@dataclass(frozen=True)
class AutoAttackRandSettings(AttackSettings):
    """Settings of AutoAttack on a stochastic detector.

    Attributes:
        iterations: of each run.
        mean_draws: in the mean over the iterations, that a gradient is averaged over.
        selection_draws: draws on which candidates are compared.
    """

    iterations: int = 100
    mean_draws: int = 20
    selection_draws: int = 16

    def __post_init__(self) -> None:
        """Raises AttackError for values that make no sense."""
        _check_counts(self, "AutoAttack", "iterations", "mean_draws", "selection_draws")


class Ensemble(Attack):
    """Attacks one after the other. Each goes on with the images that do not have enough."""

    budget_settings: ClassVar[tuple[str, ...]] = ()
    can_start: ClassVar[bool] = True

    def settled(self, detector: Detector) -> Self:
        """As in `Attack`. Raises AttackError for a detector that it is not for."""
        self.members(detector)
        return self

    def describe(self) -> dict[str, Any]:
        """As everywhere, with the revision of each kind of member: what changes one changes this."""
        kinds = (_APGD[self.norm], _PGD[self.norm], _SQUARE[self.norm])
        return {**super().describe(), "member_revisions": {kind.name: kind.revision for kind in kinds}}

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
        members = self.members(detector)
        limit = torch.full_like(y, torch.inf) if enough is None else enough
        rows, total = torch.arange(len(x), device=x.device), None
        for number, member in enumerate(members):
            some = rows.tolist()
            found = member.run(
                detector,
                x[rows],
                y[rows],
                noise=noise.sub(number).pick(some),
                selection=selection.pick(some),
                enough=limit[rows] if member.can_stop and not detector.is_stochastic else None,
                start=None if start is None else start[rows],
            )
            if total is None:
                total = replace(found, trace=found.best_loss[None])
            else:
                known = total.images[rows], total.best_loss[rows]
                wins = is_better(detector, y[rows], *known, found, selection.pick(some))
                total = merged(total, found, rows, wins)
            progress(number + 1, len(members), self.name)
            rows = rows[~(total.best_loss[rows] > limit[rows])]
            if not len(rows):
                break
        assert total is not None
        return replace(total, had_enough=None if enough is None else total.best_loss > enough)


class AutoAttack(Ensemble):
    """Of a deterministic detector: APGD along the score, APGD along each other loss, Square."""

    settings_class: ClassVar[type[AttackSettings]] = AutoAttackSettings
    can_stop: bool = True
    for_stochastic: ClassVar[bool | None] = False

    def members(self, detector: Detector) -> tuple[Attack, ...]:
        """As in `Attack`: what can be followed depends on what the detector declares. Raises AttackError for a
        stochastic one, of which it would overestimate the robustness."""
        settings: AutoAttackSettings = self.settings
        if detector.is_stochastic and not settings.force:
            raise AttackError(
                f"{self.name} is for deterministic detectors, and {detector.name} draws noise, of which it averages "
                f"none; use {self.name.replace('autoattack', 'autoattack-rand')}."
            )
        is_monotone = detector.has_surrogate and detector.surrogate_is_monotone
        others = ["surrogate"] if detector.has_surrogate and not is_monotone else []
        others += ["map", "mean-map"] if detector.has_map else []
        starts = {"surrogate" if is_monotone else "score": settings.starts} | dict.fromkeys(
            others, settings.other_starts
        )
        along = [
            _APGD[self.norm](
                self.threat,
                APGDSettings(settings.iterations, count, which, eot=1, schedule_draws=1),  # type: ignore[arg-type]
            )
            for which, count in starts.items()
        ]
        return (*along, _SQUARE[self.norm](self.threat, SquareSettings(settings.queries)))

    def settled(self, detector: Detector) -> Self:
        """As in `Attack`: on a deterministic detector nothing is forced."""
        settled = copy.copy(super().settled(detector))
        settled.settings = replace(self.settings, force=self.settings.force and detector.is_stochastic)
        return settled

    def is_for(self, *, is_stochastic: bool) -> bool:
        """As in `Attack`."""
        return bool(self.settings.force) or super().is_for(is_stochastic=is_stochastic)

    def flags(self, detector: Detector) -> tuple[str, ...]:
        """As in `Attack`."""
        return (OVERESTIMATES,) if detector.is_stochastic else ()

    def gradients(self, *, is_stochastic: bool, gradients_followed: int = 1) -> int:
        """As in `Attack`, of a detector with a map and no surrogate; Square's queries count as a third of one each."""
        settings: AutoAttackSettings = self.settings
        return settings.iterations * (settings.starts + 2 * settings.other_starts) + settings.queries // 3


class AutoAttackRand(Ensemble):
    """Of a stochastic detector: PGD that averages noise along the score and along the map's smooth maximum, and APGD
    along the score."""

    settings_class: ClassVar[type[AttackSettings]] = AutoAttackRandSettings
    budget_settings: ClassVar[tuple[str, ...]] = ("mean_draws",)
    for_stochastic: ClassVar[bool | None] = True

    def members(self, detector: Detector) -> tuple[Attack, ...]:
        """As in `Attack`. Raises AttackError for a deterministic detector, of which it would be the weaker attack."""
        if not detector.is_stochastic:
            raise AttackError(
                f"{self.name} is for detectors that draw noise, and {detector.name} draws none; use "
                f"{self.name.replace('-rand', '')}."
            )
        settings: AutoAttackRandSettings = self.settings
        first = max(1, settings.mean_draws // 4)
        averaged = [
            _PGD[self.norm](
                self.threat,
                PGDSettings(
                    settings.iterations,
                    differentiate=name,
                    # Few draws find the direction, many see small differences.
                    eot=first,
                    eot_last=2 * settings.mean_draws - first,
                    momentum=0.9,
                    schedule="cosine",
                    selection_draws=settings.selection_draws,
                ),
            )
            for name in self._followed(detector)
        ]
        apgd = APGDSettings(
            settings.iterations, 1, "auto", settings.mean_draws, selection_draws=settings.selection_draws
        )
        return (*averaged, _APGD[self.norm](self.threat, apgd))

    @staticmethod
    def _followed(detector: Detector) -> list[Any]:
        """Whose gradients are followed, in turn."""
        which = ["map"] if detector.has_map and detector.score_is_map_maximum else []
        which += ["surrogate"] if detector.has_surrogate else []
        return which + ([] if detector.has_surrogate and detector.surrogate_is_monotone else ["score"])

    def on_known_noise(self, detector: Detector) -> tuple[Attack, ...]:
        """As in `Attack`: APGD from the clean image along each of what the members follow."""
        settings: AutoAttackRandSettings = self.settings
        return tuple(
            _APGD[self.norm](self.threat, APGDSettings(settings.iterations, 1, name, eot=1, schedule_draws=1))
            for name in self._followed(detector)
        )

    def gradients(self, *, is_stochastic: bool, gradients_followed: int = 1) -> int:
        """As in `Attack`, of a detector whose score is its map's maximum."""
        settings: AutoAttackRandSettings = self.settings
        return 3 * settings.iterations * settings.mean_draws

    def with_draws(self, factor: int) -> Self:
        """As in `Attack`."""
        more = copy.copy(self)
        more.settings = replace(self.settings, mean_draws=factor * self.settings.mean_draws)
        return more


@register
class AutoAttackLInf(AutoAttack):
    """AutoAttack in the l-inf ball, for deterministic detectors."""

    name: ClassVar[str] = "autoattack-linf"
    title: ClassVar[str] = "AutoAttack (l-inf)"
    summary: ClassVar[str] = (
        "APGD from five starts and along other losses, then Square; l-inf, deterministic detectors."
    )
    norm: ClassVar[str] = "linf"


@register
class AutoAttackL2(AutoAttack):
    """AutoAttack in the l2 ball, for deterministic detectors."""

    name: ClassVar[str] = "autoattack-l2"
    title: ClassVar[str] = "AutoAttack (l2)"
    summary: ClassVar[str] = "APGD from five starts and along other losses, then Square; l2, deterministic detectors."
    norm: ClassVar[str] = "l2"


@register
class AutoAttackRandLInf(AutoAttackRand):
    """AutoAttack in the l-inf ball, for stochastic detectors."""

    name: ClassVar[str] = "autoattack-rand-linf"
    title: ClassVar[str] = "AutoAttack rand (l-inf)"
    summary: ClassVar[str] = "PGD and APGD that average noise over 2,000 gradients each; l-inf, stochastic detectors."
    norm: ClassVar[str] = "linf"


@register
class AutoAttackRandL2(AutoAttackRand):
    """AutoAttack in the l2 ball, for stochastic detectors."""

    name: ClassVar[str] = "autoattack-rand-l2"
    title: ClassVar[str] = "AutoAttack rand (l2)"
    summary: ClassVar[str] = "PGD and APGD that average noise over 2,000 gradients each; l2, stochastic detectors."
    norm: ClassVar[str] = "l2"
