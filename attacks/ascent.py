"""What attacks along a gradient share: runs from several starts along several gradients, and one image at the end.

A `Climb` is one run under way. It asks for gradients, offers what it sees as candidates, and leaves alone an image that
has `enough`. `result` chooses among all runs, image by image: the highest loss where the detector is deterministic, and
where it is not what common draws of the selection source say (`attacks.candidates`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
from torch import Tensor

from attacks.candidates import Highest, Significant, mean_over_draws
from attacks.errors import AttackError
from attacks.objective import Differentiate, Objective, map_scale
from attacks.result import AttackResult
from detectors.noise import Noise

if TYPE_CHECKING:
    from detectors.base import Detector

T = TypeVar("T")
_OF_THE_SCALE = -1  # no restart has this number, so its noise is its own


def settled_gradient(wanted: str, detector: Detector, *, smooth_map: bool) -> str:
    """Whose gradient an attack follows of a detector that was told to follow `wanted`, one of PGD's `differentiate`.

    Of a detector without a surrogate or a map there is the score's to follow, whatever is wanted: so a run over many
    detectors goes on (called as it is, an attack refuses: `check_map`). Of one whose surrogate is a monotone function
    of the score, "auto" is the surrogate's alone: the same direction, where the score has one. With `smooth_map` "auto"
    is the map's smooth maximum where the score is the map's maximum and stochastic: a maximum over pixels has the
    gradient of one pixel, and noise makes it another one at each draw. A surrogate that holds the reconstruction
    constant is followed where it is wanted, alone.
    """
    if wanted == "auto" and detector.has_surrogate:
        return "surrogate" if detector.surrogate_is_monotone else "auto"
    if wanted == "auto":
        can_smooth = smooth_map and detector.has_map and detector.score_is_map_maximum
        return "map" if detector.is_stochastic and can_smooth else "score"
    has_surrogate = detector.has_surrogate or detector.surrogate_holds_reconstruction
    if (wanted == "surrogate" and not has_surrogate) or (wanted.endswith("map") and not detector.has_map):
        return "score"
    return wanted


def check_map(name: str, wanted: str, detector: Detector) -> None:
    """Raise AttackError where an attack was told to follow a map that the detector does not have."""
    if wanted.endswith("map") and not detector.has_map:
        called = getattr(detector, "name", type(detector).__name__)
        raise AttackError(
            f"{name} is told to follow the anomaly map (differentiate={wanted!r}), and {called} has none; leave "
            "differentiate out, or say 'score'."
        )


def objectives(which: str, detector: Detector, x: Tensor, y: Tensor, noise: Noise) -> dict[Differentiate, Objective]:
    """What is followed of the clean images x, by name: one objective, or two for a settled "auto"."""
    names: tuple[Differentiate, ...] = ("score", "surrogate") if which == "auto" else (which,)  # type: ignore[assignment]
    scale = map_scale(detector, x, noise.sub(_OF_THE_SCALE)) if which == "map" else None
    return {name: Objective(detector, y, differentiate=name, scale=scale) for name in names}


class Slope(NamedTuple):
    """What is followed at the images of a step: its value, (B,), and its gradient, (B, 3, H, W); zero, with the value
    of before, of images that have enough."""

    value: Tensor
    gradient: Tensor


@dataclass(eq=False)
class Climb:
    """One run from one start along one gradient.

    Attributes:
        objective: what is followed.
        number: of this run.
        noise: step s draws from `noise.sub(s)`.
        steps: how many there will be.
        highest: the best candidate of all runs so far, which this one adds to; None of a stochastic detector.
        enough: a loss for each image above which it is left alone, (B,), or None.
        losses: of each iterate, (B,): the score's where the detector is deterministic; what `Objective.gradient` gives,
            under each step's own noise, where it is not.
        late, last: the iterates after four fifths of the steps and at the end, (B, 3, H, W); of an attack that keeps
            the best by what it follows, the best by then.
    """

    objective: Objective
    number: int
    noise: Noise
    steps: int
    highest: Highest | None
    enough: Tensor | None
    losses: list[Tensor] = field(default_factory=list)
    late: Tensor = field(init=False)
    last: Tensor = field(init=False)
    _value: Tensor | None = None

    @property
    def late_step(self) -> int:
        """The step at which `late` is taken."""
        return self.steps - max(1, self.steps // 5)

    @property
    def is_late(self) -> bool:
        """Whether the iterate that was looked at last is the one to be kept as `late`."""
        return len(self.losses) - 1 == self.late_step

    def slope(self, x: Tensor, draws: int = 1) -> Slope:
        """Look at the next iterate, (B, 3, H, W), averaged over so many draws."""
        step = len(self.losses)
        noise = self.noise.sub(step)
        if self.highest is None or self.enough is None:
            evaluation = self.objective.gradient(x, noise, draws)
            value, gradient, loss = evaluation.followed, evaluation.gradient, evaluation.loss
            if self.highest is not None and self.objective.follows_a_map:
                loss = self.objective.losses(x, noise, 1)[0]
        else:
            value, gradient, loss = self._of_some(x, noise, ~(self.highest.loss > self.enough))
        self._note(x, loss)
        self._value = value
        return Slope(value, gradient)

    def end(self, x: Tensor, draws: int) -> None:
        """Look at the last iterate, which no step leaves."""
        noise = self.noise.sub(self.steps)
        followed = self.objective.follows_a_map and self.highest is None
        losses = (self.objective.followed_losses if followed else self.objective.losses)(x, noise, draws)
        self._note(x, mean_over_draws(losses))
        self.last = x

    def _note(self, x: Tensor, loss: Tensor) -> None:
        self.losses.append(loss)
        if self.is_late:
            self.late = x
        if self.highest is not None:
            self.highest.offer(x, loss, self.number)

    def _of_some(self, x: Tensor, noise: Noise, wanting: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Value, gradient and loss of the images that are not good enough yet, (B,) bool; the others keep what is known
        and have no gradient. The batch of those that are computed shrinks."""
        assert self.highest is not None
        rows = wanting.nonzero().flatten()
        loss = (self.losses[-1] if self.losses else self.highest.loss).clone()
        value, gradient = (loss if self._value is None else self._value).clone(), torch.zeros_like(x)
        if len(rows):
            some = noise.pick(rows.tolist())
            found = self.objective.gradient(x[rows], some, rows=rows)
            value[rows], gradient[rows], loss[rows] = found.followed, found.gradient, found.loss
            if self.objective.follows_a_map:
                loss[rows] = self.objective.losses(x[rows], some, 1, rows=rows)[0]
        return value, gradient, loss


def result(
    x: Tensor,
    objectives: Mapping[Differentiate, Objective],
    runs: Sequence[Climb],
    clean: Tensor | None,
    compare: Callable[[Tensor], Tensor],
    highest: Highest | None,
    *,
    keep_best: bool,
) -> AttackResult:
    """Choose each image's candidate, and say what the attack did.

    Args:
        x: the clean images.
        objectives: what was followed, the same number of runs each, one after the other.
        runs: all of them, ended.
        clean: losses of the clean images on the selection's draws, (D, B); None where it is the first iterate.
        compare: such losses of other images.
        highest: the best candidate, of a deterministic detector.
        keep_best: whether the best candidate is kept, or the last iterate.
    """
    traces = torch.stack([torch.stack(run.losses) for run in runs])  # (runs, steps + 1, B)
    last = Highest(x)
    best: Highest | Significant
    if highest is not None:
        for run in runs:
            highest.offer(run.last, run.losses[-1], run.number)
            last.offer(run.last, run.losses[-1], run.number)
        best, clean_loss = highest, traces[0, 0] if clean is None else clean[0]
        late, final = traces[:, runs[0].late_step], traces[:, -1]
        if keep_best:
            late, final = traces[:, : runs[0].late_step + 1].amax(dim=1), traces.amax(dim=1)
    else:
        assert clean is not None
        finals, lates = [compare(run.last) for run in runs], [compare(run.late) for run in runs]
        best = Significant(runs[0].last, finals[0], 0)
        for run in runs:
            last.offer(run.last, mean_over_draws(finals[run.number]), run.number)
            if run.number > 0:
                best.challenge(run.last, finals[run.number], run.number)
            best.challenge(run.late, lates[run.number], run.number)
        best.challenge(x, clean, 0)
        clean_loss = mean_over_draws(clean)
        late, final = (torch.stack([mean_over_draws(losses) for losses in some]) for some in (lates, finals))
    kept = best if keep_best else last
    # What is made of the map is the score's stand-in.
    of_score: Differentiate = next((name for name in objectives if name.endswith("map")), "score")
    per_objective = len(runs) // len(objectives)
    return AttackResult(
        images=kept.images,
        trace=kept.of_its_run(traces),
        clean_loss=clean_loss,
        last_loss=last.loss,
        best_loss=best.loss,
        late_gain=kept.of_its_run(final - late),
        gain=kept.of_its_run(final) - clean_loss,
        zero_gradients=_zero_gradients(objectives, of_score, otherwise=torch.full_like(clean_loss, torch.nan)),
        non_finite_gradients=torch.stack([o.non_finite_gradients for o in objectives.values()]).mean(0),
        reprojected=torch.zeros_like(clean_loss, dtype=torch.bool),
        forwards=sum(o.forwards for o in objectives.values()),
        gradients=sum(o.gradients for o in objectives.values()),
        surrogate_zero_gradients=_zero_gradients(objectives, "surrogate", otherwise=None),
        surrogate_won=kept.run >= per_objective if len(objectives) > 1 else None,
    )


def with_enough(
    found: AttackResult, objectives: Mapping[Differentiate, Objective], enough: Tensor | None
) -> AttackResult:
    """The result with what is said where the attack was allowed to stop."""
    if enough is None:
        return found
    spent = torch.stack([objective.steps for objective in objectives.values()]).sum(dim=0)
    return replace(found, had_enough=found.best_loss > enough, gradients_spent=spent)


def _zero_gradients(objectives: Mapping[Differentiate, Objective], which: Differentiate, *, otherwise: T) -> Tensor | T:
    return objectives[which].zero_gradients if which in objectives else otherwise
