"""All that can be asked of an attack on a detector, in turn.

An attack that fails looks like a detector that is robust. A run asks what costs it nothing; this asks the rest, on few
images: whether the score is one steady function of the image with the gradient that it says, whether other attacks find
more, and whether the AUC falls as the ball grows. After Pintor et al. 2022 (indicators of attack failure), AutoAttack's
flags (Croce & Hein 2020), AttackBench (Cinà et al. 2025) and DiffHammer (Wang et al. 2024), each put for a score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from attacks.base import Attack
from bench.cell.attack import Outcome, run_cell
from bench.cell.attacking import Attacking
from bench.cell.group import STRANGE, reason_of
from bench.cell.results import figures, indicators
from bench.cell.verdict import Draws
from bench.data.base import ImageSet
from bench.diagnosis import contract_cases, others, steadiness, sweep
from bench.diagnosis.examined import Examined, Tell
from bench.records.schema import Figures
from bench.report import signs as of_records
from bench.report.signs import Sign
from detectors.base import Detector

VERDICT_DRAWS = 10


@dataclass(frozen=True)
class Diagnosis:
    """What was found of one detector.

    Attributes:
        detector, category, attack: names; epsilon: how far the attack may go, in units of its norm.
        images: how many test images were looked at.
        clean_auc, robust_auc: on these few images, in per cent; None where the attack could not be made.
        signs: all that was looked at.
        areas: the AUC by epsilon; empty where there is no ball.
        norm: of the ball, or the name of a threat model that is none.
    """

    detector: str
    category: str
    attack: str
    epsilon: float
    images: int
    clean_auc: float | None
    robust_auc: float | None
    signs: tuple[Sign, ...]
    areas: dict[str, float]
    norm: str = "linf"

    @property
    def flags(self) -> tuple[Sign, ...]:
        """Those that are up."""
        return tuple(sign for sign in self.signs if sign.is_up)

    def describe(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def diagnose(
    detector: Detector,
    attack: Attack,
    test: ImageSet,
    held_out: ImageSet,
    sources: Sequence[Detector],
    *,
    category: str,
    seed: int,
    batch_size: int,
    device: torch.device,
    tell: Tell = lambda what: None,
) -> Diagnosis:
    """Look at an attack on a fitted detector from all sides.

    Args:
        detector: fitted, on the device.
        attack: with its threat model settled.
        test, held_out: few images to attack; normals that no fit has seen.
        sources: simple detectors, fitted on the same normals, whose adversarial images are tried on this one.
        category: of the images.
        seed: of all noise.
        batch_size, device: as of `bench.cell.attack.run_cell`.
        tell: told what is asked next.

    Returns:
        Every sign. What could not be asked, because the detector or an attack raised an error, is a sign that is up.
    """
    attack = attack.resolve(test.images.shape[-1])
    found: list[Sign] = []
    areas: dict[str, float] = {}
    attacking = Attacking(detector, test, Draws(VERDICT_DRAWS, seed), device, batch_size)
    clean = robust = None

    def ask(name: str, question: Callable[[], Iterator[Sign]]) -> None:
        tell(name)
        try:
            found.extend(question())
        except STRANGE as error:
            sentence = f"{name} could not be asked: {reason_of(error, f'{attack.name} on {detector.name}')}"
            found.append(Sign(26, name, None, "can be asked", True, sentence))

    ask("the contract", lambda: contract_cases.signs(detector, test, device, attack))
    outcome: Outcome | None = None

    def attacked() -> Iterator[Sign]:
        nonlocal outcome, clean, robust
        outcome = run_cell(
            detector, attack, test, held_out, attacking.draws, batch_size=batch_size, device=device, tick=_silent
        )
        labels = test.labels.numpy().astype(np.int64)
        stated = figures(outcome, labels, test)
        clean, robust = (_figures(stated[which]) for which in ("clean", "robust"))
        yield from of_records.of_record(
            indicators(outcome),
            {"images": len(test)},  # what the gate says is asked above
            clean=clean,
            robust=robust,
            is_stochastic=detector.is_stochastic,
            keep=str(attack.describe().get("keep")),
        )

    ask("the attack", attacked)
    if outcome is not None and outcome.adversarial is not None:
        examined = Examined(attacking, attack, outcome.adversarial)
        ask("a steady score", lambda: steadiness.signs(examined))
        if detector.sees_pixels and attack.threat.at(test.images.shape[-1]).is_ball:
            ask("other attacks", lambda: others.signs(examined, sources, tell))
            ask("other radii", lambda: sweep.signs(examined, tell, areas))
    return Diagnosis(
        detector.name,
        category,
        attack.name,
        float(attack.describe()["epsilon"]),
        len(test),
        None if clean is None else clean.auc,
        None if robust is None else robust.auc,
        tuple(sign for sign in found if sign.name != "the gate"),
        areas,
        str(attack.describe()["norm"]),
    )


def questions(detector: Detector, attack: Attack, sources: Sequence[Detector]) -> int:
    """How many times `tell` is called."""
    if not detector.sees_pixels or not attack.threat.at(detector.image_size).is_ball:
        return 3
    longer = others.with_more_steps(attack) is not None
    return 5 + 2 + len(sources) + len(others.followed(detector)) + longer + len(sweep.PARTS) + 1


def _figures(stated: dict[str, Any]) -> Figures:
    return Figures(**{name: stated[name] for name in Figures.__dataclass_fields__ if name in stated})


def _silent(done: float, what: str) -> None:
    """Nobody is told of images."""
