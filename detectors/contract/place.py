"""Where a detector's gradient is looked at: a function of the detector, images, their labels and their noise.

The gradient is had as attacks have it (`attacks.objective`): of the sum of y * A(x), whose images are independent, with
entries that are not finite set to zero.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from detectors.base import Detector
from detectors.errors import ContractError
from detectors.noise import Noise

Which = Literal["score", "surrogate", "map"]
_METHODS = {"score": "score", "surrogate": "surrogate_score", "map": "anomaly_map"}
_GRADIENTS = {"score": "gradient", "surrogate": "surrogate's gradient", "map": "anomaly map's gradient"}

LEAST_SPREAD = 1e-4  # of a map, in shares of its largest value


@dataclass(frozen=True, eq=False)
class Place:
    """Where a gradient is looked at.

    Attributes:
        detector, which: whose score, surrogate, or smooth maximum of the anomaly map, as attacks follow it: scale *
            log sum exp(map / scale) over the pixels, the scale being the standard deviation of each image's own map.
        x: images in float64 whose pixels float32 can hold, (B, 3, S, S).
        y: their labels, +1 normal, -1 anomalous, (B,).
        noise: a source that no attack and no verdict has.
    """

    detector: Detector
    which: Which
    x: Tensor
    y: Tensor
    noise: Noise

    def value(self, x: Tensor) -> Tensor:
        """y times the function, (B,), on the draw of `gradient`."""
        with torch.no_grad():
            return self._signed(x)

    def gradient(self, x: Tensor) -> Tensor:
        """Of `value`, as attacks take it, (B, 3, S, S): finite. Raises ContractError where there is no graph."""
        return self.autograd(x).nan_to_num(nan=0, posinf=0, neginf=0)

    def autograd(self, x: Tensor) -> Tensor:
        """Of `value`, whatever autograd says, (B, 3, S, S). Raises ContractError where there is no graph."""
        gradient: Tensor | None = None
        with torch.inference_mode(False), torch.enable_grad():
            # A clone: a tensor made under inference mode can't enter a graph.
            leaf = x.detach().clone().requires_grad_(True)
            values = self._signed(leaf)
            if values.requires_grad:
                (gradient,) = torch.autograd.grad(values.sum(), leaf, allow_unused=True)
        if gradient is None:
            raise ContractError(
                f"The {_METHODS[self.which]} of {self.detector.name} has no gradient with respect to the image, so "
                "attacking it would report a robustness that isn't there; remove the detach(), no_grad() or NumPy step "
                "on its path."
            )
        return gradient

    def loss(self, x: Tensor) -> Tensor:
        """What attacks that follow this gradient compare candidates by, (B,): the score's, unless the surrogate stands
        for it."""
        stands_for_it = self.detector.has_surrogate and self.detector.surrogate_is_monotone
        return self.value(x) if stands_for_it else replace(self, which="score").value(x)

    def of(self, which: Which) -> Place:
        """The same of another function."""
        return replace(self, which=which)

    def first(self, count: int) -> Place:
        """The same of the first images alone."""
        return replace(self, x=self.x[:count], y=self.y[:count], noise=self.noise.pick(slice(count)))

    def is_dead(self) -> bool:
        """Whether autograd says that the gradient is exactly zero at all images."""
        return not bool(self.gradient(self.x).any())

    @property
    def name(self) -> str:
        """What a sentence calls this gradient."""
        return _GRADIENTS[self.which]

    @cached_property
    def _map_scale(self) -> Tensor:
        """Of the images as they are: the same at every step from them."""
        with torch.no_grad():
            maps = self.detector.anomaly_map(self.x, noise=self.noise.sub(0)).flatten(1)
        # A map that is the same everywhere deviates by rounding; in units of that, its sum of exponentials has no
        # digits.
        least = LEAST_SPREAD * maps.abs().amax(dim=1)
        return maps.std(dim=1).maximum(least).clamp_min(torch.finfo(maps.dtype).tiny)

    def _signed(self, x: Tensor) -> Tensor:
        noise = self.noise.sub(0)
        if self.which == "map":
            # First: it may take the detector to another dtype, which a graph must not see.
            scale = self._map_scale.to(x)
            maps = self.detector.anomaly_map(x, noise=noise).flatten(1)
            values = scale * torch.logsumexp(maps / scale[:, None], dim=1)
        else:
            values = getattr(self.detector, _METHODS[self.which])(x, noise=noise)
        # Of shape (B, 1) it would broadcast against y to (B, B) and mix the images without a word.
        if values.shape != (len(x),):
            raise ContractError(
                f"{self.detector.name} breaks the contract: for {len(x)} images its {_METHODS[self.which]} is a tensor "
                f"of shape {tuple(values.shape)}; return one number per image, a tensor of shape ({len(x)},)."
            )
        return self.y.to(x.dtype) * values.to(x.dtype)


def largest_entry(images: Tensor) -> Tensor:
    """The largest absolute value of each image, (B,); NaN where it holds one."""
    return images.flatten(1).abs().amax(dim=1)


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """The cosine of each image's two gradients, (B,); those of a saturated score are tiny."""
    return torch.nn.functional.cosine_similarity(_unit(a.flatten(1)), _unit(b.flatten(1)), dim=1)


def _unit(gradient: Tensor) -> Tensor:
    """Each row with a largest entry of 1."""
    return gradient / gradient.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(gradient.dtype).tiny)
