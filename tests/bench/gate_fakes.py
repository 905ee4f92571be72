"""Detectors whose gradients lead attacks astray, each in its own way, and honest ones that look like them."""

from __future__ import annotations

from typing import Any

import bench_fakes as fakes
import torch
from torch import Tensor
from torch.nn import functional as F

from detectors.noise import Noise

LEAK = 1e-3  # of the mean brightness: a gradient that is exact, everywhere, and means nothing


def features(x: Tensor) -> Tensor:
    """Four fixed filters of 3x3 pixels, (B, 4, S - 2, S - 2), about 0.5 in size."""
    draws = torch.Generator().manual_seed(3)
    return F.conv2d(x, torch.randn(4, 3, 3, 3, generator=draws).to(x) / 5)


def honest(x: Tensor) -> Tensor:
    """(B,): what the fakes would score if their gradients were true."""
    return features(x - 0.4).square().mean(dim=(1, 2, 3))


def brightness(x: Tensor) -> Tensor:
    return x.mean(dim=(1, 2, 3))


def grey_levels(levels: int) -> type[fakes.Fake]:
    """Its input is rounded to so many grey levels, which has no gradient; the brightness beside it has one."""

    def value(self: Any, x: Tensor, noise: Noise) -> Tensor:
        return honest((x * (levels - 1)).round() / (levels - 1)) + LEAK * brightness(x)

    return type(f"GreyLevels{levels}", (fakes.Fake,), {"value": value, "name": f"grey-levels-{levels}"})


class FeatureLevels(fakes.Fake):
    """An intermediate map is rounded instead of the input."""

    name = "feature-levels"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return ((features(x - 0.4) * 16).round() / 16).square().mean(dim=(1, 2, 3)) + LEAK * brightness(x)


class NarrowStairs(fakes.Fake):
    """Stairs of 64 grey levels whose risers are steep and not upright: no jump, and a true gradient."""

    name = "narrow-stairs"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        level = x * 63
        flat = level.floor() + torch.sigmoid((level - level.floor() - 0.5) * 2000)
        return honest(flat / 63) + LEAK * brightness(x)


class CutInFloat32(fakes.Fake):
    """All but one column in eight are detached, in the dtype that attacks use."""

    name = "cut-in-float32"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        kept = torch.arange(x.shape[-1], device=x.device) % 8 == 0
        return honest(x if x.dtype == torch.float64 else torch.where(kept, x, x.detach()))


class OtherInFloat32(fakes.Fake):
    """Its score itself is another one in float32."""

    name = "other-in-float32"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return honest(x if x.dtype == torch.float64 else 0.95 * x)


class ReversedLeft(fakes.Fake):
    """A straight-through estimator that lies: of the left half the gradient has the wrong sign."""

    name = "reversed-left"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        left = torch.arange(x.shape[-1], device=x.device) < x.shape[-1] // 2
        lie = torch.where(left, 2 * x.detach() - x, x)
        return honest(lie)


class BorrowedGradient(fakes.Fake):
    """Its score is honest, and its gradient the brightness's."""

    name = "borrowed-gradient"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return honest(x).detach() + brightness(x) - brightness(x).detach()


class CleanOnly(fakes.Fake):
    """Its gradient is true at pictures of 8 bits, and zero anywhere else in the ball."""

    name = "clean-only"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        grey = (x.detach() * 255).round() / 255
        is_clean = ((x.detach() - grey).abs() < 1e-6).flatten(1).all(dim=1)[:, None, None, None]
        return honest(torch.where(is_clean, x, x.detach())) + 0 * brightness(x)


class Undeclared(fakes.Fake):
    """Rounded on the way forward, smooth on the way back: an honest way to attack it, if it said so."""

    name = "undeclared"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return honest(x + ((x * 63).round() / 63 - x).detach())


class Declared(fakes.Fake):
    """The same, said: the score jumps and has a gradient of zero, the surrogate is smooth (BPDA)."""

    name = "declared"
    has_surrogate = True

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return honest((x * 63).round() / 63)

    def _surrogate_score(self, x: Tensor, noise: Noise) -> Tensor:
        return honest(x)


class DeclaredIdle(Declared):
    """It declares a surrogate that leads nowhere."""

    name = "declared-idle"

    def _surrogate_score(self, x: Tensor, noise: Noise) -> Tensor:
        # Of one pixel: any noise does more to the score.
        return x[:, 0, 0, 0].clone()


class FarAway(fakes.Fake):
    """Honest, with few digits left: float32 knows the score to 6e-5."""

    name = "far-away"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return 100 * honest(x) + 1e3


class Blind(fakes.Fake):
    """Scores the names of the images, as `file-order`."""

    name = "blind"
    sees_pixels = False

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return torch.tensor([float(len(name)) for name in noise.image_ids]).to(x)


class Blindfold(Blind):
    """Says that it sees no pixels, and so would need no gradient."""

    name = "blindfold"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return honest(x.detach())
