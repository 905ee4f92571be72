"""Attacking the images of a test set, in batches that fit into memory, and looking at what each attack did."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.base import Attack, AttackResult
from bench.cell import plain_noise
from bench.cell.enough import Bounds
from bench.cell.gate import check_blind
from bench.cell.memory import is_out_of_memory
from bench.cell.verdict import Draws, threshold_of
from bench.data.base import ImageSet
from bench.errors import CellError
from detectors.base import Detector
from detectors.noise import Noise, NoiseSeed

log = logging.getLogger(__name__)
Floats = NDArray[np.float64]
Tick = Callable[[int, str], None]
EXAMPLES_PER_CLASS = 1
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Chunk:
    """What an attack made of a batch of B images.

    Attributes:
        part: their places in the test set.
        adversarial: the attacked images, (B, 3, S, S), on the CPU.
        maps: clean and attacked anomaly maps under the first verdict draw, each (B, S, S), or None.
        result: of the attack.
        signs: bool (B,) by name: "rose", "noise_won"; empty where nothing was attacked.
        examples: tensors for the picture panel.
        sign_seconds: what the signs took.
    """

    part: list[int]
    adversarial: Tensor
    maps: tuple[NDArray[np.float32], NDArray[np.float32]] | None
    result: AttackResult
    signs: dict[str, Tensor]
    examples: dict[str, Tensor]
    sign_seconds: float


@dataclass(eq=False)
class Attacking:
    """Attacks images of a test set, in batches that fit into memory."""

    detector: Detector
    attack: Attack
    test: ImageSet
    draws: Draws
    device: torch.device
    tick: Tick
    batch_size: int

    def bounds(self, held_out: ImageSet) -> Bounds | None:
        """What is enough, in what the attack compares; None where some image has no finite score, which the verdict
        will say."""
        labels = self.test.labels.numpy().astype(np.int64)
        clean, calibration = self._compared(self.test), self._compared(held_out)
        if not (np.isfinite(clean).all() and np.isfinite(calibration).all()):
            return None
        return Bounds(labels, clean, threshold_of(calibration[None]))

    def _compared(self, images: ImageSet) -> Floats:
        """Clean images' scores in what the attack compares, (N,)."""

        def compared(part: list[int]) -> Floats:
            x, root = images.pixels(part).to(self.device), NoiseSeed(self.draws.seed)
            ones = torch.ones(len(x), device=self.device)
            loss = self.attack.compared_loss(self.detector, x, ones, root.source("bounds", _keys(images, part)))
            return np.asarray(loss.double().cpu().numpy())

        return np.concatenate([np.empty(0), *self._in_batches(range(len(images)), compared)])

    def chunks(self, images: Sequence[int] | NDArray[np.intp], enough: float | None = None) -> list[Chunk]:
        """Attack some of the images, given by their places; `enough` as in `Attack.run`, for all of them."""
        examples = _example_indices(self.test)
        found = []
        for chunk in self._in_batches(images, lambda part: self._chunk(part, enough, examples)):
            found.append(chunk)
            self.tick(len(chunk.part), "attack")
        return found

    def _in_batches(self, images: Sequence[int] | NDArray[np.intp], work: Callable[[list[int]], T]) -> Iterator[T]:
        """What some work gives for batches of the images, which are halved when memory runs out."""
        start = 0
        while start < len(images):
            part = [int(i) for i in images[start : start + self.batch_size]]
            try:
                found = work(part)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                # From the batch at hand, which may be smaller than asked for; it is done again, nothing of it is kept.
                self.batch_size = len(part) // 2
                if self.batch_size == 0:
                    raise CellError(
                        "A single image does not fit into the device's memory; use a smaller preset."
                    ) from None
                torch.cuda.empty_cache()
                log.warning("Out of memory: going on with batches of %d images.", self.batch_size)
                continue
            yield found
            start += len(part)

    def _chunk(self, part: list[int], enough: float | None, examples: Sequence[int]) -> Chunk:
        # Pictures that will be shown are attacked to the end.
        limits = None if enough is None else torch.tensor([math.inf if i in examples else enough for i in part])
        return _run_chunk(self.detector, self.attack, self.test, part, self.draws, self.device, examples, limits)


def attacked_images(chunks: Sequence[Chunk]) -> Tensor:
    """The attacked images in the order of the test set."""
    return torch.cat([chunk.adversarial for chunk in chunks])[places(chunks)]


def of_each_image(chunks: Sequence[Chunk], name: str) -> NDArray[np.float64]:
    """A value of the attack's result, (..., N); zero for an image of which it was not asked."""
    values = [getattr(c.result, name) for c in chunks]
    there = [_of_all(name, c) if v is None else v for v, c in zip(values, chunks, strict=True)]
    return np.concatenate([v.double().cpu().numpy() for v in there], axis=-1)[..., places(chunks)]


def _of_all(name: str, chunk: Chunk) -> Tensor:
    spent = chunk.result.gradients if name == "gradients_spent" else 0  # on every image alike
    return torch.full((len(chunk.part),), float(spent))


def _run_chunk(
    detector: Detector,
    attack: Attack,
    test: ImageSet,
    part: list[int],
    draws: Draws,
    device: torch.device,
    examples: Sequence[int],
    enough: Tensor | None,
) -> Chunk:
    x, y, keys = test.pixels(part).to(device), test.labels[part].to(device), _keys(test, part)
    root = NoiseSeed(draws.seed)
    if detector.sees_pixels:
        result = attack.run(
            detector, x, y, noise=root.source("attack", keys), selection=root.source("selection", keys), enough=enough
        )
        started = time.monotonic()
        signs = _signs(detector, attack, x, y, result, root.source("plain-noise", keys))
    else:
        # Asked of every image: what is not attacked must not see any, and the gate looks at four.
        check_blind(detector, x, root.source("blind", keys))
        started, result, signs = time.monotonic(), _left_alone(x), {}
    signed = time.monotonic()
    maps = None
    if detector.has_map and test.masks is not None:
        maps = (_maps(detector, x, keys, draws), _maps(detector, result.images, keys, draws))
    chosen = [part.index(i) for i in examples if i in part]
    return Chunk(
        part=part,
        adversarial=result.images.cpu(),
        maps=maps,
        result=result,
        signs=signs,
        examples=_examples(detector, x, y, result.images, keys, chosen, draws) if chosen else {},
        sign_seconds=signed - started,
    )


def _signs(
    detector: Detector, attack: Attack, x: Tensor, y: Tensor, result: AttackResult, noise: Noise
) -> dict[str, Tensor]:
    """Per image, bool (B,): whether the attack gained anything, and whether noise would have gained more."""
    kept = result.best_loss if result.gain is None else result.clean_loss + result.gain
    threat = attack.threat.at(x.shape[-1])
    return {
        "rose": plain_noise.rose(result.clean_loss, kept),
        "noise_won": plain_noise.noise_won(detector, threat, x, y, result.images, noise),
    }


def _left_alone(x: Tensor) -> AttackResult:
    """What an attack finds on a detector that sees no pixels: nothing, at no cost."""
    nothing = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    return AttackResult(
        images=x,
        trace=nothing[None],
        clean_loss=nothing,
        last_loss=nothing,
        best_loss=nothing,
        zero_gradients=torch.full_like(nothing, torch.nan),
        non_finite_gradients=nothing,
        reprojected=nothing.bool(),
        forwards=0,
        gradients=0,
    )


def _keys(images: ImageSet, part: Sequence[int]) -> list[str]:
    return [images.ids[i] for i in part]


def _maps(detector: Detector, x: Tensor, keys: list[str], draws: Draws) -> NDArray[np.float32]:
    with torch.no_grad():
        maps = detector.anomaly_map(x, noise=NoiseSeed(draws.seed).source("verdict", keys).at(0))
    return np.asarray(maps.float().cpu().numpy())


def _example_indices(test: ImageSet) -> list[int]:
    """The first normal and the first anomaly by name: not picked by how they look."""
    found: list[int] = []
    for label in (1, -1):
        found += [i for i in range(len(test)) if int(test.labels[i]) == label][:EXAMPLES_PER_CLASS]
    return sorted(found)


def _examples(
    detector: Detector, x: Tensor, y: Tensor, adversarial: Tensor, keys: list[str], chosen: list[int], draws: Draws
) -> dict[str, Tensor]:
    """Pictures of a few images for the panel, small enough to keep beside a record."""
    source = NoiseSeed(draws.seed).source("verdict", [keys[i] for i in chosen]).at(0)
    before, after = x[chosen], adversarial[chosen]
    found = {"image": _bytes(before), "adversarial": _bytes(after), "labels": y[chosen].to(torch.int8).cpu()}
    # 8 bits cannot hold a perturbation of less than a grey level, so it is kept on its own.
    found["perturbation"] = (after - before).half().cpu()
    with torch.no_grad():
        if detector.has_map:
            found["map"] = detector.anomaly_map(before, noise=source).half().cpu()
            found["adversarial_map"] = detector.anomaly_map(after, noise=source).half().cpu()
        if detector.has_reconstruction:
            found["reconstruction"] = _bytes(detector.reconstruct(before, noise=source))
            found["adversarial_reconstruction"] = _bytes(detector.reconstruct(after, noise=source))
        found["score"] = detector.score(before, noise=source).cpu()
        found["adversarial_score"] = detector.score(after, noise=source).cpu()
    return found


def _bytes(images: Tensor) -> Tensor:
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def places(chunks: Sequence[Chunk]) -> NDArray[np.intp]:
    """Where each image stands in the chunks' results, the first time that it does."""
    return np.unique(np.concatenate([c.part for c in chunks]), return_index=True)[1]
