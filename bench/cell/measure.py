"""The one way to a figure: gate, attack, verdict, results. A run and `bench.evaluate` both go it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attacks.base import Attack
from bench.cell import gate
from bench.cell.attack import Draws, Outcome, run_cell
from bench.cell.attacking import Tick
from bench.cell.results import figures, indicators
from bench.cell.unfinished import Unfinished
from bench.data.base import ImageSet
from bench.records.score_table import Scores
from detectors.base import Detector


@dataclass(frozen=True, eq=False)
class Measured:
    """What was found of one detector on one test set under one attack.

    Attributes:
        outcome: scores, signs and pictures of every image.
        results, indicators, gate: what a record states of them.
        scores: of every image, clean and attacked, on every verdict draw.
    """

    outcome: Outcome
    results: dict[str, Any]
    indicators: dict[str, Any]
    gate: dict[str, Any]
    scores: Scores


def measure(
    detector: Detector,
    attack: Attack,
    test: ImageSet,
    held_out: ImageSet,
    draws: Draws,
    *,
    trained_on: Sequence[str],
    batch_size: int,
    device: torch.device,
    tick: Tick,
    early_stop: bool,
    start: Tensor | None = None,
    unfinished: Unfinished | None = None,
) -> Measured:
    """Look at a fitted detector, attack every test image and judge it on fresh noise.

    Args:
        detector: fitted, on the device.
        attack: with its threat model settled.
        test, held_out: images to attack; normals that no fit has seen, for the threshold.
        draws: number of verdict draws at least, and the seed.
        trained_on: the ids of the training images, for how far the file order alone tells the classes apart.
        batch_size, device, tick, early_stop, start, unfinished: as of `run_cell`.

    Raises:
        CellError: the detector breaks the contract, scores or maps are not finite, or an image needs too much memory.
    """
    passed = gate.check(detector, test, device, attack.threat)
    outcome = run_cell(
        detector,
        attack,
        test,
        held_out,
        draws,
        batch_size=batch_size,
        device=device,
        tick=tick,
        early_stop=early_stop,
        start=start,
        unfinished=unfinished,
    )
    gate.confirm(passed, detector.name)
    labels = test.labels.numpy().astype(np.int64)
    scores = Scores(test.ids, labels, outcome.clean, outcome.robust, test.defects)
    signs = indicators(outcome)
    if flags := attack.flags(detector):
        signs["flags"] = list(flags)
    return Measured(outcome, figures(outcome, labels, test, trained_on), signs, passed.describe(), scores)
