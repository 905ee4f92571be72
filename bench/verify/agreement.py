"""Whether two measurements of one cell agree: to the last bit on the machine that made it, else within 0.1 points."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from bench.errors import ContradictionError
from bench.metrics import ranking
from bench.records import environment, recount
from bench.records.record import Record
from bench.records.score_table import Scores
from bench.verify.beside import POINTS, far_apart

_ALIKE = ("python", "platform", *environment.PACKAGES, "cpu", "device", "tf32", "threads", "commit")
_COMMIT = re.compile(r"[0-9a-f]{40,64}")  # of a clean tree


@dataclass(frozen=True)
class Agreement:
    """How far two tables of scores of the same images are apart.

    Attributes:
        same_bits: whether they are one.
        points: the larger difference of the clean and of the robust AUCs, in points.
        aucs: stated and found, ready for a sentence.
        deviation: the largest difference of a score, as a share of the standard deviation of those that were found.
        others: what else follows from the scores and is further apart than rounding would bring it, with both values.
    """

    same_bits: bool
    points: float
    aucs: str
    deviation: float
    others: tuple[str, ...] = ()

    @property
    def is_close(self) -> bool:
        return self.points <= POINTS


def agreement(stated: Scores, found: Scores) -> Agreement | None:
    """None where they are on another number of draws, and cannot be compared score by score.

    Raises:
        ContradictionError: they are of other images, or call other ones normal, or what was found is no numbers.
    """
    check_comparable(stated, found)
    if stated.clean.shape != found.clean.shape:
        return None
    pairs = [(stated.clean, found.clean), (stated.robust, found.robust)]
    aucs = [tuple(ranking.mean_single_draw_auc(part, stated.labels).mean for part in pair) for pair in pairs]
    with np.errstate(all="ignore"):  # a stranger's scores may be as large as floats are, or infinite
        # Of what was found here: one huge score in a claim would hide all other differences behind its spread.
        spread = float(np.concatenate([found.clean, found.robust]).std())
        largest = float(np.max([np.abs(one - other).max() for one, other in pairs]))  # NaN where one is
        deviation = largest / spread if 0 < spread < np.inf and np.isfinite(largest) else float("inf")
    labels = stated.labels
    one, other = (recount.figures(scores, None, in_turn=True, complete=False) for scores in (stated, found))
    others = far_apart(one, other, int((labels == 1).sum()), int((labels == -1).sum()))
    told = ", ".join(
        f"{what} AUC {one:.2f} stated and {other:.2f} found"
        for what, (one, other) in zip(("clean", "robust"), aucs, strict=True)
    )
    return Agreement(
        all(np.array_equal(one, other) for one, other in pairs),
        max(abs(one - other) for one, other in aucs),
        told,
        0.0 if largest == 0 else deviation,
        tuple(others),
    )


def check_comparable(stated: Scores, found: Scores) -> None:
    """Raises ContradictionError where two tables are of other images, or call other ones normal, or what was found is
    no numbers."""
    if stated.images != found.images:
        raise ContradictionError("Its scores are of other images than those that its cell names.")
    if wrong := int((stated.labels != found.labels).sum()):
        raise ContradictionError(f"{wrong} of {len(found.labels)} images have another label in it than in the data.")
    if np.isnan(found.clean).any() or np.isnan(found.robust).any():
        raise ContradictionError("Its scores come out as no numbers (NaN) here.")


def is_same_machine(record: Record, device: torch.device) -> bool:
    """Whether a record was made by this code, with these packages, on this kind of machine: then bits are the same."""
    here = environment.describe(device)
    if not _COMMIT.fullmatch(str(here.get("commit"))):
        return False
    return all(record.environment.get(name) == here.get(name) for name in _ALIKE)


@contextmanager
def threads_of(record: Record) -> Iterator[None]:
    """Within it, as many threads as the record's process had, where this machine has them: sums in the same order."""
    before, stated = torch.get_num_threads(), record.environment.get("threads")
    if isinstance(stated, int) and 1 <= stated <= (os.cpu_count() or 1):
        torch.set_num_threads(stated)
    try:
        yield
    finally:
        torch.set_num_threads(before)
