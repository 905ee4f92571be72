"""One cell: attack a fitted detector on a test set, then score clean and attacked images on fresh noise.

The adversarial image is fixed before its verdict: attack, selection and verdict draw from sources that cannot be
computed from each other (`bench.cell.verdict`). A baseline that sees no pixels is not attacked: nothing moves it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.base import Attack
from attacks.merging import COMPARISON_DRAWS
from attacks.result import AttackResult
from bench.cell.attacking import Attacking, Floats, Tick
from bench.cell.enough import Bounds
from bench.cell.in_turn import attack_all, attack_to_the_end
from bench.cell.known_noise import PURPOSE as KNOWN_NOISE
from bench.cell.known_noise import known_noise
from bench.cell.looking import look_at, transformations
from bench.cell.more_draws import PER_CLASS, FoundMore, more_draws, own_gradient
from bench.cell.selection_held import SelectionHeld, selection_held
from bench.cell.unfinished import Unfinished
from bench.cell.verdict import Draws as Draws
from bench.cell.verdict import Judge, threshold_of
from bench.data.base import ImageSet
from bench.errors import CellError
from detectors.base import Detector


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
        rose: whether the attack raised its loss by more than rounding, bool (N,); None where there was no attack, or
            where it chose among transformations.
        noise_won: whether plain noise of the ball's size did more than the attack, bool (N,); None where there was no
            attack, or no ball.
        more_draws: what four times the noise draws found on a few images; None for a deterministic detector.
        own_gradient: what the score's own gradient found on them; None where it was followed anyway.
        selection_held: whether the gain that the attack saw is there on the verdict's draws; None for a deterministic
            detector.
        adversarial: the attacked images, (N, 3, S, S) in [0, 1], on the CPU.
        examples: tensors for the picture panel.
        seconds: of attack, verdict and indicators.
        score_seconds: of the verdict, for one score of one image.
        surrogate_zero_gradients: share of the steps along the surrogate's gradient, (N,); None where it has none.
        surrogate_won: whether the surrogate's gradient found more than the score's, bool (N,); None unless both were
            followed.
        early_stop: whether the attack was allowed to stop on an image that had lost all its pairs.
        had_enough: whether it did, bool (N,); None where it was not allowed to, or could not be told what is enough.
        gradients_spent: backward passes of each image, (N,); None where all had `gradients`.
        members: of an ensemble, what each of its attacks did, ready for a record.
        known_noise: figures of a stochastic detector whose noise the attack has seen, ready for a record, or None.
        transformations: of an attack that transforms images, what it did to them, likewise; None of another one.
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
    more_draws: FoundMore | None = None
    own_gradient: FoundMore | None = None
    selection_held: SelectionHeld | None = None
    examples: dict[str, Tensor] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    score_seconds: float = 0.0
    surrogate_zero_gradients: Floats | None = None
    surrogate_won: NDArray[np.bool_] | None = None
    early_stop: bool = False
    had_enough: NDArray[np.bool_] | None = None
    gradients_spent: Floats | None = None
    members: list[dict[str, Any]] = field(default_factory=list)
    known_noise: dict[str, Any] | None = None
    transformations: dict[str, Any] | None = None
    adversarial: Tensor = field(default_factory=lambda: torch.empty(0))


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
    start: Tensor | None = None,
    unfinished: Unfinished | None = None,
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
        start: images that the attack starts from, (N, 3, S, S): those of a smaller ball, or None.
        unfinished: where batches are kept while the cell is not done, and what is there is taken up; None keeps none.

    Raises:
        CellError: scores or maps are not finite, or a single image does not fit into memory.
    """
    attacking = Attacking(detector, test, draws, device, batch_size, start, unfinished)
    started = time.monotonic()
    bounds = attacking.bounds(attack.members(detector)[0], held_out) if early_stop else None
    found = attack_all(attacking, attack, bounds, tick)
    attacked = time.monotonic()
    judge = Judge(detector, draws, attacking.batch_size, device)  # as many as are known to fit into memory
    clean, robust = judge.both(test, found.result.images)
    score_seconds = (time.monotonic() - attacked) / (clean.size if robust is clean else clean.size + robust.size)
    calibration = judge.scores(held_out.ids, held_out.pixels(), range(len(clean)))
    if bounds is not None and found.had_enough is not None:
        # Rounding, or a score without digits where its surrogate had some: these are attacked to the end.
        judged_by = Bounds(bounds.labels, clean[0], threshold_of(calibration))
        renewed = bool(found.members)
        while len(unsure := np.flatnonzero(found.had_enough & ~judged_by.lost(robust[0], renewed=renewed))):
            found = attack_to_the_end(attacking, attack, found, unsure)
            robust = judge.scores(test.ids, found.result.images, range(len(clean)))
    judged = time.monotonic()
    looks = look_at(attacking, attack, found.result)
    more = own = None
    if attacking.moves(attack):
        few = min(attacking.batch_size, 2 * PER_CLASS)
        adversarial = found.result.images
        more = more_draws(detector, attack, test, adversarial, draws.seed, device, batch_size=few, start=start)
        own = own_gradient(detector, attack, test, adversarial, draws.seed, device, batch_size=few, start=start)
    known = known_noise(attacking, attack, found.result.images)
    earlier = {} if unfinished is None else unfinished.seconds
    seconds = {
        "attack": attacked - started + earlier.get(attacking.purpose, 0.0),
        "verdict": judged - attacked,
        "indicators": time.monotonic() - judged + earlier.get(KNOWN_NOISE, 0.0),
    }
    outcome = Outcome(
        clean=clean,
        robust=robust,
        calibration=calibration,
        clean_maps=looks.maps[0] if looks.maps else None,
        robust_maps=looks.maps[1] if looks.maps else None,
        **_of_result(found.result),
        rose=looks.rose,
        noise_won=looks.noise_won,
        more_draws=more,
        own_gradient=own,
        selection_held=_selection_held(detector, attack, found.result, test, clean, robust),
        adversarial=found.result.images,
        examples=looks.examples,
        seconds={name: round(value, 2) for name, value in seconds.items()},
        score_seconds=round(score_seconds, 7),
        early_stop=early_stop,
        had_enough=found.had_enough,
        members=found.members,
        known_noise=known,
        transformations=transformations(attack, found.result, found.had_enough),
    )
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


def _selection_held(
    detector: Detector, attack: Attack, result: AttackResult, test: ImageSet, clean: Floats, robust: Floats
) -> SelectionHeld | None:
    """The attack's own view of its gain beside the verdict's, which is of the score: candidates that were compared by a
    surrogate cannot be put beside it."""
    by_surrogate = detector.has_surrogate and detector.surrogate_is_monotone
    if not detector.is_stochastic or not detector.sees_pixels or by_surrogate:
        return None
    keeps_last = getattr(attack.settings, "keep", "best") == "last"
    kept = result.last_loss if keeps_last else result.best_loss
    selected = (kept.double() - result.clean_loss.double()).numpy()
    labels = test.labels.numpy().astype(np.int64)
    return selection_held(
        selected, clean, robust, labels, getattr(attack.settings, "selection_draws", COMPARISON_DRAWS)
    )


def _of_result(result: AttackResult) -> dict[str, Any]:
    """What an outcome says of the attack's own result, image by image."""

    def per_image(name: str) -> NDArray[np.float64]:
        return np.asarray(getattr(result, name).double().numpy())

    def if_there(name: str) -> NDArray[np.float64] | None:
        return None if getattr(result, name) is None else per_image(name)

    surrogate_won = if_there("surrogate_won")
    return {
        "zero_gradients": per_image("zero_gradients"),
        "non_finite_gradients": per_image("non_finite_gradients"),
        "last_worse": per_image("last_loss") < per_image("best_loss"),
        "gained": if_there("gain"),
        "late_gained": if_there("late_gain"),
        "reprojected": int(per_image("reprojected").sum()),
        "forwards": result.forwards,
        "gradients": result.gradients,
        "surrogate_zero_gradients": if_there("surrogate_zero_gradients"),
        "surrogate_won": None if surrogate_won is None else surrogate_won > 0,
        "gradients_spent": if_there("gradients_spent"),
    }
