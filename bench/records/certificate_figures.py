"""What a certificate's bounds decide: computed when it is written, and once more when it is read.

The certified AUC at a radius is the ordinary AUC of the worst score of each image, upper bounds of normals and lower
ones of anomalies: an adversary moves each image on its own. Each of these numbers depends on its own image alone, so
the interval over test images is that of any AUC (`bench.metrics.intervals`): it covers the choice of test images, and
alpha the noise of the certificate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import CellError, ContradictionError, RecordError
from bench.metrics import intervals
from bench.records import recount
from bench.records.bounds_table import BoundsTable
from bench.records.certificate import EXACT, PAPER, Claim, radius_name
from bench.records.score_table import ids_sha256
from certificates.lipschitz import exact_bounds
from certificates.rules import Bounds, PaperMean, Percentile, worst

_MOST_SAMPLES = 10**7  # of which it is worked out what they can show


# Figures of a radius that are younger than some certificates; where one does not state them, they are computed when it
# is read.
_YOUNG = ("strict_auc", "strict_low", "strict_high")


def figures(claim: Claim, table: BoundsTable, threshold: float | None) -> dict[str, Any]:
    """Every figure that follows from the bounds, in per cent.

    Args:
        claim: what they are the bounds of.
        table: the bounds.
        threshold: from held-out normals, above which an image is called anomalous; None: there is none.

    Returns:
        clean: auc with low and high, of the score that is bounded. radii, for each:
            auc, low, high: certified, and its 95 % interval over test images; strict_auc, strict_low, strict_high: the
                same with a tie counted as lost.
            abstained: the share of images whose worst score could not be bounded.
            tpr, fpr, accuracy: at the threshold; who abstains is on the wrong side.
            attacked_auc, attacked_low, attacked_high: of the same smoothed detector, attacked.
            crossed: how many attacked images lie beyond their bound by more than the noise of both.

    Raises:
        CellError: a class without images.
    """
    anomalous = table.labels == -1
    at_worst, unbounded = worst(table.bounds, table.labels), _unbounded(claim, table)
    clean = intervals.mean_single_draw_interval(table.scores, table.labels)
    found: dict[str, Any] = {}
    for row, radius in enumerate(table.radii):
        auc, strict = (
            of(at_worst[row], table.labels) for of in (intervals.mean_single_draw_interval, intervals.strict_interval)
        )
        entry: dict[str, float | int | None] = {
            "auc": auc.value,
            "low": auc.low,
            "high": auc.high,
            "strict_auc": strict.value,
            "strict_low": strict.low,
            "strict_high": strict.high,
            "abstained": 100.0 * float(unbounded[row].mean()),
        }
        if threshold is not None:
            flagged = at_worst[row] > threshold
            entry |= {
                "tpr": 100.0 * float(flagged[anomalous].mean()),
                "fpr": 100.0 * float(flagged[~anomalous].mean()),
                "accuracy": 100.0 * float((flagged == anomalous).mean()),
            }
        if table.is_attacked[row]:
            under = intervals.mean_single_draw_interval(table.attacked[row], table.labels)
            beyond = (table.attacked_low[row] > table.upper[row]) | (table.attacked_high[row] < table.lower[row])
            entry |= {
                "attacked_auc": under.value,
                "attacked_low": under.low,
                "attacked_high": under.high,
                "crossed": int(beyond.sum()),
            }
        found[radius_name(radius)] = entry
    return {"clean": {"auc": clean.value, "low": clean.low, "high": clean.high}, "radii": found}


def _unbounded(claim: Claim, table: BoundsTable) -> NDArray[np.bool_]:
    """Which images abstain at each radius, (R, N). A bound may be infinite and yet shown: samples that are infinite
    themselves are bounds as any others, where so many of them say anything at all."""
    at_worst = worst(table.bounds, table.labels)
    missing = np.isinf(at_worst)
    rule = _rule_of_places(claim)
    if rule is not None:
        risk = rule.shares(claim.alpha, table.radii, len(table.images))
        for row, radius in enumerate(table.radii):
            below, above = rule.places(claim.smoothing.samples, radius / (claim.smoothing.sigma or 1.0), risk)
            missing[row] &= np.where(table.labels == 1, above is None, below is None)
    return missing


def _rule_of_places(claim: Claim) -> Percentile | PaperMean | None:
    """The rule whose bounds are samples at certain places; None where it is another, or would take too long."""
    made = claim.smoothing
    if made.samples > _MOST_SAMPLES:
        return None
    if made.rule == "percentile" and made.p is not None:
        return Percentile(made.p)
    return PaperMean() if made.rule == PAPER else None


def check(claim: Claim, results: Mapping[str, Any], table: BoundsTable) -> dict[str, Any]:
    """Hold a certificate against its bounds: the images and radii of its claim, then every figure of `figures`.

    Returns:
        Its results, with the figures that they do not state since they are younger.

    Raises:
        RecordError: they do not belong together.
    """
    again, subset, attack = "run the command again.", claim.subset, claim.attack
    counted = {
        "claim.subset.normals": (subset.normals, int((table.labels == 1).sum())),
        "claim.subset.anomalies": (subset.anomalies, int((table.labels == -1).sum())),
        "claim.subset.sha256": (subset.sha256, ids_sha256(table.images)),
        "claim.radii": ([float(radius) for radius in claim.radii], list(table.radii)),
        "claim.attack.radii": (
            [float(radius) for radius in attack.get("radii", [])],
            [radius for radius, was in zip(table.radii, table.is_attacked, strict=True) if was],
        ),
    }
    for where, (stated, counts) in counted.items():
        if stated != counts:
            raise ContradictionError(f"{where} is {stated!r:.80} and its bounds say {counts!r:.80}; {again}")
    _check_bounds(claim, table)
    threshold = results.get("threshold")
    if threshold is not None and (isinstance(threshold, bool) or not isinstance(threshold, int | float)):
        raise RecordError(f"results.threshold should be a number and is {threshold!r:.60}; {again}")
    try:
        computed = figures(claim, table, threshold)
    except CellError as error:
        raise RecordError(f"no figure follows from its bounds ({error}); {again}") from None
    stated_radii = results.get("radii")
    if not isinstance(stated_radii, dict) or stated_radii.keys() != computed["radii"].keys():
        raise ContradictionError(f"results.radii are not those of its bounds; {again}")
    complete: dict[str, Any] = {}
    for name, entry in stated_radii.items():
        own = computed["radii"][name]
        young = {figure: own[figure] for figure in _YOUNG}
        if not isinstance(entry, dict) or (young | entry).keys() != own.keys():
            raise ContradictionError(f"results.radii.{name:.30} has other figures than its bounds; {again}")
        complete[name] = young | entry
    found = {**results, "radii": complete}
    recount.compare("results", found, computed)
    return found


def _check_bounds(claim: Claim, table: BoundsTable) -> None:
    """What can be said of bounds without the samples that they come from. Raises RecordError for bounds that the
    claim's rule cannot give."""
    made, again = claim.smoothing, "run the command again."
    sigma, shifts = made.sigma or 1.0, np.array(table.radii)[:, None] - table.radii[0]
    if made.rule == EXACT:
        expected = exact_bounds(table.scores, made.constant or 0.0, table.radii)
        if not _are_alike(table.bounds, expected):
            raise ContradictionError(
                f"its bounds are not those of a Lipschitz constant of {made.constant!r:.40}; {again}"
            )
    elif made.rule == "exceedance":
        expected = Bounds(table.lower[0] - shifts / sigma, table.upper[0] + shifts / sigma)
        if not _are_alike(table.bounds, expected):
            raise ContradictionError(f"its bounds do not move by radius / sigma, as those of an exceedance do; {again}")
    elif (rule := _rule_of_places(claim)) is not None:
        risk = rule.shares(claim.alpha, table.radii, len(table.images))
        for row, radius in enumerate(table.radii):
            below, above = rule.places(made.samples, radius / sigma, risk)
            if (below is None and (table.lower[row] > -np.inf).any()) or (
                above is None and (table.upper[row] < np.inf).any()
            ):
                raise ContradictionError(
                    f"{made.samples} samples cannot show what it says of radius {radius:g}; {again}"
                )


def _are_alike(stated: Bounds, expected: Bounds) -> bool:
    """But for the last bits."""
    return all(np.allclose(*pair, rtol=1e-9, atol=1e-9) for pair in zip(stated, expected, strict=True))
