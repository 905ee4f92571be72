"""What a record states of an outcome: figures, and the signs that an attack did not do its work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.cell.attack import Outcome
from bench.cell.attacking import Floats
from bench.cell.verdict import CALIBRATION_FPR, threshold_of
from bench.data.base import ImageSet
from bench.metrics import pixels, ranking
from bench.records import recount
from bench.records.score_table import Scores
from detectors import file_order

FLAGGED = 90.0  # what separates the classes better than this without looking at the object is said beside every figure


def figures(outcome: Outcome, labels: Any, test: ImageSet, trained_on: Sequence[str] = ()) -> dict[str, Any]:
    """What a record states about an outcome; labels int64 (N,), `trained_on` the ids of the training images."""
    held_out = outcome.calibration.shape[1]
    threshold = threshold_of(outcome.calibration)
    complete = not outcome.early_stop
    brightness = ranking.separability(test.pixels().mean(dim=(1, 2, 3)).numpy(), labels)
    scores = Scores(test.ids, labels, outcome.clean, outcome.robust)
    in_turn = outcome.early_stop and bool(outcome.members)
    found = recount.figures(scores, threshold, complete=complete, in_turn=in_turn) | {
        "brightness": {"separability": brightness, "flagged": bool(brightness > FLAGGED)},
        "file_order": _file_order(test.ids, trained_on, labels),
        "pixel": _pixel(outcome, test, complete=complete),
    }
    if outcome.known_noise is not None:
        found["known_noise"] = outcome.known_noise
    if threshold is not None:
        rule = f"{100 * CALIBRATION_FPR:.0f} % of {held_out} held-out training normals above it"
        found |= {"threshold": threshold, "threshold_rule": rule}
    return found


def indicators(outcome: Outcome) -> dict[str, Any]:
    """Signs that the attack did not do its work (after Pintor et al. 2022). Zero gradients are the score's, whatever a
    surrogate made up for; those of a surrogate are there where one was followed."""
    of_surrogate = {
        "surrogate_zero_gradient_share": outcome.surrogate_zero_gradients,
        "surrogate_won_share": outcome.surrogate_won,
    }
    spent = np.ones(len(outcome.zero_gradients)) if outcome.gradients_spent is None else outcome.gradients_spent
    # Of images on which the attack stopped, nothing can be said that depends on its end.
    ended = np.ones(len(spent), dtype=bool) if outcome.had_enough is None else ~outcome.had_enough
    zero = outcome.zero_gradients  # NaN where the score's gradient was not followed
    return {
        "zero_gradient_share": _mean(zero, (spent > 0) & ~np.isnan(zero)),
        "nonfinite_gradient_share": float(outcome.non_finite_gradients.mean()),
        "last_worse_than_best_share": _mean(outcome.last_worse, ended),
        "late_gain_share": late_gain(outcome.gained, outcome.late_gained, ended),
        "gain_share": None if outcome.rose is None else _mean(outcome.rose, ended),
        "noise_won_share": None if outcome.noise_won is None else _mean(outcome.noise_won, ended),
        "more_draws": None if outcome.more_draws is None else outcome.more_draws.describe(),
        "own_gradient": None if outcome.own_gradient is None else outcome.own_gradient.describe(),
        "selection_held": None if outcome.selection_held is None else outcome.selection_held.describe(),
        "reprojected_images": outcome.reprojected,
        "forward_passes_per_image": outcome.forwards,
        "gradients_per_image": outcome.gradients,
        **_early_stop(outcome),
        **({"members": outcome.members} if outcome.members else {}),
        **({"transformations": outcome.transformations} if outcome.transformations else {}),
        # NaN where no member of an ensemble followed the surrogate.
        **{n: _mean(v, (spent > 0) & ~np.isnan(v)) for n, v in of_surrogate.items() if v is not None},
    }


def _mean(values: NDArray[Any], chosen: NDArray[np.bool_]) -> float | None:
    return float(values[chosen].mean()) if chosen.any() else None


def _early_stop(outcome: Outcome) -> dict[str, float]:
    """How many images the attack left early, and what it spent on an image in the mean."""
    if outcome.had_enough is None or outcome.gradients_spent is None:
        return {}
    return {
        "had_enough_share": float(outcome.had_enough.mean()),
        "mean_gradients_per_image": round(float(outcome.gradients_spent.mean()), 2),
    }


def late_gain(gained: Floats | None, late: Floats | None, ended: NDArray[np.bool_] | None = None) -> float | None:
    """How much of the attack's gain came in the last fifth of its steps: near 0 where it has converged, 0.2 where it
    went on evenly to the end, and more where it began to find something only then.

    Args:
        gained, late: what all steps, and what the last fifth of them, added to each image's loss, (N,).
        ended: the images that were attacked to the end, bool (N,); None: all.

    Returns:
        Over the images whose losses were finite; None where there is none, or where the attack gained nothing.
    """
    if gained is None or late is None:
        return None
    known = np.isfinite(gained) & np.isfinite(late) & (True if ended is None else ended)
    gain = float(gained[known].mean()) if known.any() else 0.0
    return round(float(late[known].mean()) / gain, 4) if gain > 0 else None


def _file_order(test: Sequence[str], trained_on: Sequence[str], labels: Any) -> dict[str, Any] | None:
    if not trained_on:
        return None
    distances = file_order.distances(test, [file_order.running_number(name) for name in trained_on])
    value = ranking.separability(distances.numpy(), labels)
    return {"separability": value, "flagged": bool(value > FLAGGED)}


def _pixel(outcome: Outcome, test: ImageSet, *, complete: bool) -> dict[str, float] | None:
    if outcome.clean_maps is None or outcome.robust_maps is None or test.masks is None or not bool(test.masks.any()):
        return None
    masks = test.masks.numpy()
    clean = {
        "auroc": pixels.pixel_auroc(outcome.clean_maps, masks),
        "aupro": pixels.aupro(outcome.clean_maps, masks),
    }
    if not complete:  # maps of images that were not attacked to the end are no worst case
        return clean
    return clean | {
        "robust_auroc": pixels.pixel_auroc(outcome.robust_maps, masks),
        "robust_aupro": pixels.aupro(outcome.robust_maps, masks),
    }
