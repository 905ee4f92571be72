"""The contract of a detector as signs: the gate that every run has, and the closer questions that any size bears."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from attacks.base import Attack
from bench.cell import gate
from bench.data.base import ImageSet
from bench.errors import CellError
from bench.report.signs import Sign
from bench.text import one_line
from detectors import contract
from detectors.base import Detector
from detectors.errors import ContractError

# To the last bit or to 1e-4 of a gradient, which no network keeps at 128 pixels; of a fit and a checkpoint, which are
# no part of an attack; the quick look, which is the gate's; and gradients of zero, which are counted at every step.
LEFT_TO_CI = frozenset(
    {
        "gradient_is_finite_and_not_zero",
        "gradient_is_the_derivative",
        "score_ignores_the_gradient_mode",
        "checkpoint_gives_the_same_scores",
        "fit_repeats_itself",
        "quick_look",
    }
)


def signs(detector: Detector, test: ImageSet, device: torch.device, attack: Attack) -> Iterator[Sign]:
    """One sign for the gate, and one for all other cases: how many are broken, and in which words the first."""
    yield _sign("contract: the gate", _gate(detector, test, device, attack))
    threat = attack.threat.at(test.images.shape[-1])
    images, labels = test.pixels().to(device), test.labels
    subject = contract.Subject.of(detector, images, labels, ball=threat, names=test.ids)
    said = []
    with detector.trusting():
        for case in contract.CASES:
            if case.name in LEFT_TO_CI:
                continue
            try:
                case(subject)
            except ContractError as error:
                said.append(f"{case.name}: {error}")
            except Exception as error:  # a stranger's code, asked in ways that no run asks it
                said.append(f"{case.name}: {type(error).__name__}: {error}")
    yield _sign("contract: broken cases", said)


def _gate(detector: Detector, test: ImageSet, device: torch.device, attack: Attack) -> list[str]:
    try:
        remark = gate.check(detector, test, device, attack.threat).remark
    except CellError as error:
        return [str(error)]
    except Exception as error:  # as above
        return [f"{type(error).__name__}: {error}"]
    return [remark] if remark and detector.sees_pixels else []


def _sign(name: str, said: list[str]) -> Sign:
    return Sign(17, name, float(len(said)), "0", bool(said), one_line("; ".join(said), 600))
