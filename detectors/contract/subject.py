"""Whom the contract is put to: a fitted detector, and the few images on which it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from detectors.base import Detector
from detectors.contract.ball import Ball, LInfBall, far_corners
from detectors.contract.place import Place, Which
from detectors.errors import DetectorError, wrong_images
from detectors.noise import Noise, NoiseSeed, generator

PER_CLASS = 3  # images of each label that the thorough cases look at
QUICK_PER_CLASS = 2
NORMAL, ANOMALOUS = 1, -1
CLEAN = "clean normals"


def chosen(labels: Tensor, per_class: int = QUICK_PER_CLASS) -> list[int]:
    """The numbers of the first few images of each label in turn, for labels (N,), +1 normal and -1 anomalous."""
    each = [(labels == wanted).nonzero().flatten().tolist() for wanted in (NORMAL, ANOMALOUS)]
    return [of[n] for n in range(per_class) for of in each if n < len(of)]


@dataclass(frozen=True, eq=False)
class Subject:
    """A fitted detector and what it is asked on; made by `Subject.of`.

    Attributes:
        detector: fitted.
        images: float32 (B, 3, S, S) in [0, 1].
        labels: (B,), +1 normal, -1 anomalous.
        names: of the images, which a baseline may score.
        ball: in which it will be attacked.
        normals: what it was fitted on, (N, 3, S, S); None: nothing is asked of its fit.
    """

    detector: Detector
    images: Tensor
    labels: Tensor
    names: tuple[str, ...]
    ball: Ball
    normals: Tensor | None = None

    @classmethod
    def of(
        cls,
        detector: Detector,
        images: Tensor,
        labels: Tensor | Sequence[int] | None = None,
        *,
        ball: Ball | None = None,
        normals: Tensor | None = None,
        names: Sequence[str] | None = None,
    ) -> Self:
        """Arguments as of `contract.check`. Raises DetectorError for images or labels that nothing can be asked on."""
        if not isinstance(images, Tensor):
            raise DetectorError(wrong_images(images))
        lowest, highest = (float(images.min()), float(images.max())) if images.numel() else (0.0, 0.0)
        if not (images.is_floating_point() and lowest >= 0 and highest <= 1):
            raise DetectorError(
                f"The images of a contract check must be floats in [0, 1]; these are {images.dtype} from {lowest:g} to "
                f"{highest:g}; rescale them."
            )
        if len(images) < 2:
            raise DetectorError(f"A contract check needs two different images or more; got {len(images)}; add some.")
        if labels is None:  # each image is pushed one way: half of them up, as normal ones, half of them down
            labels = NORMAL - 2 * (torch.arange(len(images)) % 2)
        labels = torch.as_tensor(labels).to("cpu")
        if labels.shape != (len(images),) or not set(labels.tolist()) <= {NORMAL, ANOMALOUS}:
            raise DetectorError(
                "The labels of a contract check are one number per image, +1 normal or -1 anomalous; for "
                f"{len(images)} images got {tuple(labels.shape)} of {sorted(set(labels.flatten().tolist()))}."
            )
        given = tuple(f"image-{i}" for i in range(len(images))) if names is None else tuple(names)
        index = chosen(labels, PER_CLASS)
        return cls(
            detector,
            images.detach()[index].to(torch.float32),
            labels[index],
            tuple(given[i] for i in index),
            LInfBall() if ball is None else ball,
            normals,
        )

    @property
    def noise(self) -> Noise:
        """A source for the images that no attack and no verdict has."""
        return NoiseSeed(0).source("gate", self.names)

    def softened(self) -> Place:
        """The score at two images of each label, with a little contrast taken away and a little grain added.

        Pictures of 8 bits have equal neighbours and pixels at 0 and 1, where honest scores (a maximum, an absolute
        value, a clamp) have kinks and no derivative, and lie in the middle of the grey levels to which a score may
        round.
        """
        index = chosen(self.labels)
        x = self.images[index].to("cpu").double()
        grain = torch.rand(x.shape, generator=generator(0, "gate", "grain"), dtype=x.dtype) - 0.5
        x = (0.02 + 0.96 * x + grain / 255).float().double()  # so that both dtypes see the same image
        return self._place("score", index, x.to(self.images.device))

    def everywhere(self, which: Which) -> Place:
        """Of a function of the detector: at all images, as they are."""
        return self._place(which, list(range(len(self.images))), self.images)

    def mixed(self, which: Which) -> Place:
        """At one clean image of each label, as they are."""
        index = self._mixed()
        return self._place(which, index, self.images[index])

    def places(self, which: Which) -> dict[str, Place]:
        """At clean normals, at anomalies, and at corners of a ball around one of each."""
        normal, anomalous, mixed = self._numbers(NORMAL)[:2], self._numbers(ANOMALOUS)[:2], self._mixed()
        found = {
            CLEAN: self._place(which, normal, self.images[normal]),
            "strong anomalies": self._place(which, anomalous, self.images[anomalous]),
            "corners of the ball": self._place(which, mixed, far_corners(self.images[mixed])),
        }
        return {name: place for name, place in found.items() if len(place.x)}

    def _numbers(self, label: int) -> list[int]:
        return (self.labels == label).nonzero().flatten().tolist()

    def _mixed(self) -> list[int]:
        return [*self._numbers(NORMAL)[-1:], *self._numbers(ANOMALOUS)[:1]]

    def _place(self, which: Which, index: list[int], x: Tensor) -> Place:
        y = self.labels[index].double().to(x.device)
        return Place(self.detector, which, x.double(), y, self.noise.pick(index))
