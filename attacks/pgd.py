"""Projected gradient descent on the anomaly score (Madry et al. 2018; Eq. 3.1 and 3.2 of the paper).

A stochastic detector's gradient is mostly noise: at 2 draws 64 % of the signs of FreeRAD's are right, at 32 draws 80 %.
So what its attack can do is average: over draws (EOT, Athalye et al. 2018), over steps (momentum, Dong et al. 2018),
with steps that become smaller as the direction becomes surer. The settings `eot`, `eot_last`, `momentum`, `schedule`
and `stochastic_steps` concern stochastic detectors alone. With BPDA (Athalye et al. 2018) as the setting
`differentiate`, a detector whose honest score has no useful gradient declares a surrogate, and is attacked along the
gradients of both.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from attacks import ascent
from attacks.ascent import Climb
from attacks.base import Attack, AttackSettings
from attacks.candidates import Highest
from attacks.errors import AttackError
from attacks.objective import loss as loss_of
from attacks.registry import register
from attacks.result import AttackResult
from attacks.threat import ThreatModel, largest_entry
from detectors.noise import Noise

if TYPE_CHECKING:
    from detectors.base import Detector, Progress

COSINE_STEPS = (1 / 2, 1 / 50)  # first and last step of the cosine schedule, in epsilons


@dataclass(frozen=True)
class PGDSettings(AttackSettings):
    """Settings of PGD.

    Attributes:
        steps: gradient steps of each restart.
        step_size: on [0, 1]; None means 2.5 * epsilon / steps, and what `schedule` says.
        random_start: whether the first restart starts at a random point (the paper: no).
        restarts: how often to start; all but the first start at random points.
        keep: "best" keeps each image's best candidate, the clean image among them (of a stochastic detector: the last
            iterate, unless another candidate beats it by more than noise); "last" the last iterate (the paper).
        differentiate: whose gradient is followed. "auto": the score's and, where the detector has a surrogate, in a
            second run the surrogate's, of which each image keeps the better (the surrogate's alone, where it is a
            monotone function of the score). "score", "surrogate" (BPDA) or "map" (a smooth maximum of the anomaly map,
            where there is one): that alone. Candidates are compared by the score whatever is followed; a monotone
            surrogate, unless the score is followed, stands for it.

    Of a stochastic detector:
        stochastic_steps: in place of `steps`; None: as many.
        eot, eot_last: draws that the first and the last step's gradient are averaged over; between them the number
            rises evenly: early steps find the direction whatever the noise, late ones must see small differences.
            None: always `eot`.
        momentum: the share m in [0, 1) of the direction so far that goes into each step, d <- m d + g / mean|g|
            (MI-FGSM, Dong et al. 2018, Eq. 6); 0: each step follows its own gradient alone (the paper), as it always
            does of a deterministic one, where there is no noise to average.
        schedule: "constant" step size, or "cosine": it falls from epsilon / 2 (or `step_size`) to epsilon / 50.
        smooth_map: whether "auto" follows the smooth maximum of the map in the score's place, where the score is the
            map's maximum (`Detector.score_is_map_maximum`) and there is no surrogate.
        selection_draws: draws on which candidates are compared.
    """

    steps: int = 40
    step_size: float | None = None
    random_start: bool = False
    restarts: int = 1
    keep: Literal["best", "last"] = "best"
    differentiate: Literal["auto", "score", "surrogate", "map"] = "auto"
    stochastic_steps: int | None = None
    eot: int = 1
    eot_last: int | None = None
    momentum: float = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    smooth_map: bool = False
    selection_draws: int = 16

    def __post_init__(self) -> None:
        """Raises AttackError for values that make no sense."""
        for field in ("steps", "stochastic_steps", "restarts", "eot", "eot_last", "selection_draws"):
            value = getattr(self, field)
            if value is None and field in ("stochastic_steps", "eot_last"):
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise AttackError(f"PGD's {field} must be a whole number of at least 1; got {value!r}.")
        if self.step_size is not None and not (math.isfinite(self.step_size) and self.step_size > 0):
            raise AttackError(f"PGD's step_size must be a number above 0, or None; got {self.step_size!r}.")
        for field in ("random_start", "smooth_map"):
            if not isinstance(getattr(self, field), bool):
                raise AttackError(f"PGD's {field} must be True or False; got {getattr(self, field)!r}.")
        if not 0 <= self.momentum < 1:
            raise AttackError(f"PGD's momentum must be a number from 0 to below 1; got {self.momentum!r}.")
        for field, known in (
            ("keep", ("best", "last")),
            ("differentiate", ("auto", "score", "surrogate", "map")),
            ("schedule", ("constant", "cosine")),
        ):
            if getattr(self, field) not in known:
                *others, final = map(repr, known)
                raise AttackError(
                    f"PGD's {field} must be {', '.join(others)} or {final}; got {getattr(self, field)!r}."
                )

    def draws_at(self, step: int) -> int:
        """Noise draws of a step's gradient, counted from 0."""
        last = self.eot if self.eot_last is None else self.eot_last
        return round(self.eot + (last - self.eot) * step / max(1, self.steps - 1))


class PGD(Attack):
    """Steepest steps, projected onto the ball around the original image.

    Every gradient step draws fresh noise, as the randomised defence does. Of a deterministic detector every iterate is
    a candidate. Of a stochastic one, losses under different noise would select lucky noise: the clean image, the
    iterate after four fifths of the steps and the last one are compared on common draws of the selection source instead
    (whatever `keep` says, so that a last iterate that is worse than another shows).
    """

    name: ClassVar[str] = "pgd"
    title: ClassVar[str] = "PGD"
    summary: ClassVar[str] = "Projected gradient descent on the score."
    revision: ClassVar[int] = 3
    settings_class: ClassVar[type[AttackSettings]] = PGDSettings
    budget_settings: ClassVar[tuple[str, ...]] = ("steps", "eot")
    length_settings: ClassVar[tuple[str, ...]] = ("step_size",)
    can_start: ClassVar[bool] = True

    @property
    def can_stop(self) -> bool:  # type: ignore[override]
        """Where the best iterate is kept, whatever comes after it changes nothing once it is good enough."""
        return bool(self.settings.keep == "best")

    def step_size(self, threat: ThreatModel) -> float:
        """The (first) step's size on [0, 1]."""
        explicit: float | None = self.settings.step_size
        if explicit is not None:
            return explicit
        settings: PGDSettings = self.settings
        if settings.schedule == "cosine":
            return COSINE_STEPS[0] * threat.epsilon
        return 2.5 * threat.epsilon / settings.steps

    def step_sizes(self, threat: ThreatModel) -> list[float]:
        """Every step's size on [0, 1]."""
        first, steps = self.step_size(threat), self.settings.steps
        if self.settings.schedule == "constant":
            return [first] * steps
        last = COSINE_STEPS[1] * threat.epsilon
        # An explicit first step below the last one of the schedule stays as it is.
        waves = [(1 + math.cos(math.pi * step / max(1, steps - 1))) / 2 for step in range(steps)]
        return [min(first, last) + max(0.0, first - last) * wave for wave in waves]

    def settled(self, detector: Detector) -> Self:
        """As `ascent.settled_gradient` says; a deterministic detector has no noise to average.

        Measured on FreeRAD (ELPV, 60 + 60 images, 120 gradients): following the smooth maximum leaves 20.5 of poly
        where the score's own gradient leaves 26.3."""
        settings: PGDSettings = self.settings
        wanted: Any = ascent.settled_gradient(settings.differentiate, detector, smooth_map=settings.smooth_map)
        settled = copy.copy(self)
        settled.settings = replace(self._for(detector.is_stochastic), differentiate=wanted)
        return settled

    def _for(self, is_stochastic: bool) -> PGDSettings:
        settings: PGDSettings = self.settings
        if is_stochastic:
            return replace(settings, steps=settings.stochastic_steps or settings.steps, stochastic_steps=None)
        return replace(
            settings, stochastic_steps=None, eot=1, eot_last=None, momentum=0.0, schedule="constant", smooth_map=False
        )

    def follows(self, detector: Detector) -> str:
        """As in `Attack`; "auto": the score's and the surrogate's."""
        return str(self.settled(detector).settings.differentiate)

    def gradients(self, *, is_stochastic: bool, gradients_followed: int = 1) -> int:
        """As in `Attack`."""
        settings = self._for(is_stochastic)
        return gradients_followed * settings.restarts * sum(settings.draws_at(step) for step in range(settings.steps))

    def budget(self, *, is_stochastic: bool) -> int:
        """As in `Attack`."""
        settings: PGDSettings = self.settings
        return self.gradients(is_stochastic=is_stochastic) // settings.restarts

    def with_draws(self, factor: int) -> Self:
        """As in `Attack`."""
        settings: PGDSettings = self.settings
        more = copy.copy(self)
        last = None if settings.eot_last is None else factor * settings.eot_last
        more.settings = replace(settings, eot=factor * settings.eot, eot_last=last)
        return more

    def describe(self) -> dict[str, Any]:
        """As everywhere, with the step size that is used."""
        return {**super().describe(), "step_size": self.step_size(self._threat_model())}

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
        attack = self.settled(detector)
        settings: PGDSettings = attack.settings
        sizes = attack.step_sizes(threat)
        followed = ascent.objectives(settings.differentiate, detector, x, y, noise)
        compared_by = next(iter(followed.values()))

        def compare(images: Tensor) -> Tensor:
            """Losses of candidates on common draws, (D, B)."""
            return compared_by.losses(images, selection, settings.selection_draws)

        highest = None if detector.is_stochastic else Highest(x)
        clean = None
        if detector.is_stochastic or settings.random_start or enough is not None or start is not None:
            clean = compare(x)
        if highest is not None and clean is not None:
            highest.offer(x, clean[0], run=0)
        runs: list[Climb] = []
        count = len(followed) * settings.restarts * settings.steps
        # Both gradients are followed under the same noise and from the same starts: the result is, image by image, the
        # better one of two attacks that each follow one of them.
        for objective, restart in product(followed.values(), range(settings.restarts)):
            starts_at_random = restart > 0 or (settings.random_start and start is None)
            x_adv = threat.random_start(x, noise.sub(restart)) if starts_at_random else x if start is None else start
            run = Climb(objective, len(runs), noise.sub(restart), settings.steps, highest, enough)
            projected, direction = threat.around(x), torch.zeros_like(x)
            for step, size in enumerate(sizes):
                gradient = run.slope(x_adv, settings.draws_at(step)).gradient
                direction = gradient if settings.momentum == 0 else settings.momentum * direction + _levelled(gradient)
                x_adv = projected(x_adv + threat.steepest_step(direction, size))
                progress(len(runs) * settings.steps + step + 1, count, self.name)
            run.end(x_adv, settings.draws_at(settings.steps - 1))
            runs.append(run)
        found = ascent.result(x, followed, runs, clean, compare, highest, keep_best=settings.keep == "best")
        return ascent.with_enough(found, followed, enough)

    def along_the_score(self, detector: Detector) -> Self | None:
        """As in `Attack`."""
        if self.settled(detector).settings.differentiate != "map":
            return None
        other = copy.copy(self)
        other.settings = replace(self.settings, differentiate="score")
        return other

    def compared_loss(self, detector: Detector, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """As in `Attack`."""
        is_score = self.follows(detector) == "score"
        return loss_of(detector, x, y, noise, differentiate="score" if is_score else "surrogate")


def _levelled(gradient: Tensor) -> Tensor:
    """Each image's gradient with a mean absolute value of 1; zero for no gradient."""
    # By the largest entry first: the sum of entries of 1e-44 would lose most of them.
    largest = largest_entry(gradient)[:, None, None, None]
    scaled = gradient / torch.where(largest > 0, largest, 1)
    return scaled / torch.where(largest > 0, scaled.abs().mean(dim=(1, 2, 3), keepdim=True), 1)


@register
class PGDLInf(PGD):
    """PGD in the l-inf ball, 2/255 by default."""

    name: ClassVar[str] = "pgd-linf"
    title: ClassVar[str] = "PGD (l-inf)"
    summary: ClassVar[str] = "Projected gradient descent on the score in the l-inf ball (Eq. 3.1)."
    norm: ClassVar[str] = "linf"


@register
class PGDL2(PGD):
    """PGD in the l2 ball, 0.2 at 256x256 and in proportion to the side by default."""

    name: ClassVar[str] = "pgd-l2"
    title: ClassVar[str] = "PGD (l2)"
    summary: ClassVar[str] = "Projected gradient descent on the score in the l2 ball (Eq. 3.2)."
    norm: ClassVar[str] = "l2"
