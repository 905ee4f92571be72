"""What a record states and its per-image scores decide: computed when it is written, and once more when it is read.

Not decided by the scores, and taken from the record as they are: the threshold (it comes from held-out normals), the
figures of pixels and of brightness, the indicators, the seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import CellError, ContradictionError, RecordError
from bench.metrics import best_of, intervals, ranking
from bench.records.cell import Cell
from bench.records.score_table import Scores, ids_sha256

# Of a figure; another machine's sums differ in the last bits alone.
RELATIVE_TOLERANCE = 1e-6
ABSOLUTE_TOLERANCE = 1e-9
_AT_A_THRESHOLD = ("attack_success", "robust_accuracy")
# Figures that are younger than some records; where one does not state them, they are computed when it is read.
_YOUNG = ("best_of",)


def figures(scores: Scores, threshold: float | None, *, complete: bool = True, in_turn: bool = False) -> dict[str, Any]:
    """Every figure that follows from the scores alone, in per cent.

    Args:
        scores: of the verdict.
        threshold: above which an image is called anomalous; without one there is no attack success.
        complete: whether every image was attacked to the end; else nothing is said of attacked anomalies among clean
            normals (attacked normals have lost their pairs with the clean anomalies, too), nor of the robust AUPR where
            attacked anomalies tie, since that depends on who does (`bench.cell.enough`).
        in_turn: whether several attacks left images to each other, that had lost no more than their pairs with attacked
            ones: then nothing is said of one class alone.

    Returns:
        clean, robust (`intervals.summary`), verdict_draws; normals_only_auc, unless in turn; where complete,
        anomalies_only_auc; at a threshold, attack_success (None where no clean image is classified correctly) and
        robust_accuracy; of a verdict with ten draws or more, best_of (`metrics.best_of`).

    Raises:
        CellError: NaN scores, or a class without images.
    """
    clean, robust, labels = scores.clean, scores.robust, scores.labels
    normal = labels == 1
    found: dict[str, Any] = {
        "clean": intervals.summary(clean, labels),
        "robust": intervals.summary(robust, labels),
        "verdict_draws": len(clean),
    }
    if not in_turn:
        found["normals_only_auc"] = ranking.mean_single_draw_auc(np.where(normal, robust, clean), labels).mean
    if not complete and _tie(robust[:, ~normal]):
        del found["robust"]["aupr"]
    if complete:
        found["anomalies_only_auc"] = ranking.mean_single_draw_auc(np.where(normal, clean, robust), labels).mean
    if threshold is not None:
        attacked = ranking.attack_success(clean, robust, labels, threshold)
        found |= {"attack_success": attacked.success, "robust_accuracy": attacked.robust_accuracy}
    resubmitted = best_of.best_of(robust, labels)
    return found if resubmitted is None else found | {"best_of": resubmitted}


def check(cell: Cell, results: Mapping[str, Any], scores: Scores) -> dict[str, Any]:
    """Hold a record against its scores: the images and draws of its cell, then every figure of `figures`.

    Returns:
        The figures that follow from its scores and that it does not state, since they are younger than it is.

    Raises:
        RecordError: they do not belong together; the sentence names the figure and both values.
    """
    subset = cell.subset
    counted = {
        "cell.subset.normals": (subset.normals, int((scores.labels == 1).sum())),
        "cell.subset.anomalies": (subset.anomalies, int((scores.labels == -1).sum())),
        "cell.subset.sha256": (subset.sha256, ids_sha256(scores.images)),
    }
    for where, (stated, found) in counted.items():
        if stated != found:
            raise ContradictionError(f"{where} is {stated!r:.80} and its scores say {found!r}; run the cell again.")
    if len(scores.clean) < cell.draws.verdict:  # more are taken where their spread asks for it
        raise ContradictionError(
            f"cell.draws.verdict is {cell.draws.verdict} and its scores have {len(scores.clean)}; run the cell again."
        )
    threshold = None
    if results.get("threshold") is not None:
        threshold = _number(results["threshold"])
        if threshold is None:
            shown = _shown(results["threshold"])
            raise RecordError(f"results.threshold should be a finite number and is {shown}; run the cell again.")
    try:
        absent = dict.fromkeys((*_AT_A_THRESHOLD, "normals_only_auc", "anomalies_only_auc", *_YOUNG))
        computed: dict[str, Any] = absent | figures(
            scores, threshold, complete=not cell.early_stop, in_turn=cell.in_turn
        )
    except CellError as error:
        raise RecordError(f"no figure follows from its scores ({error}); run the cell again.") from None
    if isinstance(stated := results.get("robust"), Mapping) and stated.get("aupr") is not None:
        # Records that are older than its absence state one, and it must be that of their scores.
        computed["robust"] |= {"aupr": float(ranking.average_precision(scores.robust, scores.labels).mean())}
    young = {name: computed.pop(name) for name in _YOUNG if name not in results}
    compare("results", results, computed)
    return {name: value for name, value in young.items() if value is not None}


def _tie(scores: NDArray[np.float64]) -> bool:
    """Whether two images of (D, N) share a score under some draw."""
    return any(len(np.unique(draw)) < len(draw) for draw in scores)


def compare(where: str, claimed: Mapping[str, Any], computed: Mapping[str, Any]) -> None:
    """Raises RecordError where a claimed figure is not the computed one; it names the figure and both values."""
    for name, value in computed.items():
        claim = claimed.get(name)
        if isinstance(value, dict):
            compare(f"{where}.{name}", claim if isinstance(claim, Mapping) else {}, value)
        elif not _alike(claim, value):
            raise ContradictionError(
                f"{where}.{name} is {_shown(claim)} and its scores give {_shown(value)}; believe neither and run the "
                "cell again."
            )


def _alike(claim: object, value: float | None) -> bool:
    if claim is None or value is None:
        return claim is value
    number = _number(claim)
    return number is not None and math.isclose(number, value, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)


def _number(value: object) -> float | None:
    """None for what is no finite number: to Python True is an int, and an int may be too large for a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _shown(value: object) -> str:
    return "not stated" if value is None else f"{value!r:.60}"
