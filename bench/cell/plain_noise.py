"""Whether plain noise is a better attack than the attack: then the attack followed nothing.

An attack climbs on a gradient. A detector can have one that is right, at every point and to the last digit, and says
nothing about what the score does next: a score of rounded pixels with a little of the mean brightness beside it. Noise
needs no gradient. Where noise of the attack's own size raises the loss y * A(x) by more than the attack did, the attack
was no attack, whatever its indicators say.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.objective import loss
from attacks.threat import ThreatModel
from detectors.base import Detector
from detectors.contract.ball import BLOCKS, block_noise
from detectors.contract.ball import rose as rose
from detectors.noise import Noise

DRAWS = 3  # on which noise and attack are compared, of a stochastic detector
MARGIN = 3.0  # standard errors of their mean difference; by chance alone one image in 20 passes it


def noise_won(detector: Detector, threat: ThreatModel, x: Tensor, y: Tensor, attacked: Tensor, noise: Noise) -> Tensor:
    """Whether the best of a few noises in the ball raises y * A(x) by more than the attack did, (B,) bool.

    A deterministic detector is asked 7 times. Of a stochastic one the best noise is chosen on one draw and compared
    with the attack on others, common to both, which have no part in the choice; it must be ahead by more than they
    scatter: 12 times.

    Args:
        detector: fitted.
        threat: the attack's, settled at the images' side.
        x, y: clean images (B, 3, H, W) in [0, 1] and their labels, +1 normal, -1 anomalous, (B,).
        attacked: what the attack made of them, (B, 3, H, W).
        noise: a source that neither the attack nor the verdict has.
    """
    changes = (block_noise(x, threat, block, noise.sub(0)) for block in BLOCKS)
    candidates = [threat.project(x + signed, x) for change in changes for signed in (change, -change)]
    first = torch.stack([loss(detector, candidate, y, noise.sub(1)) for candidate in candidates])
    if not detector.is_stochastic:
        found = loss(detector, attacked, y, noise.sub(1))
        return rose(found, first.nan_to_num(-torch.inf).amax(dim=0))
    best = first.nan_to_num(-torch.inf).argmax(dim=0)
    chosen = torch.stack(candidates)[best, torch.arange(len(x), device=x.device)]
    draws = [noise.sub(2, draw) for draw in range(DRAWS)]
    theirs = torch.stack([loss(detector, attacked, y, draw) for draw in draws])
    ahead = torch.stack([loss(detector, chosen, y, draw) for draw in draws]) - theirs
    beyond = ahead.mean(dim=0) - MARGIN * ahead.std(dim=0) / DRAWS**0.5
    return rose(theirs.abs().amax(dim=0), theirs.abs().amax(dim=0) + beyond)
