"""What is left of a stochastic detector when its noise is no secret: attack and verdict on one and the same noise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.base import Attack
from attacks.candidates import Highest
from attacks.known_noise import with_known_noise
from bench.cell.attacking import Attacking, keys_of
from bench.metrics import intervals
from detectors.noise import NoiseSeed

PURPOSE = "known-noise"


def known_noise(attacking: Attacking, attack: Attack, adversarial: Tensor) -> dict[str, Any] | None:
    """The AUC of clean and of attacked images, all on the one draw that the attack has seen.

    Args:
        attacking: the detector and its test set.
        attack: with its threat model settled.
        adversarial: what it made of the test set without knowing the noise, (N, 3, S, S): a candidate of each image.

    Returns:
        For the record: the figures of the attacked images, `clean_auc`, and the gradients for each image. None where
        the detector is deterministic, or the attack has no form for it (`Attack.on_known_noise`).
    """
    members = attack.on_known_noise(attacking.detector) if attacking.detector.is_stochastic else ()
    if not members:
        return None
    test, device = attacking.test, attacking.device
    source = NoiseSeed(attacking.draws.seed).source(PURPOSE, [])
    held = replace(attacking, detector=with_known_noise(attacking.detector, source), purpose=PURPOSE)
    labels = test.labels.numpy().astype(np.int64)

    def losses(images: Tensor) -> Tensor:
        def some(part: list[int]) -> NDArray[np.float64]:
            with torch.no_grad():
                scores = held.detector.score(
                    images[part].to(device), noise=replace(source, image_ids=tuple(keys_of(test, part)))
                )
            return np.asarray(scores.double().cpu().numpy())

        found = np.concatenate(list(held.in_batches(range(len(test)), some)))
        return torch.from_numpy(labels * found)

    clean = losses(test.pixels())
    best = Highest(test.pixels())
    best.offer(test.pixels(), clean, 0)
    best.offer(adversarial, losses(adversarial), 1)
    gradients = 0
    for number, member in enumerate(members):
        found = held.attacked(member, range(len(test)), None, lambda done: None, path=(number,))
        best.offer(found.images, losses(found.images), 2 + number)
        gradients += found.gradients
    scores = labels * best.loss.numpy()
    if not (np.isfinite(scores).all() and np.isfinite(clean.numpy()).all()):
        return None  # the verdict says it
    figures = intervals.summary(scores, labels)
    kept = {name: figures[name] for name in ("auc", "low", "high", "strict_auc", "strict_low", "strict_high")}
    clean_auc = intervals.summary(labels * clean.numpy(), labels)["auc"]
    return {**kept, "clean_auc": clean_auc, "gradients_per_image": gradients}
