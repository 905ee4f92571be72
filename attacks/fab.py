"""FAB: how near a threshold is. The smallest change of an image at which a detector's decision flips.

Croce & Hein 2020, "Minimally distorted adversarial examples with a fast adaptive boundary attack", Algorithm 1, for a
score A and a threshold h: an image is called anomalous where A(x) > h. There are no classes to choose among; the
decision is linearised at the current image, and the next one lies beyond the hyperplane, near the point of it that is
nearest to the current image and a little towards the one that is nearest to the clean image.

This is a distance and no attack inside a ball: it has no epsilon, and it is in no ensemble. It says how near a
threshold is, which is no ranking. Each finite distance is an upper bound with a witness: an image at that distance
which was scored and decided wrongly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attacks.ascent import settled_gradient
from attacks.errors import AttackError
from attacks.flips import Flips
from attacks.hyperplane import nearest_on_plane, steepest_path, time_to_plane
from attacks.inputs import check_inputs
from attacks.objective import Differentiate, Objective
from attacks.threat import LInf, threat_model
from detectors import noise as noise_module
from detectors.noise import Noise

if TYPE_CHECKING:
    from detectors.base import Detector, Progress

_STARTS = 1  # what FAB draws: random starts here, noise of the decision in `attacks.flips`
DOUBLINGS = 6  # of what came nearest to a flip, where there is none
FOLLOWED = ("auto", "score", "surrogate")


@dataclass(frozen=True)
class FABSettings:
    """Settings of FAB; alpha_max, beta and eta are the paper's.

    Attributes:
        iterations: projections from each start along each gradient; each costs a gradient and a score.
        starts: the clean image, then random ones at half the distance that is known by then.
        alpha_max: the largest share of the point that is nearest to the clean image; 0 before there is a flip.
        beta: of an image beyond the threshold, the share of its change that the next iteration starts with.
        eta: how far beyond the hyperplane an iteration steps, in lengths of the way to it.
        halvings: of each search for the threshold between two images at the end.
        polishes: searches along the steepest path of the best image's gradient at the end.
        reach: half of it is where a random start lies as long as no flip is known, on the [0, 1] scale: in l-inf of
            each pixel, in l2 per square root of the number of values.
        draws: of a stochastic detector, whose decision is by the mean score over so many fixed draws.
        differentiate: as of PGD: "score", "surrogate" (BPDA), or "auto": a monotone surrogate's, else both.
    """

    iterations: int = 100
    starts: int = 2
    alpha_max: float = 0.1
    beta: float = 0.9
    eta: float = 1.05
    halvings: int = 12
    polishes: int = 3
    reach: float = 16 / 255
    draws: int = 10
    differentiate: str = "auto"

    def __post_init__(self) -> None:
        """Raises AttackError for what no search can do."""
        for name in ("iterations", "starts", "halvings", "draws"):
            if getattr(self, name) < 1:
                raise AttackError(f"{name} of FAB must be at least 1; got {getattr(self, name)}.")
        if self.polishes < 0:
            raise AttackError(f"polishes of FAB must be 0 or more; got {self.polishes}.")
        for name in ("alpha_max", "beta"):
            if not 0 <= getattr(self, name) <= 1:
                raise AttackError(f"{name} of FAB is a share from 0 to 1; got {getattr(self, name)}.")
        if not (1 <= self.eta < math.inf and 0 < self.reach <= 1):
            raise AttackError(f"FAB needs eta of at least 1 and reach in (0, 1]; got {self.eta} and {self.reach}.")
        if self.differentiate not in FOLLOWED:
            raise AttackError(f"FAB follows one of {', '.join(FOLLOWED)}; got {self.differentiate!r}.")


@dataclass(frozen=True)
class Distances:
    """How far each of B images is from a wrong decision.

    Attributes:
        distance: in the norm on [0, 1], (B,): 0 of an image that is decided wrongly as it is, infinity where no flip
            was found, which does not say that there is none.
        images: the witnesses, (B, 3, H, W) in [0, 1]: decided wrongly at that distance. Of an image without a flip,
            what came nearest to the threshold by its score.
        loss: y * A of the witnesses, (B,); the mean over the fixed draws of a stochastic detector.
        was_wrong: whether the clean image is decided wrongly, (B,) bool.
        zero_gradients, non_finite_gradients: shares of the gradients that were exactly zero, or held a NaN or an
            infinity, (B,); NaN of images that were wrong already, of which none was asked for.
        forwards, gradients: passes for each image that was not wrong already.
    """

    distance: Tensor
    images: Tensor
    loss: Tensor
    was_wrong: Tensor
    zero_gradients: Tensor
    non_finite_gradients: Tensor
    forwards: int
    gradients: int


class FAB:
    """The distance of images to a detector's threshold in a norm, "linf" or "l2". Instances never change."""

    def __init__(self, norm: str, settings: FABSettings | None = None) -> None:
        """Raises ThreatModelError for another norm."""
        self.norm = threat_model(norm).norm
        self.settings = settings or FABSettings()

    def run(
        self,
        detector: Detector,
        x: Tensor,
        y: Tensor,
        threshold: float,
        *,
        surrogate_threshold: float | None = None,
        noise: Noise | None = None,
        progress: Progress | None = None,
    ) -> Distances:
        """The distance of each image, which depends on that image and its noise alone.

        A stochastic detector is asked about the mean of its score over `draws` draws that stay the same: the distance
        is that of a detector that looks so many times under noise which is known to the attack.

        Args:
            detector: fitted.
            x: clean images, (B, 3, H, W) in [0, 1]; left as they are.
            y: +1 normal, -1 anomalous, (B,).
            threshold: an image whose score is above is called anomalous.
            surrogate_threshold: the same of `surrogate_score`, where that is an increasing function of the score and
                followed: the value that it has where the score is the threshold.
            noise: of the decision and of random starts; None means fresh entropy. Not the verdict's.
            progress: told of each iteration.

        Raises:
            AttackError: inputs that are no such images or labels, or a threshold that is missing or not finite.
            GradientCutError: the detector's score has no gradient with respect to the image.
        """
        check_inputs(x, y)
        followed = self._followed(detector, threshold, surrogate_threshold)
        noise = noise if noise is not None else noise_module.fresh(len(x))
        if len(noise) != len(x):
            raise AttackError(f"The noise source is for {len(noise)} images, the batch has {len(x)}.")
        # As in `Attack.run`: it differentiates whatever mode it is called in.
        with torch.inference_mode(False), torch.no_grad(), detector.trusting():
            clean, sign = x.detach().clone(), y.detach().to(device=x.device, dtype=x.dtype).clone()
            draws = self.settings.draws
            whole = Flips(detector, clean, sign, threshold, noise, draws, self.norm)
            whole.ask(clean)
            was_wrong = whole.is_found
            rows = (~was_wrong).nonzero().flatten()
            nothing = torch.full_like(whole.loss, torch.nan)
            found = Distances(whole.distance, clean, whole.loss, was_wrong, nothing, nothing.clone(), whole.forwards, 0)
            if len(rows):
                picked = noise.pick(rows.tolist())
                search = Flips(detector, clean[rows], sign[rows], threshold, picked, draws, self.norm)
                objectives = [
                    (Objective(detector, sign[rows], differentiate=which), level) for which, level in followed.items()
                ]
                self._search(search, objectives, detector, progress)
                found = _with_rows(found, rows, search, [objective for objective, _ in objectives])
            return found

    def _followed(
        self, detector: Detector, threshold: float, surrogate_threshold: float | None
    ) -> dict[Differentiate, float | None]:
        """Whose gradients are followed, and each one's own threshold, None where it is the score's."""
        for value in (threshold, 0.0 if surrogate_threshold is None else surrogate_threshold):
            if not math.isfinite(value):
                raise AttackError(f"A threshold must be a finite score; got {value}.")
        which = settled_gradient(self.settings.differentiate, detector, smooth_map=False)
        if which == "auto":
            return {"score": None, "surrogate": None}
        if which == "surrogate" and detector.surrogate_is_monotone:
            if surrogate_threshold is None:
                raise AttackError(
                    f"The surrogate of {detector.name} is followed, whose numbers are not the score's: pass "
                    "surrogate_threshold, its value at the threshold, or follow the score (differentiate='score')."
                )
            return {"surrogate": surrogate_threshold}
        return {"surrogate": None} if which == "surrogate" else {"score": None}

    # -- the search ---------------------------------------------------------------------------------------------------

    def _search(
        self,
        search: Flips,
        objectives: list[tuple[Objective, float | None]],
        detector: Detector,
        progress: Progress | None,
    ) -> None:
        total = self.settings.starts * len(objectives) * self.settings.iterations
        search.ask(search.clean)
        for run in range(self.settings.starts):
            for number, (objective, level) in enumerate(objectives):
                begun = (run * len(objectives) + number) * self.settings.iterations
                current = search.clean if run == 0 else self._random_start(search, run)
                for step in range(self.settings.iterations):
                    current = self._iteration(search, objective, level, current)
                    if progress is not None:
                        progress(begun + step + 1, total, "fab")
        for objective, _ in objectives:
            self._finish(search, objective)
        search.confirm()

    def _iteration(self, search: Flips, objective: Objective, level: float | None, current: Tensor) -> Tensor:
        """One step of Algorithm 1, from the current images to the next, (B, 3, H, W)."""
        found = objective.gradient(current, search.decision_noise, search.draws)
        normal = found.gradient
        if level is None:
            need = search.target - found.loss.double()
        else:  # the surrogate says where its own plane lies; the score decides
            need = search.sign.double() * level - found.followed.double()
        clean, eta = search.clean, self.settings.eta
        change = current.double() - clean.double()
        need_of_clean = need + (normal.double() * change).flatten(1).sum(dim=1)
        step = nearest_on_plane(current, normal, need, self.norm) - current
        step_of_clean = nearest_on_plane(clean, normal, need_of_clean, self.norm) - clean
        own, other = search.length(step), search.length(step_of_clean)
        both = own + other
        share = torch.where(both > 0, own / torch.where(both > 0, both, 1), 0).clamp(max=self.settings.alpha_max)
        # Of a maximum over many slopes each step lowers one; the bias would undo the others before there is a flip.
        share = torch.where(search.is_found, share, 0)[:, None, None, None]
        following = ((1 - share) * (current + eta * step) + share * (clean + eta * step_of_clean)).clamp_(0, 1)
        flipped = search.ask(following)
        backward = clean + self.settings.beta * (following - clean)
        return torch.where(flipped[:, None, None, None], backward, following)

    def _random_start(self, search: Flips, run: int) -> Tensor:
        """Images at half of the known distance from the clean ones, or of `reach`, cut to [0, 1]."""
        x, source = search.clean, search.noise.sub(_STARTS, run)
        if self.norm == LInf.norm:
            direction = source.uniform(x.shape[1:], stream="fab-start", like=x) * 2 - 1
            reach = self.settings.reach
        else:
            direction = source.normal(x.shape[1:], stream="fab-start", like=x)
            reach = self.settings.reach * math.sqrt(x[0].numel())
        radius = search.distance.clamp(max=reach) / 2 / search.length(direction)
        return (x + radius[:, None, None, None] * direction).clamp_(0, 1)

    def _finish(self, search: Flips, objective: Objective) -> None:
        """Searches for the threshold between images that are known, along this gradient at the end.

        Of images without a flip beyond what came nearest to one (steps fall short where a score is a maximum of many
        slopes), and at the corner of the range. On the way to the best image (the paper's final search). Then along the
        steepest path from the clean image, with the gradient at the best one, which of a smooth score and a best image
        is the way to the boundary's nearest point.
        """
        clean, halvings = search.clean, self.settings.halvings
        gradient = objective.gradient(search.best, search.decision_noise, search.draws).gradient
        corner = steepest_path(clean, gradient, self.norm).corner
        missing, near = (~search.is_found)[:, None, None, None], search.best - clean
        for doubling in range(1, 1 + DOUBLINGS):
            search.ask(torch.where(missing, (clean + 2**doubling * near).clamp_(0, 1), clean))
        search.ask(torch.where(missing, corner, clean))
        best = search.best
        whole = torch.ones_like(search.target)
        search.halve(lambda s: torch.lerp(clean, best, s[:, None, None, None].to(clean.dtype)), whole, halvings)
        for _ in range(self.settings.polishes):
            normal = objective.gradient(search.best, search.decision_noise, search.draws).gradient
            change = search.best.double() - clean.double()
            need = (normal.double() * change).flatten(1).sum(dim=1)
            # A best image on the near side of the clean one's plane has no such path: it stays.
            path, t = time_to_plane(clean, normal, need.clamp_min(0), self.norm)
            far = self.settings.eta * t
            search.ask(path.at(far))
            search.halve(path.at, far, halvings)


def _with_rows(found: Distances, rows: Tensor, search: Flips, objectives: list[Objective]) -> Distances:
    """What a search has found of the images that were not wrong already."""

    def put(all_of: Tensor, some: Tensor) -> Tensor:
        return all_of.index_copy(0, rows, some.to(all_of.dtype))

    return Distances(
        distance=put(found.distance, search.distance),
        images=put(found.images, search.best),
        loss=put(found.loss, search.loss),
        was_wrong=found.was_wrong,
        zero_gradients=put(found.zero_gradients, torch.stack([o.zero_gradients for o in objectives]).mean(0)),
        non_finite_gradients=put(
            found.non_finite_gradients, torch.stack([o.non_finite_gradients for o in objectives]).mean(0)
        ),
        forwards=found.forwards + search.forwards + sum(o.forwards for o in objectives),
        gradients=sum(o.gradients for o in objectives),
    )
