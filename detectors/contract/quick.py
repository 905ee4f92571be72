"""Whether a detector keeps what its robust AUC stands on, within some hundred passes over four images."""

from __future__ import annotations

from detectors.base import Detector
from detectors.contract import gradients
from detectors.contract import scores as questions
from detectors.contract.ball import Ball
from detectors.contract.findings import NO_PIXELS, NOT_FINITE, Gradient, Passed
from detectors.contract.lipschitz import check_lipschitz
from detectors.contract.place import Place
from detectors.contract.scores import scores
from detectors.contract.subject import Subject
from detectors.errors import ContractError


def look(subject: Subject) -> Passed:
    """Whether its score repeats itself under the same noise (under any noise, unless it says that it is stochastic),
    depends on the image alone, is the same in float32 and float64, moves no faster than it declares
    (`contract.lipschitz`), and has a gradient that an attack can follow, as its surrogate must (`contract.gradients`).

    Raises:
        ContractError: the detector breaks the contract; the sentence says how.
    """
    detector, place = subject.detector, subject.softened()
    x, noise = place.x, place.noise
    here = questions.check_shape(detector, x, noise)
    if not detector.sees_pixels:
        questions.check_blind(detector, x, noise)
        questions.check_blind(detector, x.float(), noise)
        return Passed(len(x), {}, remark=NO_PIXELS)
    single, here = scores(detector, x.float(), noise), scores(detector, x, noise)
    if not bool(here.isfinite().all()):
        if bool(single.isfinite().all()):
            raise ContractError(
                f"{detector.name} breaks the contract: its score is finite in float32 and is not in float64, so its "
                "gradient cannot be checked; let it compute in the dtype of the image."
            )
        # Of this the caller himself says how many images it concerns.
        return Passed(len(x), {}, remark=NOT_FINITE)
    questions.check_repeats(detector, x.float(), noise, single)
    questions.check_noise_is_declared(detector, x.float(), single, [noise.at(1)])
    questions.check_neighbours(detector, x[:2], noise.pick(slice(2)))
    questions.check_float32(detector, single, here)
    check_lipschitz(place)
    return _look_at_gradients(detector, place, subject.ball)


def _look_at_gradients(detector: Detector, place: Place, ball: Ball) -> Passed:
    found = {}
    if not (detector.has_surrogate and place.is_dead()):  # a score that jumps and says so: the surrogate is for that
        found["score"] = _look_at_one(place)
    if detector.has_surrogate:
        found["surrogate"] = _look_at_one(place.of("surrogate"))
        if detector.surrogate_is_monotone:
            questions.check_monotone(place)
        place = place.of("surrogate")
    else:
        questions.check_surrogate_is_declared(detector, place.x, place.noise.sub(0))
    if detector.score_is_map_maximum:
        questions.check_map_maximum(detector, place.x, place.noise.sub(0))
        found["map"] = _look_at_one(place.of("map"))
    # A score that hides its gradient has a surrogate, and is judged by that: attacks follow both.
    unaccounted = gradients.check_path(place, ball)
    return Passed(len(place.x), found, unaccounted, gradients.check_steps(place, ball))


def _look_at_one(place: Place) -> Gradient:
    # Differences on one image of each class alone: they take dozens of passes in float64.
    return Gradient(gradients.check_derivative(place.first(2)), gradients.check_float32(place))
