"""The gate: a detector must keep what its robust AUC stands on, or its cell fails with the reason.

Whatever is attacked is looked at first, on two normal and two anomalous images and within some hundred passes: whether
its score repeats itself under the same noise (under any noise, unless it says that it is stochastic), depends on the
image alone, is the same in float32 and float64, and has a gradient that an attack can follow, as its surrogate must
(`bench.cell.gate_gradient`). Nobody is exempt: the README tells newcomers to put a file into `detectors/`, and the
tests of that folder run where somebody runs them. It is a gate and no proof; `tests/detectors/contract_checks.py` asks
for more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attacks.threat import Threat, ThreatModel, largest_entry
from bench.cell import gate_gradient
from bench.cell.gate_gradient import Place, Steps
from bench.data.base import ANOMALOUS, NORMAL, ImageSet
from bench.errors import CellError
from detectors.base import Detector
from detectors.noise import Noise, NoiseSeed, generator

PER_CLASS = 2
REPEAT_TOLERANCE = 1e-5  # in float32; the same kernels, whose sums a GPU may order differently
# In float64. The same image among as many other neighbours meets the same kernels: only their rounding may differ.
NEIGHBOUR_TOLERANCE = 1e-6
CROWD_TOLERANCE = 1e-4  # in a larger batch other kernels may be at work
FLOAT32_TOLERANCE = 1e-3  # of the largest score; measured: 4e-5 on FreeRAD, 2e-6 elsewhere
LEAST_COSINE = 0.99  # between the gradients of a score and of an increasing function of it
# Of pairs of pictures: two functions that have nothing to do with each other order half of them differently.
MOST_DISCORDANT = 0.1
NOT_FINITE = "its score is not finite"

Score = Callable[[Tensor, Noise], Tensor]


@dataclass(frozen=True)
class Gradient:
    """What was found of one gradient.

    Attributes:
        error: against finite differences, as a share of its size, of the worst image.
        float32_cosine: with the one in float32, of the worst image.
    """

    error: float
    float32_cosine: float


@dataclass(frozen=True)
class Passed:
    """What the gate looked at, and the worst that it found.

    Attributes:
        images: how many it looked at.
        gradients: by "score" and, where there is one, "surrogate"; none where the score is not finite or sees no pixel.
        unaccounted: share of the change of the score under noise that its gradient does not account for
            (`gate_gradient.check_path`); None where that was not asked.
        steps: by size, what steps along the gradient do beside noise.
        remark: why something was not asked.
    """

    images: int
    gradients: dict[str, Gradient]
    unaccounted: float | None = None
    steps: dict[str, Steps] | None = None
    remark: str = ""

    def describe(self) -> dict[str, Any]:
        """For a record, ready for JSON; four decimals, which float rounding hardly reaches."""
        found: dict[str, Any] = {"images": self.images}
        for which, gradient in self.gradients.items():
            found[which] = {
                "gradient_error": _digits(gradient.error), "float32_cosine": _digits(gradient.float32_cosine)
            }
        if self.unaccounted is not None:
            found["unaccounted"] = _digits(self.unaccounted)
        if self.steps is not None:
            found["steps"] = {
                size: {"kept": _digits(s.kept), "noise": _digits(s.noise), "beaten": s.beaten}
                for size, s in self.steps.items()
            }
        return found | ({"remark": self.remark} if self.remark else {})

    def confirm(self, name: str) -> None:
        """To be called when all test images have finite scores. Raises CellError where those of the gate's pictures had
        not, so that nothing was asked: figures would stand on a gradient that nobody looked at."""
        if self.remark == NOT_FINITE:
            raise CellError(
                f"{name} breaks the contract: its score is finite on the test images and was not on the same with a "
                "little grain, so its gradient could not be checked; look for a logarithm, a division or an overflow."
            )


def check(detector: Detector, test: ImageSet, device: torch.device, threat: Threat) -> Passed:
    """Look at a fitted detector before it is attacked inside a threat model.

    Raises:
        CellError: it breaks the contract; the sentence says how.
        GradientCutError: its score has no graph that leads to the image.
    """
    x, y, noise = _images(test, device)

    def score(images: Tensor, source: Noise) -> Tensor:
        with torch.no_grad():
            return detector.score(images, noise=source)

    _check_shape(detector, x, noise)
    if not detector.sees_pixels:
        check_blind(detector, x, noise)
        check_blind(detector, x.float(), noise)
        return Passed(len(x), {}, remark="it sees no pixels")
    single, here = score(x.float(), noise).double(), score(x, noise)
    if not bool(here.isfinite().all()):
        if bool(single.isfinite().all()):
            raise CellError(
                f"{detector.name} breaks the contract: its score is finite in float32 and is not in float64, so its "
                "gradient cannot be checked; let it compute in the dtype of the image."
            )
        # Of this the cell itself says how many images it concerns.
        return Passed(len(x), {}, remark=NOT_FINITE)
    _check_repeats(detector.name, score, x.float(), noise, single)
    if not (detector.is_stochastic or _close(score(x.float(), noise.at(1)), single, REPEAT_TOLERANCE)):
        raise CellError(
            f"{detector.name} breaks the contract: its score draws noise and is_stochastic is False, so one lucky draw "
            "would be its verdict; set is_stochastic = True."
        )
    _check_neighbours(detector.name, score, x[:2], noise.pick(slice(2)))
    if not _close(single, here, FLOAT32_TOLERANCE):
        raise CellError(
            f"{detector.name} breaks the contract: its score in float32, which is attacked and judged, is not the one "
            "in float64, in which its gradient is checked; let it compute the same in both dtypes."
        )
    return _check_gradients(detector, Place(detector, "score", x, y, noise), threat.at(x.shape[-1]))


def _check_gradients(detector: Detector, place: Place, threat: ThreatModel) -> Passed:
    surrogate = replace(place, which="surrogate")
    gradients = {}
    if not (detector.has_surrogate and place.is_dead()):  # a score that jumps and says so: the surrogate is for that
        gradients["score"] = _check_one(place)
    if detector.has_surrogate:
        gradients["surrogate"] = _check_one(surrogate)
        if detector.surrogate_is_monotone:
            _check_monotone(place, surrogate)
        place = surrogate
    elif not _close(surrogate.value(place.x), place.value(place.x), NEIGHBOUR_TOLERANCE):
        raise CellError(
            f"{detector.name} breaks the contract: its surrogate_score is not its score and has_surrogate is False, so "
            "no attack would follow it and its robust AUC would be an artefact; set has_surrogate = True."
        )
    # A score that hides its gradient has a surrogate, and is judged by that: attacks follow both.
    unaccounted = gate_gradient.check_path(place, threat)
    return Passed(len(place.x), gradients, unaccounted, gate_gradient.check_steps(place, threat))


def _check_one(place: Place) -> Gradient:
    # Differences on one image of each class alone: they take dozens of passes in float64.
    return Gradient(gate_gradient.check_derivative(place.first(2)), gate_gradient.check_float32(place))


def _images(test: ImageSet, device: torch.device) -> tuple[Tensor, Tensor, Noise]:
    """A few images of each label in turn, in float64, their labels, and a noise source that no attack and no verdict
    has.

    A little contrast is taken away and a little grain added: pictures of 8 bits have equal neighbours and pixels at
    0 and 1, where honest scores (a maximum, an absolute value, a clamp) have kinks and no derivative, and lie in the
    middle of the grey levels to which a score may round.
    """
    labels = test.labels.tolist()
    each = [[i for i, label in enumerate(labels) if label == wanted] for wanted in (NORMAL, ANOMALOUS)]
    chosen = [of[n] for n in range(PER_CLASS) for of in each if n < len(of)]
    x = test.pixels(chosen).double()
    grain = torch.rand(x.shape, generator=generator(0, "gate", "grain"), dtype=x.dtype) - 0.5
    x = (0.02 + 0.96 * x + grain / 255).float().double()  # so that both dtypes see the same image
    y = test.labels[chosen].double()
    return x.to(device), y.to(device), NoiseSeed(0).source("gate", [test.ids[i] for i in chosen])


def _check_shape(detector: Detector, x: Tensor, noise: Noise) -> None:
    with torch.no_grad():
        found: Any = detector.score(x.clone(), noise=noise)
    if not isinstance(found, Tensor) or found.shape != (len(x),):
        what = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise CellError(
            f"{detector.name} breaks the contract: for {len(x)} images its score is {what}; return one number per "
            f"image, a tensor of shape ({len(x)},)."
        )


def check_blind(detector: Detector, x: Tensor, noise: Noise) -> None:
    """A baseline that sees names alone has no gradient by nature; whoever says so must not see a pixel.

    To the last bit: beside a large number that comes from the name, what comes from the pixels would be small.

    Raises:
        CellError: the score of some image is another one for other pixels, or at another call.
    """
    others = (x, 1 - x, x.flip(0), torch.zeros_like(x), torch.ones_like(x), (x - 0.01).clamp(0, 1))
    with torch.no_grad():
        first, *found = (detector.score(other, noise=noise).nan_to_num() for other in others)
        found.append(detector.score(x, noise=noise).nan_to_num())
    if not all(torch.equal(one, first) for one in found):
        raise CellError(
            f"{detector.name} breaks the contract: it says sees_pixels = False, which excuses it from having a "
            "gradient, and its score changes with the image; set sees_pixels = True."
        )


def _check_repeats(name: str, score: Score, x: Tensor, noise: Noise, here: Tensor) -> None:
    if not _close(score(x, noise), here, REPEAT_TOLERANCE):
        raise CellError(
            f"{name} breaks the contract: the same image under the same noise gets another score at another call, so "
            "its robust AUC would be an artefact; draw all randomness from the noise source and keep no state."
        )


def _check_neighbours(name: str, score: Score, x: Tensor, noise: Noise) -> None:
    """In float64, in which any coupling stands out from rounding."""
    both, here = range(len(x)), score(x, noise)
    alone = torch.cat([score(x[[i, i]], noise.pick([i, i]))[:1] for i in both])
    strangers = Noise(noise.key, (*noise.image_ids, "black", "white", "negative"))
    crowd = score(torch.cat([x, torch.zeros_like(x[:1]), torch.ones_like(x[:1]), 1 - x[:1]]), strangers)[: len(x)]
    if not (_close(alone, here, NEIGHBOUR_TOLERANCE) and _close(crowd, here, CROWD_TOLERANCE)):
        raise CellError(
            f"{name} breaks the contract: an image's score depends on the other images of its batch, so its robust AUC "
            "would be an artefact; take no maximum, mean or rank over the batch."
        )


def _check_monotone(score: Place, surrogate: Place) -> None:
    """An increasing function of the score has the score's gradient up to a positive factor; attacks follow it alone."""
    of_score = score.gradient(score.x)
    cosine = gate_gradient.cosines(of_score, surrogate.gradient(surrogate.x))
    if bool((cosine < LEAST_COSINE)[largest_entry(of_score) > 0].any()):
        raise CellError(
            f"{score.detector.name} breaks the contract: its surrogate_score is no increasing function of its score "
            f"(their gradients have a cosine of {float(cosine.min()):.2f}) and surrogate_is_monotone is True, so "
            "attacks would follow it alone and its robust AUC would be an artefact; set surrogate_is_monotone = False."
        )
    discordant = _discordant(score, surrogate)
    if discordant > MOST_DISCORDANT:
        raise CellError(
            f"{score.detector.name} breaks the contract: its surrogate_score is no increasing function of its score "
            f"(they order {100 * discordant:.0f} % of pairs of pictures differently) and surrogate_is_monotone is "
            "True, so attacks would follow it alone and its robust AUC would be an artefact; set "
            "surrogate_is_monotone = False."
        )


def _discordant(score: Place, surrogate: Place) -> float:
    """Of pairs of pictures to which a score gives different values, the share that the surrogate does not order alike.

    A score that jumps has no gradient to compare with the surrogate's; it has an order. Pictures are compared with
    changes of themselves, under the same noise.
    """
    x = score.x
    grain = torch.rand(x.shape, generator=generator(0, "gate", "order"), dtype=x.dtype).to(x.device)
    corner = x.clone()
    corner[..., : x.shape[-2] // 2, : x.shape[-1] // 2] = 0.5
    pictures = (x, 0.5 * x + 0.25, corner, 0.9 * x + 0.1 * grain, 1 - x)
    # The places' labels turn signs of both alike.
    of_score, of_surrogate = (
        torch.stack([place.value(picture) for picture in pictures]) for place in (score, surrogate)
    )
    ahead, size = of_score[:, None] - of_score, torch.maximum(of_score[:, None].abs(), of_score.abs())
    told = ahead.isfinite() & (ahead.abs() > NEIGHBOUR_TOLERANCE * size)
    # Without a tolerance: a logarithm tells apart what differs in the score's sixth digit by its ninth.
    alike = ahead.sign() == (of_surrogate[:, None] - of_surrogate).sign()
    return float((~alike)[told].double().mean()) if bool(told.any()) else 0.0


def _digits(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return bool(((a - b).abs() <= tolerance * b.abs().max()).all())
