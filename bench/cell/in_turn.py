"""The attack on a whole test set: its members one after the other, and of each image the worst that any found.

Of a deterministic detector an image that has lost all its pairs is left alone (`bench.cell.enough`). Normals come
first, then anomalies, and in an ensemble what is enough is renewed after each member: the next one spends its queries
on images that the ones before could not defeat.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks import merging
from attacks.base import Attack
from attacks.result import AttackResult
from bench.cell.attacking import Attacking, Floats, Tick
from bench.cell.enough import Bounds
from bench.cell.looking import example_places
from bench.cell.memory import Places
from bench.cell.rivals import is_clearly_ahead, optimality
from bench.metrics import ranking

CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Found:
    """What was found of all N images, in the order of the test set.

    Attributes:
        result: of each image that of the member whose image is kept, on the CPU.
        had_enough: whether the image was left alone at some time, bool (N,); None where none could be.
        members: of an ensemble, what each did, ready for a record; empty of a single attack.
    """

    result: AttackResult
    had_enough: NDArray[np.bool_] | None
    members: list[dict[str, Any]]


def attack_all(attacking: Attacking, attack: Attack, bounds: Bounds | None, tick: Tick) -> Found:
    """Attack every image of the test set; with `bounds` only until it has lost all its pairs.

    Args:
        attacking: the detector and its test set.
        attack: with its threat model settled.
        bounds: of a deterministic detector and an attack that can stop, or None.
        tick: told of the images that are done, in shares where there are several members.
    """
    detector, labels = attacking.detector, attacking.test.labels.numpy().astype(np.int64)
    members = attack.members(detector) if detector.sees_pixels else (attack,)
    is_ensemble = len(members) > 1
    best = _Best(labels, attacking, bounds, is_ensemble=is_ensemble)
    said = []
    for number, member in enumerate(members):
        path = (number,) if is_ensemble else ()

        def told(images: int, note: str = member.name if is_ensemble else "attack") -> None:
            tick(images / len(members), note)

        attacked = 0
        for images in _phases(labels, bounds):
            enough = best.enough(int(labels[images[0]])) if bounds is not None and member.can_stop else None
            if number and enough is not None:
                best.renew(images, enough)
            wanting = images[~best.had_enough[images]]
            if len(wanting):
                best.add(number, wanting, attacking.attacked(member, wanting, enough, told, path=path), enough)
                attacked += len(wanting)
        told(len(labels) - attacked)
        gradients = member.gradients(is_stochastic=detector.is_stochastic) if detector.sees_pixels else 0
        said.append(
            {"attack": member.describe(), "attacked_images": attacked, "gradients": gradients, **best.describe()}
        )
    return Found(
        best.result,
        None if bounds is None else best.had_enough,
        [known | best.share_of(number) for number, known in enumerate(said)] if is_ensemble else [],
    )


def attack_to_the_end(attacking: Attacking, attack: Attack, found: Found, images: Places) -> Found:
    """The same, with some images attacked without a limit, as if they had been from the start."""
    wanting = torch.as_tensor(np.asarray(images), dtype=torch.long)
    members, total = attack.members(attacking.detector), found.result
    for number, member in enumerate(members):
        path = (number,) if len(members) > 1 else ()
        enough = torch.full((len(total.images),), math.inf) if member.can_stop else None
        again = attacking.attacked(member, images, enough, lambda done: None, path=path)
        wins = attacking.are_better(images, total, again)
        total = merging.merged(total, again, wanting, wins)
    # The budget of an image is what it was.
    total = replace(total, forwards=found.result.forwards, gradients=found.result.gradients)
    had_enough = np.zeros(len(total.images), dtype=bool) if found.had_enough is None else found.had_enough.copy()
    had_enough[np.asarray(images)] = False
    return Found(total, had_enough, found.members)


def _phases(labels: NDArray[np.int64], bounds: Bounds | None) -> list[NDArray[np.intp]]:
    """All images at once; or normals, then anomalies, whose limit the attacked normals set."""
    if bounds is None:
        return [np.arange(len(labels))]
    return [places for label in (1, -1) if len(places := np.flatnonzero(labels == label))]


class _Best:
    """The best of what was found so far.

    Attributes:
        had_enough: which images have lost all their pairs, bool (N,).
        winner: the number of the member that each image came from, (N,).
    """

    def __init__(
        self, labels: NDArray[np.int64], attacking: Attacking, bounds: Bounds | None, *, is_ensemble: bool
    ) -> None:
        self._labels, self._attacking, self._bounds = labels, attacking, bounds
        self._is_ensemble = is_ensemble
        self._scores: Floats = np.full(len(labels), np.nan) if bounds is None else bounds.clean.copy()
        self._parts: list[AttackResult] = []
        self._order: list[int] = []
        self._total: AttackResult | None = None
        self.had_enough = np.zeros(len(labels), dtype=bool)
        self.winner = np.zeros(len(labels), dtype=np.int64)
        self._losses: dict[int, Floats] = {}  # what each member found by itself, (N,); NaN where it did not attack
        self._ahead: dict[int, int] = {}

    @property
    def result(self) -> AttackResult:
        """Of all images, once the first member is through."""
        if self._total is None:
            self._total = merging.picked(merging.joined(self._parts), np.argsort(self._order).tolist(), CPU)
        return self._total

    def enough(self, label: int) -> Tensor:
        """The loss that is enough for the images of a class, (N,); of a single attack never for pictures that will be
        shown (an ensemble would spend more on these than on all others)."""
        assert self._bounds is not None
        limits = torch.full((len(self._labels),), self._bounds.losses(label, self._scores, renewed=self._is_ensemble))
        if not self._is_ensemble:
            limits[example_places(self._attacking.test)] = math.inf
        return limits

    def renew(self, images: NDArray[np.intp], enough: Tensor) -> None:
        """Images of a class that have passed by now what is enough by now: what the others have become may do it."""
        losses = self.result.best_loss[torch.as_tensor(images, dtype=torch.long)]
        self.had_enough[images] |= (losses > enough[images].to(losses)).numpy()

    def add(self, number: int, images: NDArray[np.intp], found: AttackResult, enough: Tensor | None) -> None:
        """What a member found of some images; the first member's are of all, phase by phase."""
        rows = torch.as_tensor(images, dtype=torch.long)
        own = self._losses.setdefault(number, np.full(len(self._labels), np.nan))
        own[images] = found.best_loss.double().numpy()
        if number == 0:
            self._parts.append(found)
            self._order += images.tolist()
            losses = found.best_loss
        else:
            wins = self._attacking.are_better(images, self.result, found)
            known, clean = self.result.best_loss[rows], self.result.clean_loss[rows]
            clearly = wins & is_clearly_ahead(clean, known, found.best_loss)
            self._ahead[number] = self._ahead.get(number, 0) + int(clearly.sum())
            self._total = merging.merged(self.result, found, rows, wins)
            self.winner[images[wins.numpy()]] = number
            losses = self.result.best_loss[rows]
        self._scores[images] = self._labels[images] * losses.double().numpy()
        if enough is not None:
            self.had_enough[images] = (losses > enough[rows].to(losses)).numpy()

    def share_of(self, number: int) -> dict[str, float | None]:
        """What a member has to do with the end: of which share of the images it found what is kept, on which share it
        was clearly ahead of all before it, and how much of the best known gain it found by itself where it attacked."""
        found: dict[str, float | None] = {"won_share": round(float((self.winner == number).mean()), 4)}
        if number:
            found["ahead_share"] = round(self._ahead.get(number, 0) / len(self._labels), 4)
        clean, best = (v.double().numpy() for v in (self.result.clean_loss, self.result.best_loss))
        return found | {"optimality": optimality(clean, self._losses.get(number, np.full(len(best), np.nan)), best)}

    def describe(self) -> dict[str, float]:
        """The robust AUC after the members so far, of a deterministic detector."""
        if self._bounds is None or not np.isfinite(self._scores).all():
            return {}
        return {"robust_auc": float(ranking.auc(self._scores, self._labels))}
