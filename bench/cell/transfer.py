"""Transfer: adversarial images made on each detector, judged on all of them.

A white box has the gradient of the detector that it attacks, so images made elsewhere should do less. Where they do
more, the gradient leads astray: a sign of masking that needs no knowledge of the defence (Athalye et al. 2018, Carlini
et al. 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from attacks.base import Attack
from attacks.threat import Threat
from bench.cell import gate
from bench.cell.attacking import Attacking, Tick
from bench.cell.group import STRANGE, reason_of
from bench.cell.in_turn import attack_all
from bench.cell.verdict import Draws, Judge
from bench.data.base import ImageSet
from bench.errors import CellError
from bench.metrics.ranking import Floats
from bench.records.transfer import Entry, TransferMatrix, entry
from detectors.base import Detector

Shown = Callable[[str, str], AbstractContextManager[Tick]]
T = TypeVar("T")
CPU = torch.device("cpu")


def unseen(kind: str, name: str) -> AbstractContextManager[Tick]:
    return nullcontext(lambda done, note: None)


@dataclass(frozen=True, eq=False)
class Ground:
    """What every attack and every verdict of a matrix shares.

    Attributes:
        test: the images.
        draws: noise draws of a verdict, and the seed.
        batch_size: images at a time; device: where to compute.
        shown: for ("attack", name) or ("judge", name), within which a tick is told of images, or of sets of them.
    """

    test: ImageSet
    draws: Draws
    batch_size: int
    device: torch.device
    shown: Shown = unseen

    def images_of(self, name: str, detector: Detector, attack: Attack) -> Tensor:
        """The adversarial images of every test image, (N, 3, S, S) on the CPU, after a look by the gate.

        All are attacked to the end: one that has lost all its pairs on this detector may have some left on another.

        Raises:
            CellError: the detector breaks the contract, or an image needs too much memory.
        """
        passed = gate.check(detector, self.test, self.device, attack.threat)
        attacking = Attacking(detector, self.test, self.draws, self.device, self.batch_size)
        with self.shown("attack", name) as tick:
            found = attack_all(attacking, attack, None, tick)
        gate.confirm(passed, name)
        return found.result.images

    def scores_on(
        self, name: str, detector: Detector, made: Mapping[str, Tensor], ball: Threat
    ) -> tuple[Floats, dict[str, Floats]]:
        """A detector's scores of the clean images and of those that were made on each source, (D, N), on the same
        verdict draws, which no attack has seen: as many as its own images need, if they are among them.

        Raises:
            CellError: a score is not finite, or it made none itself and breaks the contract.
        """
        judge = Judge(detector, self.draws, self.batch_size, self.device)
        found: dict[str, Floats] = {}
        with self.shown("judge", name) as tick:
            if name in made:
                clean, found[name] = judge.both(self.test, made[name])
            else:
                gate.check(detector, self.test, self.device, ball)
                count = self.draws.verdict if detector.is_stochastic else 1
                clean = judge.scores(self.test.ids, self.test.pixels(), range(count))
            tick(1 + len(found), "verdict")
            for source in [other for other in made if other not in found]:
                found[source] = judge.scores(self.test.ids, made[source], range(len(clean)))
                tick(1, "verdict")
        if not all(np.isfinite(scores).all() for scores in (clean, *found.values())):
            raise CellError(
                "Some scores are not finite numbers; look for a division by zero, a square root at zero or an overflow "
                f"in {name}."
            )
        return clean, found


def matrix(
    ground: Ground,
    detectors: Mapping[str, Detector],
    attacks: Mapping[str, Attack],
    *,
    names: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
    reasons: Mapping[str, str] | None = None,
) -> TransferMatrix:
    """Make images on each source and judge them on every detector. One that fails costs its own row and column.

    Args:
        ground: images, draws, device.
        detectors: fitted ones, by the names that the matrix has for them.
        attacks: the attack on each source, with its threat model settled: one ball for all.
        names: the columns in order, by default all detectors.
        sources: the rows, by default the columns.
        reasons: why others of the names are not there; they have empty rows and columns.

    Raises:
        RecordError: the disk refuses.
    """
    failed = dict(reasons or {})
    columns = tuple(detectors if names is None else names)
    rows = tuple(dict.fromkeys(columns if sources is None else sources))
    ball = next(iter(attacks.values()))
    made: dict[str, Tensor] = {}
    for name in rows:
        if name in detectors:
            work = partial(ground.images_of, name, detectors[name].to(ground.device), attacks[name])
            images = _or_reason(work, f"{attacks[name].name} on {name}")
            detectors[name].to(CPU)  # others need the device's memory
            _file(images, name, made, failed)
    clean: dict[str, Entry] = {}
    entries: dict[tuple[str, str], Entry] = {}
    draws: dict[str, int] = {}
    labels = ground.test.labels.numpy().astype(np.int64)
    for name, detector in detectors.items():
        if name in failed:  # it broke the contract, or raised: no judge of others' images
            continue
        scores: dict[str, tuple[Floats, dict[str, Floats]]] = {}
        judging = partial(ground.scores_on, name, detector.to(ground.device), made, ball.threat)
        _file(_or_reason(judging, f"judging on {name}"), name, scores, failed)
        detector.to(CPU)
        for before, after in scores.values():
            clean[name], draws[name] = entry(before, labels), len(before)
            for source, found in after.items():
                entries[source, name] = entry(found, labels, after.get(name) if source != name else None)
    described = ball.describe()
    return TransferMatrix(
        attack=", ".join(dict.fromkeys(attack.name for attack in attacks.values())),
        norm=str(described["norm"]),
        epsilon=float(described["epsilon"]),
        sources=rows,
        targets=columns,
        clean=clean,
        entries=entries,
        reasons=failed,
        draws=draws,
    )


def _or_reason(work: Callable[[], T], what: str) -> T | str:
    """What some work gives, or why it gave nothing. Raises RecordError where the disk refuses."""
    try:
        return work()
    except STRANGE as error:
        return reason_of(error, what)


def _file(found: T | str, name: str, results: dict[str, T], reasons: dict[str, str]) -> None:
    """A result among the results, a reason among the reasons."""
    if isinstance(found, str):
        reasons[name] = found
    else:
        results[name] = found
