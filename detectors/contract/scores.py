"""What a score must be before anybody asks for its gradient: a function of its image and its noise, in any dtype.

Each question is asked once here, as closely as the caller's tolerance says: `contract.check` allows a GPU's rounding,
the thorough cases ask for the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from detectors.base import Detector
from detectors.checks import one_number_each
from detectors.contract.place import Place, cosines, largest_entry
from detectors.errors import ContractError
from detectors.noise import Noise, generator

REPEAT_TOLERANCE = 1e-5  # in float32; the same kernels, whose sums a GPU may order differently
MAP_TOLERANCE = 0.1  # of the score: a map that is enlarged to the image loses some of a peak of one pixel
NEIGHBOUR_TOLERANCE = 1e-6  # in float64, in which any coupling stands out from rounding
CROWD_TOLERANCE = 1e-4  # in a larger batch other kernels may be at work
FLOAT32_TOLERANCE = 1e-3  # of the largest score; measured: 4e-5 on FreeRAD, 2e-6 elsewhere
LEAST_COSINE = 0.99  # between the gradients of a score and of an increasing function of it
# Of pairs of pictures: two functions that have nothing to do with each other order half of them differently.
MOST_DISCORDANT = 0.1


def scores(detector: Detector, x: Tensor, noise: Noise | None) -> Tensor:
    """Without a graph, (B,)."""
    with torch.no_grad():
        return detector.score(x, noise=noise)


def check_shape(detector: Detector, x: Tensor, noise: Noise) -> Tensor:
    """One number per image, also of a detector that overrides the public `score`. Returns them, (B,). Raises
    ContractError for anything else."""
    return one_number_each(scores(detector, x.clone(), noise), len(x), owner=detector.name)


def check_blind(detector: Detector, x: Tensor, noise: Noise) -> None:
    """A baseline that sees names alone has no gradient by nature; whoever says so must not see a pixel.

    To the last bit: beside a large number that comes from the name, what comes from the pixels would be small.

    Raises:
        ContractError: the score of some image is another one for other pixels, or at another call.
    """
    others = (x, 1 - x, x.flip(0), torch.zeros_like(x), torch.ones_like(x), (x - 0.01).clamp(0, 1), x)
    first, *found = (scores(detector, other, noise).nan_to_num() for other in others)
    if not all(torch.equal(one, first) for one in found):
        raise ContractError(
            f"{detector.name} breaks the contract: it says sees_pixels = False, which excuses it from having a "
            "gradient, and its score changes with the image; set sees_pixels = True."
        )


def check_repeats(
    detector: Detector, x: Tensor, noise: Noise, here: Tensor, tolerance: float = REPEAT_TOLERANCE
) -> None:
    """The same image under the same noise gets the score that it got before (`here`, (B,)). Raises ContractError."""
    if not close(scores(detector, x, noise), here, tolerance):
        raise ContractError(
            f"{detector.name} breaks the contract: the same image under the same noise gets another score at another "
            "call, so its robust AUC would be an artefact; draw all randomness from the noise source and keep no state."
        )


def check_noise_is_declared(
    detector: Detector, x: Tensor, here: Tensor, others: Iterable[Noise | None], tolerance: float = REPEAT_TOLERANCE
) -> None:
    """A score that says that it is deterministic is the same (`here`, (B,)) under any other noise.

    Args:
        detector: fitted; nothing is asked of one that is stochastic.
        x: images, (B, 3, S, S).
        here: its scores under some noise.
        others: other sources; None: none is given.
        tolerance: share of the largest score.

    Raises:
        ContractError: it is another one under one of them.
    """
    if detector.is_stochastic:
        return
    if not all(close(scores(detector, x, noise), here, tolerance) for noise in others):
        raise ContractError(
            f"{detector.name} breaks the contract: its score draws noise and is_stochastic is False, so one lucky draw "
            "would be its verdict; set is_stochastic = True."
        )


def check_neighbours(
    detector: Detector,
    x: Tensor,
    noise: Noise,
    *,
    tolerance: float = NEIGHBOUR_TOLERANCE,
    crowd: float = CROWD_TOLERANCE,
) -> bool:
    """An image gets the same score alone, in a batch, in a batch in reverse order, and among strangers.

    Args:
        detector: fitted.
        x: a few images, (B, 3, S, S), in the dtype in which it is asked.
        noise: their source.
        tolerance: share of the largest score.
        crowd: the same, among strangers, which make the batch larger.

    Returns:
        Whether it is so to the last bit for images that are alone.

    Raises:
        ContractError: it is another one.
    """
    each, here = range(len(x)), scores(detector, x, noise)
    alone = torch.cat([scores(detector, x[i : i + 1], noise.pick([i])) for i in each])
    reverse = scores(detector, x.flip(0), noise.pick(each[::-1])).flip(0)
    strangers = Noise(noise.key, (*noise.image_ids, "black", "white", "negative"))
    guests = torch.cat([x, torch.zeros_like(x[:1]), torch.ones_like(x[:1]), 1 - x[:1]])
    among = scores(detector, guests, strangers)[: len(x)]
    if not (close(alone, here, tolerance) and close(reverse, here, tolerance) and close(among, here, crowd)):
        raise ContractError(
            f"{detector.name} breaks the contract: an image's score depends on the other images of its batch, so its "
            "robust AUC would be an artefact; take no maximum, mean or rank over the batch."
        )
    return torch.equal(alone, here)


def check_float32(detector: Detector, single: Tensor, double: Tensor) -> None:
    """The score in float32 is the one in float64, both (B,). Raises ContractError where it isn't."""
    if not close(single.double(), double, FLOAT32_TOLERANCE):
        raise ContractError(
            f"{detector.name} breaks the contract: its score in float32, which is attacked and judged, is not the one "
            "in float64, in which its gradient is checked; let it compute the same in both dtypes."
        )


def check_surrogate_is_declared(
    detector: Detector, x: Tensor, noise: Noise, tolerance: float = NEIGHBOUR_TOLERANCE
) -> bool:
    """Attacks follow a surrogate only where there is said to be one.

    Returns:
        Whether the surrogate is the score at x, (B, 3, S, S).

    Raises:
        ContractError: it isn't, and `has_surrogate` is False.
    """
    with torch.no_grad():
        same = close(detector.surrogate_score(x, noise=noise), detector.score(x, noise=noise), tolerance)
    if not (same or detector.has_surrogate):
        raise ContractError(
            f"{detector.name} breaks the contract: its surrogate_score is not its score and has_surrogate is False, so "
            "no attack would follow it and its robust AUC would be an artefact; set has_surrogate = True."
        )
    return same


def check_map_maximum(detector: Detector, x: Tensor, noise: Noise) -> None:
    """Attacks follow a smooth maximum of the map in the score's place where the score is said to be its maximum.

    Args:
        x, noise: images (B, 3, S, S), and one draw of their noise.

    Raises:
        ContractError: `score_is_map_maximum` is True, and there is no map or its maximum is another number.
    """
    why = "so attacks would follow something else and its robust AUC would be an artefact"
    if not detector.has_map:
        raise ContractError(
            f"{detector.name} breaks the contract: score_is_map_maximum is True and has_map is False, {why}; set "
            "score_is_map_maximum = False."
        )
    with torch.no_grad():
        score = detector.score(x, noise=noise)
        highest = detector.anomaly_map(x, noise=noise).flatten(1).amax(dim=1)
    if bool(((highest - score).abs() > MAP_TOLERANCE * score.abs()).any()):
        raise ContractError(
            f"{detector.name} breaks the contract: score_is_map_maximum is True and its score is not the largest value "
            f"of its anomaly map, {why}; set score_is_map_maximum = False."
        )


def check_monotone(score: Place) -> None:
    """An increasing function of the score has the score's gradient up to a positive factor; attacks follow it alone.

    Raises:
        ContractError: the surrogate is none, and `surrogate_is_monotone` is True.
    """
    surrogate, of_score = score.of("surrogate"), score.gradient(score.x)
    cosine = cosines(of_score, surrogate.gradient(surrogate.x))
    discordant = _discordant(score, surrogate)
    if bool((cosine < LEAST_COSINE)[largest_entry(of_score) > 0].any()):
        why = f"their gradients have a cosine of {float(cosine.min()):.2f}"
    elif discordant > MOST_DISCORDANT:
        why = f"they order {100 * discordant:.0f} % of pairs of pictures differently"
    else:
        return
    raise ContractError(
        f"{score.detector.name} breaks the contract: its surrogate_score is no increasing function of its score "
        f"({why}) and surrogate_is_monotone is True, so attacks would follow it alone and its robust AUC would be an "
        "artefact; set surrogate_is_monotone = False."
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


def close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Whether two series of scores differ by no more than a share of the largest of the second; 0: by not one bit."""
    return bool(((a - b).abs() <= tolerance * b.abs().max()).all())
