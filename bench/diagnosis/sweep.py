"""The attack at other radii: a larger ball holds the smaller one, and in all of [0, 1] nothing is safe."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch

from attacks.base import Attack
from attacks.threat import L2, ThreatModel
from bench.cell.attacking import keys_of
from bench.diagnosis.examined import Examined, Tell
from bench.report.signs import Sign
from bench.text import epsilon_text
from detectors.noise import NoiseSeed

PARTS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of epsilon; and all of [0, 1]
RISE = 2.0  # points; of 10 + 10 images a pair is one
NEAR_ZERO = 5.0


def signs(examined: Examined, tell: Tell, areas: dict[str, float]) -> Iterator[Sign]:
    """The signs; `areas` is filled with the AUC in per cent by epsilon, as tables write it."""
    side = examined.attacking.test.images.shape[-1]
    threat = examined.attack.threat.at(side)
    whole = _whole(threat, side)
    radii = [part * threat.epsilon for part in PARTS if part * threat.epsilon < whole.epsilon] + [whole.epsilon]
    found = [examined.area(examined.clean)]
    areas["0"] = round(found[0], 2)
    for number, radius in enumerate(radii):
        named = epsilon_text(radius, threat.norm)
        tell(f"epsilon {named}")
        if radius == threat.epsilon:
            losses = examined.kept
        else:
            losses = examined.losses(examined.run(at(examined.attack, type(threat)(radius)), 200 + number).images)
        found.append(examined.area(losses))
        areas[named] = round(found[-1], 2)
    rise = max(later - earlier for earlier, later in pairwise(found))
    sentence = f"the robust AUC rises by {rise:.1f} points with epsilon"
    yield Sign(21, "AUC that a larger ball adds", rise, f"<= {RISE}", rise > RISE, sentence)
    left, is_constant = found[-1], _is_constant(examined, whole)
    sentence = f"with all of [0, 1] to choose from the attack leaves an AUC of {left:.1f}"
    yield Sign(22, "AUC at epsilon 1", left, f"<= {NEAR_ZERO}", left > NEAR_ZERO and not is_constant, sentence)


def at(attack: Attack, threat: ThreatModel) -> Attack:
    """The same attack in another ball."""
    return type(attack)(threat, attack.settings)


def _is_constant(examined: Examined, whole: ThreatModel) -> bool:
    """Whether random images have the scores of the clean ones: nobody can attack a score that sees nothing."""
    test = examined.attacking.test
    noise = NoiseSeed(examined.attacking.draws.seed).source("diagnosis-anything", keys_of(test, range(len(test))))
    return torch.equal(examined.losses(whole.random_start(test.pixels(), noise)), examined.clean)


def _whole(threat: ThreatModel, side: int) -> ThreatModel:
    """The ball in which every image can become every other."""
    return L2(math.sqrt(3) * side) if threat.norm == L2.norm else type(threat)(1.0)
