"""What a plan will cost, estimated from cells that were measured before.

The seconds come from records: the user's own, or else the table `costs.json` of a reference machine, scaled by how fast
this machine multiplies matrices. `python -m bench.run.costs FOLDER` makes the table anew from a folder of records.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from attacks.base import Attack
from bench.cell.more_draws import FACTOR, PER_CLASS
from bench.plan import protocols
from bench.plan.plan import Job, Plan
from bench.records.record import Record
from bench.records.store import read_all
from detectors.noise import NoiseSeed

TABLE = Path(__file__).with_name("costs.json")


@dataclass(frozen=True)
class Cost:
    """Seconds of one detector at one preset and image side.

    Attributes:
        fit: of one category.
        gradient: of one image and gradient step, the attack's own forward passes included.
        forward: of one image and verdict draw.
        gflops: of this machine's matrix product when they were measured; 0 means the machine at hand.
    """

    detector: str
    preset: str
    image_size: int
    fit: float
    gradient: float
    forward: float
    gflops: float


def matrix_gflops() -> float:
    """How fast this machine multiplies float32 matrices, in GFLOP/s (about 0.3 s)."""
    a = torch.ones(1024, 1024)
    a @ a
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < 0.3:
        a @ a
        count += 1
    return 2 * 1024**3 * count / (time.perf_counter() - started) / 1e9


def noise_seconds(image_size: int) -> float:
    """Of drawing the noise of one image, on this machine's CPU (a few milliseconds)."""
    like = torch.empty(8, 3, image_size, image_size)
    source = NoiseSeed(0).source("costs", [str(number) for number in range(len(like))])
    started = time.perf_counter()
    source.normal(like.shape[1:], stream="costs", like=like)
    return (time.perf_counter() - started) / len(like)


def from_records(records: Sequence[Record], gflops: float) -> list[Cost]:
    """The newest complete record of each detector, preset and side, as a cost."""
    found: dict[tuple[str, str, int], Cost] = {}
    for record in sorted((r for r in records if r.ok), key=lambda r: r.written):
        images = record.subset.normals + record.subset.anomalies
        attack, verdict = record.seconds.get("attack"), record.seconds.get("verdict")
        draws = 2 * int(record.results.get("verdict_draws") or 1)  # clean and attacked
        if attack is None or verdict is None:
            continue
        try:
            gradients = float(record.indicators.get("gradients_per_image") or 0)
            cost = Cost(
                record.detector_name,
                record.preset,
                record.image_size,
                float(record.seconds.get("fit") or 0),
                round(float(attack) / images / gradients, 6),
                round(float(verdict) / images / draws, 6),
                gflops,
            )
        except (TypeError, ValueError, ZeroDivisionError):  # no gradients, or a stranger's record
            continue
        # Of several fits of one detector the longest: a plan should rather end early.
        known = found.get((cost.detector, cost.preset, cost.image_size))
        longest = max(cost.fit, known.fit if known else 0.0)
        found[(cost.detector, cost.preset, cost.image_size)] = replace(cost, fit=longest)
    return list(found.values())


class Estimates:
    """What each detector of a plan will cost; records are read, and the machine is measured, once for all of them."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._own = from_records(read_all(plan.run.out / "records")[0], 0.0)
        self._reference = _table()

    def seconds(self, detector: str, fits: bool) -> float | None:
        """For one category with all attacks of the plan, or None where nothing is known.

        Args:
            detector: its name.
            fits: whether it has to be fitted first.
        """
        cost = _find(self._own, self._plan, detector) or _find(self._reference, self._plan, detector)
        if cost is None:
            return None
        slower = cost.gflops / self._gflops if cost.gflops else 1.0
        return slower * _seconds(cost, self._plan, detector, fits)

    def pass_seconds(self, detector: str) -> tuple[float, float] | None:
        """Of one forward pass of one image, and of one gradient; None where nothing is known."""
        cost = _find(self._own, self._plan, detector) or _find(self._reference, self._plan, detector)
        if cost is None:
            return None
        slower = cost.gflops / self._gflops if cost.gflops else 1.0
        return cost.forward * slower, cost.gradient * slower

    @cached_property
    def _gflops(self) -> float:
        return matrix_gflops()


def longest_first(plan: Plan, jobs: Sequence[Job]) -> list[int]:
    """The order in which several processes should take jobs: what takes long first, so that none is
    left with it at the end. A process that comes to another category is sent its pictures within milliseconds."""
    expected = expected_seconds(plan, {job.detector for job in jobs})
    places = {category: place for place, category in enumerate(plan.categories)}

    def key(number: int) -> tuple[float, int]:
        seconds = expected[jobs[number].detector]
        return -math.inf if seconds is None else -seconds, places[jobs[number].category]

    return sorted(range(len(jobs)), key=key)


def expected_seconds(plan: Plan, detectors: Iterable[str]) -> dict[str, float | None]:
    """What a job of each detector takes on the reference machine, its fit included, or None where nothing is known. It
    follows from the plan and the table that comes with the code alone: on every machine the same."""
    table = _table()
    costs = {name: _find(table, plan, name) for name in detectors}
    return {n: None if cost is None else _seconds(cost, plan, n, fits=True) for n, cost in costs.items()}


def _seconds(cost: Cost, plan: Plan, detector: str, fits: bool) -> float:
    images = 2 * (plan.per_class or 100)
    stochastic = detector in plan.stochastic
    draws = protocols.get(plan.run.protocol).verdict_draws if stochastic else 1
    both = any(name == detector and follows.run == "auto" for (name, _), follows in plan.follows.items())
    # A few images are attacked once more with more draws, and along the score.
    attacked = images + ((FACTOR + 1) * 2 * PER_CLASS if stochastic else 0)

    def followed(attack: Attack) -> int:
        """Gradients of an image; at epsilon 0 there is nothing to find."""
        if attack.threat.at(plan.image_size).is_a_point:
            return 0
        return attack.gradients(is_stochastic=stochastic, gradients_followed=2 if both else 1)

    attacks = sum(
        attacked * followed(attack) * cost.gradient + 2 * images * draws * cost.forward
        for attack in plan.attacks_on(detector)
    )
    return attacks + (cost.fit if fits else 0.0)


def _find(costs: Sequence[Cost], plan: Plan, detector: str) -> Cost | None:
    wanted = (detector, plan.run.preset, plan.image_size)
    return next((c for c in costs if (c.detector, c.preset, c.image_size) == wanted), None)


def _table() -> list[Cost]:
    try:
        return [Cost(**row) for row in json.loads(TABLE.read_text())]
    except FileNotFoundError:
        return []


if __name__ == "__main__":
    measured = from_records(read_all(Path(sys.argv[1]))[0], round(matrix_gflops(), 1))
    TABLE.write_text(json.dumps([asdict(cost) for cost in measured], indent=1) + "\n")
