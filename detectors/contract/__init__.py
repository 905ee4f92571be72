"""Is this detector's robustness number worth anything? The contract of a detector, as a check.

An attack follows a gradient. Of a detector whose gradient is cut, or whose score jumps, draws noise that nobody
declared or looks at its batch neighbours, a robust AUC is an artefact. `check` asks within seconds and is what
`python -m bench run` asks of every detector before it is attacked; with `thorough=True` it asks what CI should ask, and
`pytest_cases` makes a pytest case of each question. All that they need is a fitted detector and a few images. A test
file of your own, to copy:

    import torch

    from detectors import contract
    from my_package import MyDetector

    def pictures(count, *, seed):
        draws = torch.Generator().manual_seed(seed)
        return torch.rand(count, 3, 32, 32, generator=draws)  # better: pictures of what it is for

    NORMALS = pictures(24, seed=1)
    IMAGES = torch.cat([pictures(3, seed=2), pictures(3, seed=3).square()])
    LABELS = [1, 1, 1, -1, -1, -1]  # +1 normal, -1 anomalous; may be left out

    def fitted():
        return MyDetector(MyDetector.settings_for("quick", 32), 32).fit(NORMALS, seed=0)

    test_contract = contract.pytest_cases(fitted, IMAGES, LABELS, normals=NORMALS)

Without pytest: `contract.check(fitted(), IMAGES, LABELS, thorough=True, normals=NORMALS)`. Whoever breaks the contract
gets a `ContractError`, whose sentence says what is wrong and where to look. Whether a detector finds anything at all is
another question: `check_floor` compares its AUC with a floor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from torch import Tensor

from detectors.base import Detector
from detectors.contract import quick
from detectors.contract.ball import Ball, LInfBall
from detectors.contract.findings import Passed
from detectors.contract.fits import check_floor
from detectors.contract.scores import check_blind
from detectors.contract.subject import Subject, chosen
from detectors.contract.thorough import CASES, Case
from detectors.errors import ContractError

__all__ = [
    "CASES",
    "Ball",
    "Case",
    "ContractError",
    "LInfBall",
    "Passed",
    "Subject",
    "check",
    "check_blind",
    "check_floor",
    "chosen",
    "pytest_cases",
]


def check(
    detector: Detector,
    images: Tensor,
    labels: Tensor | Sequence[int] | None = None,
    *,
    ball: Ball | None = None,
    thorough: bool = False,
    normals: Tensor | None = None,
    names: Sequence[str] | None = None,
) -> Passed:
    """Look at a fitted detector before anybody believes its robustness.

    It is a check and no proof: four images and some hundred passes. On return the detector is on the images' device.

    Args:
        detector: fitted.
        images: two or more, float (B, 3, S, S) in [0, 1]; the first two of each label are looked at (thorough: three).
        labels: of the images, +1 normal and -1 anomalous, (B,); None: every other image is asked as an anomaly, whose
            score an attack pushes down.
        ball: in which it will be attacked, such as an `attacks.threat.ThreatModel`; None: l-inf, 2/255.
        thorough: ask all `CASES`: gradients to 1e-4, noise, dtypes, maps, checkpoints; small images on a CPU.
        normals: all images that it was fitted on, (N, 3, S, S); the thorough check then fits another one twice, with
            the seed of the fit report, and asks for the same bits.
        names: of the images, for a baseline that scores these.

    Returns:
        What was looked at, and the worst that was found.

    Raises:
        ContractError: the detector breaks the contract; the sentence says how, and where to look.
        DetectorError: it is not fitted, or nothing can be asked on these images or labels.
    """
    subject = Subject.of(detector, images, labels, ball=ball, normals=normals, names=names)
    with detector.trusting():  # whoever writes into its input shall hear that, and not that images leave [0, 1]
        found = quick.look(subject)
    if thorough:
        for case in CASES:
            case(subject)
    return found


def pytest_cases(
    fitted: Callable[[], Detector],
    images: Tensor,
    labels: Tensor | Sequence[int] | None = None,
    *,
    ball: Ball | None = None,
    normals: Tensor | None = None,
) -> Callable[..., None]:
    """A pytest test with a case for each question of the thorough check; assign it to a name that begins with `test_`.

    Args:
        fitted: makes the fitted detector; called once, when the first case runs.
        images, labels, ball, normals: as of `check`; without normals there is no case for the fit.
    """
    import pytest

    @cache
    def subject() -> Subject:
        return Subject.of(fitted(), images, labels, ball=ball, normals=normals)

    asked = [case for case in CASES if normals is not None or case.name != "fit_repeats_itself"]

    @pytest.mark.parametrize("case", asked, ids=lambda case: case.name)
    def test_contract(case: Case) -> None:
        case(subject())

    return test_contract
