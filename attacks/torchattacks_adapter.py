"""An attack of torchattacks (Kim 2020) on a score: its view, its random numbers, and which image is kept.

What it returns is not taken at its word. Of a deterministic detector each image that it asks about inside the ball is
a candidate, the clean one and the returned one among them, and the one with the highest y * A(x) is kept: APGD's
`forward` gives back the clean image wherever no class changes, and others their last iterate. Of a stochastic detector
the image that it returns stays, unless the clean one is better by more than noise.

Its random numbers are PyTorch's global ones. They are seeded from the image's own noise, and put back afterwards; an
attack that draws some is made on one image at a time, so that no image's result depends on its neighbours.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from attacks.base import Attack, AttackSettings
from attacks.candidates import Highest, Significant, mean_over_draws
from attacks.errors import AttackError
from attacks.objective import Objective
from attacks.result import AttackResult
from attacks.threat import ThreatModel
from attacks.two_logits import TwoLogits, follows_surrogate
from detectors.noise import Noise

if TYPE_CHECKING:
    from detectors.base import Detector, Progress

_OF_THE_UNIT, _OF_THE_END = -5, -6  # no query has these numbers, so their noise is their own
# A stochastic detector's scores scatter: in units this large z stays near 0, where the cross entropy is almost a
# straight line, so that the mean of its gradients over draws points where the mean score's does.
_UNITS_OF_NOISE = 10.0


@dataclass(frozen=True)
class TorchattacksSettings(AttackSettings):
    """Settings that all of torchattacks' attacks share; each adds its own (`Member.settings`).

    Attributes:
        selection_draws: draws on which a stochastic detector's result is compared with the clean image.
    """

    selection_draws: int = 16

    def __post_init__(self) -> None:
        """Raises AttackError for a value that is none of its setting."""
        for setting in dataclasses.fields(self):
            usual, value = setting.default, getattr(self, setting.name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if isinstance(usual, bool):
                wanted = "" if isinstance(value, bool) else "True or False"
            elif isinstance(usual, int):
                good = isinstance(value, int) and is_number and value >= 1
                wanted = "" if good else "a whole number of at least 1"
            elif usual is None:
                wanted = "" if value is None or (is_number and value > 0) else "a number above 0, or None"
            else:
                wanted = "" if is_number and value >= 0 else "a number of at least 0"
            if wanted:
                raise AttackError(f"{setting.name} of an attack of torchattacks must be {wanted}; got {value!r}.")


@dataclass(frozen=True)
class Member:
    """One of torchattacks' classes in one norm.

    Attributes:
        kind: the class.
        norm: "linf" or "l2".
        paper: where the attack is from.
        settings: names and usual values.
        arguments: what torchattacks calls a setting, where it calls it otherwise.
        fixed: arguments that are not the user's.
        step: what `step_size` is by default, in epsilons; divided by the steps where there are some.
        draws: whether it draws random numbers: always, never, or as the setting of that name says.
        gradients: backward passes of a step, as names of settings whose values are multiplied; None: it follows none.
        extra_gradients: backward passes beside those, of a step ("step") or of a start ("start").
        stops: whether it ends where the class changes.
        asks_for_best: whether its `forward` gives back the clean image where no class changes, so that its best iterate
            has to be asked for.
        in_float32: whether it is for float32 alone.
    """

    kind: str
    norm: str
    paper: str
    settings: Mapping[str, Any]
    arguments: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    step: float = 2.5
    draws: bool | str = False
    gradients: tuple[str, ...] | None = ()
    extra_gradients: str = ""
    stops: bool = False
    asks_for_best: bool = False
    in_float32: bool = False


class Found(NamedTuple):
    """What an attack did to some of the images: the view that it had, and what it returned, (B, 3, H, W)."""

    view: TwoLogits
    returned: Tensor


class TorchattacksAttack(Attack):
    """An attack of torchattacks; `member` says which."""

    member: ClassVar[Member]
    settings_class: ClassVar[type[AttackSettings]] = TorchattacksSettings

    def follows(self, detector: Detector) -> str:
        """As in `Attack`: a surrogate that is a monotone function of the score stands for it in every query."""
        return "surrogate" if follows_surrogate(detector) else "score"

    def gradients(self, *, is_stochastic: bool, gradients_followed: int = 1) -> int:
        """As in `Attack`."""
        member, known = self.member, dataclasses.asdict(self.settings)
        if member.gradients is None:
            return 0
        a_step = math.prod(known[name] for name in member.gradients) + (member.extra_gradients == "step")
        steps = known.get("steps", 1) + (member.extra_gradients == "start")
        return int(a_step * steps * known.get("restarts", 1))

    def budget(self, *, is_stochastic: bool) -> int:
        """As in `Attack`."""
        return self.gradients(is_stochastic=is_stochastic) // int(getattr(self.settings, "restarts", 1))

    def with_draws(self, factor: int) -> Self | None:
        """As in `Attack`, where it averages draws."""
        if not hasattr(self.settings, "eot"):
            return None
        more = copy.copy(self)
        more.settings = dataclasses.replace(self.settings, eot=factor * self.settings.eot)
        return more

    def describe(self) -> dict[str, Any]:
        """As everywhere, with the step size that is used, and torchattacks' version."""
        described = {**super().describe(), "torchattacks": version("torchattacks")}
        if "step_size" in described:
            described["step_size"] = self._step_size(self._threat_model())
        return described

    def _step_size(self, threat: ThreatModel) -> float:
        given: float | None = self.settings.step_size
        if given is not None:
            return given
        return self.member.step * threat.epsilon / int(getattr(self.settings, "steps", 1))

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
        member = self.member
        if member.in_float32 and x.dtype != torch.float32:
            raise AttackError(f"{self.name} works in float32 alone; pass such images.")
        objective = Objective(detector, y, differentiate="surrogate" if follows_surrogate(detector) else "score")
        clean = objective.losses(x, selection, self.settings.selection_draws)
        centre = mean_over_draws(clean)
        unit = self._unit(objective, x, clean, threat, noise.sub(_OF_THE_UNIT))
        draws = member.draws if isinstance(member.draws, bool) else bool(getattr(self.settings, member.draws))
        parts = [[i] for i in range(len(x))] if draws else [list(range(len(x)))]
        found = []
        for number, part in enumerate(parts):
            own = noise.pick(part)
            view = TwoLogits(
                detector, x[part], y[part], threat, own, centre[part], unit[part], never_crosses=member.stops
            )
            found.append(Found(view, self._returned(view, x[part], y[part], threat, own)))
            progress(number + 1, len(parts), self.name)
        return self._result(detector, x, threat, objective, found, clean, noise, selection)

    def _unit(self, objective: Objective, x: Tensor, clean: Tensor, threat: ThreatModel, noise: Noise) -> Tensor:
        """What the ball can do to each image's score, to first order, (B,)."""
        centre = mean_over_draws(clean)
        gain = torch.zeros_like(centre)
        if self.member.gradients is not None:
            gradient = objective.gradient(x, noise).gradient  # raises GradientCutError where there is none
            gain = (gradient * threat.steepest_step(gradient, threat.epsilon)).flatten(1).sum(1)
        if len(clean) > 1:
            gain = _UNITS_OF_NOISE * (gain + mean_over_draws((clean - centre).square()).sqrt())
        otherwise = torch.where(centre.abs() > 0, centre.abs(), 1)
        return torch.where((gain > 0) & gain.isfinite(), gain, otherwise)

    def _returned(self, view: TwoLogits, x: Tensor, y: Tensor, threat: ThreatModel, noise: Noise) -> Tensor:
        """What torchattacks gives back."""
        import torchattacks

        member, labels = self.member, ((1 - y) / 2).long()
        seed = _seed(noise, x)
        values = {name: getattr(self.settings, name) for name in member.settings}
        if "step_size" in values:
            values["step_size"] = self._step_size(threat)
        arguments = {member.arguments.get(name, name): value for name, value in values.items()}
        arguments |= {member.arguments.get("epsilon", "eps"): threat.epsilon, **member.fixed}
        if member.stops:
            arguments["seed"] = seed  # it seeds the global generator itself
        with _own_randomness(x), torch.enable_grad():
            (torch.cuda if x.is_cuda else torch.default_generator).manual_seed(seed)
            attack = getattr(torchattacks, member.kind)(view, **arguments)
            returned = attack.perturb(x, labels, best_loss=True)[1] if member.asks_for_best else attack(x, labels)
        images: Tensor = returned.detach().to(x.dtype)
        return images

    def _result(
        self,
        detector: Detector,
        x: Tensor,
        threat: ThreatModel,
        objective: Objective,
        found: list[Found],
        clean: Tensor,
        noise: Noise,
        selection: Noise,
    ) -> AttackResult:
        views = [view for view, _ in found]
        returned = torch.cat([images for _, images in found])
        # Some divide by the mean of a gradient that is zero, and go on with NaN.
        usable = returned.isfinite().flatten(1).all(1)
        returned = torch.where(usable[:, None, None, None], returned, torch.cat([view.last for view in views]))
        returned = torch.where(threat.inside(returned, x)[:, None, None, None], returned, threat.project(returned, x))
        best: Highest | Significant
        if detector.is_stochastic:
            losses = objective.losses(returned, selection, self.settings.selection_draws)
            best = Significant(returned, losses, 0)
            best.challenge(x, clean, 0)
        else:
            losses = objective.losses(returned, noise.sub(_OF_THE_END), 1)
            best = Highest(x)
            best.offer(torch.cat([v.best.images for v in views]), torch.cat([v.best.loss for v in views]), 0)
            best.offer(returned, losses[0], 0)
        clean_loss, steps = (
            mean_over_draws(clean),
            [torch.cat(row) for row in zip(*(v.bests for v in views), strict=True)],
        )
        gain = late = None
        if self.member.gradients is not None and not detector.is_stochastic:
            gain, late = best.loss - clean_loss, best.loss - steps[len(steps) - 1 - max(1, len(steps) // 5)]
        is_surrogate = follows_surrogate(detector)
        zero = torch.cat([view.zero_gradients for view in views])
        return AttackResult(
            images=best.images,
            trace=torch.stack([clean_loss, *steps, best.loss]),
            clean_loss=clean_loss,
            last_loss=mean_over_draws(losses),
            best_loss=best.loss,
            zero_gradients=torch.full_like(zero, torch.nan) if is_surrogate else zero,
            non_finite_gradients=torch.cat([view.non_finite_gradients for view in views]),
            reprojected=torch.zeros_like(usable),
            forwards=objective.forwards + max(view.forwards for view in views),
            gradients=objective.gradients + max(view.gradients for view in views),
            surrogate_zero_gradients=zero if is_surrogate else None,
            gain=gain,
            late_gain=late,
        )


def _seed(noise: Noise, x: Tensor) -> int:
    """48 bits of the first image's own noise; of a batch that draws nothing, never used."""
    first = noise.pick([0]).uniform((2,), stream="torchattacks", like=x[:1])[0].tolist()
    return sum(int(part * 2**24) << (24 * place) for place, part in enumerate(first))


def _own_randomness(x: Tensor) -> AbstractContextManager[None]:
    """Within it PyTorch's global random state may be used; afterwards it is as it was."""
    return torch.random.fork_rng(devices=[x.device] if x.is_cuda else [])
