"""Projected gradient descent on the anomaly score (Madry et al. 2018; Eq. 3.1 and 3.2 of the paper).

With momentum (Dong et al. 2018) as the setting `momentum`: of a stochastic detector each step follows an average over
the steps so far, which takes out its noise at no cost. With EOT (Athalye et al. 2018) as the setting `eot`, and BPDA
(same paper) as the setting `differentiate`: a detector whose honest score has no useful gradient declares a surrogate,
and is attacked along the gradients of both.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar

import torch
from torch import Tensor

from attacks.base import Attack, AttackResult, AttackSettings
from attacks.errors import AttackError
from attacks.objective import Differentiate, Objective
from attacks.registry import register
from attacks.threat import ThreatModel, largest_entry
from detectors.noise import Noise

if TYPE_CHECKING:
    from detectors.base import Detector, Progress

T = TypeVar("T")
CHECKPOINTS = 5  # at how many iterates of a restart a stochastic detector's candidates are compared


@dataclass(frozen=True)
class PGDSettings(AttackSettings):
    """Settings of PGD.

    Attributes:
        steps: gradient steps of each restart.
        step_size: on [0, 1]; None means 2.5 * epsilon / steps.
        random_start: whether the first restart starts at a random point (the paper: no).
        restarts: how often to start; all but the first start at random points.
        keep: "best" keeps each image's best candidate, the clean image among them; "last" the last iterate (the paper).
        eot: draws that each gradient is averaged over, of a stochastic detector.
        momentum: of a stochastic detector, the share m in [0, 1) of the direction so far that goes into each step,
            d <- m d + g / mean|g| (MI-FGSM, Dong et al. 2018, Eq. 6); 0: each step follows its own gradient alone (the
            paper), as it always does of a deterministic one, where there is no noise to average.
        differentiate: whose gradient is followed. "auto": the score's and, where the detector has a surrogate, in a
            second run the surrogate's, of which each image keeps the better (the surrogate's alone, where it is a
            monotone function of the score). "score" or "surrogate" (BPDA): that alone.
            Candidates are compared by the score whatever is followed; a monotone surrogate that is followed alone
            stands for it.
        selection_draws: draws on which a stochastic detector's candidates are compared.
    """

    steps: int = 40
    step_size: float | None = None
    random_start: bool = False
    restarts: int = 1
    keep: Literal["best", "last"] = "best"
    eot: int = 1
    momentum: float = 0.0
    differentiate: Literal["auto", "score", "surrogate"] = "auto"
    selection_draws: int = 3

    def __post_init__(self) -> None:
        """Raises AttackError for values that make no sense."""
        for field in ("steps", "restarts", "eot", "selection_draws"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise AttackError(f"PGD's {field} must be a whole number of at least 1; got {value!r}.")
        if self.step_size is not None and not (math.isfinite(self.step_size) and self.step_size > 0):
            raise AttackError(f"PGD's step_size must be a number above 0, or None; got {self.step_size!r}.")
        if not 0 <= self.momentum < 1:
            raise AttackError(f"PGD's momentum must be a number from 0 to below 1; got {self.momentum!r}.")
        if self.keep not in ("best", "last"):
            raise AttackError(f"PGD's keep must be 'best' or 'last'; got {self.keep!r}.")
        if self.differentiate not in ("auto", "score", "surrogate"):
            raise AttackError(
                f"PGD's differentiate must be 'auto', 'score' or 'surrogate'; got {self.differentiate!r}."
            )


class PGD(Attack):
    """Steepest steps of a fixed size, projected onto the ball around the original image.

    Every gradient step draws fresh noise, as the randomised defence does. Of a deterministic detector every iterate is
    a candidate. Of a stochastic one, losses under different noise would select lucky noise: the clean image and a few
    iterates of each restart are compared on common draws of the selection source instead (whatever `keep` says, so
    that a last iterate that is worse than the best one shows).
    """

    name: ClassVar[str] = "pgd"
    title: ClassVar[str] = "PGD"
    summary: ClassVar[str] = "Projected gradient descent on the score."
    settings_class: ClassVar[type[AttackSettings]] = PGDSettings

    def step_size(self, threat: ThreatModel) -> float:
        """The step size on [0, 1]."""
        explicit: float | None = self.settings.step_size
        return 2.5 * threat.epsilon / self.settings.steps if explicit is None else explicit

    def settled(self, detector: Detector) -> Self:
        """Of a detector without a surrogate, there is the score's gradient to follow, whatever `differentiate` says; of
        one whose surrogate is a monotone function of the score, "auto" follows the surrogate's alone: the same
        direction, where the score has one. A deterministic one has no momentum."""
        wanted = self.settings.differentiate
        if not detector.has_surrogate:
            wanted = "score"
        elif wanted == "auto" and detector.surrogate_is_monotone:
            wanted = "surrogate"
        settled = copy.copy(self)
        momentum = self.settings.momentum if detector.is_stochastic else 0.0
        settled.settings = replace(self.settings, differentiate=wanted, momentum=momentum)
        return settled

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
    ) -> AttackResult:
        settings: PGDSettings = self.settled(detector).settings
        which = settings.differentiate
        followed: tuple[Differentiate, ...] = ("score", "surrogate") if which == "auto" else (which,)
        objectives = {key: Objective(detector, y, differentiate=key, eot=settings.eot) for key in followed}
        objective = objectives[followed[0]]
        search = _Search(objective, selection, settings) if detector.is_stochastic else None
        best, last = _Kept(x), _Kept(x)
        projected, step_size = threat.around(x), self.step_size(threat)
        clean_loss: Tensor | None = None
        if search is not None:
            clean_loss = search.loss(x)
        elif settings.random_start:
            clean_loss = objective.loss(x, noise)
        if clean_loss is not None:
            best.offer(x, clean_loss, run=0)
        traces: list[Tensor] = []
        runs = len(objectives) * settings.restarts
        # Both gradients are followed under the same noise and from the same starts: the result is, image by image, the
        # better one of two attacks that each follow one of them.
        for objective, restart in product(objectives.values(), range(settings.restarts)):
            run = len(traces)
            starts_at_random = settings.random_start or restart > 0
            x_adv = threat.random_start(x, noise.sub(restart)) if starts_at_random else x
            trace = []
            direction = torch.zeros_like(x)
            for step in range(settings.steps):
                loss, gradient = objective.gradient(x_adv, noise.sub(restart, step))
                trace.append(loss)
                if search is None:
                    best.offer(x_adv, loss, run)
                elif search.is_checkpoint(step):
                    best.offer(x_adv, search.loss(x_adv), run)
                direction = gradient if settings.momentum == 0 else settings.momentum * direction + _levelled(gradient)
                x_adv = projected(x_adv + threat.steepest_step(direction, step_size))
                progress(run * settings.steps + step + 1, runs * settings.steps, self.name)
            trace.append(objective.loss(x_adv, noise.sub(restart, settings.steps)))
            last_loss = trace[-1] if search is None else search.loss(x_adv)
            best.offer(x_adv, last_loss, run)
            last.offer(x_adv, last_loss, run)
            traces.append(torch.stack(trace))
        kept = best if settings.keep == "best" else last
        return AttackResult(
            images=kept.images,
            trace=kept.of_its_run(torch.stack(traces)),
            clean_loss=traces[0][0] if clean_loss is None else clean_loss,
            last_loss=last.loss,
            best_loss=best.loss,
            zero_gradients=_zero_gradients(objectives, "score", otherwise=torch.full_like(y, torch.nan)),
            non_finite_gradients=torch.stack([o.non_finite_gradients for o in objectives.values()]).mean(0),
            reprojected=torch.zeros_like(y, dtype=torch.bool),
            forwards=sum(o.forwards for o in objectives.values()),
            gradients=sum(o.gradients for o in objectives.values()),
            surrogate_zero_gradients=_zero_gradients(objectives, "surrogate", otherwise=None),
            surrogate_won=kept.run >= settings.restarts if len(objectives) > 1 else None,
        )


def _levelled(gradient: Tensor) -> Tensor:
    """Each image's gradient with a mean absolute value of 1; zero for no gradient."""
    # By the largest entry first: the sum of entries of 1e-44 would lose most of them.
    largest = largest_entry(gradient)[:, None, None, None]
    scaled = gradient / torch.where(largest > 0, largest, 1)
    return scaled / torch.where(largest > 0, scaled.abs().mean(dim=(1, 2, 3), keepdim=True), 1)


def _zero_gradients(objectives: dict[Differentiate, Objective], which: Differentiate, *, otherwise: T) -> Tensor | T:
    return objectives[which].zero_gradients if which in objectives else otherwise


class _Search:
    """Compares a stochastic detector's candidates on common draws."""

    def __init__(self, objective: Objective, selection: Noise, settings: PGDSettings) -> None:
        self._objective, self._selection, self._draws = objective, selection, settings.selection_draws
        self._every = max(1, settings.steps // CHECKPOINTS)

    def is_checkpoint(self, step: int) -> bool:
        """Whether the iterate before this step is a candidate (the clean image and the last iterate always are)."""
        return step > 0 and step % self._every == 0

    def loss(self, x_adv: Tensor) -> Tensor:
        return self._objective.mean_loss(x_adv, self._selection, self._draws)


class _Kept:
    """Image by image, the candidate with the highest loss; of equal ones the first.

    Attributes:
        images, loss: the candidates and their losses.
        run: the number of the run that found each, (B,).
    """

    def __init__(self, x: Tensor) -> None:
        self.images = x
        self.loss = torch.full((len(x),), torch.nan, dtype=x.dtype, device=x.device)
        self.run = torch.zeros(len(x), dtype=torch.long, device=x.device)
        self._is_empty = True

    def offer(self, images: Tensor, loss: Tensor, run: int) -> None:
        if self._is_empty:  # taken whatever its loss: a last iterate with a NaN score must not become the clean image
            self.images, self.loss, self._is_empty = images, loss, False
            return
        # A NaN never wins and always loses.
        better = (loss > self.loss) | (self.loss.isnan() & ~loss.isnan())
        self.images = torch.where(better[:, None, None, None], images, self.images)
        self.loss = torch.where(better, loss, self.loss)
        self.run = torch.where(better, run, self.run)

    def of_its_run(self, traces: Tensor) -> Tensor:
        """(runs, T, B) to (T, B): the trace of the run that each image came from."""
        return traces.gather(0, self.run.expand(1, traces.shape[1], -1))[0]


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
