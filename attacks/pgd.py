"""Projected gradient descent on the anomaly score (Madry et al. 2018; Eq. 3.1 and 3.2 of the paper).

With EOT (Athalye et al. 2018) as the setting `eot`, and BPDA (same paper) as `differentiate="surrogate"`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from attacks.base import Attack, AttackResult, AttackSettings
from attacks.errors import AttackError
from attacks.objective import Differentiate, Objective
from attacks.registry import register
from attacks.threat import ThreatModel
from detectors.noise import Noise

if TYPE_CHECKING:
    from detectors.base import Detector, Progress

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
        differentiate: "surrogate" is BPDA; candidates are compared by the score all the same.
        selection_draws: draws on which a stochastic detector's candidates are compared.
    """

    steps: int = 40
    step_size: float | None = None
    random_start: bool = False
    restarts: int = 1
    keep: Literal["best", "last"] = "best"
    eot: int = 1
    differentiate: Differentiate = "score"
    selection_draws: int = 3

    def __post_init__(self) -> None:
        """Raises AttackError for values that make no sense."""
        for field in ("steps", "restarts", "eot", "selection_draws"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise AttackError(f"PGD's {field} must be a whole number of at least 1; got {value!r}.")
        if self.step_size is not None and not (math.isfinite(self.step_size) and self.step_size > 0):
            raise AttackError(f"PGD's step_size must be a number above 0, or None; got {self.step_size!r}.")
        if self.keep not in ("best", "last"):
            raise AttackError(f"PGD's keep must be 'best' or 'last'; got {self.keep!r}.")
        if self.differentiate not in ("score", "surrogate"):
            raise AttackError(f"PGD's differentiate must be 'score' or 'surrogate'; got {self.differentiate!r}.")


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
        settings: PGDSettings = self.settings
        objective = Objective(detector, y, differentiate=settings.differentiate, eot=settings.eot)
        search = _Search(objective, x, selection, settings) if detector.is_stochastic else None
        best, last = _Kept(x), _Kept(x)
        clean_loss: Tensor | None = None
        if search is not None:
            clean_loss = search.loss(x)
        elif settings.random_start:
            clean_loss = objective.loss(x, noise)
        if clean_loss is not None:
            best.offer(x, clean_loss, restart=0)
        traces = []
        for restart in range(settings.restarts):
            starts_at_random = settings.random_start or restart > 0
            x_adv = threat.random_start(x, noise.sub(restart)) if starts_at_random else x
            trace = []
            for step in range(settings.steps):
                loss, gradient = objective.gradient(x_adv, noise.sub(restart, step))
                trace.append(loss)
                if search is None:
                    best.offer(x_adv, loss, restart)
                elif search.is_checkpoint(step):
                    best.offer(x_adv, search.loss(x_adv), restart)
                x_adv = threat.project(x_adv + threat.steepest_step(gradient, self.step_size(threat)), x)
                progress(restart * settings.steps + step + 1, settings.restarts * settings.steps, self.name)
            trace.append(objective.loss(x_adv, noise.sub(restart, settings.steps)))
            last_loss = trace[-1] if search is None else search.loss(x_adv)
            best.offer(x_adv, last_loss, restart)
            last.offer(x_adv, last_loss, restart)
            traces.append(torch.stack(trace))
        kept = best if settings.keep == "best" else last
        return AttackResult(
            images=kept.images,
            trace=kept.of_its_restart(torch.stack(traces)),
            clean_loss=traces[0][0] if clean_loss is None else clean_loss,
            last_loss=last.loss,
            best_loss=best.loss,
            zero_gradients=objective.zero_gradients,
            non_finite_gradients=objective.non_finite_gradients,
            reprojected=torch.zeros_like(y, dtype=torch.bool),
            forwards=objective.forwards,
            gradients=objective.gradients,
        )


class _Search:
    """Compares a stochastic detector's candidates on common draws."""

    def __init__(self, objective: Objective, x: Tensor, selection: Noise, settings: PGDSettings) -> None:
        self._objective, self._selection, self._draws = objective, selection, settings.selection_draws
        self._every = max(1, settings.steps // CHECKPOINTS)

    def is_checkpoint(self, step: int) -> bool:
        """Whether the iterate before this step is a candidate (the clean image and the last iterate always are)."""
        return step > 0 and step % self._every == 0

    def loss(self, x_adv: Tensor) -> Tensor:
        return self._objective.mean_loss(x_adv, self._selection, self._draws)


class _Kept:
    """Image by image, the candidate with the highest loss."""

    def __init__(self, x: Tensor) -> None:
        self.images = x
        self.loss = torch.full((len(x),), torch.nan, dtype=x.dtype, device=x.device)
        self._restart = torch.zeros(len(x), dtype=torch.long, device=x.device)
        self._is_empty = True

    def offer(self, images: Tensor, loss: Tensor, restart: int) -> None:
        if self._is_empty:  # taken whatever its loss: a last iterate with a NaN score must not become the clean image
            self.images, self.loss, self._is_empty = images, loss, False
            return
        # A NaN never wins and always loses.
        better = (loss > self.loss) | (self.loss.isnan() & ~loss.isnan())
        self.images = torch.where(better[:, None, None, None], images, self.images)
        self.loss = torch.where(better, loss, self.loss)
        self._restart = torch.where(better, restart, self._restart)

    def of_its_restart(self, traces: Tensor) -> Tensor:
        """(restarts, T, B) to (T, B): the trace of the restart that each image came from."""
        return traces.gather(0, self._restart.expand(1, traces.shape[1], -1))[0]


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
