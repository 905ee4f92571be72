"""Where an attack starts inside the ball.

Most start at the clean image. Others reach a maximum that lies behind a flat: a random point, and the decontrasted
image, which is pulled towards its own blurred version (after Meinke & Hein 2020, who start attacks on confidences so:
these go flat, as scores of reconstructions do).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from attacks.threat import ThreatModel
from detectors.noise import Noise

Start = Literal["clean", "uniform", "decontrasted"]
IN_TURN: tuple[Start, ...] = ("clean", "uniform", "decontrasted")
BLUR = 1 / 16  # standard deviation of the blur, in sides of the image: wider than most textures


def kind(number: int) -> Start:
    """The start number 0, 1, 2, ...: clean, uniform, decontrasted, and from then on uniform ones."""
    return IN_TURN[number] if number < len(IN_TURN) else "uniform"


def start(which: Start, threat: ThreatModel, x: Tensor, noise: Noise) -> Tensor:
    """An image of the threat model to start from, (B, 3, H, W), for clean ones x, (B, 3, H, W) in [0, 1]; only
    "uniform" draws from the noise."""
    if which == "clean":
        return x
    if which == "uniform":
        return threat.random_start(x, noise)
    sigma = BLUR * x.shape[-1]
    side = min(x.shape[-2:])
    # Reflected at the border, so the window must be smaller than two sides.
    window = min(2 * round(2 * sigma) + 1, 2 * side - 1)
    return threat.project(gaussian_blur(x, [window, window], [sigma, sigma]), x)
