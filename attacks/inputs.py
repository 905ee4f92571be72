"""What goes into an attack, checked once: images, labels, images to start from, sources of noise."""

from __future__ import annotations

import dataclasses
import hashlib

import torch
from torch import Tensor

from attacks.errors import AttackError
from attacks.threat import ThreatModel
from detectors.errors import wrong_images
from detectors.noise import Noise


def check_inputs(x: Tensor, y: Tensor) -> None:
    """Raise AttackError unless x are images, (B, 3, H, W) in [0, 1], and y their labels, +1 or -1."""
    wrong = wrong_images(x)
    if wrong:
        raise AttackError(wrong)
    if not bool(((x >= 0) & (x <= 1)).all()):  # NaN fails too
        raise AttackError(
            f"Images must be in [0, 1]; got values from {float(x.min()):g} to {float(x.max()):g}; "
            "undo the normalisation or divide by 255 (detectors normalise inside)."
        )
    if not isinstance(y, Tensor):
        raise AttackError(f"Labels must be a tensor, one per image; got {type(y).__name__}; see torch.as_tensor.")
    if y.shape != (len(x),):
        raise AttackError(f"There must be one label per image, ({len(x)},); got {tuple(y.shape)}.")
    signs = y.double()  # bytes hold no -1, and compare 255 with it as equal
    if not bool(((signs == 1) | (signs == -1)).all()):
        raise AttackError("Labels must be +1 (normal) or -1 (anomalous); convert 0/1 labels by 1 - 2 * label.")


def checked_start(start: Tensor, x: Tensor, threat: ThreatModel) -> Tensor:
    """Images to start from, inside the threat model. Raises AttackError where they are no such images."""
    wrong = wrong_images(start)
    if wrong or start.shape != x.shape or not bool(((start >= 0) & (start <= 1)).all()):
        raise AttackError(
            f"The start must be images in [0, 1], one for each clean image, {tuple(x.shape)}; got "
            f"{wrong or f'{tuple(start.shape)}, values from {float(start.min()):g} to {float(start.max()):g}'}."
        )
    if threat.is_a_point:
        return x
    if not threat.is_ball:
        raise AttackError(
            f"An attack can start from images in a ball alone, and {threat.norm} is none; leave start out."
        )
    return _projected(start.detach().to(x, copy=True), x, threat)


def _projected(images: Tensor, x: Tensor, threat: ThreatModel) -> Tensor:
    """The images inside the threat model. Only those that are not: projecting an image that is would move it by a
    rounding and away from its loss."""
    outside = ~threat.inside(images, x)
    return torch.where(outside[:, None, None, None], threat.project(images, x), images)


def selection_of(noise: Noise) -> Noise:
    """The source of the selection's draws, where only the attack's was given."""
    # One-way, so that neither source can be had from the other's draws, and repeatable from `noise`.
    return dataclasses.replace(noise, key=hashlib.sha256(noise.key + b"selection").digest())


def check_noise(noise: Noise, selection: Noise, batch_size: int) -> None:
    """Raise AttackError unless both sources are for that many images, and two."""
    for source in (noise, selection):
        if len(source) != batch_size:
            raise AttackError(f"The noise source is for {len(source)} images, the batch has {batch_size}.")
    if noise.key == selection.key:
        raise AttackError(
            "The attack and the selection share one noise source, so lucky noise would be selected; "
            "take sources of two purposes."
        )
