"""The gate: a detector from outside must keep what its robust AUC stands on, or its cell fails with the reason.

The detectors of this package are checked by the tests. One that joined from outside (an entry point, a notebook) is
looked at before it is attacked, on one normal and one anomalous image and within a few dozen forward passes: whether
its score repeats itself under the same noise (under any noise, unless it says that it is stochastic), depends on the
image alone, and has the gradient that autograd says (as its surrogate must). It is a gate and no proof;
`tests/detectors/contract_checks.py` asks for more.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from attacks.objective import Differentiate, Evaluation, loss_and_gradient
from bench.data.base import ANOMALOUS, NORMAL, ImageSet
from bench.errors import CellError
from detectors.base import Detector
from detectors.noise import Noise, NoiseSeed, generator

PACKAGE = "detectors"
GRADIENT_TOLERANCE = 0.02  # of the gradient's size; a forgotten detach() costs far more
# The same image among other neighbours of the same number meets the same kernels: only their rounding may differ.
NEIGHBOUR_TOLERANCE = 1e-6
CROWD_TOLERANCE = 1e-4  # in a larger batch other kernels may be at work
DIRECTIONS = 4
STEPS = (1e-3, 1e-4, 1e-5, 1e-6)
LEAST_COSINE = 0.99  # between the gradients of a score and of an increasing function of it
_BOTH: tuple[Differentiate, Differentiate] = ("score", "surrogate")

Score = Callable[[Tensor, Noise], Tensor]


def check(detector: Detector, test: ImageSet, device: torch.device) -> None:
    """Pass a detector of this package unseen; look at one from outside.

    Raises:
        CellError: it breaks the contract; the sentence says how.
        GradientCutError: its score has no graph that leads to the image.
    """
    if not is_outside(detector):
        return
    x, noise = _images(test, device)

    def score(images: Tensor, source: Noise) -> Tensor:
        with torch.no_grad():
            return detector.score(images, noise=source)

    def surrogate(images: Tensor, source: Noise) -> Tensor:
        with torch.no_grad():
            return detector.surrogate_score(images, noise=source)

    here = score(x, noise)
    if not bool(here.isfinite().all()):
        if bool(score(x.float(), noise).isfinite().all()):
            raise CellError(
                f"{detector.name} breaks the contract: its score is finite in float32 and is not in float64, so its "
                "gradient cannot be checked; let it compute in the dtype of the image."
            )
        return  # of this the cell itself says how many images it concerns
    _check_repeats(detector.name, score, x, noise, here)
    if not (detector.is_stochastic or _close(score(x, noise.at(1)), here, NEIGHBOUR_TOLERANCE)):
        raise CellError(
            f"{detector.name} breaks the contract: its score draws noise and is_stochastic is False, so one lucky draw "
            "would be its verdict; set is_stochastic = True."
        )
    _check_neighbours(detector.name, score, x, noise, here)
    _check_gradient(detector, "score", score, x, noise)
    if detector.has_surrogate:
        _check_gradient(detector, "surrogate", surrogate, x, noise)
        if detector.surrogate_is_monotone:
            _check_monotone(detector, x, noise)
    elif not _close(surrogate(x, noise), here, NEIGHBOUR_TOLERANCE):
        raise CellError(
            f"{detector.name} breaks the contract: its surrogate_score is not its score and has_surrogate is False, so "
            "no attack would follow it and its robust AUC would be an artefact; set has_surrogate = True."
        )


def is_outside(detector: Detector) -> bool:
    """Whether the detector, or one inside it, comes from another package than this one's."""
    parts = [part for part in detector.modules() if isinstance(part, Detector)]
    return any(type(part).__module__.partition(".")[0] != PACKAGE for part in parts)


def _images(test: ImageSet, device: torch.device) -> tuple[Tensor, Noise]:
    """The first image of each label in float64, and a noise source that no attack and no verdict has.

    A little contrast is taken away and a little grain added: pictures of 8 bits have equal neighbours and pixels at
    0 and 1, where honest scores (a maximum, an absolute value, a clamp) have kinks and no derivative.
    """
    labels = test.labels.tolist()
    chosen = [labels.index(NORMAL), labels.index(ANOMALOUS)]
    x = test.pixels(chosen).double()
    grain = torch.rand(x.shape, generator=generator(0, "gate", "grain"), dtype=x.dtype) - 0.5
    x = 0.02 + 0.96 * x + grain / 255
    return x.to(device), NoiseSeed(0).source("gate", [test.ids[i] for i in chosen])


def _check_repeats(name: str, score: Score, x: Tensor, noise: Noise, here: Tensor) -> None:
    if not _close(score(x, noise), here, NEIGHBOUR_TOLERANCE):
        raise CellError(
            f"{name} breaks the contract: the same image under the same noise gets another score at another call, so "
            "its robust AUC would be an artefact; draw all randomness from the noise source and keep no state."
        )


def _check_neighbours(name: str, score: Score, x: Tensor, noise: Noise, here: Tensor) -> None:
    both = range(len(x))
    alone = torch.cat([score(x[[i, i]], noise.pick([i, i]))[:1] for i in both])
    strangers = Noise(noise.key, (*noise.image_ids, "black", "white", "negative"))
    crowd = score(torch.cat([x, torch.zeros_like(x[:1]), torch.ones_like(x[:1]), 1 - x[:1]]), strangers)[: len(x)]
    if not (_close(alone, here, NEIGHBOUR_TOLERANCE) and _close(crowd, here, CROWD_TOLERANCE)):
        raise CellError(
            f"{name} breaks the contract: an image's score depends on the other images of its batch, so its robust AUC "
            "would be an artefact; take no maximum, mean or rank over the batch."
        )


def _check_gradient(detector: Detector, which: Differentiate, score: Score, x: Tensor, noise: Noise) -> None:
    """Autograd's gradient against central differences along random directions, each at the step that suits it best: a
    network of ReLUs has kinks within any long step, and one that computes in float32 drowns a short one in rounding."""
    evaluation = _evaluation(detector, which, x, noise)
    noise = noise.sub(0)  # the draw of that gradient
    draws = generator(0, "gate", "directions")
    found, errors = [], []
    for _ in range(DIRECTIONS):
        v = torch.randn(x.shape, generator=draws, dtype=x.dtype).to(x.device)
        promise = (evaluation.gradient * v).flatten(1).sum(dim=1)
        slopes = torch.stack([(score(x + h * v, noise) - score(x - h * v, noise)) / (2 * h) for h in STEPS])
        best = (slopes - promise).abs().nan_to_num(torch.inf).argmin(dim=0, keepdim=True)
        slope = slopes.gather(0, best)[0]
        found.append(slope)
        errors.append((slope - promise).abs())
    # A direction has one unit per pixel: the root of the mean square of the slopes along it is the gradient's size.
    size = torch.maximum(_rms(found), evaluation.gradient.flatten(1).norm(dim=1))
    rounding = 100 * torch.finfo(x.dtype).eps * score(x, noise).abs() / STEPS[0]
    wrong = torch.where(_rms(errors) > rounding, _rms(errors) / size, 0).max()
    if not bool(wrong <= GRADIENT_TOLERANCE):
        what = "gradient" if which == "score" else "surrogate's gradient"
        raise CellError(
            f"{detector.name} breaks the contract: its {what} is wrong by {100 * float(wrong):.0f} % of its size, so "
            "its robust AUC would be an artefact; look for a detach(), a no_grad(), a rounding or a step in NumPy or "
            "float32 on the way from the image to the score."
        )


def _check_monotone(detector: Detector, x: Tensor, noise: Noise) -> None:
    """An increasing function of the score has the score's gradient up to a positive factor; attacks follow it alone."""
    of_score, of_surrogate = (_evaluation(detector, which, x, noise).gradient.flatten(1) for which in _BOTH)
    cosine = torch.nn.functional.cosine_similarity(_unit(of_score), _unit(of_surrogate), dim=1)
    if bool((cosine < LEAST_COSINE)[of_score.abs().amax(dim=1) > 0].any()):
        raise CellError(
            f"{detector.name} breaks the contract: its surrogate_score is no increasing function of its score (their "
            f"gradients have a cosine of {float(cosine.min()):.2f}) and surrogate_is_monotone is True, so attacks "
            "would follow it alone and its robust AUC would be an artefact; set surrogate_is_monotone = False."
        )


def _evaluation(detector: Detector, which: Differentiate, x: Tensor, noise: Noise) -> Evaluation:
    return loss_and_gradient(detector, x, torch.ones(len(x), device=x.device), noise, differentiate=which)


def _unit(gradient: Tensor) -> Tensor:
    """Each row with a largest entry of 1: a saturated score's gradient is tiny."""
    return gradient / gradient.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(gradient.dtype).tiny)


def _rms(values: list[Tensor]) -> Tensor:
    return torch.stack(values).square().mean(dim=0).sqrt()


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return bool(((a - b).abs() <= tolerance * b.abs().max()).all())
