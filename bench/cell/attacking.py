"""Attacking images of a test set, in batches that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks import merging
from attacks.base import Attack
from attacks.result import AttackResult
from bench.cell.enough import Bounds
from bench.cell.gate import check_blind
from bench.cell.memory import Batches, Places, T
from bench.cell.unfinished import Unfinished, digest
from bench.cell.verdict import Draws, threshold_of
from bench.data.base import ImageSet
from detectors.base import Detector
from detectors.noise import NoiseSeed

Floats = NDArray[np.float64]
Tick = Callable[[float, str], None]


@dataclass(eq=False)
class Attacking:
    """Asks a detector about images of a test set; `batch_size` is halved when memory runs out.

    Attributes:
        start: images that every attack starts from, (N, 3, S, S) on the CPU, or None.
        unfinished: where batches of attacks are kept while the cell is not done; None keeps none.
        purpose: what is attacked, besides the attack: no batch of one purpose is another's.
    """

    detector: Detector
    test: ImageSet
    draws: Draws
    device: torch.device
    batch_size: int
    start: Tensor | None = None
    unfinished: Unfinished | None = None
    purpose: str = "attack"

    def moves(self, attack: Attack) -> bool:
        """Whether there is anything that the attack could do."""
        return self.detector.sees_pixels and not attack.threat.at(self.test.images.shape[-1]).is_a_point

    def bounds(self, attack: Attack, held_out: ImageSet) -> Bounds | None:
        """What is enough, in what the attack compares; None where some image has no finite score, which the verdict
        will say."""
        labels = self.test.labels.numpy().astype(np.int64)
        clean, calibration = self._compared(attack, self.test), self._compared(attack, held_out)
        if not (np.isfinite(clean).all() and np.isfinite(calibration).all()):
            return None
        return Bounds(labels, clean, threshold_of(calibration[None]))

    def _compared(self, attack: Attack, images: ImageSet) -> Floats:
        """Clean images' scores in what the attack compares, (N,)."""

        def compared(part: list[int]) -> Floats:
            x, root = images.pixels(part).to(self.device), NoiseSeed(self.draws.seed)
            ones = torch.ones(len(x), device=self.device)
            loss = attack.compared_loss(self.detector, x, ones, root.source("bounds", keys_of(images, part)))
            return np.asarray(loss.double().cpu().numpy())

        return np.concatenate([np.empty(0), *self.in_batches(range(len(images)), compared)])

    def attacked(
        self,
        attack: Attack,
        images: Places,
        enough: Tensor | None,
        tick: Callable[[int], None],
        *,
        path: tuple[int, ...],
    ) -> AttackResult:
        """Attack some of the images, given by their places.

        Args:
            attack: with its threat model settled.
            images: which.
            enough: of all images of the test set, as in `Attack.run`, (N,), or None.
            tick: told of each batch that is done.
            path: under which the attack's noise is drawn (`Noise.sub`), so that no two members of an ensemble share it.
        """

        def run(part: list[int]) -> AttackResult:
            x, y, keys = self._batch(part)
            root = NoiseSeed(self.draws.seed)
            if not self.detector.sees_pixels:
                # Asked of every image: what is not attacked must not see any, and the gate looks at four.
                check_blind(self.detector, x, root.source("blind", keys))
                return _left_alone(x)
            noise, selection = root.source("attack", keys), root.source("selection", keys)
            # Settled: where a detector has no map to follow its score's gradient is, so that a run over many goes on;
            # the record names what was followed.
            return attack.settled(self.detector).run(
                self.detector,
                x,
                y,
                noise=noise.sub(*path) if path else noise,
                selection=selection,
                enough=None if enough is None else enough[part],
                start=None if self.start is None else self.start[part].to(self.device),
            )

        def kept(part: list[int]) -> AttackResult:
            if self.unfinished is None or not self.detector.sees_pixels:
                return merging.to_cpu(run(part))
            depends = {
                "purpose": self.purpose,
                "attack": attack.describe(),
                "path": path,
                "images": keys_of(self.test, part),
                "seed": self.draws.seed,
                "enough": digest(None if enough is None else enough[part]),
                "start": digest(None if self.start is None else self.start[part]),
            }
            return self.unfinished.recall(depends, self.device, lambda: run(part))

        found = []
        for result in self.in_batches(images, kept):
            found.append(result)
            tick(len(result.images))
        return merging.joined(found)

    def are_better(self, images: Places, known: AttackResult, found: AttackResult) -> Tensor:
        """Where what was found of these images is better than what is known of all, (B,) bool, on the CPU."""

        def better(part: list[int]) -> Tensor:
            at = slice(len(done), len(done) + len(part))
            _, y, keys = self._batch(part)
            some = merging.picked(found, at, self.device)
            selection = NoiseSeed(self.draws.seed).source("selection", keys)
            return merging.is_better(
                self.detector,
                y,
                known.images[part].to(self.device),
                known.best_loss[part].to(self.device),
                some,
                selection,
            ).cpu()

        done: list[bool] = []
        for result in self.in_batches(images, better):
            done += result.tolist()
        return torch.tensor(done, dtype=torch.bool)

    def _batch(self, part: list[int]) -> tuple[Tensor, Tensor, list[str]]:
        return (
            self.test.pixels(part).to(self.device),
            self.test.labels[part].to(self.device),
            keys_of(self.test, part),
        )

    def in_batches(self, images: Places, work: Callable[[list[int]], T]) -> Iterator[T]:
        """What some work gives for batches of the images, which are halved when memory runs out."""
        batches = Batches(self.batch_size)
        for found in batches.of(images, work):
            self.batch_size = batches.size
            yield found


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


def keys_of(images: ImageSet, part: Sequence[int]) -> list[str]:
    """What names each image's noise."""
    return [images.ids[i] for i in part]
