"""The gate's four questions about a gradient. A robust AUC stands on the answers: an attack follows nothing else.

1. Is it the derivative? Against central differences in float64, along random directions.
2. Is it the same in float32? Attacks compute in float32; differences can be trusted in float64 alone.
3. Does it account for what the score does on a path through the ball? Where a score jumps (rounded pixels) a gradient
   can be right at every point and mean nothing: the sum of <gradient, step> along the path then misses the jumps.
4. Does a step along it raise the loss by more than noise of the same size does? Steep, narrow stairs have a true
   gradient and no jump; at the attack's own scale it leads nowhere.

The thresholds were set by measurement on ELPV (128 pixels, quick preset, both balls) over every detector of this
package and against fakes built for it; the margins stand beside them. A gradient that is exactly zero is none of this
file's business: autograd says so, and the indicators of the record do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attacks.objective import Differentiate, loss, loss_and_gradient
from attacks.threat import ThreatModel, largest_entry
from bench.cell.plain_noise import BLOCKS, ROUNDING, block_noise, rose
from bench.errors import CellError
from detectors.base import Detector
from detectors.noise import Noise, generator

GRADIENT_TOLERANCE = 0.02  # of the gradient's size; a forgotten detach() costs far more
DIRECTIONS = 3
# The one that suits most scores first. A network of ReLUs has kinks within 1e-6 (SPADE's error is 0.01 there), and one
# that computes in float32 needs 1e-4 and more.
STEPS = (1e-7, 1e-5, 1e-3, 1e-4, 1e-6)

FLOAT32_COSINE = 0.999
# A maximum may sit at another pixel in float32, or a nearest neighbour be another one: at one point in twenty, seen on
# SPADE (0.9991). A point beside it has no such kink; a path that is cut in float32 is cut everywhere.
FLOAT32_POINTS = 3
DEAD = 1e-34  # below it float32 runs out of digits, and a true gradient (FastFlow's far from 0) is rounded to pieces

PATH_BLOCKS = (1, 8)
PATH_PARTS = (4, 8, 16)  # networks of ReLUs need more, a score that jumps stays as wrong as it was
PATH_ENOUGH = 0.4
PATH_TOLERANCE = 0.5
BEATEN = 0.75  # of the images

SCALES = {"eps/8": 1 / 8, "eps": 1.0}  # the step of an attack, and its whole way


@dataclass(frozen=True, eq=False)
class Place:
    """Where a gradient is looked at.

    Attributes:
        detector, which: whose score, or surrogate.
        x: images in float64 whose pixels float32 can hold, (B, 3, S, S).
        y: their labels, +1 normal, -1 anomalous, (B,).
        noise: a source that no attack and no verdict has.
    """

    detector: Detector
    which: Differentiate
    x: Tensor
    y: Tensor
    noise: Noise

    def value(self, x: Tensor) -> Tensor:
        """y times the score or surrogate, (B,), on the draw of `gradient`."""
        function = self.detector.surrogate_score if self.which == "surrogate" else self.detector.score
        with torch.no_grad():
            return self.y.to(x.dtype) * function(x, noise=self.noise.sub(0))

    def gradient(self, x: Tensor) -> Tensor:
        """Of `value`, as attacks take it, (B, 3, S, S). Raises GradientCutError."""
        y = self.y.to(x.dtype)
        return loss_and_gradient(self.detector, x, y, self.noise, differentiate=self.which).gradient

    def loss(self, x: Tensor) -> Tensor:
        """What attacks that follow this gradient compare candidates by, (B,): the score's, unless the surrogate stands
        for it."""
        return loss(self.detector, x, self.y.to(x.dtype), self.noise.sub(0), differentiate=self.which)

    def first(self, count: int) -> Place:
        """The same of the first images alone."""
        return replace(self, x=self.x[:count], y=self.y[:count], noise=self.noise.pick(slice(count)))

    def is_dead(self) -> bool:
        """Whether autograd says that the gradient is exactly zero at all images."""
        return not bool(self.gradient(self.x).any())

    @property
    def name(self) -> str:
        """What a sentence calls this gradient."""
        return "gradient" if self.which == "score" else "surrogate's gradient"


# -- is it the derivative? --------------------------------------------------------------------------------------------


def check_derivative(place: Place) -> float:
    """Autograd's gradient against central differences along random directions, each at the step that suits it best: a
    network of ReLUs has kinks within any long step, and one that computes in float32 drowns a short one in rounding.

    Returns:
        The worst image's error, as a share of the gradient's size.
    """
    x, gradient = place.x, place.gradient(place.x)
    draws = generator(0, "gate", "directions")
    found, errors = [], []
    size = gradient.flatten(1).norm(dim=1)
    for _ in range(DIRECTIONS):
        v = torch.randn(x.shape, generator=draws, dtype=x.dtype).to(x.device)
        promise = (gradient * v).flatten(1).sum(dim=1)
        slope, error = torch.zeros_like(promise), torch.full_like(promise, torch.inf)
        for h in STEPS:
            here = (place.value(x + h * v) - place.value(x - h * v)) / (2 * h)
            off = (here - promise).abs().nan_to_num(torch.inf)
            slope, error = torch.where(off < error, here, slope), torch.minimum(off, error)
            if bool((error <= 0.5 * GRADIENT_TOLERANCE * size).all()):
                break  # as good as it needs to be
        found.append(slope)
        errors.append(error)
    # A direction has one unit per pixel: the root of the mean square of the slopes along it is the gradient's size.
    size = torch.maximum(_rms(found), size)
    rounding = 100 * torch.finfo(x.dtype).eps * place.value(x).abs() / max(STEPS)
    wrong = float(torch.where(_rms(errors) > rounding, _rms(errors) / size, 0).max())
    if not wrong <= GRADIENT_TOLERANCE:
        raise CellError(
            f"{place.detector.name} breaks the contract: its {place.name} is wrong by {100 * wrong:.0f} % of its size, "
            "so its robust AUC would be an artefact; look for a detach(), a no_grad(), a rounding or a step in NumPy "
            "or float32 on the way from the image to the score."
        )
    return wrong


# -- is it the same in float32? ---------------------------------------------------------------------------------------


def check_float32(place: Place) -> float:
    """The cosine of the gradients in float32 and float64, each image's best of a few points.

    Measured over all detectors and members of families: 0.999999 and more wherever neither a maximum nor a neighbour
    changes between the two; with 63 of 64 columns detached in float32, 0.1.

    Returns:
        The worst image's; 1 where all gradients are zero, or too small for float32.
    """
    draws = generator(0, "gate", "float32")
    best = torch.full((len(place.x),), -torch.inf, dtype=place.x.dtype, device=place.x.device)
    for point in range(FLOAT32_POINTS):
        x = place.x
        if point > 0:
            grain = torch.rand(x.shape, generator=draws, dtype=x.dtype).to(x.device) - 0.5
            x = (x + grain / 255).float().to(x.dtype)
        double, single = place.gradient(x), place.gradient(x.float())
        cosine = cosines(single.to(x.dtype), double)
        best = torch.maximum(best, torch.where(largest_entry(single) > DEAD, cosine, 1))
        if bool((best >= FLOAT32_COSINE).all()):
            break
    worst = float(best.min())
    if not worst >= FLOAT32_COSINE:
        raise CellError(
            f"{place.detector.name} breaks the contract: its {place.name} in float32, which attacks follow, is not the "
            f"one in float64 (a cosine of {worst:.3f}), so its robust AUC would be an artefact; let it compute the "
            "same in both dtypes, and look for a detach() or a rounding in one of them."
        )
    return worst


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """The cosine of each image's two gradients, (B,); those of a saturated score are tiny."""
    return torch.nn.functional.cosine_similarity(_unit(a.flatten(1)), _unit(b.flatten(1)), dim=1)


# -- does it account for what the score does? -------------------------------------------------------------------------


def check_path(place: Place, threat: ThreatModel) -> float:
    """What the score does along straight paths to noise of full length, in float32, against the sum of <gradient, step>
    along them, taken in the middle of each part: of a score without jumps the two are equal.

    Returns:
        The root mean square of what the gradient does not account for, as a share of the change; the worse class's.
    """
    x = place.x.float()
    before, alive = place.value(x), largest_entry(place.gradient(x)) > 0
    rounding = ROUNDING * torch.finfo(x.dtype).eps * before.abs()
    ways = [threat.project(x + block_noise(x, threat, block, place.noise.sub(1)), x) - x for block in PATH_BLOCKS]
    gains = [(place.value(x + way) - before).double() for way in ways]
    worst = 0.0
    for parts in PATH_PARTS:
        missed, size = torch.zeros_like(gains[0]), torch.zeros_like(gains[0])
        for way, gain in zip(ways, gains, strict=True):
            told = torch.stack([_inner(place.gradient(x + (i + 0.5) / parts * way), way) for i in range(parts)]).mean(0)
            missed += ((gain - told).abs() - rounding).clamp_min(0).square()
            size += torch.maximum(gain.abs(), told.abs()).square()
        worst = max(_share(missed, size, alive & (place.y == label)) for label in (1, -1))
        if worst <= PATH_ENOUGH:
            break
    if not worst <= PATH_TOLERANCE:
        raise CellError(
            f"{place.detector.name} breaks the contract: its score jumps, and its {place.name} knows nothing of "
            f"{100 * min(worst, 1.0):.0f} % of what noise inside the ball does to it, so attacks would follow nothing "
            "and its robust AUC would be an artefact; look for a rounding, a comparison or an argmax on the way from "
            "the image to the score, or declare a smooth surrogate (has_surrogate = True)."
        )
    return worst


def _share(missed: Tensor, size: Tensor, chosen: Tensor) -> float:
    whole = float(size[chosen].sum())
    return (float(missed[chosen].sum()) / whole) ** 0.5 if whole > 0 else 0.0


# -- does it lead anywhere? -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Steps:
    """What steps of one size along the gradient do to the loss, in float32.

    Attributes:
        kept: their gain as a share of <gradient, step>, of the median image; None where all gradients are zero.
        noise: the best gain of a few noises of that size, as a share of the step's, of the median image.
        beaten: share of the images on which one of these noises raises the loss by more than the step does.
    """

    kept: float | None
    noise: float | None
    beaten: float


def steps(place: Place, threat: ThreatModel, size: float) -> Steps:
    """A step of this size along the gradient beside noise of this size, as the loss of attacks sees them."""
    x = place.x.float()
    before, gradient = place.loss(x), place.gradient(x)
    alive = largest_entry(gradient) > 0
    if not bool(alive.any()):
        return Steps(None, None, 0.0)
    step = threat.project(x + threat.steepest_step(gradient, size), x) - x
    gain, promise = place.loss(x + step) - before, _inner(gradient, step)
    ways = [block_noise(x, threat, block, place.noise.sub(2), size=size) for block in BLOCKS]
    # Of either sign: noise may make any image look worse, and then it is an attack on half of them alone.
    found = [place.loss(threat.project(x + way, x)) for one in ways for way in (one, -one)]
    best = torch.stack(found).amax(dim=0)
    return Steps(
        kept=_median((gain / promise)[alive]),
        noise=_median(((best - before) / gain.abs())[alive]),
        beaten=float((rose(before + gain, best) & alive).double().mean()),
    )


def check_steps(place: Place, threat: ThreatModel) -> dict[str, Steps]:
    """Refuse a detector on which noise does more than steps along its gradients do: of a surrogate or, where following
    that leads nowhere, of the score.

    Measured at an eighth of epsilon: one image of four is beaten of CFA and of FastFlow, on rough ground where the step
    keeps 13 % of its promise, and none of any other detector's; a surrogate that has nothing to do with the score is
    beaten on all. Who is beaten there is asked again at a quarter of that step. (One step of all of epsilon overshoots
    on rough scores, as SPADE's and CFlow's, so that says nothing.)

    Returns:
        What steps do at each of `SCALES`.
    """
    found = {name: steps(place, threat, scale * threat.epsilon) for name, scale in SCALES.items()}
    followed = [place] if place.which == "score" else [place, replace(place, which="score")]
    if found["eps/8"].beaten >= BEATEN and all(_leads_nowhere(one, threat) for one in followed):
        raise CellError(
            f"{place.detector.name} breaks the contract: on {100 * found['eps/8'].beaten:.0f} % of the images looked "
            f"at, noise is a better attack than a step of the same size along its {place.name}, so attacks would "
            "follow nothing and its robust AUC would be an artefact; look for a rounding or a very steep function on "
            "the way from the image to the score, or declare a smooth surrogate (has_surrogate = True)."
        )
    return found


def _leads_nowhere(place: Place, threat: ThreatModel) -> bool:
    """Whether noise beats steps along this gradient at an eighth of epsilon and at a quarter of that."""
    if place.is_dead():
        return True
    return all(steps(place, threat, threat.epsilon / part).beaten >= BEATEN for part in (8, 32))


def _inner(gradient: Tensor, way: Tensor) -> Tensor:
    return (gradient.double() * way.double()).flatten(1).sum(dim=1)


def _unit(gradient: Tensor) -> Tensor:
    """Each row with a largest entry of 1."""
    return gradient / gradient.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(gradient.dtype).tiny)


def _rms(values: list[Tensor]) -> Tensor:
    return torch.stack(values).square().mean(dim=0).sqrt()


def _median(values: Tensor) -> float | None:
    """None where it is not finite: a record is strict JSON."""
    found = float(values.median())
    return round(found, 4) if math.isfinite(found) else None
