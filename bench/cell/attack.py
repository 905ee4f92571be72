"""One cell: attack a fitted detector on a test set, then score clean and attacked images on fresh noise.

The adversarial image is fixed before its verdict: attack, selection and verdict draw from sources that cannot be
computed from each other (`bench.cell.verdict`). A baseline that sees no pixels is not attacked: nothing moves it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.base import Attack, AttackResult
from bench.cell import plain_noise
from bench.cell.enough import Bounds
from bench.cell.gate import check_blind
from bench.cell.more_draws import PER_CLASS, MoreDraws, more_draws
from bench.cell.verdict import Draws as Draws
from bench.cell.verdict import Judge, threshold_of
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
class Outcome:
    """What a cell found.

    Attributes:
        clean, robust: scores on the verdict draws, (D, N); D = 1 for a deterministic detector.
        calibration: scores of held-out normals, (D, M); M = 0 where none were held out.
        clean_maps, robust_maps: anomaly maps under the first verdict draw, (N, S, S), or None.
        zero_gradients, non_finite_gradients: share of the gradient steps, (N,); zero: of those along the score's.
        last_worse: whether the last iterate was worse than the best one, bool (N,).
        gained: by how much the attack's steps raised the loss, (N,); None where it goes in no steps.
        late_gained: how much of that came in the last fifth of the steps, (N,).
        reprojected: how many images the attack had left outside the ball.
        forwards, gradients: passes per image of the attack.
        rose: whether the attack raised its loss by more than rounding, bool (N,); None where there was no attack.
        noise_won: whether plain noise of the ball's size did more than the attack, bool (N,); None as above.
        more_draws: what four times the noise draws found on a few images; None for a deterministic detector.
        examples: tensors for the picture panel.
        seconds: of attack, verdict and indicators.
        surrogate_zero_gradients: share of the steps along the surrogate's gradient, (N,); None where it has none.
        surrogate_won: whether the surrogate's gradient found more than the score's, bool (N,); None unless both were
            followed.
        had_enough: whether the attack stopped on the image because it had lost all its pairs, bool (N,); None where it
            stopped on none.
        gradients_spent: backward passes of each image, (N,); None where all had `gradients`.
    """

    clean: Floats
    robust: Floats
    calibration: Floats
    clean_maps: NDArray[np.float32] | None
    robust_maps: NDArray[np.float32] | None
    zero_gradients: Floats
    non_finite_gradients: Floats
    last_worse: NDArray[np.bool_]
    gained: Floats | None
    late_gained: Floats | None
    reprojected: int
    forwards: int
    gradients: int
    rose: NDArray[np.bool_] | None = None
    noise_won: NDArray[np.bool_] | None = None
    more_draws: MoreDraws | None = None
    examples: dict[str, Tensor] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    surrogate_zero_gradients: Floats | None = None
    surrogate_won: NDArray[np.bool_] | None = None
    had_enough: NDArray[np.bool_] | None = None
    gradients_spent: Floats | None = None


def run_cell(
    detector: Detector,
    attack: Attack,
    test: ImageSet,
    held_out: ImageSet,
    draws: Draws,
    *,
    batch_size: int,
    device: torch.device,
    tick: Tick,
    early_stop: bool = False,
) -> Outcome:
    """Attack and judge every test image.

    Args:
        detector: fitted, on the device.
        attack: with its threat model settled.
        test, held_out: images to attack; normals for the threshold.
        draws: number of verdict draws at least, and the seed.
        batch_size: images at a time; halved when memory runs out. It changes results by float rounding at most.
        device: where to compute.
        tick: told how many images are done, and of what.
        early_stop: attack an image no further when it has lost all its pairs (`bench.cell.enough`); for an attack that
            can, on a deterministic detector.

    Raises:
        CellError: scores or maps are not finite, or a single image does not fit into memory.
    """
    attacking = _Attacking(detector, attack, test, draws, device, tick, batch_size)
    started = time.monotonic()
    bounds = attacking.bounds(held_out) if early_stop else None
    if bounds is None:
        chunks = attacking.chunks(range(len(test)))
    else:
        normals, anomalies = (np.flatnonzero(bounds.labels == label) for label in (1, -1))
        chunks = attacking.chunks(normals, bounds.losses(1))
        lost = np.concatenate([chunk.result.best_loss.double().cpu().numpy() for chunk in chunks] or [np.empty(0)])
        chunks += attacking.chunks(anomalies, bounds.losses(-1, lost))
    attacked = time.monotonic()
    judge = Judge(detector, draws, attacking.batch_size, device)  # as many as are known to fit into memory
    adversarial = _adversarial(chunks)
    clean, robust = judge.both(test, adversarial)
    calibration = judge.scores(held_out.ids, held_out.pixels(), range(len(clean)))
    if bounds is not None:
        # Rounding, or a score without digits where its surrogate had some: these are attacked to the end.
        judged_by = Bounds(bounds.labels, clean[0], threshold_of(calibration))
        unsure = np.flatnonzero(_per_image(chunks, "had_enough").astype(bool) & ~judged_by.lost(robust[0]))
        if len(unsure):
            chunks = attacking.chunks(unsure) + chunks  # the first of an image's chunks counts
            adversarial = _adversarial(chunks)
            robust = judge.scores(test.ids, adversarial, range(len(clean)))
    judged = time.monotonic()
    more = None
    if detector.sees_pixels:
        few = min(attacking.batch_size, 2 * PER_CLASS)
        more = more_draws(detector, attack, test, adversarial, draws.seed, device, batch_size=few)
    signing = sum(chunk.sign_seconds for chunk in chunks)
    seconds = {
        "attack": attacked - started - signing, "verdict": judged - attacked,
        "indicators": signing + time.monotonic() - judged,
    }  # fmt: skip
    outcome = _joined(chunks, clean, robust, calibration, more, {k: round(v, 2) for k, v in seconds.items()})
    for what, scores in (("clean", outcome.clean), ("attacked", outcome.robust), ("normal", outcome.calibration)):
        if not np.isfinite(scores).all():
            bad = int((~np.isfinite(scores)).any(axis=0).sum())
            raise CellError(
                f"The scores of {bad} of {scores.shape[1]} {what} images are not finite numbers; look for a division "
                f"by zero, a square root at zero or an overflow in {detector.name}."
            )
    for what, maps in (("clean", outcome.clean_maps), ("attacked", outcome.robust_maps)):
        if maps is not None and not np.isfinite(maps).all():
            raise CellError(
                f"The anomaly maps of {what} images hold values that are not finite; look for a division by zero or an "
                f"overflow in {detector.name}."
            )
    return outcome


def _is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """On a CPU, PyTorch raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


@dataclass(frozen=True, eq=False)
class _Chunk:
    part: list[int]
    adversarial: Tensor
    maps: tuple[NDArray[np.float32], NDArray[np.float32]] | None
    result: AttackResult
    signs: dict[str, Tensor]
    examples: dict[str, Tensor]
    sign_seconds: float


@dataclass(eq=False)
class _Attacking:
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

    def chunks(self, images: Sequence[int] | NDArray[np.intp], enough: float | None = None) -> list[_Chunk]:
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
                if not _is_out_of_memory(error):
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

    def _chunk(self, part: list[int], enough: float | None, examples: Sequence[int]) -> _Chunk:
        # Pictures that will be shown are attacked to the end.
        limits = None if enough is None else torch.tensor([math.inf if i in examples else enough for i in part])
        return _run_chunk(
            self.detector, self.attack, self.test, part, self.draws, self.device, examples, limits
        )


def _adversarial(chunks: Sequence[_Chunk]) -> Tensor:
    """The attacked images in the order of the test set."""
    return torch.cat([chunk.adversarial for chunk in chunks])[_once(chunks)]


def _per_image(chunks: Sequence[_Chunk], name: str) -> NDArray[np.float64]:
    """A value of the attack's result, (..., N); zero for an image of which it was not asked."""
    values = [getattr(c.result, name) for c in chunks]
    there = [torch.zeros(len(c.part)) if v is None else v for v, c in zip(values, chunks, strict=True)]
    return np.concatenate([v.double().cpu().numpy() for v in there], axis=-1)[..., _once(chunks)]


def _run_chunk(
    detector: Detector,
    attack: Attack,
    test: ImageSet,
    part: list[int],
    draws: Draws,
    device: torch.device,
    examples: Sequence[int],
    enough: Tensor | None,
) -> _Chunk:
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
    return _Chunk(
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
        images=x, trace=nothing[None], clean_loss=nothing, last_loss=nothing, best_loss=nothing,
        zero_gradients=torch.full_like(nothing, torch.nan), non_finite_gradients=nothing,
        reprojected=nothing.bool(), forwards=0, gradients=0,
    )  # fmt: skip


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


def _once(chunks: Sequence[_Chunk]) -> NDArray[np.intp]:
    """Where each image stands in the chunks' results, the first time that it does."""
    return np.unique(np.concatenate([c.part for c in chunks]), return_index=True)[1]


def _joined(
    chunks: list[_Chunk],
    clean: Floats,
    robust: Floats,
    calibration: Floats,
    more: MoreDraws | None,
    seconds: dict[str, float],
) -> Outcome:
    once = _once(chunks)

    def per_image(name: str) -> NDArray[np.float64]:
        return _per_image(chunks, name)

    def if_there(name: str) -> NDArray[np.float64] | None:
        return None if all(getattr(c.result, name) is None for c in chunks) else per_image(name)

    def sign(name: str) -> NDArray[np.bool_] | None:
        return np.concatenate([c.signs[name].cpu().numpy() for c in chunks])[once] if chunks[0].signs else None

    surrogate_won, had_enough = if_there("surrogate_won"), if_there("had_enough")
    with_maps = [c.maps for c in chunks if c.maps is not None]
    examples: dict[str, Tensor] = {}
    for name in next((c.examples for c in chunks if c.examples), {}):
        examples[name] = torch.cat([c.examples[name] for c in chunks if c.examples])
    return Outcome(
        clean=clean,
        robust=robust,
        calibration=calibration,
        clean_maps=np.concatenate([m[0] for m in with_maps])[once] if with_maps else None,
        robust_maps=np.concatenate([m[1] for m in with_maps])[once] if with_maps else None,
        zero_gradients=per_image("zero_gradients"),
        non_finite_gradients=per_image("non_finite_gradients"),
        last_worse=per_image("last_loss") < per_image("best_loss"),
        gained=if_there("gain"),
        late_gained=if_there("late_gain"),
        reprojected=int(per_image("reprojected").sum()),
        forwards=max(c.result.forwards for c in chunks),
        gradients=max(c.result.gradients for c in chunks),
        rose=sign("rose"),
        noise_won=sign("noise_won"),
        more_draws=more,
        examples=examples,
        seconds=seconds,
        surrogate_zero_gradients=if_there("surrogate_zero_gradients"),
        surrogate_won=None if surrogate_won is None else surrogate_won > 0,
        had_enough=None if had_enough is None else had_enough > 0,
        gradients_spent=if_there("gradients_spent"),
    )
