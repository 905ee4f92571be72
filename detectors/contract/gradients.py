"""Four questions about a gradient. A robust AUC stands on the answers: an attack follows nothing else.

1. Is it the derivative? Against differences in float64, along random directions.
2. Is it the same in float32? Attacks compute in float32; differences can be trusted in float64 alone.
3. Does it account for what the score does on a path through the ball? Where a score jumps (rounded pixels) a gradient
   can be right at every point and mean nothing: the sum of <gradient, step> along the path then misses the jumps.
4. Does a step along it raise the loss by more than noise of the same size does? Steep, narrow stairs have a true
   gradient and no jump; at the attack's own scale it leads nowhere.

The thresholds were set by measurement on ELPV (128 pixels, quick preset, both balls) over every detector of this
package and against fakes built for it; the margins stand beside them. A gradient that is exactly zero is none of these
questions' business: autograd says so, and the indicators of a record do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from detectors.contract.ball import BLOCKS, ROUNDING, Ball, block_noise, rose
from detectors.contract.place import Place, cosines, largest_entry
from detectors.errors import ContractError
from detectors.noise import generator


@dataclass(frozen=True)
class Differences:
    """How closely a gradient is compared with differences of its function.

    Attributes:
        tolerance: share of the gradient's size by which it may be wrong.
        steps: lengths of the differences, the one that suits most scores first; each direction's best one counts.
        is_strict: each direction counts by itself, without an allowance for rounding, and differences are one-sided, of
            second order, and into [0, 1] at pixels on its bounds, where a detector may clip what lies outside.
    """

    tolerance: float
    steps: tuple[float, ...]
    is_strict: bool = False


# A forgotten detach() costs far more. A network of ReLUs has kinks within 1e-6 (SPADE's error is 0.01 there), and one
# that computes in float32 needs 1e-4 and more.
QUICK = Differences(tolerance=0.02, steps=(1e-7, 1e-5, 1e-3, 1e-4, 1e-6))
# For pictures of a test, small enough for it; who computes in float32 fails.
STRICT = Differences(tolerance=1e-4, steps=(1e-6, 1e-7, 1e-8, 1e-9), is_strict=True)
DIRECTIONS = 3

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


# -- is it the derivative? --------------------------------------------------------------------------------------------


def check_derivative(place: Place, how: Differences = QUICK, *, directions: int = DIRECTIONS) -> float:
    """Autograd's gradient against differences along random directions, each at the step that suits it best: a network
    of ReLUs has kinks within any long step, and one that computes in float32 drowns a short one in rounding.

    Returns:
        The worst image's error, as a share of the gradient's size.

    Raises:
        ContractError: it is larger than the tolerance.
    """
    x, gradient, here = place.x, place.gradient(place.x), place.value(place.x)
    draws = generator(0, "gate", "directions")
    found, errors = [], []
    size = gradient.flatten(1).norm(dim=1)
    for _ in range(directions):
        v = torch.randn(x.shape, generator=draws, dtype=x.dtype).to(x.device)
        if how.is_strict:
            v = torch.where(x <= 0.01, v.abs(), torch.where(x >= 0.99, -v.abs(), v))
        promise = (gradient * v).flatten(1).sum(dim=1)
        slope, error = torch.zeros_like(promise), torch.full_like(promise, torch.inf)
        for h in how.steps:
            seen = _one_sided(place, here, h * v) / h if how.is_strict else _central(place, h * v) / h
            off = (seen - promise).abs().nan_to_num(torch.inf)
            slope, error = torch.where(off < error, seen, slope), torch.minimum(off, error)
            if bool((error <= 0.5 * how.tolerance * size).all()):
                break  # as good as it needs to be
        found.append(slope)
        errors.append(error)
    wrong = _worst_alone(found, errors, size) if how.is_strict else _worst(found, errors, size, here, max(how.steps))
    if not wrong <= how.tolerance:
        share = f"{100 * wrong:.0f}" if wrong >= 0.01 else f"{100 * wrong:.2g}"
        raise ContractError(
            f"{place.detector.name} breaks the contract: its {place.name} is wrong by {share} % of its size, "
            "so its robust AUC would be an artefact; look for a detach(), a no_grad(), a rounding or a step in NumPy "
            "or float32 on the way from the image to the score."
        )
    return wrong


def _central(place: Place, step: Tensor) -> Tensor:
    return (place.value(place.x + step) - place.value(place.x - step)) / 2


def _one_sided(place: Place, here: Tensor, step: Tensor) -> Tensor:
    return (4 * place.value(place.x + step) - place.value(place.x + 2 * step) - 3 * here) / 2


def _worst(found: list[Tensor], errors: list[Tensor], size: Tensor, here: Tensor, longest: float) -> float:
    # A direction has one unit per pixel: the root of the mean square of the slopes along it is the gradient's size.
    size = torch.maximum(_rms(found), size)
    rounding = 100 * torch.finfo(size.dtype).eps * here.abs() / longest
    return float(torch.where(_rms(errors) > rounding, _rms(errors) / size, 0).max())


def _worst_alone(found: list[Tensor], errors: list[Tensor], size: Tensor) -> float:
    slopes, off = torch.stack(found), torch.stack(errors)
    return float(torch.where(off > 0, off / torch.maximum(slopes.abs(), size), 0).max())


# -- is it the same in float32? ---------------------------------------------------------------------------------------


def check_float32(place: Place, least: float = FLOAT32_COSINE) -> float:
    """The cosine of the gradients in float32 and float64, each image's best of a few points.

    Measured over all detectors and members of families: 0.999999 and more wherever neither a maximum nor a neighbour
    changes between the two; with 63 of 64 columns detached in float32, 0.1.

    Args:
        place: where.
        least: what the worst image's must reach.

    Returns:
        The worst image's; 1 where all gradients are zero, or too small for float32.

    Raises:
        ContractError: it does not reach it.
    """
    draws = generator(0, "gate", "float32")
    best = torch.full((len(place.x),), -torch.inf, dtype=place.x.dtype, device=place.x.device)
    for point in range(FLOAT32_POINTS):
        x = place.x
        if point > 0:
            grain = torch.rand(x.shape, generator=draws, dtype=x.dtype).to(x.device) - 0.5
            x = (x + grain / 255).clamp(0, 1).float().to(x.dtype)
        double, single = place.gradient(x), place.gradient(x.float())
        cosine = cosines(single.to(x.dtype), double)
        best = torch.maximum(best, torch.where(largest_entry(single) > DEAD, cosine, 1))
        if bool((best >= least).all()):
            break
    worst = float(best.min())
    if not worst >= least:
        raise ContractError(
            f"{place.detector.name} breaks the contract: its {place.name} in float32, which attacks follow, is not the "
            f"one in float64 (a cosine of {worst:.3f}), so its robust AUC would be an artefact; let it compute the "
            "same in both dtypes, and look for a detach() or a rounding in one of them."
        )
    return worst


# -- does it account for what the score does? -------------------------------------------------------------------------


def check_path(place: Place, ball: Ball) -> float:
    """What the score does along straight paths to noise of full length, in float32, against the sum of <gradient, step>
    along them, taken in the middle of each part: of a score without jumps the two are equal.

    Returns:
        The root mean square of what the gradient does not account for, as a share of the change; the worse class's.
    """
    x = place.x.float()
    before, alive = place.value(x), largest_entry(place.gradient(x)) > 0
    rounding = ROUNDING * torch.finfo(x.dtype).eps * before.abs()
    ways = [ball.project(x + block_noise(x, ball, block, place.noise.sub(1)), x) - x for block in PATH_BLOCKS]
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
        raise ContractError(
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


def steps(place: Place, ball: Ball, size: float) -> Steps:
    """A step of this size along the gradient beside noise of this size, as the loss of attacks sees them."""
    x = place.x.float()
    before, gradient = place.loss(x), place.gradient(x)
    alive = largest_entry(gradient) > 0
    if not bool(alive.any()):
        return Steps(None, None, 0.0)
    step = ball.project(x + ball.steepest_step(gradient, size), x) - x
    gain, promise = place.loss(x + step) - before, _inner(gradient, step)
    ways = [block_noise(x, ball, block, place.noise.sub(2), size=size) for block in BLOCKS]
    # Of either sign: noise may make any image look worse, and then it is an attack on half of them alone.
    found = [place.loss(ball.project(x + way, x)) for one in ways for way in (one, -one)]
    best = torch.stack(found).amax(dim=0)
    return Steps(
        kept=_median((gain / promise)[alive]),
        noise=_median(((best - before) / gain.abs())[alive]),
        beaten=float((rose(before + gain, best) & alive).double().mean()),
    )


def check_steps(place: Place, ball: Ball) -> dict[str, Steps]:
    """Refuse a detector on which noise does more than steps along its gradients do: of a surrogate or, where following
    that leads nowhere, of the score.

    Measured at an eighth of epsilon: one image of four is beaten of CFA and of FastFlow, on rough ground where the step
    keeps 13 % of its promise, and none of any other detector's; a surrogate that has nothing to do with the score is
    beaten on all. Who is beaten there is asked again at a quarter of that step. (One step of all of epsilon overshoots
    on rough scores, as SPADE's and CFlow's, so that says nothing.)

    Returns:
        What steps do at each of `SCALES`.
    """
    found = {name: steps(place, ball, scale * ball.epsilon) for name, scale in SCALES.items()}
    followed = [place] if place.which == "score" else [place, place.of("score")]
    if found["eps/8"].beaten >= BEATEN and all(_leads_nowhere(one, ball) for one in followed):
        raise ContractError(
            f"{place.detector.name} breaks the contract: on {100 * found['eps/8'].beaten:.0f} % of the images looked "
            f"at, noise is a better attack than a step of the same size along its {place.name}, so attacks would "
            "follow nothing and its robust AUC would be an artefact; look for a rounding or a very steep function on "
            "the way from the image to the score, or declare a smooth surrogate (has_surrogate = True)."
        )
    return found


def _leads_nowhere(place: Place, ball: Ball) -> bool:
    """Whether noise beats steps along this gradient at an eighth of epsilon and at a quarter of that."""
    if place.is_dead():
        return True
    return all(steps(place, ball, ball.epsilon / part).beaten >= BEATEN for part in (8, 32))


def _inner(gradient: Tensor, way: Tensor) -> Tensor:
    return (gradient.double() * way.double()).flatten(1).sum(dim=1)


def _rms(values: list[Tensor]) -> Tensor:
    return torch.stack(values).square().mean(dim=0).sqrt()


def _median(values: Tensor) -> float | None:
    """None where it is not finite: a record is strict JSON."""
    found = float(values.median())
    return round(found, 4) if math.isfinite(found) else None
