"""Auto-PGD (Croce & Hein 2020, Algorithm 1): steepest steps with momentum whose size the attack chooses itself.

The step starts at twice epsilon. At certain iterations each image's is halved, and the image goes back to its best
iterate, where too few of the steps since then have raised the objective, or neither its step nor its best has changed.
On a stochastic detector the rule would fire at every time under fresh noise, and the step collapse: there it compares
one small set of draws that stays the same, while gradients average fresh ones (EOT, Athalye et al. 2018).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from attacks import ascent, starts
from attacks.ascent import Climb
from attacks.base import Attack, AttackSettings
from attacks.candidates import Highest, mean_over_draws
from attacks.errors import AttackError
from attacks.objective import loss as loss_of
from attacks.registry import register
from attacks.result import AttackResult
from attacks.threat import ThreatModel
from detectors.noise import Noise

if TYPE_CHECKING:
    from detectors.base import Detector, Progress

MOMENTUM = 0.75  # alpha of Eq. 1: the share of the new step in the change
ENOUGH_RISES = 0.75  # rho of condition 1: this share of the steps since the last look must have raised the objective
FIRST_LOOK, SHORTER, SHORTEST = 0.22, 0.03, 0.06  # when the step is looked at (section 3.1), in shares of the steps
_OF_THE_START, _OF_THE_SCHEDULE = -2, -3  # no step has these numbers, so their noise is their own


@dataclass(frozen=True)
class APGDSettings(AttackSettings):
    """Settings of Auto-PGD.

    Attributes:
        steps: gradient steps from each start.
        restarts: how many starts: the clean image, a uniform one, the decontrasted image, then uniform ones
            (`attacks.starts`).
        differentiate: whose gradient is followed, as of PGD (`attacks.pgd.PGDSettings`); "map" (a smooth maximum of the
            anomaly map) and "mean-map" (its mean), of a detector that has one. Candidates are compared by the score.

    Of a stochastic detector:
        eot: draws that each gradient is averaged over.
        schedule_draws: draws on which the rule for the step compares, always the same.
        selection_draws: draws on which candidates are compared at the end.
    """

    steps: int = 100
    restarts: int = 1
    differentiate: Literal["auto", "score", "surrogate", "map", "mean-map"] = "auto"
    eot: int = 20
    schedule_draws: int = 4
    selection_draws: int = 16

    def __post_init__(self) -> None:
        """Raises AttackError for values that make no sense."""
        for field in ("steps", "restarts", "eot", "schedule_draws", "selection_draws"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise AttackError(f"APGD's {field} must be a whole number of at least 1; got {value!r}.")
        known = ("auto", "score", "surrogate", "map", "mean-map")
        if self.differentiate not in known:
            raise AttackError(f"APGD's differentiate must be one of {', '.join(known)}; got {self.differentiate!r}.")


def looks(steps: int) -> list[int]:
    """The iterations at which the step is looked at: after 0.22 of them, then in intervals that shorten by 0.03 down to
    0.06 (Croce & Hein 2020, section 3.1; in whole iterations as their experiments count them)."""
    interval, shortest = max(int(FIRST_LOOK * steps), 1), max(int(SHORTEST * steps), 1)
    shorter, found = max(int(SHORTER * steps), 1), []
    at = interval
    while at <= steps:
        found.append(at)
        interval = max(interval - shorter, shortest)
        at += interval
    return found


class APGD(Attack):
    """Auto-PGD on the score."""

    name: ClassVar[str] = "apgd"
    title: ClassVar[str] = "APGD"
    summary: ClassVar[str] = "Auto-PGD on the score."
    settings_class: ClassVar[type[AttackSettings]] = APGDSettings
    budget_settings: ClassVar[tuple[str, ...]] = ("steps", "eot")
    can_stop: bool = True
    can_start: ClassVar[bool] = True

    def settled(self, detector: Detector) -> Self:
        """As `ascent.settled_gradient` says; a deterministic detector has no noise to average."""
        settings: APGDSettings = self.settings
        wanted: Any = ascent.settled_gradient(settings.differentiate, detector, smooth_map=False)
        settings = replace(settings, differentiate=wanted)
        if not detector.is_stochastic:
            settings = replace(settings, eot=1, schedule_draws=1)
        settled = copy.copy(self)
        settled.settings = settings
        return settled

    def follows(self, detector: Detector) -> str:
        """As in `Attack`."""
        return str(self.settled(detector).settings.differentiate)

    def gradients(self, *, is_stochastic: bool, gradients_followed: int = 1) -> int:
        """As in `Attack`."""
        settings: APGDSettings = self.settings
        return gradients_followed * settings.restarts * settings.steps * (settings.eot if is_stochastic else 1)

    def budget(self, *, is_stochastic: bool) -> int:
        """As in `Attack`."""
        settings: APGDSettings = self.settings
        return self.gradients(is_stochastic=is_stochastic) // settings.restarts

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
        start: Tensor | None = None,
    ) -> AttackResult:
        ascent.check_map(self.name, self.settings.differentiate, detector)
        settings: APGDSettings = self.settled(detector).settings
        followed = ascent.objectives(settings.differentiate, detector, x, y, noise)
        compared_by = next(iter(followed.values()))

        def compare(images: Tensor) -> Tensor:
            """Losses of candidates on common draws, (D, B)."""
            return compared_by.losses(images, selection, settings.selection_draws)

        highest = None if detector.is_stochastic else Highest(x)
        clean = compare(x)
        if highest is not None:
            highest.offer(x, clean[0], run=0)
        runs: list[Climb] = []
        count = len(followed) * settings.restarts * settings.steps
        for objective, restart in product(followed.values(), range(settings.restarts)):
            own = noise.sub(restart)
            run = Climb(objective, len(runs), own, settings.steps, highest, enough)
            if restart == 0 and start is not None:
                first = start
            else:
                first = starts.start(starts.kind(restart), threat, x, own.sub(_OF_THE_START))
            _ascend(run, first, x, threat, settings, lambda done: progress(done, count, self.name))
            runs.append(run)
        found = ascent.result(x, followed, runs, clean, compare, highest, keep_best=True)
        return ascent.with_enough(found, followed, enough)


def _ascend(
    run: Climb, first: Tensor, x: Tensor, threat: ThreatModel, settings: APGDSettings, tell: Callable[[int], None]
) -> None:
    """Algorithm 1 from one start, image by image."""
    projected, is_stochastic = threat.around(x), run.highest is None
    schedule = run.noise.sub(_OF_THE_SCHEDULE)
    rule = _StepRule(len(x), threat.epsilon, settings.steps, x)
    current = previous = first
    for step in range(settings.steps):
        slope = run.slope(current, settings.eot)
        value = slope.value
        if is_stochastic:
            value = mean_over_draws(run.objective.followed_losses(current, schedule, settings.schedule_draws))
        current, gradient = rule.look(step, current, slope.gradient, value)
        if is_stochastic and run.is_late:
            run.late = rule.best
        ahead = projected(current + threat.steepest_step(gradient, 1.0) * _per_image(rule.size))
        share = MOMENTUM if step else 1.0
        ahead = projected(current + share * (ahead - current) + (1 - share) * (current - previous))
        previous, current = current, ahead
        tell(run.number * settings.steps + step + 1)
    if is_stochastic:
        value = mean_over_draws(run.objective.followed_losses(current, schedule, settings.schedule_draws))
        rule.look(settings.steps, current, torch.zeros_like(current), value)
        current = rule.best
    run.end(current, settings.eot)


class _StepRule:
    """Each image's step, and its best iterate so far by what is followed.

    Attributes:
        size: (B,), on [0, 1].
        best: (B, 3, H, W).
    """

    def __init__(self, count: int, epsilon: float, steps: int, like: Tensor) -> None:
        self.size = torch.full((count,), 2 * epsilon, dtype=like.dtype, device=like.device)
        self.best: Tensor
        self._looks = [0, *looks(steps)]
        self._rises = torch.zeros(count, dtype=torch.long, device=like.device)
        self._was_halved = torch.zeros(count, dtype=torch.bool, device=like.device)

    def look(self, step: int, current: Tensor, gradient: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Where the next step starts, and the gradient there: at the current iterate, with the gradient and the value,
        (B,), that are given, or at the best one where the step was halved."""
        if step == 0:
            self.best, self._gradient, self._value, self._last = current, gradient, value, value
            self._value_before = value
            return current, gradient
        self._rises += value > self._last
        self._last = value
        better = (value > self._value) | (self._value.isnan() & ~value.isnan())
        self.best = torch.where(_per_image(better), current, self.best)
        self._gradient = torch.where(_per_image(better), gradient, self._gradient)
        self._value = torch.where(better, value, self._value)
        if step not in self._looks:
            return current, gradient
        since = step - self._looks[self._looks.index(step) - 1]
        few_rises = self._rises < ENOUGH_RISES * since
        stuck = ~self._was_halved & ~(self._value > self._value_before)
        halved = few_rises | stuck
        self.size = torch.where(halved, self.size / 2, self.size)
        self._was_halved, self._value_before = halved, self._value
        self._rises = torch.zeros_like(self._rises)
        back = _per_image(halved)
        return torch.where(back, self.best, current), torch.where(back, self._gradient, gradient)


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]  # (B,) to (B, 1, 1, 1)


@register
class APGDLInf(APGD):
    """Auto-PGD in the l-inf ball, 2/255 by default."""

    name: ClassVar[str] = "apgd-linf"
    title: ClassVar[str] = "APGD (l-inf)"
    summary: ClassVar[str] = "Auto-PGD on the score in the l-inf ball: it chooses its own step sizes."
    norm: ClassVar[str] = "linf"


@register
class APGDL2(APGD):
    """Auto-PGD in the l2 ball, 0.2 at 256x256 and in proportion to the side by default."""

    name: ClassVar[str] = "apgd-l2"
    title: ClassVar[str] = "APGD (l2)"
    summary: ClassVar[str] = "Auto-PGD on the score in the l2 ball: it chooses its own step sizes."
    norm: ClassVar[str] = "l2"
