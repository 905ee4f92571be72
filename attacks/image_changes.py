"""What happens to pictures without anybody's ill will: noise, blur, brightness, contrast, JPEG, a turn, another hue.

Five kinds of corruption at five severities each, after the benchmark of Hendrycks & Dietterich 2019; the numbers are
our own, chosen for close pictures of one kind of object, where theirs leave nothing to be seen of a small defect. All
images are (B, 3, H, W) in [0, 1], before and after.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample
from torchvision.transforms.functional import gaussian_blur, pil_to_tensor, to_pil_image

from detectors.noise import Noise

SEVERITIES = 5
# By severity, 1 to 5.
NOISE = (0.02, 0.04, 0.06, 0.08, 0.10)  # standard deviation of Gaussian noise, on [0, 1]
BLUR = (1, 2, 3, 4, 6)  # standard deviation of a Gaussian, in 256ths of the image's side
BRIGHTNESS = (0.05, 0.10, 0.15, 0.20, 0.30)  # added or taken away, on [0, 1]
CONTRAST = (0.85, 0.70, 0.55, 0.40, 0.25)  # of the distance from each channel's mean is left; or its inverse
JPEG = (80, 60, 40, 25, 10)  # quality, with colours at half the resolution


def _noise(x: Tensor, severity: int, sign: int, noise: Noise) -> Tensor:
    # The same pattern at every severity: only its strength grows.
    return x + NOISE[severity - 1] * noise.normal(x.shape[1:], stream="corruption", like=x)


def _blur(x: Tensor, severity: int, sign: int, noise: Noise) -> Tensor:
    sigma = BLUR[severity - 1] * x.shape[-1] / 256
    # Four standard deviations to each side; reflected at the border, so no wider than the image.
    window = min(2 * math.ceil(4 * sigma) + 1, 2 * min(x.shape[-2:]) - 1)
    blurred: Tensor = gaussian_blur(x, [window, window], [sigma, sigma])
    return blurred


def _brightness(x: Tensor, severity: int, sign: int, noise: Noise) -> Tensor:
    return x + sign * BRIGHTNESS[severity - 1]


def _contrast(x: Tensor, severity: int, sign: int, noise: Noise) -> Tensor:
    mean = x.mean(dim=(2, 3), keepdim=True)
    return mean + CONTRAST[severity - 1] ** -sign * (x - mean)


def _jpeg(x: Tensor, severity: int, sign: int, noise: Noise) -> Tensor:
    return torch.stack([_through_jpeg(image, JPEG[severity - 1]) for image in x])


def _through_jpeg(image: Tensor, quality: int) -> Tensor:
    """(3, H, W), by way of the CPU and 8 bits."""
    buffer = io.BytesIO()
    levels = (image * 255).round().to(torch.uint8).cpu()
    to_pil_image(levels).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    decoded: Tensor = pil_to_tensor(Image.open(buffer).convert("RGB"))
    return decoded.to(image) / 255


_CORRUPTIONS: dict[str, Callable[[Tensor, int, int, Noise], Tensor]] = {
    "noise": _noise,
    "blur": _blur,
    "brightness": _brightness,
    "contrast": _contrast,
    "jpeg": _jpeg,
}
KINDS = tuple(_CORRUPTIONS)


def signs(kind: str) -> tuple[int, ...]:
    """The ways in which a kind of corruption goes: brightness and contrast up (1) and down (-1), the others one way."""
    return (1, -1) if kind in ("brightness", "contrast") else (1,)


def corrupted(x: Tensor, kind: str, severity: int, sign: int, noise: Noise) -> Tensor:
    """Images with one corruption, cut to [0, 1].

    Args:
        x: clean images.
        kind: one of `KINDS`.
        severity: 1 to 5; 0 leaves the images as they are.
        sign: one of `signs(kind)`.
        noise: where the kind "noise" draws from, for each image its own.
    """
    return x if severity == 0 else _CORRUPTIONS[kind](x, severity, sign, noise).clamp(0, 1)


def turned(x: Tensor, degrees: Tensor) -> Tensor:
    """Each image turned counter-clockwise about its centre by so many degrees, (B,); bilinear, and mirrored at the
    border, so that no corner is black. By 0 it stays as it is, to the bit."""
    radians = torch.deg2rad(degrees.double())
    cos, sin, nothing = radians.cos(), radians.sin(), torch.zeros_like(radians)
    height, width = x.shape[-2:]
    rows = [
        torch.stack([cos, -sin * height / width, nothing], dim=1),
        torch.stack([sin * width / height, cos, nothing], dim=1),
    ]
    grid = affine_grid(torch.stack(rows, dim=1).to(x), list(x.shape), align_corners=False)
    found = grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False).clamp(0, 1)
    return torch.where((degrees == 0)[:, None, None, None], x, found)


def rehued(x: Tensor, turns: Tensor) -> Tensor:
    """Each image with its hues shifted around the circle of HSV by so many turns, (B,): from red by a third to green.
    By 0, and wherever an image is grey, it stays as it is, to the bit. (torchvision's `adjust_hue` shifts all images of
    a batch alike.)"""
    red, green, blue = x.unbind(dim=1)
    value = x.amax(dim=1)
    chroma = value - x.amin(dim=1)
    over = torch.where(chroma > 0, chroma, 1)
    sixths = torch.where(
        value == red,
        (green - blue) / over,
        torch.where(value == green, 2 + (blue - red) / over, 4 + (red - green) / over),
    )
    sixths = sixths + 6 * turns[:, None, None]
    # A channel is full while the hue is within one sixth of its own, and none of it is left from two sixths on.
    channels = [value - chroma * _missing((sixths + own).remainder(6)) for own in (5, 3, 1)]
    found = torch.stack(channels, dim=1).clamp(0, 1)
    return torch.where((turns[:, None, None] == 0)[:, None] | (chroma == 0)[:, None], x, found)


def _missing(around: Tensor) -> Tensor:
    """Of a channel's chroma, by where the hue is, in sixths of the circle."""
    return torch.minimum(around, 4 - around).clamp(0, 1)
