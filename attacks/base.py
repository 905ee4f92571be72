"""The contract of an attack.

A subclass writes `_run`; everybody calls the attack or its `run`. Those two are final: they check what goes in, and
bring whatever comes out back into the threat model and assert it, because nobody knows what an attack returns.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

import torch
from torch import Tensor

from attacks import objective
from attacks.errors import AttackError, AttackWarning
from attacks.inputs import check_inputs, check_noise, checked_start, selection_of
from attacks.result import AttackResult
from attacks.threat import How, Threat, ThreatModel
from detectors import noise as noise_module
from detectors.noise import Noise

if TYPE_CHECKING:
    from detectors.base import Detector, Progress


@dataclass(frozen=True)
class AttackSettings:
    """The settings of an attack; each attack derives its own frozen dataclass from this one."""


class Attack(ABC):
    """An attack on a detector's score inside a threat model. Instances never change.

    Attributes:
        name: the registry's name.
        title: the name as the field writes it.
        summary: what it does, in one line.
        norm: the norm of its threat model ("linf", "l2", or a kind of `attacks.threat_others`) where the registry makes
            it.
        revision: raised whenever a change of code can change adversarial images.
        settings_class: its frozen settings.
        budget_settings: the settings that make its budget, how many gradients of an image it can follow.
        length_settings: the settings that are lengths in its norm, as epsilon is.
        can_stop: whether `run` takes `enough` with these settings, on a deterministic detector.
        can_start: whether `_run` takes `start`; of an attack that does not, a start is one more candidate.
        for_stochastic: whether it is for stochastic detectors alone, or for deterministic ones alone; None: for all.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    norm: ClassVar[str]
    revision: ClassVar[int] = 1
    settings_class: ClassVar[type[AttackSettings]] = AttackSettings
    budget_settings: ClassVar[tuple[str, ...]] = ()
    length_settings: ClassVar[tuple[str, ...]] = ()
    for_stochastic: ClassVar[bool | None] = None
    can_stop: bool = False  # may depend on the settings
    can_start: ClassVar[bool] = False

    def __init__(self, threat: Threat, settings: AttackSettings | None = None) -> None:
        """Args: the threat model (one that depends on the image's side is settled at the call), and the settings."""
        self.threat: Threat = threat
        self.settings: Any = settings if settings is not None else self.settings_class()
        if not isinstance(self.settings, self.settings_class):
            raise AttackError(
                f"{self.name} takes {self.settings_class.__name__}, not {type(self.settings).__name__}; pass those."
            )

    @abstractmethod
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
        """Attack checked inputs. Images from the threat model; draws nested in `noise` and `selection` by `sub`. One
        that `can_stop` takes `enough` (`run`), (B,) or None, as well; one that `can_start` takes `start`, (B, 3, H, W)
        inside the threat model, or None."""

    # -- what everybody calls -----------------------------------------------------------------------------------------

    @final
    def __call__(self, detector: Detector, x: Tensor, y: Tensor, *, noise: Noise | None = None) -> Tensor:
        """The adversarial images alone, (B, 3, H, W); everything else as in `run`.

        Warns with AttackWarning where an image is the clean one and nothing could be followed: each gradient was zero
        or not finite. `run` says so in its result (`zero_gradients`, `non_finite_gradients`).
        """
        result = self.run(detector, x, y, noise=noise)
        astray = int((result.never_had_a_gradient & (result.images == x.detach()).flatten(1).all(dim=1)).sum())
        if astray:
            warnings.warn(
                f"{self.name} gives back {astray} of {len(x)} images as they were: no gradient of theirs was both "
                "finite and other than zero, so this says nothing of the detector's robustness; declare a surrogate, "
                "or use square, which needs no gradient.",
                AttackWarning,
                stacklevel=2,
            )
        return result.images

    @final
    def run(
        self,
        detector: Detector,
        x: Tensor,
        y: Tensor,
        *,
        noise: Noise | None = None,
        selection: Noise | None = None,
        progress: Progress | None = None,
        enough: Tensor | None = None,
        start: Tensor | None = None,
    ) -> AttackResult:
        """Attack a batch; each image's result depends on that image, its noise and its start alone.

        Args:
            detector: a fitted detector.
            x: clean images, float32 or float64, (B, 3, H, W) in [0, 1]; left as they are.
            y: +1 normal, -1 anomalous, (B,).
            noise: the attack's source of randomness; None means fresh entropy.
            selection: the source of the draws on which a stochastic detector's candidates are compared; None means one
                derived from `noise`. Neither may be the verdict's source.
            progress: told about each step.
            enough: a loss for each image (`compared_loss`), (B,), above which it need not be attacked further
                (infinity: never): the attack stops on an image as soon as its best candidate is above. For `can_stop`
                alone.
            start: images to start from, (B, 3, H, W) in [0, 1], such as those that were found in a smaller ball around
                the same clean images; brought into the threat model first. Of a deterministic detector whose best
                candidate is kept, the result is never worse than they are; of a stochastic one they are where the
                first run begins, and nothing more. None: the attack starts as it is used to.

        In a threat model that holds the clean images alone (epsilon 0) these are the result, to the last bit, and no
        gradient is followed.

        Raises:
            AttackError: inputs that are no such images or labels, a start that is none, or `enough` for an attack that
                cannot stop.
            GradientCutError: the detector's score has no gradient with respect to the image.
            ThreatModelError: the attack returned something that is no such batch of images.
        """
        check_inputs(x, y)
        threat = self.resolve(x.shape[-1])._threat_model()
        noise = noise if noise is not None else noise_module.fresh(len(x))
        selection = selection if selection is not None else selection_of(noise)
        check_noise(noise, selection, len(x))
        self._check_enough(enough, detector, len(x))
        # Clones, and outside of inference mode: an attack that steps in place can't touch the caller's images, and
        # can differentiate whatever mode it is called in.
        with torch.inference_mode(False), torch.no_grad(), detector.trusting():
            clean, sign = x.detach(), y.detach().to(device=x.device, dtype=x.dtype).clone()
            limit = None if enough is None else enough.to(clean)
            first = None if start is None else checked_start(start, clean, threat)
            if threat.is_a_point:  # whatever the start
                return self._nothing_to_find(detector, clean.clone(), sign, selection, limit)
            result = self._run(
                detector,
                clean.clone(),
                sign,
                threat,
                noise=noise,
                selection=selection,
                progress=progress or _silent,
                **({} if limit is None else {"enough": limit}),
                **({} if first is None or not self.can_start else {"start": first}),
            )
            if enough is not None and result.had_enough is None:
                raise AttackError(
                    f"{self.name} says that it can stop and not where it did; return `had_enough`, or set can_stop = "
                    "False."
                )
            found = self._brought_inside(result, detector, clean, sign, threat, noise, selection)
            if first is None or self.can_start or detector.is_stochastic:
                return found
            return self._or_start(found, detector, first, sign, selection, limit)

    @final
    def resolve(self, image_size: int) -> Self:
        """This attack with the threat model that it has at an image side in pixels."""
        resolved = copy.copy(self)
        resolved.threat = self.threat.at(image_size)
        return resolved

    def settled(self, detector: Detector) -> Self:
        """This attack with the settings decided that follow from the detector, as it will run on it.

        `settled(detector).describe()` is what a record states: an attack that follows both gradients wherever there are
        two is, of a detector that has one, the same attack as one that follows that one.
        """
        return self

    def is_for(self, *, is_stochastic: bool) -> bool:
        """Whether it is for detectors of this kind, with these settings."""
        return self.for_stochastic in (None, is_stochastic)

    def flags(self, detector: Detector) -> tuple[str, ...]:
        """Sentences that speak against believing its figure on a detector, whatever it finds; each makes the figure no
        claim. Of most attacks there are none."""
        return ()

    def follows(self, detector: Detector) -> str:
        """Whose gradient it follows of a detector: "score", or what it takes instead (`attacks.pgd.PGDSettings`)."""
        return "score"

    def gradients(self, *, is_stochastic: bool, gradients_followed: int = 1) -> int:
        """Backward passes per image that the attack will make, for an estimate of its cost."""
        return 1

    def budget(self, *, is_stochastic: bool) -> int:
        """Backward passes of one start along one gradient, by which two attacks of a kind are compared: three short
        starts are no long one."""
        return self.gradients(is_stochastic=is_stochastic)

    def with_draws(self, factor: int) -> Self | None:
        """This attack with so many times the noise draws in each gradient of a stochastic detector; None where it
        averages none. Whether it finds more tells whether the draws were enough."""
        return None

    def along_the_score(self, detector: Detector) -> Self | None:
        """This attack along the gradient of the score itself, where it follows something in its place; None where it
        does not. Whether that finds more tells whether the stand-in leads to the same place."""
        return None

    def on_known_noise(self, detector: Detector) -> tuple[Attack, ...]:
        """The attacks that would take its place on a stochastic detector whose noise is no secret
        (`attacks.known_noise`); empty where that is not looked at."""
        return ()

    def members(self, detector: Detector) -> tuple[Attack, ...]:
        """The attacks that it consists of, in turn, as they will run on a detector; of most the attack itself."""
        return (self.settled(detector),)

    def compared_loss(self, detector: Detector, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The loss by which the attack compares candidates, (B,), without a graph: what `enough` is measured in. It is
        the surrogate's where that is a monotone function of the score."""
        return objective.loss(detector, x, y, noise, differentiate="surrogate")

    def describe(self) -> dict[str, Any]:
        """Everything that a record needs to repeat the attack, ready for JSON.

        Raises:
            AttackError: the threat model depends on the image's side; `resolve(image_size)` settles it.
        """
        threat = self._threat_model()
        return {
            "name": self.name,
            "revision": self.revision,
            "norm": threat.norm,
            "epsilon": threat.epsilon,
            **dataclasses.asdict(self.settings),
        }

    # -- inside -------------------------------------------------------------------------------------------------------

    def _brought_inside(
        self,
        result: AttackResult,
        detector: Detector,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        noise: Noise,
        selection: Noise,
    ) -> AttackResult:
        """The result with every image inside the threat model, and with a true loss for those that had to be moved."""
        threat.assert_comparable(result.images, x)
        images = result.images.detach()
        how = None if result.transformation is None else How(result.transformation, noise)
        outside = ~threat.inside(images, x, how)
        # Only those: projecting an image that is already inside would move it by a rounding and away from its loss.
        if bool(outside.any()):
            moved_images, how = threat.brought_inside(images, x, how)
            images = torch.where(outside[:, None, None, None], moved_images, images)
        threat.assert_inside(images, x, how)
        best_loss, forwards = result.best_loss, result.forwards
        if bool(outside.any()):
            moved = self.compared_loss(detector, images, y, selection.sub(0))
            best_loss, forwards = torch.where(outside, moved, best_loss), forwards + 1
        return dataclasses.replace(
            result,
            images=images,
            best_loss=best_loss,
            reprojected=result.reprojected | outside,
            forwards=forwards,
            transformation=None if how is None else how.parameters,
        )

    def _nothing_to_find(
        self, detector: Detector, x: Tensor, y: Tensor, selection: Noise, enough: Tensor | None
    ) -> AttackResult:
        """The clean images as the result, on a detector that the attack is for."""
        self.settled(detector)
        loss = self.compared_loss(detector, x, y, selection.sub(0))
        return AttackResult.without_gradients(x, loss, clean_loss=loss, trace=loss[None], forwards=1, enough=enough)

    def _or_start(
        self,
        found: AttackResult,
        detector: Detector,
        start: Tensor,
        y: Tensor,
        selection: Noise,
        enough: Tensor | None,
    ) -> AttackResult:
        """The result of an attack that was not told of its start, or the start where that is better."""
        loss = self.compared_loss(detector, start, y, selection.sub(0))
        better = (loss > found.best_loss) | (found.best_loss.isnan() & ~loss.isnan())
        best = torch.where(better, loss, found.best_loss)
        return dataclasses.replace(
            found,
            images=torch.where(better[:, None, None, None], start, found.images),
            best_loss=best,
            forwards=found.forwards + 1,
            had_enough=None if enough is None else best > enough,
            reprojected=found.reprojected & ~better,
            # No steps led to it.
            gain=None if found.gain is None else torch.where(better, torch.nan, found.gain),
            late_gain=None if found.late_gain is None else torch.where(better, torch.nan, found.late_gain),
        )

    def _check_enough(self, enough: Tensor | None, detector: Detector, batch_size: int) -> None:
        if enough is None:
            return
        if not self.can_stop or detector.is_stochastic:
            raise AttackError(
                f"{self.name} cannot stop early with these settings on this detector, of which a last iterate or a "
                "mean over noise counts; leave `enough` out."
            )
        if enough.shape != (batch_size,) or bool(enough.isnan().any()):
            raise AttackError(f"`enough` must be one loss per image, ({batch_size},); got {tuple(enough.shape)}.")

    def _threat_model(self) -> ThreatModel:
        if not isinstance(self.threat, ThreatModel):
            raise AttackError(
                f"The epsilon of {self.name} depends on the image's side; call resolve(image_size) first."
            )
        return self.threat


def _silent(done: int, total: int, note: str = "") -> None:
    """A `Progress` that says nothing."""
