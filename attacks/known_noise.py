"""A stochastic detector whose noise is no secret: what is left of its robustness then was no gift of the noise.

An attack that knows the noise climbs on a function that stays the same, and is judged on that very function. It is no
attack on the defence as it is deployed; it tells how much of a figure is noise alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from attacks.errors import AttackError
from detectors.noise import Noise

if TYPE_CHECKING:
    from detectors.base import Detector


class _Held:
    """Everything of a detector, but its noise: each image has the same whenever it is asked."""

    is_stochastic = False

    def __init__(self, detector: Detector, source: Noise) -> None:
        self._detector, self._source = detector, source

    def __getattr__(self, name: str) -> Any:
        return getattr(self._detector, name)

    def score(self, x: Tensor, *, noise: Noise | None = None) -> Tensor:
        return self._detector.score(x, noise=self._held(noise))

    def surrogate_score(self, x: Tensor, *, noise: Noise | None = None) -> Tensor:
        return self._detector.surrogate_score(x, noise=self._held(noise))

    def anomaly_map(self, x: Tensor, *, noise: Noise | None = None) -> Tensor:
        return self._detector.anomaly_map(x, noise=self._held(noise))

    def _held(self, noise: Noise | None) -> Noise:
        if noise is None:
            raise AttackError("Whose noise is held must be known: pass a source with the images' ids.")
        return replace(noise, key=self._source.key, draw=self._source.draw)


def with_known_noise(detector: Detector, source: Noise) -> Detector:
    """The detector as a deterministic one: whatever source it is given, an image's noise is that which it has in
    `source`, of which only the key and the draw count."""
    return cast("Detector", _Held(detector, source))
