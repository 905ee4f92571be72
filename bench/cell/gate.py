"""The gate: a detector must keep what its robust AUC stands on, or its cell fails with the reason.

Whatever is attacked is looked at first (`detectors.contract`). Nobody is exempt: the README tells newcomers to put a
file into `detectors/`, and the tests of that folder run where somebody runs them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from attacks.threat import Threat
from bench.data.base import ImageSet
from bench.errors import CellError
from detectors import contract
from detectors.base import Detector
from detectors.contract import Passed as Passed
from detectors.contract import scores as questions
from detectors.contract.findings import NOT_FINITE
from detectors.contract.lipschitz import check_lipschitz as of_pairs
from detectors.contract.subject import Subject
from detectors.errors import ContractError
from detectors.noise import Noise, NoiseSeed

_ASCENT = 40  # steps, as of the thorough contract


def check(detector: Detector, test: ImageSet, device: torch.device, threat: Threat) -> Passed:
    """Look at a fitted detector, on a few test images, before it is attacked inside a threat model: in that ball, or in
    the contract's own where the threat model is none.

    Raises:
        CellError: it breaks the contract; the sentence says how.
    """
    few = test.subset(contract.chosen(test.labels))
    settled = threat.at(few.images.shape[-1])
    askable = settled.is_ball and not settled.is_a_point  # where nothing moves, nothing could be asked
    with _as_a_reason():
        return contract.check(
            detector,
            few.pixels().to(device),
            few.labels,
            names=few.ids,
            ball=settled if askable else None,
        )


def check_scores(detector: Detector, test: ImageSet, device: torch.device) -> None:
    """What a certificate stands on: that a score depends on its image and its noise alone. Of gradients nothing is
    asked, for a certificate needs none.

    Raises:
        CellError: it depends on more; the sentence says on what.
    """
    few = test.subset(contract.chosen(test.labels))
    x, noise = few.pixels().to(device), NoiseSeed(0).source("gate", few.ids)
    with _as_a_reason():
        here = questions.check_shape(detector, x, noise)
        if not detector.sees_pixels:
            questions.check_blind(detector, x, noise)
        elif bool(here.isfinite().all()):  # else whoever draws samples says so
            questions.check_repeats(detector, x, noise, here)
            questions.check_noise_is_declared(detector, x, here, [noise.at(1)])
            questions.check_neighbours(detector, x[:2].double(), noise.pick(slice(2)))


def check_constant(detector: Detector, test: ImageSet, device: torch.device) -> None:
    """What an exact certificate stands on: that the score, in float64, moves no faster than `Detector.lipschitz` says,
    between images that are random and between images that an ascent drives apart.

    Raises:
        CellError: it moves faster; the sentence says between which images.
    """
    few = test.subset(contract.chosen(test.labels))
    if detector.sees_pixels:  # else `check_scores` has seen that no pixel moves it
        with _as_a_reason():
            subject = Subject.of(detector, few.pixels().to(device), few.labels, names=few.ids)
            of_pairs(subject.softened(), steps=_ASCENT)


def confirm(passed: Passed, name: str) -> None:
    """To be called when all test images have finite scores.

    Raises:
        CellError: those of the gate's pictures had not, so that nothing was asked: figures would stand on a gradient
            that nobody looked at.
    """
    if passed.remark == NOT_FINITE:
        raise CellError(
            f"{name} breaks the contract: its score is finite on the test images and was not on the same with a "
            "little grain, so its gradient could not be checked; look for a logarithm, a division or an overflow."
        )


def check_blind(detector: Detector, x: Tensor, noise: Noise) -> None:
    """`contract.check_blind` for all test images. Raises CellError: the score sees pixels and says that it doesn't."""
    with _as_a_reason():
        contract.check_blind(detector, x, noise)


@contextmanager
def _as_a_reason() -> Iterator[None]:
    try:
        yield
    except ContractError as error:
        raise CellError(str(error)) from error
